/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm.h: one virtual machine, whichever program runs it.
 *
 * Purpose:   start a VM with its helpers (virtiofsd, and a vsock daemon where the kernel has none), reach
 *            ports in it, change its devices and size, see it die, stop it, and adopt it after a restart.
 *            Knows nothing of CRI or images.
 * Threads:   the calls block the caller until their deadline at most, and may be made from several threads.
 *            Calls on one VM are serialised inside, except vm_stop, vm_dispatch, vm_fd and vm_connect, which
 *            never wait for another call. vm_dispatch is called by the one thread that polls vm_fd.
 * Ownership: a struct vm owns its fds and tables, not its processes: vm_free closes and forgets, and the VM
 *            runs on; vm_stop ends it.
 * Units:     bytes, nanoseconds (CLOCK_MONOTONIC deadlines; 0: a default of 30 s).
 * Errors:    carry the VMM's own words (its reply, or the last lines of its log).
 */
#ifndef VMM_VM_H
#define VMM_VM_H

#include "base/err.h"
#include "vmm/choose.h"
#include "vmm/config.h"

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct vm;

/* ---- birth and end ------------------------------------------------------------------------------------- */

/* The longest name of a socket in a VM's run_dir. */
#define VM_SOCKET_NAME_MAX 16

struct vm_spec {
	const char *id;	     /* [a-z0-9-], at most 64 */
	const char *run_dir; /* exists, private to this VM: sockets, console, logs. A short path: sockets */
	/*
	 * Not 0: VMM and vsock daemon run as this user, whom no other VM has, with `run_dir` (which becomes
	 * theirs) as the one directory that they may write, and of the host's other files with what they need
	 * alone: what they are to open later (a plugged disk, a snapshot) lies in run_dir. 0: as root, with
	 * all of the host's files.
	 */
	uid_t uid;
	const char *shared_dir;	   /* what virtiofsd exports with GUEST_SHARE_TAG */
	const char *netns_path;	   /* NULL: the caller's */
	const char *cgroup;	   /* as for vmm_cgroup_create; exists; NULL: none */
	const char *tap;	   /* boot NIC; NULL: none */
	uint8_t mac[6];		   /* of the boot NIC; all zero: chosen at random, locally administered */
	uint32_t mtu;		   /* of the boot NIC; 0: 1500 */
	uint32_t vcpus;		   /* 0: config's */
	uint32_t vcpus_max;	   /* 0: the host's number. Without KVM none can be plugged */
	uint64_t memory_bytes;	   /* 0: config's */
	uint64_t memory_max_bytes; /* with hot plug: whole steps of it; 0: no hot plug */
	int oom_score_adj;	   /* of the VM's processes, for the host's OOM killer; -1000 to 1000 */
	const char *extra_params;  /* appended to the kernel command line after config's; NULL: none */
};

/*
 * Starts virtiofsd, the vsock daemon if one is needed, and the VMM, each in cgroup and netns from its first
 * instruction, and returns once the VMM's API answers (the guest still boots). On failure nothing is left
 * running.
 */
int vm_start(const struct vmm_config *config, const struct vmm_choice *choice, const struct vm_spec *spec,
	     int64_t deadline_ns, struct vm **ret_vm, struct err *err);
/* As vm_start, from a snapshot; the VM comes up paused. -EOPNOTSUPP where the driver cannot. */
int vm_restore(const struct vmm_config *config, const struct vmm_choice *choice, const struct vm_spec *spec,
	       const char *dir, int64_t deadline_ns, struct vm **ret_vm, struct err *err);
/*
 * What vm_recover needs, as JSON to be stored by the caller; free() it. NULL on ENOMEM. Changes with the VM's
 * size only: the VMM itself is asked for plugged devices.
 */
char *vm_save(const struct vm *vm);
/*
 * Adopts a running VM from that JSON. -ESRCH with words if it has died meanwhile; what is left of its
 * processes is killed then.
 */
int vm_recover(const char *json, struct vm **ret_vm, struct err *err);
/* The user of its spec, also after vm_recover. */
uid_t vm_uid(const struct vm *vm);
/* Forgets the VM without touching it. Returns NULL. */
struct vm *vm_free(struct vm *vm);
/*
 * Kills VMM and helpers and waits for them, until the deadline at most. Safe from any thread at any time,
 * repeatedly; it makes calls in progress on this VM fail at once. The files in run_dir stay: vm_clear_files.
 */
int vm_stop(struct vm *vm, int64_t deadline_ns, struct err *err);
/*
 * Removes what a dead VM has left in its run_dir (sockets, console and logs), so that another can start
 * there. Subdirectories are not touched. A missing directory is success.
 */
int vm_clear_files(const char *run_dir, struct err *err);

/*
 * A connected, CLOEXEC, non-blocking stream socket to a vsock port in the guest. Retries until the deadline
 * while the guest is still booting (waits for events where there are any, else pauses for at most 5 ms);
 * fails at once when the VM is dead.
 */
int vm_connect(struct vm *vm, uint32_t port, int64_t deadline_ns, struct err *err);

/* ---- events -------------------------------------------------------------------------------------------- */

enum vm_event_type {
	VM_EVENT_NONE,
	VM_EVENT_VMM_EXITED,	/* status: exit code, 128+n for a signal, -1 unknown (adopted) */
	VM_EVENT_HELPER_EXITED, /* virtiofsd or vsock daemon: the VM cannot live on */
	VM_EVENT_GUEST_PANIC,
	VM_EVENT_GUEST_RESET,	 /* reboot, reset or triple fault: counts as death */
	VM_EVENT_GUEST_SHUTDOWN, /* orderly power-off */
	VM_EVENT_DEVICE_REMOVED, /* id in `what` */
};
struct vm_event {
	enum vm_event_type type;
	int status;
	char what[128];	  /* which helper, or a device id */
	char detail[256]; /* the program's last words */
};
/* An fd that polls readable when vm_dispatch has something; owned by vm. */
int vm_fd(const struct vm *vm);
/* Takes the next event without blocking: 1, 0 if there is none, negative errno. */
int vm_dispatch(struct vm *vm, struct vm_event *ret_event);

/* ---- devices, size, state ------------------------------------------------------------------------------ */

#define VM_DEVICE_ID_MAX 64 /* with the NUL */

enum vm_device_type {
	VM_DEVICE_DISK,
	VM_DEVICE_PMEM,
	VM_DEVICE_NET,
	VM_DEVICE_FS,
	VM_DEVICE_VFIO,
};
struct vm_device {
	enum vm_device_type type;
	const char *id; /* unique in the VM */
	/* disk, pmem: file; vfio: sysfs path; fs: vhost-user socket; net: name of a tap in the VM's netns */
	const char *path;
	const char *tag; /* fs */
	bool read_only;
	uint8_t mac[6];
	uint32_t mtu; /* what the tap has, for QEMU to tell the guest; Cloud Hypervisor asks the tap itself */
};
#define VM_PCI_ADDRESS_MAX 16
/* ret_pci: "0000:00:05.0" as the guest sees it. */
int vm_attach(struct vm *vm, const struct vm_device *device, char ret_pci[VM_PCI_ADDRESS_MAX],
	      int64_t deadline_ns, struct err *err);
/*
 * Returns when the guest has released the device (device-removed / DEVICE_DELETED), not at the VMM's reply.
 * Unknown id: -ENOENT.
 */
int vm_detach(struct vm *vm, const char *id, int64_t deadline_ns, struct err *err);
/*
 * The ids of the devices of a type that are plugged now, also those that were before vm_recover. How many
 * there are; `max` are written.
 */
size_t vm_device_ids(struct vm *vm, enum vm_device_type type, char (*ret_ids)[VM_DEVICE_ID_MAX], size_t max);
/*
 * Its size, and between what it can change. What is plugged beyond the boot size comes in whole steps. Asks
 * nobody.
 */
struct vm_size {
	uint32_t vcpus, vcpus_boot, vcpus_max;
	uint64_t memory_bytes, memory_boot_bytes, memory_max_bytes;
};
#define VM_MEMORY_STEP (UINT64_C(128) << 20)
void vm_size(struct vm *vm, struct vm_size *ret_size);
/*
 * vcpus or memory 0: unchanged. Memory is rounded up to whole steps (VM_MEMORY_STEP) above the boot size.
 * Nothing shrinks below its boot size, or grows beyond what vm_size says (-EINVAL). Returns when the guest
 * has taken the memory or given it back; vCPUs it still has to bring online. On failure it is asked for its
 * former size again; if that fails too, the error says so.
 */
int vm_resize(struct vm *vm, uint32_t vcpus, uint64_t memory_bytes, int64_t deadline_ns, struct err *err);
/* How many vCPUs it has now. Asks nobody. */
uint32_t vm_vcpus(struct vm *vm);
/*
 * Lets vCPU i run on the host's CPUs sets[i] alone, for the first n vCPUs. -EINVAL if the VMM may run on none
 * of them. A vCPU that is plugged later runs anywhere until the next call.
 */
int vm_pin(struct vm *vm, const cpu_set_t *sets, uint32_t n, int64_t deadline_ns, struct err *err);
int vm_pause(struct vm *vm, int64_t deadline_ns, struct err *err);
int vm_resume(struct vm *vm, int64_t deadline_ns, struct err *err);
/* dir exists and is empty. The VM must be paused. */
int vm_snapshot(struct vm *vm, const char *dir, int64_t deadline_ns, struct err *err);

struct vm_info {
	const char *driver; /* static */
	char accel[16];
	char state[32];				 /* the VMM's own word: "Running", "Paused", … */
	pid_t vmm_pid, virtiofsd_pid, vsock_pid; /* 0: none */
	uint32_t vcpus;
	uint64_t memory_bytes;
	char console_path[256];
};
int vm_info(struct vm *vm, struct vm_info *ret_info, struct err *err);

#endif

/*
 * vmm.h: one virtual machine, whichever program runs it. The only header of this room that others include.
 *
 * Purpose:   start a VM with its helpers (virtiofsd, and a vsock daemon where the kernel has none), reach
 *            ports in it, change its devices and size, watch it die, stop it, and adopt it after a restart.
 *            Knows nothing of CRI or images.
 * Threads:   the calls block, up to their deadline, on the caller's thread and may be made from several
 *            threads for different VMs; for one VM they are serialised inside. Except vmm_stop, vmm_dispatch,
 *            vmm_fd and vmm_connect, which never wait behind another call. vmm_dispatch is called by the one
 *            thread that polls vmm_fd.
 * Ownership: a struct vmm owns its fds and tables, not its processes: vmm_free closes and forgets, and the VM
 *            runs on; vmm_stop ends it.
 * Units:     bytes, nanoseconds (CLOCK_MONOTONIC deadlines; 0: a default of 30 s).
 * Errors:    carry the VMM's own words (its reply, or the last lines of its log).
 */
#ifndef VMM_VMM_H
#define VMM_VMM_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- configuration: one per server, from [hypervisor] -------------------------------------------------- */

struct vmm_config {
	char *driver; /* "auto", "cloud-hypervisor", "qemu" */
	char *path;   /* the VMM's binary; NULL: search the default path and PATH */
	uint32_t vcpus;
	uint64_t memory_bytes;
	char *kernel_path;
	char *image_path;
	char *kernel_params; /* appended */
	bool hugepages;
	char *entropy_source;
	bool debug;	      /* VMM's own log level */
	char *virtiofsd_path; /* NULL: the Rust one if found, else Debian's C one */
	char *virtiofsd_log_level;
	char *virtiofsd_cache;
	uint32_t virtiofsd_thread_pool_size;
	bool task_debug; /* task.debug on the kernel command line */
	bool task_enable_tracing;
	char *spawn_helper;	 /* NULL: beside the running binary, in its ../libexec/crivisor, in PATH */
	char *vsock_daemon_path; /* NULL: /dev/vhost-vsock if there, else vhost-device-vsock from PATH */
};

enum vmm_cap {
	VMM_CAP_HOTPLUG_DISK = 1 << 0,
	VMM_CAP_HOTPLUG_NET = 1 << 1,
	VMM_CAP_HOTPLUG_PMEM = 1 << 2,
	VMM_CAP_HOTPLUG_FS = 1 << 3,
	VMM_CAP_HOTPLUG_VFIO = 1 << 4,
	VMM_CAP_RESIZE = 1 << 5,
	VMM_CAP_PAUSE = 1 << 6,
	VMM_CAP_SNAPSHOT = 1 << 7,
};

/* What tells one file from another, or from itself before somebody wrote to it; zero: no file. */
struct vmm_file_id {
	uint64_t dev, ino;
	int64_t size, mtime_ns, ctime_ns;
};
/* What was found out about a file's content. */
struct vmm_file_facts {
	bool known;
	struct vmm_file_id file, sums; /* sums: the SHA256SUMS beside it */
	int code;		       /* 0: it will do; else a negative errno, and why */
	char words[512];
};
/*
 * What vmm_choose has learned at some cost (a program run, files read), for the next time: it holds until the file in
 * question changes. Zeroed: nothing. Opaque to callers; copied freely.
 */
struct vmm_known {
	struct vmm_file_facts binary, kernel, image;
	char version[128];
};

/*
 * What `auto` (or the named driver) comes to on this host. Checks binary, KVM (vmx or svm in the CPU flags,
 * and /dev/kvm opens), guest kernel and image (vmm/guest_files.h). Fails with the missing thing's name. Opens nothing that
 * stays open. With `known` a call costs a few stat(2); NULL: everything is looked at.
 */
struct vmm_choice {
	const char *driver; /* static */
	char path[512];	    /* the binary */
	char version[128];  /* its own `--version` line */
	char accel[16];	    /* "kvm" or "tcg" */
	char reason[256];   /* why this one, in words */
	uint32_t caps;	    /* enum vmm_cap */
	uint32_t mtu_max;   /* largest MTU of the boot NIC */
};
int vmm_choose_known(const struct vmm_config *config, struct vmm_known *known, struct vmm_choice *ret_choice, struct err *err);
int vmm_choose(const struct vmm_config *config, struct vmm_choice *ret_choice, struct err *err);
/* Its parts: the driver without version and guest files, and what it says of either file. */
int vmm_choose_driver(const struct vmm_config *config, struct vmm_choice *ret_choice, struct err *err);
int vmm_check_kernel(const struct vmm_config *config, struct err *err);
int vmm_check_image(const struct vmm_config *config, struct err *err);

/* ---- what this host has: for `crivisor check` ---------------------------------------------------------- */

/*
 * Each looks anew and leaves nothing on the host, except that the kernel may load a module that it asks for,
 * as it would for the first pod.
 */
enum vmm_program {
	VMM_PROGRAM_CLOUD_HYPERVISOR,
	VMM_PROGRAM_QEMU,
	VMM_PROGRAM_SPAWN_HELPER,
	VMM_PROGRAM_VIRTIOFSD,
	VMM_PROGRAM_VSOCK_DAEMON,
};
struct vmm_program_info {
	char path[512];
	char version[128]; /* its own `--version` line; "": it gives none, or has none (the spawn helper) */
	bool legacy;	   /* of virtiofsd: the C one */
};
/* Where a VM's start would take it from. Blocks for as long as it takes to tell its version, at most 10 s. */
int vmm_program_find(const struct vmm_config *config, enum vmm_program program, struct vmm_program_info *ret,
		     struct err *err);

struct vmm_kvm {
	bool vmx, svm;	 /* in the CPU flags: Intel's, AMD's virtualization */
	bool intel, amd; /* the maker */
	bool guest;	 /* this host is a VM itself */
	int open_errno;	 /* what opening /dev/kvm came to, 0: it opens */
};
/* 0 or a negative errno: /proc/cpuinfo could not be read, and only open_errno is set. */
int vmm_kvm_look(struct vmm_kvm *ret);

struct vmm_cgroups {
	const char *layout; /* "v1", "hybrid" or "v2" */
	bool cpu, memory, cpuset, pids;
	bool read_only;	   /* none can be made */
	char crowded[256]; /* v2, a tree whose top is no root and holds processes: no controller can be passed
			      on from there. "": none such */
};
int vmm_cgroup_look(struct vmm_cgroups *ret, struct err *err);

/* Makes a network namespace, and in one a tap, or redirecting filters; all of it is gone at the return. */
int vmm_netns_try(struct err *err);
int vmm_tap_try(struct err *err);
int vmm_redirect_try(struct err *err);

/* The longest name of a socket in a VM's run_dir. */
#define VMM_SOCKET_NAME_MAX 16

/* ---- cgroups: the pod's place on the host -------------------------------------------------------------- */

struct vmm_resources {
	uint64_t memory_limit_bytes; /* 0: none. The VM's overhead is the caller's to add */
	uint64_t cpu_shares;	     /* 0: default; v1 scale, converted to cpu.weight on v2 */
	int64_t cpu_quota_us;	     /* <= 0: none */
	uint64_t cpu_period_us;	     /* 0: 100000 */
	uint64_t pids_max;	     /* 0: none */
	const char *cpuset_cpus;     /* NULL: inherited */
	const char *cpuset_mems;
};
/*
 * Makes the leaf cgroup `path` (relative to each hierarchy's root, e.g. "/kubepods/pod1/crivisor-<id>") in
 * v1, hybrid or v2, and applies the limits. What exists is reused. Nothing is left on failure.
 */
int vmm_cgroup_create(const char *path, const struct vmm_resources *res, struct err *err);
int vmm_cgroup_update(const char *path, const struct vmm_resources *res, struct err *err);
/*
 * Kills every process in it (cgroup.kill, or by freezing and signalling on v1), waits up to the deadline,
 * removes it. Missing: success.
 */
int vmm_cgroup_destroy(const char *path, int64_t deadline_ns, struct err *err);
/* Pids inside, for tests and checks: count or negative errno. */
int vmm_cgroup_pids(const char *path, pid_t *pids, size_t max);
struct vmm_cgroup_stats {
	uint64_t cpu_usage_ns, memory_usage_bytes, memory_working_set_bytes, oom_kills;
};
int vmm_cgroup_stats(const char *path, struct vmm_cgroup_stats *ret, struct err *err);
/* Its own memory limit; 0: none. -ENOENT if there is no such cgroup, or no memory controller. */
int vmm_cgroup_memory_limit(const char *path, uint64_t *ret_bytes, struct err *err);

/* ---- network namespaces and taps ----------------------------------------------------------------------- */

/*
 * Makes a network namespace held by a bind mount at `path` (file is created), with lo up. Existing: -EEXIST.
 */
int vmm_netns_create(const char *path, struct err *err);
/* Unmounts and removes it. Missing: success. */
int vmm_netns_destroy(const char *path, struct err *err);

/*
 * Makes a persistent tap `name` (multi_queue off, vnet_hdr) in the netns, up, with `mtu`. Nothing is
 * redirected yet.
 */
int vmm_tap_create(const char *netns_path, const char *name, uint32_t mtu, struct err *err);
/*
 * Joins interface `ifname` (made by CNI) and tap by ingress qdiscs and u32 + mirred redirects both ways.
 * Reports what the guest must be given. Idempotent. `ifname` keeps its addresses: CNI's CHECK and DEL look
 * for them.
 */
struct vmm_if_info {
	uint8_t mac[6];
	uint32_t mtu;
};
int vmm_tap_join(const char *netns_path, const char *tap, const char *ifname, struct vmm_if_info *ret_info,
		 struct err *err);

/* ---- a VM ---------------------------------------------------------------------------------------------- */

struct vmm;

struct vmm_spec {
	const char *id;	     /* [a-z0-9-], at most 64 */
	const char *run_dir; /* exists, private to this VM: sockets, console.log, daemons' logs. Short path:
				sockets */
	const char *shared_dir;	   /* what virtiofsd exports with GUEST_SHARE_TAG */
	const char *netns_path;	   /* NULL: the caller's */
	const char *cgroup;	   /* as for vmm_cgroup_create; exists; NULL: none */
	const char *tap;	   /* boot NIC; NULL: none */
	uint8_t mac[6];		   /* of the boot NIC; all zero: chosen at random, locally administered */
	uint32_t mtu;		   /* of the boot NIC; 0: 1500 */
	uint32_t vcpus;		   /* 0: config's */
	uint32_t vcpus_max;	   /* 0: the host's number */
	uint64_t memory_bytes;	   /* 0: config's */
	uint64_t memory_max_bytes; /* for hot plug; 0: no hot plug beyond memory_bytes */
	const char *extra_params;  /* appended to the kernel command line after config's; NULL: none */
};

/*
 * Starts virtiofsd, the vsock daemon if one is needed, and the VMM, each in cgroup and netns from its first
 * instruction, and returns once the VMM's API answers (the guest still boots). On failure nothing is left
 * running.
 */
int vmm_start(const struct vmm_config *config, const struct vmm_choice *choice, const struct vmm_spec *spec,
	      int64_t deadline_ns, struct vmm **ret_vm, struct err *err);
/*
 * What vmm_recover needs, as JSON to be stored by the caller; free() it. Changes with the VM's size only:
 * plugged devices are not in it, the VMM itself is asked for them.
 */
char *vmm_save(const struct vmm *vm);
/*
 * Adopts a running VM from that JSON. -ESRCH with words if it has died meanwhile (what is left of its helpers
 * is killed).
 */
int vmm_recover(const struct vmm_config *config, const char *json, struct vmm **ret_vm, struct err *err);
/* Forgets the VM without touching it. Returns NULL. */
struct vmm *vmm_free(struct vmm *vm);
/*
 * Kills VMM and helpers and waits for them (at most to the deadline). Safe from any thread at any time, again
 * and again; it makes calls in progress on this VM fail at once. Files in run_dir are the caller's to remove.
 */
int vmm_stop(struct vmm *vm, int64_t deadline_ns, struct err *err);

/*
 * A connected, CLOEXEC, non-blocking stream socket to a vsock port in the guest. Retries until the deadline
 * while the guest is still booting (waits by events where there are any, else with short pauses of at most 5
 * ms); fails at once when the VM is dead.
 */
int vmm_connect(struct vmm *vm, uint32_t port, int64_t deadline_ns, struct err *err);

/* ---- events -------------------------------------------------------------------------------------------- */

enum vmm_event_type {
	VMM_EVENT_NONE,
	VMM_EVENT_VMM_EXITED,	 /* status: exit code, 128+n for a signal, -1 unknown (adopted) */
	VMM_EVENT_HELPER_EXITED, /* virtiofsd or vsock daemon: the VM cannot live on */
	VMM_EVENT_GUEST_PANIC,
	VMM_EVENT_GUEST_RESET,	  /* reboot, reset or triple fault: counts as death */
	VMM_EVENT_GUEST_SHUTDOWN, /* orderly power-off */
	VMM_EVENT_DEVICE_REMOVED, /* id in `what` */
};
struct vmm_event {
	enum vmm_event_type type;
	int status;
	char what[128];	  /* which helper, or a device id */
	char detail[256]; /* the program's last words */
};
/* An fd that polls readable when vmm_dispatch has something; owned by vm. */
int vmm_fd(const struct vmm *vm);
/* Takes the next event without blocking: 1, 0 if there is none, negative errno. */
int vmm_dispatch(struct vmm *vm, struct vmm_event *ret_event);

/* ---- devices, size, state ------------------------------------------------------------------------------ */

enum vmm_device_type {
	VMM_DEVICE_DISK,
	VMM_DEVICE_PMEM,
	VMM_DEVICE_NET,
	VMM_DEVICE_FS,
	VMM_DEVICE_VFIO,
};
struct vmm_device {
	enum vmm_device_type type;
	const char *id;	  /* unique in the VM */
	const char *path; /* disk, pmem: file; vfio: sysfs path; fs: vhost-user socket; net: tap name in the
			     VM's netns */
	const char *tag;  /* fs */
	bool read_only;
	uint8_t mac[6];
	uint32_t mtu;
};
#define VMM_PCI_ADDRESS_MAX 16
/* ret_pci: "0000:00:05.0" as the guest sees it. */
int vmm_attach(struct vmm *vm, const struct vmm_device *device, char ret_pci[VMM_PCI_ADDRESS_MAX],
	       int64_t deadline_ns, struct err *err);
/*
 * Returns when the guest has let go of it (device-removed / DEVICE_DELETED), not at the VMM's reply. Unknown
 * id: -ENOENT.
 */
int vmm_detach(struct vmm *vm, const char *id, int64_t deadline_ns, struct err *err);
/* vcpus or memory 0: as they are. Nothing shrinks below its boot size (-EINVAL). */
int vmm_resize(struct vmm *vm, uint32_t vcpus, uint64_t memory_bytes, int64_t deadline_ns, struct err *err);
int vmm_pause(struct vmm *vm, int64_t deadline_ns, struct err *err);
int vmm_resume(struct vmm *vm, int64_t deadline_ns, struct err *err);
/* dir exists and is empty. The VM must be paused. */
int vmm_snapshot(struct vmm *vm, const char *dir, int64_t deadline_ns, struct err *err);
/* As vmm_start, from a snapshot; the VM comes up paused. -EOPNOTSUPP where the driver cannot. */
int vmm_restore(const struct vmm_config *config, const struct vmm_choice *choice, const struct vmm_spec *spec,
		const char *dir, int64_t deadline_ns, struct vmm **ret_vm, struct err *err);

struct vmm_info {
	const char *driver;
	char accel[16];
	char state[32];				 /* the VMM's own word: "Running", "Paused", … */
	pid_t vmm_pid, virtiofsd_pid, vsock_pid; /* 0: none */
	uint32_t vcpus;
	uint64_t memory_bytes;
	char console_path[256];
};
int vmm_info(struct vmm *vm, struct vmm_info *ret_info, struct err *err);

#endif

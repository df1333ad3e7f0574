/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver_internal.h: what the files of this room share: the VM itself, and what a driver (one per VMM
 * program) must do for it.
 *
 * Locks of one VM (none is held while waiting for a VMM, a guest or a process):
 *   turn   a flag with a condition, not a mutex: one attach, detach, resize, … at a time, waited for with a
 *          deadline;
 *   io     the monitor connection's parser and the driver's state; held for non-blocking reads only;
 *   lock   everything else that changes: processes, events, devices, flags. May be taken inside io, never
 *          around it.
 * Fields without a lock's name are set before the VM is handed out and never change.
 */
#ifndef VMM_DRIVER_INTERNAL_H
#define VMM_DRIVER_INTERNAL_H

#include "vmm/child_internal.h"
#include "vmm/choose.h"
#include "vmm/config.h"
#include "vmm/vm.h"

#include <pthread.h>
#include <sys/un.h>
#include <linux/capability.h>

struct json_object;

/* Files in run_dir. */
#define VM_FILE_API	"api.sock" /* Cloud Hypervisor's REST socket */
#define VM_FILE_QMP	"qmp.sock"
#define VM_FILE_FS	"virtiofs.sock"
#define VM_FILE_VSOCK	"task.vsock" /* hybrid vsock */
#define VM_FILE_VHOST	"vhost-vsock.sock"
#define VM_FILE_CONSOLE "console.log"
#define VM_FILE_SERIAL	"serial.log"  /* only with debug */
#define VM_FILE_CPU	"cpu.log"     /* QEMU, only with debug: the CPU at each reset */
#define VM_FILE_EVENTS	"events.json" /* Cloud Hypervisor's event monitor */
#define VM_FILE_LOG	"vmm.log"     /* the VMM's stdout and stderr */
#define VM_FILE_FS_LOG	"virtiofsd.log"
#define VM_FILE_VS_LOG	"vsock.log"
#define VM_FILE_CH_LOG	"cloud-hypervisor.log" /* only with debug */

enum vm_role {
	VM_ROLE_VMM,
	VM_ROLE_FS,
	VM_ROLE_VSOCK,
	VM_ROLE_COUNT,
};

#define VM_DEVICES_MAX 32
#define VM_EVENTS_MAX  16
#define VM_DEATHS_MAX  (1 + VM_ROLE_COUNT) /* the guest's end, and that of each process */
#define VM_VSOCK_CID   3		   /* of hybrid vsock, where each VM has its own CID space */

struct vm_slot {
	char id[VM_DEVICE_ID_MAX]; /* "": free */
	enum vm_device_type type;
	char pci[VM_PCI_ADDRESS_MAX];
	bool removed; /* the guest has released it */
};

struct vm {
	const struct vmm_driver *driver;
	void *state; /* the driver's; by io */
	char *id, *run_dir, *netns_path;
	char accel[16];
	char exe[VM_ROLE_COUNT][64]; /* their names, for messages */
	bool debug;
	uid_t uid;    /* of VMM and vsock daemon */
	uint32_t cid; /* AF_VSOCK CID; 0: hybrid vsock on VM_FILE_VSOCK */
	uint32_t vcpus_boot, vcpus_max;
	uint64_t memory_boot, memory_max;
	int epoll_fd;
	int stop_fd;	 /* eventfd, readable for ever once the VM is being stopped */
	int wake_fd;	 /* eventfd, readable while events are queued */
	int progress_fd; /* eventfd, tells the one waiting caller to look again */
	/* inotify: a file in run_dir was written; -1: none to be had. Drained by trim_service */
	int files_watch;
	int files_timer; /* timerfd: the watch has rested */

	pthread_mutex_t io;
	pthread_mutex_t lock;
	pthread_cond_t turn_free;
	bool turn_taken;     /* lock */
	bool stopping;	     /* lock */
	bool ending;	     /* lock: the VMM has announced its end; a helper's exit is a consequence */
	char end_words[160]; /* lock: how the guest has ended; "": it has not */
	bool monitor_eof;    /* lock */
	bool watching;	     /* lock: epoll_fd is filled */
	bool guest_up;	     /* lock: the guest's userspace has been seen to run */
	uint32_t vcpus;	     /* lock */
	uint64_t memory;     /* lock */
	struct child procs[VM_ROLE_COUNT];	/* lock; pidfds stay open until vm_free */
	bool reported[VM_ROLE_COUNT];		/* lock */
	struct vm_event events[VM_EVENTS_MAX];	/* lock; a ring */
	unsigned events_head, events_len;	/* lock */
	struct vm_slot devices[VM_DEVICES_MAX]; /* lock */
};

/* What a start needs; lives during vm_start only. */
struct vm_launch {
	const struct vmm_config *config;
	const struct vmm_choice *choice;
	const struct vm_spec *spec;
	const char *restore_dir; /* NULL: boot */
	uint64_t image_bytes;
	uint8_t mac[6];
	int64_t deadline_ns;
	int fds[CHILD_FDS_MAX]; /* for the VMM; owned */
	size_t n_fds;
	/* Indices into fds, -1: none. */
	int fs, vsock, tap, monitor;
};

struct vmm_driver {
	const char *name;
	const char *exe;  /* default program name */
	bool own_vsock;	  /* serves hybrid vsock itself */
	bool tap_by_name; /* opens plugged taps itself */
	bool fs_by_fd;	  /* takes a connected vhost-user fd; else connects to VM_FILE_FS */
	uint32_t caps;
	uint32_t mtu_max;
	/* Opens what the VMM must inherit besides the common fds; may be NULL. */
	int (*prepare)(struct vm *vm, struct vm_launch *launch, struct err *err);
	/* Pure: the command line. */
	int (*command)(const struct vm *vm, const struct vm_launch *launch, char ***ret_argv,
		       struct err *err);
	/*
	 * Connects to the running VMM's API and waits until it answers; also used to adopt. Fills in what it
	 * learns from the VMM.
	 */
	int (*ready)(struct vm *vm, bool adopt, int64_t deadline_ns, struct err *err);
	/* The fd that polls readable when pump has work; -1: none. Constant after ready. */
	int (*monitor_fd)(const struct vm *vm);
	/* With io held: reads pending monitor input without blocking and queues events. */
	void (*pump)(struct vm *vm);
	/* These are called with the turn held. */
	int (*attach)(struct vm *vm, const struct vm_device *device, char ret_pci[VM_PCI_ADDRESS_MAX],
		      int64_t deadline_ns, struct err *err);
	int (*detach)(struct vm *vm, const struct vm_slot *slot, int64_t deadline_ns, struct err *err);
	int (*resize)(struct vm *vm, uint32_t vcpus, uint64_t memory_bytes, int64_t deadline_ns,
		      struct err *err);
	/* The thread of each of the first n vCPUs, as the host numbers it; 0: there is none. */
	int (*vcpu_threads)(struct vm *vm, pid_t *ret_tids, uint32_t n, int64_t deadline_ns, struct err *err);
	int (*pause)(struct vm *vm, int64_t deadline_ns, struct err *err);
	int (*resume)(struct vm *vm, int64_t deadline_ns, struct err *err);
	int (*snapshot)(struct vm *vm, const char *dir, int64_t deadline_ns,
			struct err *err); /* NULL: not supported */
	int (*state_name)(struct vm *vm, char *out, size_t size, int64_t deadline_ns, struct err *err);
	void (*done)(struct vm *vm);
};

extern const struct vmm_driver vmm_driver_qemu, vmm_driver_cloud_hypervisor;
const struct vmm_driver *vmm_driver_find(const char *name);

/* ---- vmm.c, for drivers -------------------------------------------------------------------------------- */

/* "<run_dir>/<file>" into out; 0 or -ENAMETOOLONG. */
int vm_path(const struct vm *vm, const char *file, char *out, size_t size, struct err *err);
/* Makes a file or socket of run_dir the VMM's. It is none that the VMM has made. */
int vm_give(const struct vm *vm, const char *path, struct err *err);
/*
 * Queues an event and marks the VM as ending if it is an end. A full queue drops what is no death: room for
 * each death that a VM can have is kept.
 */
void vm_push_event(struct vm *vm, enum vm_event_type type, int status, const char *what, const char *detail);
/* Makes vm_fd readable: pump has more to do than it does in one turn. */
void vm_again(struct vm *vm);
/* Tells a waiting vm_await to look at its condition again. */
void vm_progress(struct vm *vm);
/* The guest has released a device: marks its slot and queues the event. */
void vm_device_removed(struct vm *vm, const char *id);
/* The monitor connection has ended. */
void vm_monitor_eof(struct vm *vm);
/*
 * Waits until done(vm, arg), which is called with io held, is true. -ETIMEDOUT; -ECANCELED when the VM is
 * being stopped; -ENOTCONN with the VMM's last words when it has ended. `what` names what is waited for.
 */
typedef bool vm_done_fn(struct vm *vm, void *arg);
int vm_await(struct vm *vm, vm_done_fn *done, void *arg, int64_t deadline_ns, const char *what,
	     struct err *err);
/* -ECANCELED or -ENOTCONN as in vm_await, else 0. */
int vm_check_alive(struct vm *vm, struct err *err);
/*
 * For a VMM that has closed its connection: its last words if it ends within a second, else `what`. A
 * negative errno.
 */
int vm_lost(struct vm *vm, const char *what, struct err *err);
/* Adds a device that the VMM reports (used when adopting). */
int vm_slot_add(struct vm *vm, enum vm_device_type type, const char *id, const char *pci, struct err *err);

/* ---- pin.c --------------------------------------------------------------------------------------------- */

struct vm_thread {
	pid_t tid;   /* for this process */
	pid_t inner; /* for the VMM itself, which may have a PID namespace of its own */
	char name[16];
};
typedef void vm_thread_fn(void *arg, const struct vm_thread *thread);
/* Calls fn for each thread of the VMM. */
int vm_threads(struct vm *vm, vm_thread_fn *fn, void *arg, struct err *err);
/* One from its /proc/<pid>/task/<tid>/status, which it changes. -EBADMSG if that is none. */
int vm_thread_parse(pid_t tid, char *status, struct vm_thread *ret_thread);

/* ---- cmdline.c ----------------------------------------------------------------------------------------- */

/* The kernel command line: the described system's parameters, then the configured ones. NULL on ENOMEM. */
char *vmm_kernel_cmdline(const struct vmm_config *config, const struct vm_spec *spec);
int launch_fd(const struct vm_launch *launch, int index); /* the child's number */
int launch_add_fd(struct vm_launch *launch, int fd, int *ret_index,
		  struct err *err); /* takes fd in any case */
void vmm_mac_words(const uint8_t mac[6], char out[18]);
bool vmm_mac_zero(const uint8_t mac[6]);
/* Our name inside the VMM for a plugged device; type and id can be read from it. */
#define VM_DEVICE_NAME_MAX (VM_DEVICE_ID_MAX + 16)
void vm_device_name(enum vm_device_type type, const char *id, char out[VM_DEVICE_NAME_MAX]);
/* The id in such a name; NULL for other names. */
const char *vm_device_id(const char *name, enum vm_device_type *ret_type);
/*
 * -EINVAL if a value cannot be part of QEMU's or Cloud Hypervisor's comma-separated options: it holds a
 * comma, a quote or a control character.
 */
int vmm_option_check(const char *what, const char *value, struct err *err);

/* ---- console.c ----------------------------------------------------------------------------------------- */

/*
 * Follows a console file: the guest's output is the event that tells of its progress. Embedded; console_done.
 */
struct console {
	int fd, watch; /* -1: missing, or it cannot be opened */
	bool up;       /* userspace runs */
	int64_t offset;
	size_t kept;
	char window[64]; /* the last bytes read: a sign may be cut in two */
};
void console_init(struct console *c, const char *path);
/* Reads new output; true once userspace has printed something. Never blocks. */
bool console_read(struct console *c);
/* True if the text, together with the end of the text before it, holds a sign of userspace. */
bool console_sign(struct console *c, const char *text, size_t len);
void console_done(struct console *c);

/* ---- trim.c -------------------------------------------------------------------------------------------- */

/* A log that takes more room than the first keeps the second, its end. */
#define TRIM_MAX_BYTES	(8 << 20)
#define TRIM_KEEP_BYTES (1 << 20)
/* Gives the file's bytes before `end` back, in whole pages; its size stays. 0 or a negative errno. */
int trim_file(const char *path, off_t end);

/* ---- helpers' command lines and start (virtiofsd.c, vsock.c) ------------------------------------------- */

/* Which virtiofsd this host has: path and whether it is the C one. */
int virtiofsd_find(const struct vmm_config *config, char *out, size_t size, bool *ret_legacy,
		   struct err *err);
int virtiofsd_command(const struct vmm_config *config, const char *path, bool legacy, const char *shared_dir,
		      int fd, char ***ret_argv, struct err *err);
/*
 * What virtiofsd needs: what it serves the guest with, and CAP_SYS_ADMIN and CAP_SETPCAP, by which it makes
 * its namespaces and then drops all but the first.
 */
#define VIRTIOFSD_CAPS                                                                                       \
	(CAP(CAP_CHOWN) | CAP(CAP_DAC_OVERRIDE) | CAP(CAP_FOWNER) | CAP(CAP_FSETID) | CAP(CAP_SETUID) |      \
	 CAP(CAP_SETGID) | CAP(CAP_SETFCAP) | CAP(CAP_MKNOD) | CAP(CAP_SYS_ADMIN) | CAP(CAP_SETPCAP))
#define CAP(n) (UINT64_C(1) << (n))
int virtiofsd_spawn(struct vm *vm, const struct vm_launch *launch, const char *helper, struct err *err);

/* True if the kernel serves AF_VSOCK to guests here. */
bool vsock_kernel_usable(void);
/* Claims a free CID on /dev/vhost-vsock: the fd, and the CID. */
int vsock_claim(uint32_t *ret_cid, struct err *err);
int vsock_daemon_find(const struct vmm_config *config, char *out, size_t size, struct err *err);
int vsock_daemon_spawn(struct vm *vm, const struct vm_launch *launch, const char *helper, struct err *err);
/* One attempt, until the deadline at most: a connected socket; -EAGAIN if the guest does not listen yet. */
int vsock_dial_hybrid(const char *path, uint32_t port, int stop_fd, int pid_fd, int64_t deadline_ns,
		      struct err *err);
int vsock_dial_kernel(uint32_t cid, uint32_t port, int stop_fd, int pid_fd, int64_t deadline_ns,
		      struct err *err);
/* Checks a reply "OK <n>\n": 1 complete, 0 incomplete so far, -EPROTO anything else. */
int vsock_parse_ok(const char *data, size_t len);

/* ---- sock.c -------------------------------------------------------------------------------------------- */

int sock_listen(const char *path, struct err *err);
/*
 * The address of the socket at `path`, which may lie in a directory that a VMM writes: no symlink is followed
 * to another's socket. An fd that must stay open until the connection is made; -ENOENT; -ENOTSOCK.
 */
int sock_target(const char *path, struct sockaddr_un *ret_address);
/*
 * Connects to a listening UNIX socket; waits by inotify while the file is missing. Blocking socket, CLOEXEC.
 */
int sock_connect(const char *path, int64_t deadline_ns, int stop_fd, const struct child *owner,
		 struct err *err);

/* ---- tap.c --------------------------------------------------------------------------------------------- */

/* Opens the persistent tap `name` of the netns (NULL: the caller's): a queue fd with vnet_hdr. */
int tap_open(const char *netns_path, const char *name, struct err *err);

/* ---- choose.c ------------------------------------------------------------------------------------------ */

/* Runs a program with /dev/null as stdin and stderr, and keeps the first out_size - 1 bytes of its output. */
struct vmm_run {
	char *const *argv;
	char *out;
	size_t out_size;
};
/*
 * The exit status (128+n for a signal), or a negative errno; the program is killed at the deadline
 * (-ETIMEDOUT).
 */
int vmm_run(const struct vmm_run *run, int64_t deadline_ns);
/* A whole word of the first "flags" line. */
bool cpu_has(const char *cpuinfo, const char *flag);
/* The driver's program: the configured one, if it belongs to this driver, else the default one from PATH. */
int find_driver(const struct vmm_config *config, const struct vmm_driver *driver, char *out, size_t size,
		struct err *err);
/* The first line of `path --version`; "" if there is none. */
void read_version(const char *path, char *out, size_t size);
/*
 * Looks for a helper program (see VMM_HELPER_DIR): 0 with its path, or -ENOENT. `searched`, if not NULL, then
 * names the places, for a message.
 */
int find_helper(const struct vmm_config *config, const char *name, char *out, size_t size, char *searched,
		size_t searched_size);
/* The path of crivisor-spawn. */
int find_spawn_helper(const struct vmm_config *config, char *out, size_t size, struct err *err);

#endif

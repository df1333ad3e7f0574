/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox.h: where a pod's processes live, from the host's side.
 *
 * Purpose:   one interface for every kind of place: a virtual machine, later the host itself, and the fake of
 *            the unit tests. A sandbox is booted (knowing no pod), assigned to a pod, reached through its
 *            agent, fed with files and mounts, and ended. It watches over its own death.
 * Life:      new → booting → ready → dead. It never comes back from dead. Everything that it leaves on the
 *            host is journalled under the sandbox's own id before it is made; sandboxes_undo removes it all.
 * Threads:   any thread, except where "loop" or "blocks" is said. Functions that block do so until their call
 *            ends or their deadline passes, whichever is first, and are not for the loop's thread. Hooks run
 *            on the loop's thread, with no lock held, and do not block.
 * Locks:     inside, one a sandbox, held for an access. A caller may hold locks of its own that no hook
 *            takes.
 * Ownership: reference counted. A watched sandbox (from the end of its boot to its death) holds a reference
 *            to itself. Strings that are handed in are copied, but for those of struct sandbox_spec and
 *            struct sandbox_assignment, which are lent until the function returns.
 * Units:     bytes; CLOCK_MONOTONIC nanoseconds for deadlines.
 * Errors:    -ECANCELED and -ETIMEDOUT of the call; FailedPrecondition with the reason of its death where the
 *            sandbox is dead; else what failed, in words.
 */
#ifndef CRI_SANDBOX_SANDBOX_H
#define CRI_SANDBOX_SANDBOX_H

#include "base/err.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "cri/core/call.h"
#include "cri/core/loop.h"
#include "cri/core/workers.h"
#include "cri/network/cni.h"
#include "cri/store/store.h"
#include "vmm/cgroup.h"
#include "vmm/choose.h"
#include "vmm/vm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sandboxes;
struct sandbox;
struct sandbox_driver;

#define SANDBOX_ID_MAX	 65  /* 64 of [0-9a-f], and the NUL */
#define SANDBOX_PATH_MAX 512 /* of each path below */
#define SANDBOX_WHY_MAX	 256

/* ---- the room ------------------------------------------------------------------------------------------ */

struct sandboxes_options {
	const struct vmm_config *hypervisor;
	const char *run_dir; /* sandboxes lie in <run_dir>/pods and <run_dir>/netns, which exist */
	struct loop *loop;
	struct workers *workers;
	struct store *store;
	uid_t uid_first;		     /* each VM runs as a user of its own, of these; see config.h */
	uint32_t uid_count;		     /* 0: as root */
	unsigned int boots;		     /* how many may boot at once; others wait in their order */
	const struct sandbox_driver *driver; /* NULL: virtual machines */
	int64_t health_every_ns;	     /* between two looks at an agent; 0: 10 s */
};
/* The options' pointers outlive the room. */
int sandboxes_new(const struct sandboxes_options *options, struct sandboxes **ret_room, struct err *err);
/* Once no sandbox is left, on the loop's thread or when the loop has ended. Returns NULL. NULL-safe. */
struct sandboxes *sandboxes_free(struct sandboxes *room);
/* How many boots run and how many wait for their turn, for Status. */
void sandboxes_boots(struct sandboxes *room, unsigned int *ret_running, unsigned int *ret_waiting);
/*
 * Loop. From now on the guests follow the host's wall clock when it is set. Without it their clocks are
 * compared every ten minutes all the same.
 */
int sandboxes_watch_clock(struct sandboxes *room, struct err *err);

/*
 * Undoes what the journal holds under the sandbox's id: its processes are killed, its mounts, namespaces,
 * cgroup and files removed. Idempotent, also for an id that nobody knows. Blocks, 30 s at most.
 */
int sandboxes_undo(struct sandboxes *room, const char *id, struct err *err);
/*
 * One step that a journal holds under another owner: those of a container (sandbox_place), and of pods of
 * versions before sandboxes had ids, whose sandbox's steps stand under the pod's id. -ENOENT: the kind is
 * none of this room's.
 */
int sandboxes_undo_step(struct sandboxes *room, const char *kind, const char *arg, struct err *err);

/* ---- one sandbox --------------------------------------------------------------------------------------- */

struct sandbox_hooks {
	/*
	 * Loop. The sandbox has died by itself or was condemned: told once, and never after sandbox_shutdown
	 * or sandbox_kill has begun. Its processes are being killed; sandbox_kill waits for that. `status` is
	 * that of the VMM's process (128+n for a signal), -1 where it is not known.
	 */
	void (*died)(void *arg, const char *why, int status);
	/*
	 * Loop. The agent's control connection stands again after it broke: waits that failed with it
	 * (Unavailable) must be asked again. May be NULL.
	 */
	void (*reconnected)(void *arg);
	void *arg;
};

/* A new one with a random id, and nothing on the host. The hooks' arg outlives sandbox_forget_hooks. */
int sandbox_new(struct sandboxes *room, const struct sandbox_hooks *hooks, struct sandbox **ret_sandbox,
		struct err *err);
struct sandbox *sandbox_ref(struct sandbox *sandbox);
/* Returns NULL. NULL-safe. What runs goes on to run: only sandbox_kill and sandbox_shutdown end it. */
struct sandbox *sandbox_unref(struct sandbox *sandbox);
static inline void sandbox_unref_cleanup(struct sandbox **sandbox)
{
	sandbox_unref(*sandbox);
}
#define CLEANUP_SANDBOX CLEANUP(sandbox_unref_cleanup)
/*
 * When this returns no hook runs and none will. Blocks for as long as one runs, unless it is called on the
 * loop's thread. The caller holds no lock that a hook takes.
 */
void sandbox_forget_hooks(struct sandbox *sandbox);

/* All of these are known from sandbox_new on and never change. */
const char *sandbox_id(const struct sandbox *sandbox);
const char *sandbox_dir(const struct sandbox *sandbox);
const char *sandbox_netns(const struct sandbox *sandbox);

/* ---- boot and assignment ------------------------------------------------------------------------------- */

struct sandbox_spec {
	const struct vmm_choice *choice; /* the VMM to use */
	uint32_t vcpus;
	uint64_t memory_bytes;		    /* the guest's; the cgroup's limit is the sandbox's to derive */
	const char *cgroup_parent;	    /* absolute, of the cgroupfs kind; checked */
	const struct vmm_resources *limits; /* of the cgroup, but for memory; NULL: none */
	/*
	 * Runs once, on the booting thread, when the network namespace is there and before the boot goes on:
	 * where the pod's network is begun, on another thread, so that both go on side by side. An error ends
	 * the boot. NULL: nothing.
	 */
	int (*network)(void *arg, const char *netns, struct err *err);
	void *network_arg;
};
/*
 * Waits for its turn among the boots, makes what it needs on the host and starts the guest, until its agent
 * has answered. A VM that ends before its kernel has printed anything is started once more. At most 90 s from
 * its turn on. Blocks. A cancelled call, sandbox_kill and sandbox_condemn end it early. On failure it is
 * dead, its processes are killed, and the caller runs sandboxes_undo.
 */
int sandbox_boot(struct sandbox *sandbox, struct call *call, const struct sandbox_spec *spec,
		 struct err *err);

/* How the network of its namespace reaches the sandbox. Lent, as the spec. */
struct sandbox_network {
	const char *ifname; /* of the interface that CNI made in the network namespace */
	bool spoof_check;   /* drop what the guest sends with addresses that are not its own */
	char *const *ips;   /* as CNI has answered (what stands behind a slash does not count): the pod's */
	size_t n_ips;	    /* addresses where the interface has none in the namespace */
};
struct sandbox_sysctl {
	const char *key, *value;
};
struct sandbox_assignment {
	const char *pod_id;
	const char *hostname;		  /* at most 64 bytes */
	const struct cni_result *network; /* what CNI's ADD has answered */
	const char *ifname;		  /* of the interface that CNI made in the network namespace */
	bool allow_netns_rules; /* packet filters in the network namespace are no reason to refuse */
	bool spoof_check;	/* drop what the guest sends with addresses that are not its own */
	const struct sandbox_sysctl *sysctls;
	size_t n_sysctls;
	const char *resolv_conf, *hosts; /* the files' contents */
};
/*
 * Makes a booted sandbox the pod's: network, name, files. Once. Blocks, 20 s at most, and as long for each
 * interface of the namespace beside `ifname`. What changes in the namespace's network later reaches the guest
 * within a second or so, as long as the sandbox lives.
 */
int sandbox_assign(struct sandbox *sandbox, struct call *call, const struct sandbox_assignment *assignment,
		   struct err *err);

/* ---- use ----------------------------------------------------------------------------------------------- */

/*
 * The agent of a ready sandbox; valid as long as the caller's reference to the sandbox (agent_ref for
 * longer). FailedPrecondition, with the reason, where the sandbox is not ready.
 */
int sandbox_agent(struct sandbox *sandbox, struct agent **ret_agent, struct err *err);
bool sandbox_is_dead(struct sandbox *sandbox);
/* Why it has died, "" while it lives. */
void sandbox_why(struct sandbox *sandbox, char ret_why[SANDBOX_WHY_MAX]);

/* Where a container's things are on the host, and how the guest sees them. */
struct sandbox_place {
	char dir[SANDBOX_PATH_MAX];    /* the argument of a journalled step "cdir" */
	char rootfs[SANDBOX_PATH_MAX]; /* below it: where a root is mounted to publish it */
	char bundle[SANDBOX_PATH_MAX]; /* dir in the guest */
};
/* Only the names: makes nothing, never blocks. -EINVAL for an id that is not [0-9a-f]{1,64}. */
int sandbox_place(const struct sandbox *sandbox, const char *container_id, struct sandbox_place *ret_place,
		  struct err *err);
/* Makes the place. The step "cdir" is journalled before by the container's owner. Idempotent. */
int sandbox_place_make(struct sandbox *sandbox, const char *container_id, struct err *err);
/* A file in the place (`name` without a slash). */
int sandbox_place_write(struct sandbox *sandbox, const char *container_id, const char *name, const char *text,
			struct err *err);
/*
 * Publishes the host's `source` (a directory or a file, with what is mounted below it) to the guest, for the
 * container. The same source is one file system for all containers of the sandbox: it is writable on the host
 * once one of them wants to write, and the guest's mount keeps it read-only for the others. recursive_ro
 * applies read_only to the mounts below as well. ret_guest: its path in the guest. -ENOENT with the path
 * where the source is missing.
 */
int sandbox_bind(struct sandbox *sandbox, const char *container_id, const char *source, bool read_only,
		 bool recursive_ro, char ret_guest[SANDBOX_PATH_MAX], struct err *err);
/*
 * Takes back all that the place publishes and removes it. While the guest lives it must have let go of it.
 * `lazy`, or a dead sandbox: detaches at once what is still in use. Missing: success. Blocks, some seconds.
 */
int sandbox_place_remove(struct sandbox *sandbox, const char *container_id, bool lazy, struct err *err);

/* Its guest's size, and between what it can change. Asks nobody. -ENOTCONN: it does not run. */
int sandbox_size(struct sandbox *sandbox, struct vm_size *ret_size, struct err *err);
/*
 * Changes the guest's size (as vm_resize), and the limits of its cgroup with it. vcpus or memory 0: as they
 * are. What grows is online in the guest when this returns. On failure the size is as before, and so is the
 * cgroup's memory limit; other limits are the caller's to set back. Blocks, 30 s at most, and as long again
 * where it fails.
 */
int sandbox_resize(struct sandbox *sandbox, struct call *call, uint32_t vcpus, uint64_t memory_bytes,
		   const struct vmm_resources *limits, struct err *err);
/* How many vCPUs its guest has; 0: it does not run. Asks nobody. */
uint32_t sandbox_vcpus(struct sandbox *sandbox);
/*
 * Lets vCPU i run on the host's CPUs sets[i] alone, for the first n vCPUs, until the next call. Blocks, 30 s
 * at most. A vCPU that sandbox_resize adds runs anywhere until then.
 */
int sandbox_pin(struct sandbox *sandbox, struct call *call, const cpu_set_t *sets, uint32_t n,
		struct err *err);
/* What all its processes on the host use. */
int sandbox_usage(struct sandbox *sandbox, struct vmm_cgroup_stats *ret_usage, struct err *err);

struct sandbox_info {
	char dir[SANDBOX_PATH_MAX], netns[SANDBOX_PATH_MAX], cgroup[SANDBOX_PATH_MAX];
	char boot_id[65], agent_version[64];
	uint64_t epoch;		/* how many times its agent was connected to */
	struct vm_info machine; /* driver NULL: it is dead, or not a VM */
};
/* For people. Blocks while the VMM is asked. Of a dead one only the paths and the boot id. */
int sandbox_info(struct sandbox *sandbox, struct sandbox_info *ret_info, struct err *err);

/* ---- the end ------------------------------------------------------------------------------------------- */

/*
 * The sandbox is to die, because of `why`: calls to its agent fail at once, its processes are killed, hook
 * died runs. Does not block. Nothing if it is dead already.
 */
void sandbox_condemn(struct sandbox *sandbox, const char *why);
/*
 * An orderly end: the agent ends the containers, syncs and unmounts its file systems, at most until
 * deadline_ns (an agent without that feature only syncs); then as sandbox_kill, which has 10 s of its own.
 * Blocks. Idempotent. A cancelled call goes on to the kill at once. ret_synced (may be NULL): the agent said
 * that everything is written.
 */
int sandbox_shutdown(struct sandbox *sandbox, struct call *call, int64_t deadline_ns, bool *ret_synced,
		     struct err *err);
/*
 * Kills its processes and waits until they have ended, at most until deadline_ns; it is dead at once. Also
 * one that is new or boots. Idempotent. Blocks. What it has made on the host stays for sandboxes_undo.
 */
int sandbox_kill(struct sandbox *sandbox, const char *why, int64_t deadline_ns, struct err *err);

/* ---- across a restart of the server -------------------------------------------------------------------- */

/*
 * What a later server needs to find a sandbox again, for its owner's row. Rows of versions before sandboxes
 * had ids hold the same but for `id`, for which the pod's id stands.
 */
struct sandbox_saved {
	char *id, *dir, *netns, *cgroup;
	char *machine; /* the VM's: JSON */
	char *boot_id;
};
/* Of a booted sandbox. The strings are malloc'ed: sandbox_saved_done. */
int sandbox_save(struct sandbox *sandbox, struct sandbox_saved *ret_saved, struct err *err);
void sandbox_saved_done(struct sandbox_saved *saved);
/*
 * A saved sandbox as an object: dead (with `why`) until it is adopted, so that its places can be removed.
 * Does not block.
 */
int sandbox_load(struct sandboxes *room, const struct sandbox_hooks *hooks, const struct sandbox_saved *saved,
		 const char *why, struct sandbox **ret_sandbox, struct err *err);
/*
 * Makes a loaded sandbox ready again: its machine runs, its agent answers and it is the same boot of the
 * guest (-ESTALE if not). Blocks, 45 s at most. On failure it stays dead, of what the error says, and its
 * processes are killed. The network of its namespace is followed again, from how it is by then; NULL: not.
 */
int sandbox_adopt(struct sandbox *sandbox, struct call *call, const struct sandbox_network *network,
		  struct err *err);

#endif

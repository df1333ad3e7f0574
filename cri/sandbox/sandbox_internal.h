/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox_internal.h: what the files of this room share, and what an implementation of a sandbox must do.
 *
 * Shape:     a sandbox is the same for all implementations: its states, its agent, its death, its journal.
 *            The driver knows the machine: what is made on the host, how it starts, is reached, watched and
 *            killed.
 * Locks:     sandboxes.lock (the list) and sandbox.lock (one sandbox), never both; held for an access, never
 *            across a driver's function, a call to the agent, a hook or the store.
 * States:    see enum sandbox_state. Only forward. Death is decided under the lock, by the first to come;
 *            what follows from it (the abort of the agent, the kill, the hook) is done by that one.
 */
#ifndef CRI_SANDBOX_SANDBOX_INTERNAL_H
#define CRI_SANDBOX_SANDBOX_INTERNAL_H

#include "api/agent/sandbox.pb-c.h"
#include "cri/core/gate.h"
#include "cri/sandbox/sandbox.h"
#include "cri/sandbox/uids_internal.h"
#include "cri/sandbox/volumes_internal.h"
#include "vmm/netview.h"
#include "vmm/network.h"

#include <pthread.h>
#include <stdatomic.h>

#define SANDBOX_KILL_NS (10 * NS_PER_SEC)

/* ---- a driver ------------------------------------------------------------------------------------------ */

/* The driver's own state of one sandbox. The agent dials through it, so it may outlive the sandbox. */
struct sandbox_machine {
	const struct sandbox_driver *driver;
	atomic_int refs;
};

struct sandbox_death {
	char why[SANDBOX_WHY_MAX];
	int status; /* -1: not known */
};

/*
 * Functions that take a sandbox block, on a worker thread, unless they say otherwise. They may read what is
 * immutable in it.
 */
struct sandbox_driver {
	const char *name;
	struct sandbox_machine *(*machine_new)(struct sandboxes *room);
	void (*machine_free)(struct sandbox_machine *machine);

	/* Makes what is needed on the host, each piece journalled by sandbox_journal before. */
	int (*prepare)(struct sandbox *sandbox, const struct sandbox_spec *spec, struct call *call,
		       struct err *err);
	/* The machine runs; its guest still boots. A kill meanwhile makes it fail. */
	int (*start)(struct sandbox *sandbox, const struct sandbox_spec *spec, int64_t deadline_ns,
		     struct err *err);
	/* Adds to err why the guest could not be reached; keeps its code, and returns it. */
	int (*explain)(struct sandbox *sandbox, struct err *err);
	/*
	 * True: the machine ended in a way that has nothing to do with its guest, and start may be tried
	 * again.
	 */
	bool (*start_again)(struct sandbox *sandbox);
	/* As agent_options.dial. */
	int (*dial)(void *machine, uint32_t port, int64_t deadline_ns, struct err *err);
	/* The host's part of the assignment. */
	int (*join)(struct sandbox *sandbox, const char *ifname, struct vmm_if_info *ret_nic,
		    struct err *err);
	/* The network of its namespace. NULL: there is none, and what CNI has answered is all. */
	int (*network)(struct sandbox *sandbox, struct vmm_net **ret_net, struct err *err);
	/* A socket that tells of its changes: vmm_net_watch. May be NULL. */
	int (*follow)(struct sandbox *sandbox, struct err *err);
	/*
	 * NICs for further interfaces, named by their index; all four or none. `tap` makes and joins what
	 * the NIC needs on the host (*ret_made false: it is plugged already), `plug` plugs it in (ret_pci
	 * "": it was). `nics` says which are plugged, how many in all; never blocks. `unplug` waits for the
	 * guest.
	 */
	int (*tap)(struct sandbox *sandbox, const struct vmm_net_link *link, bool *ret_made, struct err *err);
	int (*plug)(struct sandbox *sandbox, const struct vmm_net_link *link,
		    char ret_pci[VM_PCI_ADDRESS_MAX], int64_t deadline_ns, struct err *err);
	int (*unplug)(struct sandbox *sandbox, int index, int64_t deadline_ns, struct err *err);
	size_t (*nics)(struct sandbox *sandbox, int *ret_indexes, size_t max);
	/* How many packet filter rules its namespace has. May be NULL. */
	int (*filters)(struct sandbox *sandbox, struct vmm_net_filters *ret, struct err *err);
	/*
	 * Of a joined tap: only frames from these addresses (text, no prefix) leave the guest by it. May be
	 * NULL.
	 */
	int (*guard)(struct sandbox *sandbox, const char *tap, const char *ifname,
		     const char *const *addresses, size_t n, struct err *err);

	/*
	 * Loop, never block. An fd that polls readable when look has something; true: the machine has died.
	 */
	int (*fd)(struct sandbox *sandbox);
	bool (*look)(struct sandbox *sandbox, struct sandbox_death *ret_death);

	/* Any thread at any time, also beside every other function; again and again. */
	int (*kill)(struct sandbox_machine *machine, int64_t deadline_ns, struct err *err);
	char *(*save)(struct sandbox *sandbox);
	int (*recover)(struct sandbox *sandbox, const char *saved, struct err *err);

	/* -ENOTCONN: no machine runs. Never blocks. */
	int (*size)(struct sandbox *sandbox, struct vm_size *ret_size, struct err *err);
	/* vcpus or memory 0: unchanged. On failure size and memory limit are as before. */
	int (*resize)(struct sandbox *sandbox, uint32_t vcpus, uint64_t memory_bytes,
		      const struct vmm_resources *limits, int64_t deadline_ns, struct err *err);
	uint32_t (*vcpus)(struct sandbox *sandbox); /* never blocks; 0: no machine runs */
	int (*pin)(struct sandbox *sandbox, const cpu_set_t *sets, uint32_t n, int64_t deadline_ns,
		   struct err *err);
	int (*usage)(struct sandbox *sandbox, struct vmm_cgroup_stats *ret_usage, struct err *err);
	int (*info)(struct sandbox *sandbox, struct vm_info *ret_info, struct err *err);

	/* What is shared with the guest; `name` is of a file at the share's top. */
	int (*write)(struct sandbox *sandbox, const char *name, const char *text, struct err *err);
	int (*place_make)(struct sandbox *sandbox, const char *container_id, struct err *err);
	/* ret_path: below the share. */
	int (*bind)(struct sandbox *sandbox, const char *container_id, const struct volume *volume,
		    char ret_path[VOLUMES_NAME], struct err *err);
	/* One step of a journal; -ENOENT: not of its kinds. `lazy` is for "cdir" alone. */
	int (*undo)(struct sandboxes *room, const char *kind, const char *arg, bool lazy, struct err *err);
};

extern const struct sandbox_driver sandbox_vm_driver;

struct sandbox_machine *sandbox_machine_ref(struct sandbox_machine *machine);
void sandbox_machine_unref(struct sandbox_machine *machine);

struct follow;
/*
 * Has the driver drop what the guest sends with addresses that are none of the pod's, on whichever of its
 * interfaces: those of the namespace, and f->ips where its own interface has none there. Nothing where they
 * are as before. net NULL: only f->ips.
 */
int sandbox_network_guard(struct sandbox *sandbox, struct follow *f, const struct vmm_net *net,
			  struct err *err);
/*
 * Fills the message with the namespace's network. False in *ret_told: `ifname` has no address there (its
 * plugin left them to the runtime), and the message says nothing of it.
 */
int sandbox_network_fill(const struct vmm_net *net, const char *ifname, Grpc__Network *to, bool *ret_told,
			 struct err *err);
/* Neither lo nor the interface that CNI made. */
bool sandbox_network_is_further(const struct vmm_net_link *link, const char *ifname);
/* What a further interface's NIC is plugged with: by it the agent finds it. Its own MAC may not be unique. */
void sandbox_network_nic_mac(int index, uint8_t ret_mac[6]);

/* ---- the room and its sandboxes ------------------------------------------------------------------------ */

struct sandboxes {
	struct sandboxes_options options;
	const struct sandbox_driver *driver;
	struct gate gate;
	struct uids uids;
	struct clock_watch *clock; /* loop */
	pthread_mutex_t lock;
	struct sandbox *list; /* all; no references */
};

enum sandbox_state {
	SANDBOX_NEW,
	SANDBOX_LOADED, /* from its owner's row; not adopted */
	SANDBOX_BOOTING,
	SANDBOX_READY,
	SANDBOX_DEAD,
};

struct sandbox {
	struct sandboxes *room;
	struct sandbox *next, **at; /* room->lock */
	atomic_int refs;
	const struct sandbox_driver *driver;
	struct sandbox_machine *machine;
	/* Immutable, but for cgroup: set before the first step of a boot. */
	char id[SANDBOX_ID_MAX];
	char dir[SANDBOX_PATH_MAX], netns[SANDBOX_PATH_MAX], cgroup[SANDBOX_PATH_MAX];
	char *saved_machine, *saved_boot_id; /* of a loaded one */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* of telling */
	enum sandbox_state state;
	bool ending;  /* sandbox_kill or sandbox_shutdown has begun: no hook tells of the death */
	bool telling; /* a hook runs */
	bool assigned;
	bool told; /* of its death, or nobody is to be told */
	int death_status;
	char why[SANDBOX_WHY_MAX];
	struct sandbox_hooks hooks;
	struct agent *agent;	  /* set once a machine runs; freed with the sandbox */
	struct agent *dead_agent; /* that of a machine that was started again */
	struct follow *follow;	  /* set once, by its assignment or adoption; freed with the sandbox */

	/* The loop's thread: watch.c. The watch holds a reference. */
	bool watched;
	struct loop_source *machine_source, *health;
	struct agent_watch agent_watch;
	atomic_uint looks; /* at the agent; the clock is compared at each CLOCK_EVERY-th, from 0 on */
};

/* sandbox.c */
int sandbox_journal(struct sandbox *sandbox, const char *kind, const char *arg, struct err *err);
/* True if this is the one that decides its death. Says why, aborts its agent; kills nothing, tells nobody. */
bool sandbox_die(struct sandbox *sandbox, const char *why, int status);
/* As sandbox_condemn, with the status of the machine's end. */
void sandbox_condemn_status(struct sandbox *sandbox, const char *why, int status);
/* Loop. Runs the hooks, if it is due. */
void sandbox_tell_death(struct sandbox *sandbox);
void sandbox_tell_reconnected(struct sandbox *sandbox);

/* qos.c */
/*
 * The oom_score_adj of a VM's processes, by the QoS class that kubelet's names in its cgroup's path tell:
 * 1000 for BestEffort, 3 to 999 for Burstable (the less, the larger its memory), -997 for Guaranteed; 0 for
 * other paths.
 */
int sandbox_oom_score(const char *cgroup, uint64_t memory_bytes, uint64_t host_bytes);

/* watch.c */
/* Any thread. Soon it is watched; if it cannot be, it is condemned. */
void sandbox_watch(struct sandbox *sandbox);
/* Any thread. Soon it is not, once its death was told. */
void sandbox_unwatch(struct sandbox *sandbox);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pod.h: pod sandboxes: one VM each, from RunPodSandbox to RemovePodSandbox.
 *
 * Threads:   the pod_* calls block and belong on worker threads; pod_ref/unref, look-ups and pod_state copies
 *            anywhere.
 * Ownership: reference counted; a look-up returns a reference.
 * Locks:     see server.h. Fields below are under pod.lock unless marked.
 * Life:      creating → ready → not ready (stopped, or its VM died) → removed. Every step that leaves
 *            something on the host is journalled under the pod's id and undone by pod_undo, in rollback,
 *            removal and recovery alike.
 */
#ifndef CRI_PODS_POD_H
#define CRI_PODS_POD_H

#include "api/cri/state.pb-c.h"
#include "cri/command/server.h"
#include "vmm/vm.h"

#include <stdint.h>

struct agent;

enum pod_op {
	POD_OP_NONE,
	POD_OP_CREATE,
	POD_OP_STOP,
	POD_OP_REMOVE,
};

struct pod {
	struct server *server; /* immutable */
	struct pod *next;      /* server.tables */
	int refs;	       /* server.tables */
	char id[65];	       /* immutable */
	char dir[256];	       /* immutable: the pod's directory below run_dir */

	pthread_mutex_t rows; /* see server.h */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* CLOCK_MONOTONIC; of op, phase, and of its containers */
	enum pod_op op;
	bool cancel;			 /* someone wants the work in progress to end */
	struct call *waits;		 /* the creation that waits for a boot slot */
	bool dead;			 /* the VM is gone or condemned */
	Crivisor__State__V1__Pod *state; /* as stored */
	char reason[256];
	struct vm *vm;	     /* set once; its own thread rules; freed with the pod */
	struct agent *agent; /* likewise */
	struct vm *dead_vm;  /* a first VM that died before its kernel spoke, and its agent */
	struct agent *dead_agent;
	struct loop_source *vm_source; /* loop thread: the VM's events */
	struct loop_source *health;    /* loop thread: the next look at the agent */
	struct loop_source
		*lost;	    /* loop thread: when to believe pod_lost, if nothing better is learned before */
	char lost_why[256]; /* loop thread */
	unsigned int looks; /* loop thread: how many there were */
};

struct pod *pod_ref(struct pod *pod);
void pod_unref(struct pod *pod);
static inline void pod_unref_cleanup(struct pod **pod)
{
	pod_unref(*pod);
}
#define CLEANUP_POD CLEANUP(pod_unref_cleanup)

/* By id or unique prefix of one. -ENOENT naming the id; ambiguous prefixes are -EINVAL. */
int pod_find(struct server *server, const char *id, struct pod **ret_pod, struct err *err);
/* All pods as a NULL-terminated vector of references (pod_list_free), those being created included. */
int pod_list(struct server *server, struct pod ***ret_list, struct err *err);
void pod_list_free(struct pod **list);
/* A copy of what is known (pb_free); NULL for a pod that is being created or is gone. */
Crivisor__State__V1__Pod *pod_state(struct pod *pod);

int pod_run(struct server *server, const Runtime__V1__PodSandboxConfig *config, const char *handler,
	    struct call *call, char **ret_id, struct err *err);
/* Idempotent; an unknown id is success. */
int pod_stop(struct server *server, const char *id, struct err *err);
int pod_remove(struct server *server, const char *id, struct err *err);
/* Adopts what a previous server left; undoes what it left half done. Before the CRI socket is served. */
int pod_recover_all(struct server *server, struct err *err);

/* ---- for containers ------------------------------------------------------------------------------------ */

/*
 * The agent of a ready pod (valid as long as the caller holds its reference to the pod), or why there is
 * none.
 */
int pod_agent(struct pod *pod, struct agent **ret_agent, struct err *err);
/*
 * The VM is condemned: kills it, ends its containers with 137 and `why`, turns the pod not ready. Any thread;
 * does not block.
 */
void pod_condemn(struct pod *pod, const char *why);
/*
 * Loop thread. The agent cannot be reached. Where that is because the VM has died, its end is learned a
 * moment later and says more (which process, which signal), so that comes first.
 */
void pod_lost(struct pod *pod, const char *why);

/* agent_options.dial of a pod's VM, which is the arg. */
int pod_dial(void *arg, uint32_t port, int64_t deadline_ns, struct err *err);

/* ---- inside (pod_*.c) ---------------------------------------------------------------------------------- */

struct pod *pod_new(struct server *server, const char *id);
void pod_table_add(struct pod *pod);
void pod_table_remove(struct pod *pod);
/* Writes the state as it is now; -ENOENT once it was forgotten. */
int pod_store(struct pod *pod, struct err *err);
/* Deletes the row and the state, for good. */
int pod_forget(struct pod *pod, struct err *err);
/*
 * Waits for the turn (op NONE) and takes it; a creation in progress is cancelled first. 0, or -ENOENT if the
 * pod went away.
 */
int pod_turn_take(struct pod *pod, enum pod_op op);
/* Makes a creation in progress fail soon. */
void pod_cancel(struct pod *pod);
void pod_turn_give(struct pod *pod);
/* Undo of a journalled step; ctx is the server. */
int pod_undo(void *ctx, const char *owner, const char *kind, const char *arg, struct err *err);
/*
 * Starts and stops watching the VM's events. Any thread; unwatch returns when no callback can run any more.
 */
int pod_watch(struct pod *pod, struct err *err);
void pod_unwatch(struct pod *pod);
/*
 * The CNI view of a pod: fills `ret`, whose pointers live as long as config; ports is the caller's array of
 * n.
 */
int pod_cni_view(const char *id, const char *netns, const Runtime__V1__PodSandboxConfig *config,
		 struct cni_port *ports, size_t n_ports, struct cni_pod *ret, struct err *err);

#endif

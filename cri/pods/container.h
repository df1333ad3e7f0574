/* SPDX-License-Identifier: Apache-2.0 */
/*
 * container.h: containers: their root, mounts and spec on the host, their process in the guest, their logs.
 *
 * Threads:   the container_* calls block and belong on worker threads; look-ups and state copies anywhere.
 * Ownership: reference counted; holds a reference to its pod.
 * Locks:     the pod's (see server.h) for every field that changes.
 * Life:      created → running → exited → removed. Exits are learned from Task.Wait, asked again after a
 *            restart; the VM's death is an exit with 137 of every container in it.
 */
#ifndef CRI_PODS_CONTAINER_H
#define CRI_PODS_CONTAINER_H

#include "cri/pods/pod.h"

struct log_pump;

enum container_op {
	CONTAINER_OP_NONE,
	CONTAINER_OP_CREATE,
	CONTAINER_OP_START,
	CONTAINER_OP_REMOVE,
};

struct container {
	struct server *server;
	struct container *next; /* server.tables */
	int refs;		/* server.tables */
	struct pod *pod;	/* immutable, a reference */
	char id[65];		/* immutable */

	enum container_op op;
	Crivisor__State__V1__Container *state; /* NULL once removed */
	struct log_pump *pump;		       /* set at start, freed with the container */
	bool wait_pending;		       /* a Task.Wait is in flight */
	bool ending; /* the guest told its exit; it shows once the log is complete */
};

struct container *container_ref(struct container *container);
void container_unref(struct container *container);
static inline void container_unref_cleanup(struct container **container)
{
	container_unref(*container);
}
#define CLEANUP_CONTAINER CLEANUP(container_unref_cleanup)

int container_find(struct server *server, const char *id, struct container **ret_container, struct err *err);
/* All, or those of one pod (pod NULL: all); NULL-terminated references. */
int container_list(struct server *server, const struct pod *pod, struct container ***ret_list,
		   struct err *err);
void container_list_free(struct container **list);
/* A copy (pb_free); NULL for one that is being created or is gone. */
Crivisor__State__V1__Container *container_state(struct container *container);

int container_create(struct server *server, const char *pod_id, const Runtime__V1__ContainerConfig *config,
		     char **ret_id, struct err *err);
int container_start(struct server *server, const char *id, struct err *err);
/* timeout_s: grace period before SIGKILL. Unknown id, or not running: success. */
int container_stop(struct server *server, const char *id, int64_t timeout_s, struct err *err);
int container_remove(struct server *server, const char *id, struct err *err);
int container_reopen_log(struct server *server, const char *id, struct err *err);

#define EXEC_OUTPUT_MAX                                                                                      \
	(16u << 20) /* of each stream; what exceeds it is dropped, as CRI-O and containerd do */
struct exec_result {
	void *out, *err_out; /* malloc'ed */
	size_t out_len, err_len;
	int32_t exit_code;
};
/* timeout_s 0: none but the call's own deadline. -ETIMEDOUT after killing the process. */
int container_exec_sync(struct server *server, const char *id, char *const *args, int64_t timeout_s,
			int64_t deadline_ns, struct exec_result *ret_result, struct err *err);

/* ---- inside -------------------------------------------------------------------------------------------- */

struct container *container_new(struct pod *pod, const char *id);
void container_table_add(struct container *container);
void container_table_remove(struct container *container);
/* Writes the state as it is now; -ENOENT once it was forgotten. */
int container_store(struct container *container, struct err *err);
/* Deletes the row and the state, for good. */
int container_forget(struct container *container, struct err *err);
/* Waits for the turn; -ENOENT if the container went away meanwhile. */
int container_turn_take(struct container *container, enum container_op op);
void container_turn_give(struct container *container);
/* Starts moving the container's output to its log. */
int container_pump(struct container *container, struct agent *agent, bool resume, struct log_pump **ret_pump,
		   struct err *err);
/* "<state_dir>/logs/<id>.pos" */
char *container_pos_path(const struct server *server, const char *id);
/* Asks the guest to tell the container's exit; ends it when told. */
int container_watch(struct container *container, struct err *err);
/* Marks as exited and stores. reason NULL: derived from code. */
void container_exited(struct container *container, int32_t code, int64_t at_ns, const char *reason,
		      const char *message);
/* The pod's VM is dead: every container of it that had not exited has now, with 137. */
void container_vm_died(struct pod *pod, const char *why);
/*
 * Makes the guest let go of a container, whatever became of it there: its processes are killed (at once with
 * `kill_first`), what it mounted is unmounted. 0 also if the guest does not know it.
 */
int container_end_in_guest(struct agent *agent, const char *id, bool kill_first, struct err *err);
/* Waits until no container of the pod is being created any more. */
int container_wait_creations(struct pod *pod, int64_t deadline_ns, struct err *err);
/*
 * Kills all containers of a pod and waits (at most until the deadline) for their exits and the rest of their
 * logs.
 */
void container_kill_all(struct pod *pod, int64_t deadline_ns);
/* Reads rows; adopts containers of adopted pods. */
int container_recover_all(struct server *server, struct err *err);
/*
 * At the first start after a boot of the host, once rows have been read: removes what lies in state_dir and
 * no row knows. A power cut may have taken the last commits, but not what they were about. What fails is
 * logged. Blocks.
 */
void state_sweep(struct server *server);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * containers.h: containers: their root, mounts and spec on the host, their process in the guest, their log.
 *
 * Purpose:   calls by id, and views, as in pods.h: what stands there on threads, ownership, retries and
 *            `done` holds here too.
 * Life:      creating (hidden) → created → running → exited → removed. Exits are learned from the agent,
 *            which is asked again after a restart; the sandbox's death is an exit with 137 of every container
 *            in it.
 */
#ifndef CRI_PODS_CONTAINERS_H
#define CRI_PODS_CONTAINERS_H

#include "cri/pods/pods.h"

enum container_state {
	CONTAINER_CREATING,
	CONTAINER_CREATED,
	CONTAINER_RUNNING,
	CONTAINER_EXITED,
};

/* ---- views --------------------------------------------------------------------------------------------- */

/* One moment of a container. Times are ns since the epoch, 0: not yet. */
struct container_view {
	const char *id, *pod_id;
	const Runtime__V1__ContainerConfig *config;	       /* as it was created */
	const Runtime__V1__LinuxContainerResources *resources; /* as they are now; NULL: none */
	const char *image_id;				       /* "sha256:…" */
	const char *image_ref;	/* "repo@sha256:…" of its manifest; an image without one: the id */
	const char *image_name; /* "repo:tag"; "": as the config names it */
	enum container_state state;
	int64_t created_at_ns, started_at_ns, finished_at_ns;
	int32_t exit_code;
	const char *reason, *message;
	const char *log_path; /* absolute; "": no log */
	int64_t uid, gid;
	const int64_t *groups;
	size_t n_groups;
	uint32_t stop_signal; /* Linux number */
};
typedef int container_view_fn(void *arg, const struct container_view *container, struct err *err);
/* Those whose id begins with `id`, and whose pod's id with `pod_id` (NULL, "": all), newest first. */
int containers_each(struct pods *pods, const char *id, const char *pod_id, container_view_fn *fn, void *arg,
		    struct err *err);
int containers_look(struct pods *pods, const char *id, container_view_fn *fn, void *arg, struct err *err);
/* Its OCI runtime spec, malloc'ed. Blocks while a file is read. */
int containers_spec(struct pods *pods, const char *id, char **ret_json, struct err *err);

/* ---- calls --------------------------------------------------------------------------------------------- */

void containers_create(struct pods *pods, const char *pod_id, const Runtime__V1__ContainerConfig *config,
		       struct call *call, pods_done_fn *done, void *arg);
/* A second call while a start is in progress waits for it; afterwards: FailedPrecondition. */
void containers_start(struct pods *pods, const char *id, struct call *call, pods_done_fn *done, void *arg);
/*
 * Sends the stop signal, and SIGKILL after timeout_s (0 or less: at once), whether or not the caller still
 * waits. A second call with a shorter timeout shortens the first's; with a longer one it changes nothing.
 * Unknown, or not running: success.
 */
void containers_stop(struct pods *pods, const char *id, int64_t timeout_s, struct call *call,
		     pods_done_fn *done, void *arg);
/* Idempotent; an unknown id is success. A running one is killed first. */
void containers_remove(struct pods *pods, const char *id, struct call *call, pods_done_fn *done, void *arg);
/*
 * Other limits for one that is created or runs: those that `resources` sets, the others stay, and
 * oom_score_adj does. All of them, or none with the error. The pod's VM grows with them where it must.
 * FailedPrecondition: the container has exited, or the VM cannot be as large; ResourceExhausted: the host has
 * not the memory. A container that was updated is a retry's object all the same: its config is that of its
 * creation.
 */
void containers_update(struct pods *pods, const char *id,
		       const Runtime__V1__LinuxContainerResources *resources, struct call *call,
		       pods_done_fn *done, void *arg);
/* The new log file exists when this returns. Blocks while a file is opened. */
int containers_reopen_log(struct pods *pods, const char *id, struct call *call, struct err *err);

/*
 * Of both streams together, in the order in which they came; what exceeds it is dropped, as CRI-O and
 * containerd do. Clients take messages of 16 MiB: the rest is for the message around it.
 */
#define EXEC_OUTPUT_MAX ((16u << 20) - 4096)
struct exec_result {
	void *out, *err_out; /* malloc'ed */
	size_t out_len, err_len;
	int32_t exit_code;
};
/*
 * Blocks until the command has ended and nothing that it has started holds its output any more. It is killed,
 * with all that it has started, when the call is cancelled, or at its deadline or after timeout_s (0: none),
 * whichever is first: DeadlineExceeded. What a command leaves behind without holding its output lives on.
 * ResourceExhausted where the pod's commands hold their share of the server's threads or memory.
 */
int containers_exec(struct pods *pods, const char *id, char *const *args, int64_t timeout_s,
		    struct call *call, struct exec_result *ret_result, struct err *err);

/* The channels of a streamed command. */
struct container_io {
	bool in, out, err, tty;
};
/*
 * The URL at which a client is connected to a command that begins then, or to the container's own process;
 * malloc'ed. InvalidArgument: no channel at all, a terminal with a stderr of its own, or channels that the
 * container was not made with. A command whose client leaves is killed. A container's process whose client
 * leaves lives on.
 */
int containers_offer_exec(struct pods *pods, const char *id, char *const *args, const struct container_io *io,
			  char **ret_url, struct err *err);
int containers_offer_attach(struct pods *pods, const char *id, const struct container_io *io, char **ret_url,
			    struct err *err);

#endif

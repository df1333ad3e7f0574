/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ctr_internal.h: a container: made, started and deleted by the OCI runtime, watched by the agent.
 *
 * Purpose:   the table of containers, and their life cycle. The Task service (task.c) turns requests into
 *            these calls.
 * Threads:   the loop's. Whatever needs the runtime answers later, by the request it was given.
 * Ownership: the table owns containers, they own their processes. Pointers are good until the loop's next
 *            round.
 * Limits:    CTR_MAX containers, CTR_EXECS_MAX execs in one that are not deleted, CTR_CONFIG_MAX bytes of
 *            config.json.
 * Trust:     ids are checked (agent_id_check) before they become paths; the bundle is always
 *            <paths.share>/<id>, never a path of the request.
 */
#ifndef GUEST_CONTAINER_CTR_INTERNAL_H
#define GUEST_CONTAINER_CTR_INTERNAL_H

#include "guest/container/containers_internal.h"
#include "guest/container/proc_internal.h"
#include "guest/container/share.h"

#define CTR_MAX	       256
#define CTR_EXECS_MAX  4096
#define CTR_CONFIG_MAX (4u << 20)

struct ctr {
	struct ctr *next;
	struct agent *agent;
	char *id;
	char *bundle;
	char *cgroup;	/* relative to the hierarchy, NULL before the process is there */
	int mounts;	/* share_hold_mounts of its process, or -1 */
	char **volumes; /* share_volumes; NULL: none */
	struct share_wait share;
	struct proc init;
	struct proc *execs;
	unsigned int execs_len;
	bool hooks; /* config.json has hooks: only the runtime itself can start it */
	bool paused;
	bool deleting;
	struct crun_run *run; /* delete or update */
	struct rpc_slot slot; /* who waits for it */
	char *run_file;	      /* its input, removed afterwards */
	int oom_watch;	      /* -1, or inotify's number for memory.events */
	uint64_t oom_kills;
	struct err failed; /* why its creation failed, while it is cleaned up */
};

/* NULL and err (NotFound) if there is none. exec_id NULL or empty: the container's own process. */
struct ctr *ctr_find(struct agent *agent, const char *id, struct err *err);
struct proc *ctr_proc(struct agent *agent, const char *id, const char *exec_id, struct err *err);

/* These answer req, now or later. */
void ctr_create(struct agent *agent, const char *id, const char *bundle, const struct proc_io *io,
		struct ttrpc_request *req);
void ctr_start(struct ctr *c, struct ttrpc_request *req);
void ctr_exec_start(struct proc *p, struct ttrpc_request *req);
void ctr_delete(struct ctr *c, struct ttrpc_request *req);
void ctr_update(struct ctr *c, const void *json, size_t len, struct ttrpc_request *req);

/* Registers an exec; spec is the OCI process as JSON. */
int ctr_exec_add(struct ctr *c, const char *exec_id, const struct proc_io *io, const void *spec, size_t len,
		 struct err *err);
/* Forgets a stopped or never started exec. */
int ctr_exec_remove(struct proc *p, struct err *err);
int ctr_kill_all(struct ctr *c, int sig, struct err *err);
int ctr_pause(struct ctr *c, bool pause, struct err *err);

/* The container's own process has ended (from proc.c). */
void ctr_ended(struct ctr *c);
/* Unmounts its root, and the volumes that no other container has; nothing of it runs any more. */
void ctr_release(struct ctr *c);
/* Out of the table and freed; no run of the runtime may be under way for it. */
void ctr_free(struct ctr *c);
/* True, and err, while the runtime is at work for the container. */
bool ctr_busy(const struct ctr *c, struct err *err);
/* The answer to Start, by p's slot. */
void ctr_answer_started(struct proc *p);

/* ---- execs (exec.c) ------------------------------------------------------------------------------------ */

void exec_free(struct proc *p);

/* ---- OOM kills (oom.c) --------------------------------------------------------------------------------- */

int oom_setup(struct containers *containers, struct err *err);
void oom_done(struct containers *containers);
void oom_watch(struct ctr *c);
void oom_unwatch(struct ctr *c);
/* Reads the count; a higher one than before is an event. */
void oom_look(struct ctr *c);

#endif

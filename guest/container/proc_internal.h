/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proc_internal.h: one process that the host asked for: a container's own, or an exec in it.
 *
 * Purpose:   its state, standard I/O, exit, and the calls that wait for the exit.
 * Threads:   the loop's.
 * Ownership: belongs to its container (ctr_internal.h). Not freed while a run of the runtime is under way for
 *            it.
 * Source:    states as containerd's task service has them.
 */
#ifndef GUEST_CONTAINER_PROC_INTERNAL_H
#define GUEST_CONTAINER_PROC_INTERNAL_H

#include "base/err.h"
#include "guest/container/crun_internal.h"
#include "guest/container/stdio_internal.h"
#include "guest/core/reap.h"
#include "guest/rpc/request.h"

#include <stdbool.h>
#include <stdint.h>

struct ctr;

enum proc_state {
	PROC_NEW,      /* container: the runtime makes it; exec: registered, not started */
	PROC_CREATED,  /* container only: made, not started */
	PROC_STARTING, /* exec only: the runtime starts it */
	PROC_RUNNING,
	PROC_STOPPED,
};

struct proc_io {
	bool terminal;
	const char *in, *out, *err; /* names of streams, NULL or empty: none */
};

struct proc_waiter {
	struct proc_waiter *next, **prevp;
	struct rpc_slot slot;
};

struct proc {
	struct proc *next; /* in its container's list of execs */
	struct agent *agent;
	struct ctr *ctr;
	char *exec_id; /* "" for the container's own */
	enum proc_state state;
	bool terminal;
	char *names[3]; /* of stdin, stdout, stderr, as given */
	struct stdio *stdio;
	int child_stdio[3]; /* for the child, until it is spawned */
	char *cgroup;	    /* exec: its own, below its container's; NULL: it has none */
	int oom_score_adj;  /* exec: of its process */
	char *spec_path;    /* exec: the process as JSON, until it is started */
	pid_t pid;	    /* 0: none yet */
	int exit_status;
	int64_t exited_at_ns;
	struct reap_watch watch;
	struct crun_run *run; /* under way */
	struct rpc_slot slot; /* who waits for that run */
	struct proc_waiter *waiters;
};

/* Sets up I/O. 0 or negative errno; proc_done undoes it all, also after a failure. */
int proc_init(struct proc *p, struct agent *agent, struct ctr *ctr, const char *exec_id,
	      const struct proc_io *io, struct err *err);
/* Ends waiting calls with an error and frees the content; the runtime must not be at work for it. */
void proc_done(struct proc *p);
/* The child has its copies now. */
void proc_close_child_stdio(struct proc *p);

/* The runtime has told the pid: state becomes `state`, or STOPPED at once if it is dead already. */
void proc_born(struct proc *p, pid_t pid, uint64_t since, enum proc_state state);
/* It was never started: STOPPED with this status. */
void proc_stillborn(struct proc *p, int status);
/* Answers req when the process has stopped; at once if it has. */
void proc_wait(struct proc *p, struct ttrpc_request *req);
/*
 * A signal to this process alone. SIGKILL to an exec ends what it has started as well, also once the exec
 * itself has ended (with a cgroup of its own; without one, what is still in its process group).
 */
int proc_kill(struct proc *p, int sig, struct err *err);
/* "container \"x\"" or "exec \"y\" of container \"x\"", for messages. */
const char *proc_name(const struct proc *p, char *buf, size_t len);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crun_internal.h: runs the OCI runtime beside the loop, never in it: a hung crun delays nothing else.
 *
 * Purpose:   one object per run: its output file for errors, its pid file, its deadline. Runs beyond
 *            CRUN_PARALLEL wait their turn.
 * Threads:   the loop's.
 * Ownership: the run belongs to this module until its done function is called, which is exactly once;
 *            crun_kill only hurries it.
 * Limits:    CRUN_DEADLINE_NS a run, then its whole process group is killed.
 * Errors:    carry crun's own message, taken from its --log file (json lines; crun 1.8: {"msg": …, "level":
 *            …, "time": …}).
 */
#ifndef GUEST_CONTAINER_CRUN_INTERNAL_H
#define GUEST_CONTAINER_CRUN_INTERNAL_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define CRUN_DEADLINE_NS (60 * 1000000000LL)
#define CRUN_PARALLEL	 16

struct crun_run;
struct agent;

/*
 * pid: from the pid file, 0 if none was asked for. since: reap_seq() before crun began, for reap_watch on
 * that pid.
 */
typedef void crun_done_fn(void *arg, const struct err *err, pid_t pid, uint64_t since);

struct crun_args {
	char *const *args; /* after the global options: "create", "--bundle", …, NULL; copied */
	const char *id;	   /* last argument */
	int stdio[3];	   /* -1: /dev/null; duplicated, the caller may close them at once */
	int oom_score_adj; /* of the program and what it starts */
	bool want_pid;	   /* adds --pid-file */
	/* Runs in the child before crun (spawn.h); its argument lives until `done`. */
	void (*before)(void *arg);
	void *before_arg;
};

struct crun_run *crun_start(struct agent *agent, const struct crun_args *args, crun_done_fn *done, void *arg,
			    struct err *err);
/* Kills the run, or takes it out of the queue; done is called with an error soon. */
void crun_kill(struct crun_run *run);
/* Kills and forgets all runs without calling their done functions: when the agent ends. */
void crun_forget_all(void);

/*
 * Asks the program for its version, once, beside the loop and with the least priority. Until the answer is
 * there, and for a version that crun_fifo_known does not have, containers are started by the runtime's own
 * `start`.
 */
void crun_probe(struct agent *agent);
/* Cancels it. */
void crun_probe_stop(void);
/* True if `text`, the output of crun --version, names a version whose exec.fifo works as in start.c. */
bool crun_fifo_known(const char *text);

/* The error message in the content of a --log file (out is always terminated). For tests too. */
void crun_log_message(const char *log, char *out, size_t out_len);

#endif

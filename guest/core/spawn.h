/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn.h: starts a child of the agent that inherits nothing of the agent's: only the three fds it is given,
 * no blocked signals, of the OOM killer's protection only what it is told.
 *
 * Threads:   the agent has one, so plain fork is safe here.
 * Ownership: the three fds stay the caller's. The child is a session and group leader: kill(-pid) reaches its
 *            helpers.
 * Errors:    a program that cannot be executed ends with status 127, as in a shell.
 */
#ifndef GUEST_CORE_SPAWN_H
#define GUEST_CORE_SPAWN_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

struct spawn {
	char *const *argv; /* argv[0] is an absolute path */
	int stdio[3];	   /* -1: /dev/null */
	bool tty;	   /* stdio[0] becomes the controlling terminal */
	const char *cwd;   /* NULL: / */
	int oom_score_adj; /* what the OOM killer is told of it and of what it starts */
	bool idle;	   /* runs only when nothing else does (SCHED_IDLE) */
	/* Runs in the child before the program, for what may block. NULL: nothing. */
	void (*before)(void *arg);
	void *before_arg;
};

/* The pid, or a negative errno. */
pid_t spawn_run(const struct spawn *s, struct err *err);
/*
 * Forks, and runs fn(arg) in the child instead of a program; its result (0 to 255) is the child's exit
 * status. For what may block, such as a mount.
 */
pid_t spawn_fn(int (*fn)(void *arg), void *arg, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reap.h: how processes ended: children and orphans. The agent inherits all orphans, so it waits for
 * everything.
 *
 * Purpose:   tells who watches a pid how it ended. A container's process becomes our child only when the
 *            runtime that made it exits, and may be dead before its pid is known here: so the ends of pids
 *            without a watch are kept for a while and handed to a watch that comes late.
 * Threads:   the loop's.
 * Ownership: a watch is embedded in its owner, who calls reap_unwatch before it goes away.
 * Limits:    the last REAP_ORPHANS unwatched ends are kept, and only while reap_keep_orphans is on.
 */
#ifndef GUEST_CORE_REAP_H
#define GUEST_CORE_REAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define REAP_ORPHANS 1024

/* status: the exit code, or 128 + the signal. at_ns: CLOCK_REALTIME. The watch is off already. */
typedef void reap_fn(void *arg, pid_t pid, int status, int64_t at_ns);

struct reap_watch {
	struct reap_watch *next;
	pid_t pid; /* 0: off */
	reap_fn *fn;
	void *arg;
};

/* Says whether unwatched ends are to be kept: calls nest. On while a runtime runs. */
void reap_keep_orphans(bool on);
/*
 * A number that grows with every end; taken before a runtime starts, it tells its orphans from older ones
 * with the same pid.
 */
uint64_t reap_seq(void);
/*
 * Watches pid. If it ended already, after `since`, fn runs before this returns. since UINT64_MAX: no looking
 * back (the pid is a child just forked).
 */
void reap_watch(struct reap_watch *watch, pid_t pid, uint64_t since, reap_fn *fn, void *arg);
void reap_unwatch(struct reap_watch *watch);
/* Runs fn at the end of each reap_collect that reaped something. One in a process; NULL takes it off. */
void reap_after(void (*fn)(void *arg), void *arg);
/* Waits for all that ended (SIGCHLD came) and runs the watchers' functions; the number reaped. */
unsigned int reap_collect(void);
/* What reap_collect does for one: for it and for tests. wstatus as waitpid has it. */
void reap_one(pid_t pid, int wstatus, int64_t at_ns);
int reap_status(int wstatus);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call.h: what a piece of work owes its caller: a deadline, an end when the caller leaves, and a trace of its
 * steps.
 *
 * Purpose:   one object goes with an RPC from the socket to the lowest room that waits for something. Whoever
 *            waits does so by call_wait, call_fd or a hook, and is woken when the caller leaves. Nobody
 *            polls.
 * Threads:   every function from any thread. call_wait blocks, at most until the deadline. A hook runs on the
 *            thread that cancels, with no lock of the call held.
 * Ownership: reference counted. Every function takes NULL for work that nobody waits for: it has no deadline
 *            and is never cancelled.
 * Units:     CLOCK_MONOTONIC nanoseconds; INT64_MAX is no deadline.
 * Errors:    -ECANCELED (Cancelled) once cancelled, -ETIMEDOUT (DeadlineExceeded) once the deadline has
 *            passed.
 */
#ifndef CRI_CORE_CALL_H
#define CRI_CORE_CALL_H

#include "base/err.h"
#include "base/util.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct call;

int call_new(int64_t deadline_ns, struct call **ret_call, struct err *err);
struct call *call_ref(struct call *call);
/* Returns NULL. */
struct call *call_unref(struct call *call);
static inline void call_unref_cleanup(struct call **call)
{
	call_unref(*call);
}
#define CLEANUP_CALL CLEANUP(call_unref_cleanup)

/* ---- the deadline -------------------------------------------------------------------------------------- */

int64_t call_deadline(const struct call *call);
/*
 * The earlier of the deadline and `limit_ns` from now: for the parts of a call that have a limit of their
 * own.
 */
int64_t call_until(const struct call *call, int64_t limit_ns);

/* ---- the caller leaves --------------------------------------------------------------------------------- */

/*
 * The caller wants no answer any more; `why` goes into the errors. The first cancellation counts. Runs the
 * hooks.
 */
void call_cancel(struct call *call, const char *why);
/*
 * As call_cancel, by whoever watches the deadline: the errors are those of a deadline that has passed. A call
 * whose deadline nobody watches still ends its waits, but runs no hook then.
 */
void call_expire(struct call *call);
/* 0 while the caller waits; else -ECANCELED or -ETIMEDOUT with words. */
int call_check(struct call *call, struct err *err);
/*
 * An fd that polls readable once the call is cancelled, for poll(2). The call's; lives as long as the call.
 */
int call_fd(struct call *call, int *ret_fd, struct err *err);
/*
 * Waits for a condition on CLOCK_MONOTONIC, as pthread_cond_timedwait does: `lock` is held before and after,
 * and the caller looks at what it waits for again. 0: woken; -ETIMEDOUT: `until_ns` or the deadline has
 * passed; -ECANCELED: the caller has left.
 */
int call_wait(struct call *call, pthread_cond_t *cond, pthread_mutex_t *lock, int64_t until_ns);
/* Sleeps until `until_ns`: 0; or until the call ends: -ETIMEDOUT or -ECANCELED with words. */
int call_sleep(struct call *call, int64_t until_ns, struct err *err);

/* Embedded in what a cancellation must reach. */
struct call_hook {
	void (*fn)(void *arg);
	void *arg;
	struct call_hook *next, **at; /* the call's list; at NULL: not in it */
};
/* fn(arg) runs once when the call is cancelled; at once, on this thread, if that has happened. */
void call_hook_add(struct call *call, struct call_hook *hook, void (*fn)(void *arg), void *arg);
/*
 * When this returns the hook is not running and will not run. The caller holds no lock that fn takes. From
 * inside fn itself: returns at once.
 */
void call_hook_remove(struct call *call, struct call_hook *hook);

/* ---- the trace ----------------------------------------------------------------------------------------- */

/* From now on call_step logs the steps, with the field `key`=`id` (of at most 64 bytes; both are copied). */
void call_trace(struct call *call, const char *key, const char *id);
/* The step `name` ends here: logs how long it took since the step before, if the call is traced. */
void call_step(struct call *call, const char *name);

#endif

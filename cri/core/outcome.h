/* SPDX-License-Identifier: Apache-2.0 */
/*
 * outcome.h: how a piece of work ended, for the several calls that may wait for it.
 *
 * Purpose:   work that goes on when its caller leaves (a creation, a stop with its grace period) has an
 *            outcome. Each caller waits for it as long as its own call lasts: the work neither knows nor
 *            counts them.
 * Threads:   every function from any thread. outcome_wait blocks, until the outcome or the call's end.
 *            outcome_watch holds no thread.
 * Ownership: reference counted: the work holds one, each waiter one.
 * Errors:    those of the work; else -ECANCELED or -ETIMEDOUT of the call, as in call.h.
 */
#ifndef CRI_CORE_OUTCOME_H
#define CRI_CORE_OUTCOME_H

#include "cri/core/call.h"

struct outcome;

int outcome_new(struct outcome **ret_outcome, struct err *err);
struct outcome *outcome_ref(struct outcome *outcome);
/* Returns NULL. NULL-safe. */
struct outcome *outcome_unref(struct outcome *outcome);
static inline void outcome_unref_cleanup(struct outcome **outcome)
{
	outcome_unref(*outcome);
}
#define CLEANUP_OUTCOME CLEANUP(outcome_unref_cleanup)

/*
 * The work has ended, well (`why` NULL or its code 0) or not. Once. Watches run on this thread before it
 * returns.
 */
void outcome_set(struct outcome *outcome, const struct err *why);
bool outcome_known(struct outcome *outcome);
/* Waits for the outcome: 0 or the work's error; or what ended the call first. */
int outcome_wait(struct outcome *outcome, struct call *call, struct err *err);

/* `err` has code 0 if the work ended well. It lives until the function returns. */
typedef void outcome_fn(void *arg, const struct err *err);
/*
 * fn(arg, …) runs exactly once: at the outcome, or when the call is cancelled before that (the RPC room
 * cancels a call at its deadline). On the thread of whichever comes first; on this one, before it returns, if
 * either has happened. -ENOMEM: it will not run.
 */
int outcome_watch(struct outcome *outcome, struct call *call, outcome_fn *fn, void *arg, struct err *err);

#endif

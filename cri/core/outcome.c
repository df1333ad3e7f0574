/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/core/outcome.h"

#include "base/cond.h"

#include <assert.h>
#include <stdatomic.h>

/* One watch: in the outcome's list and a hook of its call. Whoever gets `fired` first runs fn. */
struct watch {
	struct watch *next;
	struct outcome *outcome; /* a reference: fn may give back the caller's, and `drop` comes after it */
	struct call *call;	 /* a reference */
	struct call_hook hook;
	outcome_fn *fn;
	void *arg;
	atomic_bool fired;
	atomic_uint refs; /* the list's, the hook's, and the adder's while it adds */
};

struct outcome {
	atomic_uint refs;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool known;
	struct err why;
	struct watch *watches;
};

int outcome_new(struct outcome **ret_outcome, struct err *err)
{
	struct outcome *o = calloc(1, sizeof(*o));

	if (!o)
		return err_oom(err);
	atomic_init(&o->refs, 1);
	pthread_mutex_init(&o->lock, NULL);
	cond_init(&o->changed);
	*ret_outcome = o;
	return 0;
}

struct outcome *outcome_ref(struct outcome *outcome)
{
	if (outcome)
		atomic_fetch_add(&outcome->refs, 1);
	return outcome;
}

static void watch_unref(struct watch *w)
{
	if (atomic_fetch_sub(&w->refs, 1) > 1)
		return;
	call_unref(w->call);
	outcome_unref(w->outcome);
	free(w);
}

struct outcome *outcome_unref(struct outcome *outcome)
{
	if (!outcome || atomic_fetch_sub(&outcome->refs, 1) > 1)
		return NULL;
	assert(!outcome->watches); /* each holds a reference */
	pthread_cond_destroy(&outcome->changed);
	pthread_mutex_destroy(&outcome->lock);
	free(outcome);
	return NULL;
}

/* ---- watches ------------------------------------------------------------------------------------------- */

static bool fire(struct watch *w, const struct err *err)
{
	if (atomic_exchange(&w->fired, true))
		return false;
	w->fn(w->arg, err);
	return true;
}

void outcome_set(struct outcome *outcome, const struct err *why)
{
	struct watch *list, *next;

	pthread_mutex_lock(&outcome->lock);
	assert(!outcome->known);
	if (why)
		outcome->why = *why;
	outcome->known = true;
	list = outcome->watches;
	outcome->watches = NULL;
	pthread_cond_broadcast(&outcome->changed);
	pthread_mutex_unlock(&outcome->lock);
	for (struct watch *w = list; w; w = next) {
		next = w->next;
		/* In this order: outcome_watch looks at `fired` once it has added the hook. */
		fire(w, &outcome->why);
		call_hook_remove(w->call, &w->hook);
		watch_unref(w); /* the list's */
	}
}

/* The list entry of a watch that its call has ended goes; the outcome may be taking it at this moment. */
static void drop(struct watch *w)
{
	struct outcome *o = w->outcome;
	struct watch **at;
	bool found = false;

	pthread_mutex_lock(&o->lock);
	for (at = &o->watches; *at && !found;) {
		if (*at == w) {
			*at = w->next;
			found = true;
		} else {
			at = &(*at)->next;
		}
	}
	pthread_mutex_unlock(&o->lock);
	if (found)
		watch_unref(w);
}

/* A hook of the call. */
static void on_cancel(void *arg)
{
	struct watch *w = arg;
	struct err err = ERR_INIT;

	atomic_fetch_add(&w->refs, 1);
	(void)call_check(w->call, &err);
	if (fire(w, &err))
		drop(w);
	watch_unref(w);
}

int outcome_watch(struct outcome *outcome, struct call *call, outcome_fn *fn, void *arg, struct err *err)
{
	struct watch *w;
	bool known;

	pthread_mutex_lock(&outcome->lock);
	known = outcome->known;
	pthread_mutex_unlock(&outcome->lock);
	if (known) {
		fn(arg, &outcome->why);
		return 0;
	}
	w = calloc(1, sizeof(*w));
	if (!w)
		return err_oom(err);
	w->outcome = outcome_ref(outcome);
	w->call = call_ref(call);
	w->fn = fn;
	w->arg = arg;
	atomic_init(&w->fired, false);
	atomic_init(&w->refs, 2); /* this function's and the list's */
	call_hook_add(NULL, &w->hook, on_cancel, w);
	pthread_mutex_lock(&outcome->lock);
	known = outcome->known;
	if (!known) {
		w->next = outcome->watches;
		outcome->watches = w;
	}
	pthread_mutex_unlock(&outcome->lock);
	if (known) {
		fire(w, &w->outcome->why);
		watch_unref(w);
	} else {
		call_hook_add(call, &w->hook, on_cancel, w);
		/* An outcome that came in between has run fn, and found no hook to take out. */
		if (atomic_load(&w->fired))
			call_hook_remove(call, &w->hook);
	}
	watch_unref(w);
	return 0;
}

/* ---- waiting ------------------------------------------------------------------------------------------- */

bool outcome_known(struct outcome *outcome)
{
	bool known;

	pthread_mutex_lock(&outcome->lock);
	known = outcome->known;
	pthread_mutex_unlock(&outcome->lock);
	return known;
}

int outcome_wait(struct outcome *outcome, struct call *call, struct err *err)
{
	bool known;
	int r = 0;

	pthread_mutex_lock(&outcome->lock);
	while (!outcome->known && r == 0)
		r = call_wait(call, &outcome->changed, &outcome->lock, INT64_MAX);
	known = outcome->known;
	pthread_mutex_unlock(&outcome->lock);
	if (known)
		return outcome->why.code < 0 ? err_copy(err, &outcome->why) : 0;
	if (r == -ECANCELED)
		return call_check(call, err);
	return err_set_status(err, -ETIMEDOUT, ERR_DEADLINE_EXCEEDED, "the call's deadline has passed");
}

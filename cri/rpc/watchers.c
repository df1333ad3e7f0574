/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "cri/rpc/rpc_internal.h"

/*
 * Its hook is on the call before it is in the set, so that whoever finds it in the set may take the hook off.
 * In the set until its call ends or the set ends it: whoever takes it out ends its stream.
 */
struct watcher {
	struct rpc_watchers *set;
	struct watcher *next, **at; /* set->lock; at NULL: not in the set */
	bool over;		    /* set->lock; its call has ended */
	struct rpc_stream *stream;
	struct call *call; /* a reference */
	struct call_hook hook;
};

struct rpc_watchers {
	size_t messages;
	pthread_mutex_t lock; /* held while a message is queued to all: their order is the same for all */
	struct watcher *list;
	size_t n;
	bool closed;
	struct err why; /* with `closed` */
};

int rpc_watchers_new(size_t messages, struct rpc_watchers **ret_watchers, struct err *err)
{
	struct rpc_watchers *set = calloc(1, sizeof(*set));

	if (!set)
		return err_oom(err);
	set->messages = messages;
	set->why = ERR_INIT;
	pthread_mutex_init(&set->lock, NULL);
	*ret_watchers = set;
	return 0;
}

/* Lock held. False: somebody else has. */
static bool take_out(struct watcher *w)
{
	if (!w->at)
		return false;
	*w->at = w->next;
	if (w->next)
		w->next->at = w->at;
	w->at = NULL;
	w->set->n--;
	return true;
}

static void watcher_end(struct watcher *w, const struct err *err)
{
	rpc_stream_end(w->stream, err);
	call_unref(w->call);
	free(w);
}

/* A hook of the stream's call. */
static void on_end(void *arg)
{
	struct watcher *w = arg;
	struct rpc_watchers *set = w->set;
	bool mine;

	pthread_mutex_lock(&set->lock);
	w->over = true;
	mine = take_out(w);
	pthread_mutex_unlock(&set->lock);
	if (mine)
		watcher_end(w, NULL);
}

/* Lock held, not in the set. False: its call has ended, or the set is closed. */
static bool put_in(struct rpc_watchers *set, struct watcher *w)
{
	if (set->closed || w->over)
		return false;
	w->next = set->list;
	w->at = &set->list;
	if (w->next)
		w->next->at = &w->next;
	set->list = w;
	set->n++;
	return true;
}

int rpc_watchers_add(struct rpc_watchers *set, struct rpc_stream *stream, struct err *err)
{
	struct watcher *w = calloc(1, sizeof(*w));
	struct err why = ERR_INIT;
	struct call *call;
	bool in;

	if (!w) {
		int r = err_oom(err);

		rpc_stream_end(stream, err);
		return r;
	}
	rpc_stream_limit(stream, set->messages);
	w->set = set;
	w->stream = stream;
	call = w->call = call_ref(rpc_stream_call(stream));
	call_hook_add(call, &w->hook, on_end, w);
	pthread_mutex_lock(&set->lock);
	in = put_in(set, w);
	if (!in && set->closed)
		why = set->why;
	pthread_mutex_unlock(&set->lock);
	if (in)
		return 0; /* from here on it is whoever's takes it out */
	call_hook_remove(call, &w->hook);
	watcher_end(w, &why);
	return why.code < 0 ? err_copy(err, &why) : 0;
}

int rpc_watchers_publish(struct rpc_watchers *set, const ProtobufCMessage *msg, struct err *err)
{
	struct rpc_message *message;
	int r = rpc_message_new(msg, &message, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&set->lock);
	/* One whose RPC has ended or ends by this is taken out by the hook, on another thread. */
	for (struct watcher *w = set->list; w; w = w->next)
		(void)rpc_stream_send(w->stream, message, NULL);
	pthread_mutex_unlock(&set->lock);
	rpc_message_unref(message);
	return 0;
}

size_t rpc_watchers_count(struct rpc_watchers *set)
{
	size_t n;

	pthread_mutex_lock(&set->lock);
	n = set->n;
	pthread_mutex_unlock(&set->lock);
	return n;
}

void rpc_watchers_drop(struct rpc_watchers *set, const struct err *err)
{
	struct watcher *w;

	for (;;) {
		pthread_mutex_lock(&set->lock);
		w = set->list;
		if (w)
			take_out(w);
		pthread_mutex_unlock(&set->lock);
		if (!w)
			return;
		/* A hook that runs just now uses the watcher: it is waited for. */
		call_hook_remove(w->call, &w->hook);
		watcher_end(w, err);
	}
}

void rpc_watchers_close(struct rpc_watchers *set, const struct err *err)
{
	pthread_mutex_lock(&set->lock);
	if (!set->closed && err)
		set->why = *err;
	set->closed = true;
	pthread_mutex_unlock(&set->lock);
	rpc_watchers_drop(set, err);
}

struct rpc_watchers *rpc_watchers_free(struct rpc_watchers *set, const struct err *err)
{
	if (!set)
		return NULL;
	rpc_watchers_close(set, err);
	pthread_mutex_destroy(&set->lock);
	free(set);
	return NULL;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* agent_priv.h: what the agent*.c files share. See agent.h. */
#ifndef CRI_AGENT_AGENT_INTERNAL_H
#define CRI_AGENT_AGENT_INTERNAL_H

#include "api/ttrpc/ttrpc.h"
#include "cri/agent/agent.h"

#include <pthread.h>
#include <stdatomic.h>

/*
 * Locks: agent.lock (the list of connections, the abort) may be held when a connection's lock is taken, never
 * the other way round. Neither is held across a callback, a call to ttrpc or a call to the VM.
 */
struct agent {
	struct loop *loop;
	struct vm *vm;
	atomic_int refs; /* the owner's, and one for each connection */
	pthread_mutex_t lock;
	struct agent_conn *control; /* a reference; NULL before agent_connect */
	struct agent_conn *conns;   /* a reference each */
	bool aborted;
	struct err why;
};

/* One call in progress. */
struct pending {
	struct pending *prev, *next; /* conn.lock; in conn.pending until done */
	struct agent_conn *conn;
	atomic_int refs; /* the loop's side, and the blocked caller's */
	const struct agent_method *method;
	int64_t timeout_ns;
	void *payload; /* packed; until it has been handed to ttrpc */
	size_t len;
	bool done;	       /* conn.lock */
	bool started;	       /* loop's thread: ttrpc holds the loop's side's reference */
	uint32_t id;	       /* loop's thread */
	agent_reply_fn *reply; /* NULL: someone blocks */
	void *arg;
	/* For a blocked caller, conn.lock: */
	pthread_cond_t cond;
	struct err *err;
	int code;
	void *answer;
	size_t answer_len;
};

struct agent_conn {
	struct agent *agent;
	struct agent_conn *prev, *next; /* agent.lock */
	atomic_int refs;
	pthread_mutex_t lock;
	struct pending *pending;
	bool dead; /* new calls fail with why */
	struct err why;
	/* The rest belongs to the loop's thread. */
	int fd;
	struct ttrpc_conn *ttrpc;
	struct loop_source *io, *timer;
	int64_t timer_ns;
	uint32_t events;
	bool attached, reading;
	const struct agent_method *stream;
	uint32_t stream_id;
	agent_stream_fn *on_data;
	void *stream_arg;
	void (*drained)(void *arg);
	void *drained_arg;
};

/* agent_conn.c */
int agent_conn_new(struct agent *agent, int fd, struct agent_conn **ret_conn, struct err *err);
struct agent_conn *agent_conn_ref(struct agent_conn *conn);
void agent_conn_unref(struct agent_conn *conn);
/* New calls and blocked callers fail with why at once; the rest follows on the loop. Any thread. */
void agent_conn_abort(struct agent_conn *conn, const struct err *why);
/* Why there is no connection. */
int agent_conn_why(struct agent_conn *conn, struct err *err);
/* Loop's thread: ends everything, closes the socket. */
void agent_conn_die(struct agent_conn *conn, const struct err *why);
/* Loop's thread: sends what waits and sets what to watch for. */
void agent_conn_flush(struct agent_conn *conn);

/* agent_call.c */
/* Ends every call of conn that is not done; those with a callback only on the loop's thread (`callbacks`). */
void agent_calls_end(struct agent_conn *conn, const struct err *why, bool callbacks);

/* agent.c */
void agent_unref(struct agent *agent);

#endif

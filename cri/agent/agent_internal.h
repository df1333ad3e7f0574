/* SPDX-License-Identifier: Apache-2.0 */
/* agent_internal.h: what the files of this room share. See agent.h. */
#ifndef CRI_AGENT_AGENT_INTERNAL_H
#define CRI_AGENT_AGENT_INTERNAL_H

#include "api/ttrpc/ttrpc.h"
#include "cri/agent/agent.h"

#include <pthread.h>
#include <stdatomic.h>

/*
 * Locks:     agent.lock (the list of connections, the control connection, the abort) may be held when a
 *            connection's lock is taken, never the other way round. Neither is held across a callback, a call
 *            to ttrpc or a dial.
 */
struct agent {
	struct loop *loop;
	struct workers *workers;
	int (*dial)(void *arg, uint32_t port, int64_t deadline_ns, struct err *err);
	void (*release)(void *arg);
	void *arg;
	int64_t lost_ns;
	atomic_int refs; /* the owner's, those of agent_ref, and one for each connection and job */
	pthread_mutex_t lock;
	pthread_cond_t changed;	    /* CLOCK_MONOTONIC; of control and aborted */
	struct agent_conn *control; /* a reference; NULL before agent_connect and while it is dialled again */
	struct agent_conn *conns;   /* a reference each */
	uint64_t epoch;		    /* of control, or of the last one */
	bool aborted;
	struct err why;
	char boot_id[AGENT_BOOT_ID_MAX], instance[AGENT_BOOT_ID_MAX], version[64];
	char **features;
	/* redial.c; the loop's thread, but for what dial_job fills while it runs. */
	struct loop_source *backoff;
	int64_t broke_ns;   /* when the control connection broke */
	int64_t stood_ns;   /* when it stood the last time */
	unsigned int dials; /* in a row; each doubles the pause before the next */
	bool dialling;	    /* a dial_job is under way, or its outcome on the way to the loop */
	int64_t dial_until_ns;
	int dial_code;
	struct err dial_err;
	struct agent_watch *watches;
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
	bool started;	       /* loop's thread: ttrpc holds a reference for the loop */
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

/* conn.c */
int agent_conn_new(struct agent *agent, int fd, struct agent_conn **ret_conn, struct err *err);
struct agent_conn *agent_conn_ref(struct agent_conn *conn);
void agent_conn_unref(struct agent_conn *conn);
/* New calls and blocked callers fail with why at once; the rest follows on the loop. Any thread. */
void agent_conn_abort(struct agent_conn *conn, const struct err *why);
/* 0 while it lives, else why it does not. Any thread. */
int agent_conn_state(struct agent_conn *conn, struct err *err);
/* Why there is no connection. */
int agent_conn_why(struct agent_conn *conn, struct err *err);
/* Loop's thread: sends what waits and sets what to watch for. */
void agent_conn_flush(struct agent_conn *conn);

/* call.c */
/* Ends every call of conn that is not done; those with a callback only on the loop's thread (`callbacks`). */
void agent_calls_end(struct agent_conn *conn, const struct err *why, bool callbacks);

/* agent.c */
/* Connects once: -errno, or the new connection is the control connection, of the next epoch. Blocks. */
int agent_try(struct agent *agent, struct call *call, int64_t deadline_ns, int64_t answer_ns,
	      struct err *err);

/* redial.c: the loop's thread */
/*
 * A connection has died. True if it was the control connection: it is dialled again, and the reference of the
 * old one is the caller's to close.
 */
bool agent_control_died(struct agent *agent, struct agent_conn *conn);
/* The watches learn of the newest epoch, or of the end, soon. Any thread. */
void agent_tell_later(struct agent *agent);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.h: the guest's agent, seen from the host: calls to one guest over ttrpc.
 *
 * Purpose:   one struct agent for a guest, with a control connection for short calls and for waits, and
 *            further connections for bulk data (reading logs, streams), so that data never stands in front of
 *            a call. A control connection that breaks is dialled again: restoring a snapshot resets vsock,
 *            and the guest has not died of it.
 * Epochs:    the control connections of a guest are counted from 1.
 *            While there is none, blocking calls wait for the next one within their own time. When it stands,
 *            the agent has answered Check and Info, and is the one of before; then the watches run. Calls in
 *            progress on the old one have failed with Unavailable, but for blocking calls of methods that may
 *            be repeated: those are asked again. An agent that cannot be reached for AGENT_LOST_NS, or that
 *            is another one (the guest was reset), is lost: all its calls fail from then on.
 * Threads:   agent_connect, agent_open, agent_call and agent_conn_call block and are refused (-EDEADLK) on
 *            the loop's thread. agent_abort, agent_free, agent_conn_close, …_call_async: any thread. Streams
 *            and watches: the loop's thread only. Callbacks run on the loop's thread.
 * Ownership: reference counted. Responses are freed by protobuf_c_message_free_unpacked(msg, NULL); in
 *            callbacks they live until it returns. What `dial` uses must live until `release`.
 * Callbacks: each asynchronous call that was accepted gets exactly one, whatever happens: answer, deadline,
 *            death of the connection, agent_abort, close. Close and free on the loop's thread run those that
 *            are left before they return.
 * Limits:    a guest's message is at most TTRPC_MESSAGE_MAX and is checked (pb_check) before it is unpacked;
 *            answers to ids that nobody waits for are dropped; an idle connection holds under 8 KiB. However
 *            often a guest breaks its connection, it is dialled at most every 2 s in the long run.
 * Errors:    the agent's own status and words; DeadlineExceeded if it is silent; "malformed reply from the
 *            guest agent: …" (Internal); what agent_abort was given; Unavailable if the connection dies: the
 *            call may or may not have been carried out.
 */
#ifndef CRI_AGENT_AGENT_H
#define CRI_AGENT_AGENT_H

#include "base/err.h"
#include "cri/core/call.h"
#include "cri/core/loop.h"
#include "cri/core/workers.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

struct agent;
struct agent_conn;

/* ---- what can be called: api/agent/{task,sandbox,agent,streaming}.proto -------------------------------- */

struct agent_method {
	const char *service, *name;
	const ProtobufCMessageDescriptor *request, *response;
	bool repeatable; /* carried out twice it does the same as once */
};

extern const struct agent_method AGENT_CHECK, AGENT_SETUP_SANDBOX, AGENT_UPDATE_INTERFACES,
	AGENT_UPDATE_ROUTES, AGENT_EXEC_VM_PROCESS, AGENT_SYNC_CLOCK, AGENT_GET_EVENTS;
extern const struct agent_method AGENT_INFO, AGENT_READ_LOG, AGENT_ACK, AGENT_STATS, AGENT_ATTACH_DEVICE,
	AGENT_ONLINE_RESOURCES, AGENT_UPDATE_NETWORK, AGENT_SHUTDOWN;
extern const struct agent_method AGENT_TASK_STATE, AGENT_TASK_CREATE, AGENT_TASK_START, AGENT_TASK_DELETE,
	AGENT_TASK_PIDS, AGENT_TASK_PAUSE, AGENT_TASK_RESUME, AGENT_TASK_CHECKPOINT, AGENT_TASK_KILL,
	AGENT_TASK_EXEC, AGENT_TASK_RESIZE_PTY, AGENT_TASK_CLOSE_IO, AGENT_TASK_UPDATE, AGENT_TASK_WAIT,
	AGENT_TASK_STATS, AGENT_TASK_CONNECT, AGENT_TASK_SHUTDOWN;
/* Streams. */
extern const struct agent_method AGENT_STREAM, AGENT_DIAL;

/* ---- the agent of one guest ---------------------------------------------------------------------------- */

#define AGENT_LOST_NS	  (30 * NS_PER_SEC)
#define AGENT_BOOT_ID_MAX 65 /* a UUID, or 64 bytes of something else, and the NUL */

struct agent_options {
	struct loop *loop;
	struct workers *workers; /* LANE_NET dials */
	/*
	 * A connected, CLOEXEC, non-blocking stream socket to a port of the guest, or a negative errno.
	 * Blocks, at most until the deadline. Any thread but the loop's.
	 */
	int (*dial)(void *arg, uint32_t port, int64_t deadline_ns, struct err *err);
	/* Runs when the last reference is gone, on whichever thread drops it. May be NULL. */
	void (*release)(void *arg);
	void *arg;
	/* The boot of the guest that is expected; NULL: whichever answers first. Copied. */
	const char *boot_id;
	int64_t lost_ns; /* 0: AGENT_LOST_NS */
};
int agent_new(const struct agent_options *options, struct agent **ret_agent, struct err *err);
/*
 * The first connection: returns once the agent has answered Check and Info; tries again until the call ends
 * or the deadline (CLOCK_MONOTONIC) passes. -ESTALE: it is another boot than expected. Once.
 */
int agent_connect(struct agent *agent, struct call *call, int64_t deadline_ns, struct err *err);
/*
 * The guest is dead or condemned: every call in progress on any connection of this agent, and every later
 * one, fails with `why`. Blocking callers wake at once. For good.
 */
void agent_abort(struct agent *agent, const struct err *why);
struct agent *agent_ref(struct agent *agent);
/* NULL-safe. */
void agent_unref(struct agent *agent);
/* Aborts, closes the control connection, drops the owner's reference. Returns NULL. NULL-safe. */
struct agent *agent_free(struct agent *agent);

/* 0, or why the agent is over: it was aborted, or is lost. A broken connection alone is 0. */
int agent_state(struct agent *agent, struct err *err);

/* What it said of itself, in Info. All empty before agent_connect. */
struct agent_identity {
	char boot_id[AGENT_BOOT_ID_MAX];
	char version[64];
	uint64_t epoch; /* 0: not connected yet */
};
void agent_identify(struct agent *agent, struct agent_identity *ret_identity);
/* Whether it has a feature, by its name in Info. */
bool agent_has(struct agent *agent, const char *feature);
/* 0, or -ESTALE: an answer to Info that comes from another boot or another run of the agent. */
int agent_check_same(struct agent *agent, const ProtobufCMessage *info, struct err *err);

/*
 * Told on the loop's thread of each new control connection after the first (over NULL), and once, as the
 * last, of the end (over: what agent_abort was given, or why the agent is lost). A watch that is added after
 * the end is told of it, later. Embedded in its user; to be removed before it goes, also from inside fn.
 */
struct agent_watch {
	void (*fn)(void *arg, const struct err *over);
	void *arg;
	struct agent_watch *next, **at;
	uint64_t seen;
};
/* Loop. */
void agent_watch_add(struct agent *agent, struct agent_watch *watch,
		     void (*fn)(void *arg, const struct err *over), void *arg);
/* Loop. One that was not added, or was removed: nothing. */
void agent_watch_remove(struct agent *agent, struct agent_watch *watch);

typedef void agent_reply_fn(void *arg, const struct err *err, const ProtobufCMessage *resp);
/*
 * The control connection's calls; see agent_conn_call. `call`, which may be NULL, ends them: -ECANCELED.
 * timeout_ns covers the wait for a connection too; 0: as long as the guest lives.
 */
int agent_call_by(struct agent *agent, struct call *call, const struct agent_method *method,
		  const ProtobufCMessage *req, int64_t timeout_ns, ProtobufCMessage **ret_resp,
		  struct err *err);
static inline int agent_call(struct agent *agent, const struct agent_method *method,
			     const ProtobufCMessage *req, int64_t timeout_ns, ProtobufCMessage **ret_resp,
			     struct err *err)
{
	return agent_call_by(agent, NULL, method, req, timeout_ns, ret_resp, err);
}
/* -ENOTCONN: there is no connection at the moment; a watch tells of the next. */
int agent_call_async(struct agent *agent, const struct agent_method *method, const ProtobufCMessage *req,
		     int64_t timeout_ns, agent_reply_fn *reply, void *arg);

/* ---- further connections ------------------------------------------------------------------------------- */

/*
 * -ENOTCONN, without dialling: the control connection is broken at the moment; a watch tells when it stands
 * again.
 */
int agent_open(struct agent *agent, int64_t deadline_ns, struct agent_conn **ret_conn, struct err *err);
/* Ends what is in progress with -ECANCELED, closes the socket. Returns NULL. NULL-safe. */
struct agent_conn *agent_conn_close(struct agent_conn *conn);

/*
 * timeout_ns 0: waits as long as the connection lives. ret_resp NULL: the answer is only checked. *ret_resp
 * is touched only on success. The call, which may be NULL, ends it: -ECANCELED, or -ETIMEDOUT at its
 * deadline.
 */
int agent_conn_call_by(struct agent_conn *conn, struct call *call, const struct agent_method *method,
		       const ProtobufCMessage *req, int64_t timeout_ns, ProtobufCMessage **ret_resp,
		       struct err *err);
static inline int agent_conn_call(struct agent_conn *conn, const struct agent_method *method,
				  const ProtobufCMessage *req, int64_t timeout_ns,
				  ProtobufCMessage **ret_resp, struct err *err)
{
	return agent_conn_call_by(conn, NULL, method, req, timeout_ns, ret_resp, err);
}
/* 0: `reply` will run, once, after this returns. -ENOMEM (or what agent_abort was given): it will not. */
int agent_conn_call_async(struct agent_conn *conn, const struct agent_method *method,
			  const ProtobufCMessage *req, int64_t timeout_ns, agent_reply_fn *reply, void *arg);

/* ---- streams: on the loop's thread --------------------------------------------------------------------- */

/* For the input of exec and attach, and for port forwarding. */

/* A message; or the end: eof with err NULL, or err. After either no more. */
typedef void agent_stream_fn(void *arg, const struct err *err, const ProtobufCMessage *msg, bool eof);
/* first: the first message, or NULL. */
int agent_stream_open(struct agent_conn *conn, const struct agent_method *method,
		      const ProtobufCMessage *first, agent_stream_fn *on_data, void *arg, struct err *err);
/* msg NULL with close: only the end of our side. One stream for each connection. */
int agent_stream_send(struct agent_conn *conn, const ProtobufCMessage *msg, bool close);
/* Bytes that wait to be sent; `drained` runs whenever they have come down to 0. For backpressure. */
size_t agent_conn_queued(const struct agent_conn *conn);
void agent_conn_on_drained(struct agent_conn *conn, void (*drained)(void *arg), void *arg);
/* Stops or resumes reading from the guest: backpressure the other way. */
void agent_conn_set_reading(struct agent_conn *conn, bool on);

#endif

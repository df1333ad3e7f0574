/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.h: the guest's agent, seen from the host: calls to one VM over ttrpc.
 *
 * Purpose:   one struct agent for a VM, with a control connection for short calls and for waits, and further
 *            connections for bulk data (reading logs, streams), so that data never stands in front of a call.
 * Threads:   agent_connect, agent_open, agent_call and agent_conn_call block and are refused (-EDEADLK) on
 *            the loop's thread. agent_abort, agent_free, agent_conn_close, …_call_async: any thread. Streams:
 *            the loop's thread only. Callbacks run on the loop's thread.
 * Ownership: responses are freed by protobuf_c_message_free_unpacked(msg, NULL); in callbacks they live until
 *            it returns. The vmm must outlive agent_connect and agent_open, nothing else.
 * Callbacks: each asynchronous call that was accepted gets exactly one, whatever happens: answer, deadline,
 *            death of the connection, agent_abort, close. Close and free on the loop's thread run those that
 *            are left before they return.
 * Limits:    a guest's message is at most TTRPC_MESSAGE_MAX and is checked (pb_check) before it is unpacked;
 *            answers to ids that nobody waits for are dropped; an idle connection holds under 8 KiB.
 * Errors:    the agent's own status and words; DeadlineExceeded if it is silent; "agent answered nonsense: …"
 *            (Internal); what agent_abort was given; Unavailable if the connection dies.
 */
#ifndef CRI_AGENT_AGENT_H
#define CRI_AGENT_AGENT_H

#include "base/err.h"
#include "cri/core/loop.h"
#include "vmm/vm.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

struct vm;
struct agent;
struct agent_conn;

/* ---- what can be called: api/agent/{task,sandbox,agent,streaming}.proto -------------------------------- */

struct agent_method {
	const char *service, *name;
	const ProtobufCMessageDescriptor *request, *response;
};

extern const struct agent_method AGENT_CHECK, AGENT_SETUP_SANDBOX, AGENT_UPDATE_INTERFACES,
	AGENT_UPDATE_ROUTES, AGENT_EXEC_VM_PROCESS, AGENT_SYNC_CLOCK, AGENT_GET_EVENTS;
extern const struct agent_method AGENT_INFO, AGENT_READ_LOG, AGENT_ACK, AGENT_STATS, AGENT_ATTACH_DEVICE,
	AGENT_ONLINE_RESOURCES;
extern const struct agent_method AGENT_TASK_STATE, AGENT_TASK_CREATE, AGENT_TASK_START, AGENT_TASK_DELETE,
	AGENT_TASK_PIDS, AGENT_TASK_PAUSE, AGENT_TASK_RESUME, AGENT_TASK_CHECKPOINT, AGENT_TASK_KILL,
	AGENT_TASK_EXEC, AGENT_TASK_RESIZE_PTY, AGENT_TASK_CLOSE_IO, AGENT_TASK_UPDATE, AGENT_TASK_WAIT,
	AGENT_TASK_STATS, AGENT_TASK_CONNECT, AGENT_TASK_SHUTDOWN;
/* Streams. */
extern const struct agent_method AGENT_STREAM, AGENT_DIAL;

/* ---- the agent of one VM ------------------------------------------------------------------------------- */

int agent_new(struct loop *loop, struct vm *vm, struct agent **ret_agent, struct err *err);
/*
 * Connects to the agent's port and returns once it has answered Check; tries again until the deadline
 * (CLOCK_MONOTONIC). May be called again when the control connection has died.
 */
int agent_connect(struct agent *agent, int64_t deadline_ns, struct err *err);
/*
 * The VM is dead or condemned: every call in progress on any connection of this agent, and every later one,
 * fails with `why`. Blocking callers wake at once. For good.
 */
void agent_abort(struct agent *agent, const struct err *why);
/*
 * Aborts, closes the control connection, frees once every other connection is closed. Returns NULL.
 * NULL-safe.
 */
struct agent *agent_free(struct agent *agent);

/* The control connection's calls; see agent_conn_call. */
int agent_call(struct agent *agent, const struct agent_method *method, const ProtobufCMessage *req,
	       int64_t timeout_ns, ProtobufCMessage **ret_resp, struct err *err);
typedef void agent_reply_fn(void *arg, const struct err *err, const ProtobufCMessage *resp);
int agent_call_async(struct agent *agent, const struct agent_method *method, const ProtobufCMessage *req,
		     int64_t timeout_ns, agent_reply_fn *reply, void *arg);

/* ---- further connections ------------------------------------------------------------------------------- */

int agent_open(struct agent *agent, int64_t deadline_ns, struct agent_conn **ret_conn, struct err *err);
/* Takes over a connected, non-blocking stream socket, of an agent that need not have a VM (tests). */
int agent_adopt(struct agent *agent, int fd, struct agent_conn **ret_conn, struct err *err);
/* Ends what is in progress with -ECANCELED, closes the socket. Returns NULL. NULL-safe. */
struct agent_conn *agent_conn_close(struct agent_conn *conn);

/*
 * timeout_ns 0: waits as long as the connection lives. ret_resp NULL: the answer is only checked. *ret_resp
 * is touched only on success.
 */
int agent_conn_call(struct agent_conn *conn, const struct agent_method *method, const ProtobufCMessage *req,
		    int64_t timeout_ns, ProtobufCMessage **ret_resp, struct err *err);
/* 0: `reply` will run, once, after this returns. -ENOMEM (or what agent_abort was given): it will not. */
int agent_conn_call_async(struct agent_conn *conn, const struct agent_method *method,
			  const ProtobufCMessage *req, int64_t timeout_ns, agent_reply_fn *reply, void *arg);

/* ---- streams: on the loop's thread --------------------------------------------------------------------- */

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

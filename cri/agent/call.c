/* SPDX-License-Identifier: Apache-2.0 */
/* One call on a connection, blocking or not. */
#include "cri/agent/agent_internal.h"

#include "api/pb.h"
#include "api/pbcheck.h"
#include "base/cond.h"
#include "base/util.h"

/* A blocked caller waits this much longer than the agent has: normally the loop's timer ends the call. */
#define GUARD_NS (2 * NS_PER_SEC)

/* ---- life ---------------------------------------------------------------------------------------------- */

static void pending_unref(struct pending *p)
{
	if (atomic_fetch_sub(&p->refs, 1) != 1)
		return;
	if (!p->reply)
		pthread_cond_destroy(&p->cond);
	free(p->payload);
	free(p->answer);
	agent_conn_unref(p->conn);
	free(p);
}

static struct pending *pending_new(struct agent_conn *conn, const struct agent_method *method,
				   const ProtobufCMessage *req, int64_t timeout_ns)
{
	struct pending *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	if (pb_pack(req, &p->payload, &p->len) < 0) {
		free(p);
		return NULL;
	}
	p->conn = agent_conn_ref(conn);
	p->method = method;
	p->timeout_ns = timeout_ns;
	atomic_store(&p->refs, 1);
	return p;
}

/* Under conn.lock. */
static void link_pending(struct pending *p)
{
	p->next = p->conn->pending;
	if (p->next)
		p->next->prev = p;
	p->conn->pending = p;
}

/* Under conn.lock: false if it was done already. */
static bool set_done(struct pending *p)
{
	if (p->done)
		return false;
	p->done = true;
	if (p->prev)
		p->prev->next = p->next;
	else
		p->conn->pending = p->next;
	if (p->next)
		p->next->prev = p->prev;
	return true;
}

/* ---- the end of a call --------------------------------------------------------------------------------- */

/* Says whose silence it was. */
static int explain(const struct pending *p, const struct err *in, struct err *out)
{
	if (in->code != -ETIMEDOUT || p->timeout_ns == 0)
		return err_copy(out, in);
	return err_set_status(out, -ETIMEDOUT, ERR_DEADLINE_EXCEEDED,
			      "the guest agent did not answer %s within %.1f s", p->method->name,
			      (double)p->timeout_ns / 1e9);
}

static int malformed(struct err *err)
{
	if (err) {
		err_wrap(err, "malformed reply from the guest agent");
		err->code = -EBADMSG;
		err->status = ERR_INTERNAL;
	}
	return -EBADMSG;
}

static int read_answer(const struct pending *p, const void *payload, size_t len, ProtobufCMessage **ret_msg,
		       struct err *err)
{
	int r = pb_unpack(p->method->response, payload, len, ret_msg, err);

	if (r == -EINVAL)
		return malformed(err);
	return r;
}

static void run_callback(const struct pending *p, const struct err *err, const void *payload, size_t len)
{
	ProtobufCMessage *msg = NULL;
	struct err bad = ERR_INIT;

	int r = err ? explain(p, err, &bad) : read_answer(p, payload, len, &msg, &bad);

	if (r < 0)
		err = &bad;
	p->reply(p->arg, err, msg);
	if (msg)
		protobuf_c_message_free_unpacked(msg, NULL);
}

/* Under conn.lock: the blocked caller gets what there is, and wakes. */
static void wake(struct pending *p, const struct err *err, const void *payload, size_t len)
{
	if (err) {
		p->code = explain(p, err, p->err);
	} else {
		p->answer = malloc(len ? len : 1);
		p->answer_len = len;
		if (p->answer)
			memcpy(p->answer, payload, len);
		else
			p->code = err_oom(p->err);
	}
	pthread_cond_signal(&p->cond);
}

/* The first to come ends the call; callbacks only on the loop's thread. */
static void complete(struct pending *p, const struct err *err, const void *payload, size_t len)
{
	bool first;

	pthread_mutex_lock(&p->conn->lock);
	first = set_done(p);
	if (first && !p->reply)
		wake(p, err, payload, len);
	pthread_mutex_unlock(&p->conn->lock);
	if (first && p->reply)
		run_callback(p, err, payload, len);
}

void agent_calls_end(struct agent_conn *conn, const struct err *why, bool callbacks)
{
	struct pending *p;

	pthread_mutex_lock(&conn->lock);
	p = conn->pending;
	while (p) {
		struct pending *next = p->next;

		if (!p->reply) {
			set_done(p);
			wake(p, why, NULL, 0);
		} else if (callbacks) {
			set_done(p);
			atomic_fetch_add(&p->refs, 1);
			pthread_mutex_unlock(&conn->lock);
			run_callback(p, why, NULL, 0);
			pending_unref(p);
			pthread_mutex_lock(&conn->lock);
			next = conn->pending; /* anything may have changed meanwhile */
		}
		p = next;
	}
	pthread_mutex_unlock(&conn->lock);
}

/* ---- on the loop's thread ------------------------------------------------------------------------------ */

static void on_reply(void *arg, const struct err *err, const void *payload, size_t len)
{
	struct pending *p = arg;

	p->started = false;
	complete(p, err, payload, len);
	pending_unref(p);
}

/* Hands the call to ttrpc, which takes over the loop's reference if this succeeds. */
static int start(struct pending *p, struct err *err)
{
	struct agent_conn *conn = p->conn;
	int r;

	if (!conn->attached)
		return agent_conn_why(conn, err);
	r = ttrpc_call(conn->ttrpc, p->method->service, p->method->name, p->payload, p->len, p->timeout_ns,
		       on_reply, p, &p->id, err);
	if (r < 0)
		return r;
	p->started = true;
	free(p->payload);
	p->payload = NULL;
	agent_conn_flush(conn);
	return 0;
}

static void start_job(void *arg)
{
	struct pending *p = arg;
	struct err err = ERR_INIT;
	bool done;

	pthread_mutex_lock(&p->conn->lock);
	done = p->done;
	pthread_mutex_unlock(&p->conn->lock);
	if (done) {
		pending_unref(p);
	} else if (start(p, &err) < 0) {
		complete(p, &err, NULL, 0);
		pending_unref(p);
	}
}

/* The blocked caller has given up. */
static void cancel_job(void *arg)
{
	struct pending *p = arg;

	if (p->started) {
		p->started = false;
		ttrpc_cancel(p->conn->ttrpc, p->id);
		pending_unref(p);
	}
	pending_unref(p);
}

/* ---- calls --------------------------------------------------------------------------------------------- */

/* Puts it on the connection's list, unless that is dead. */
static int enlist(struct pending *p, struct err *err)
{
	struct agent_conn *conn = p->conn;
	int r = 0;

	pthread_mutex_lock(&conn->lock);
	if (conn->dead)
		r = err_copy(err, &conn->why);
	else
		link_pending(p);
	pthread_mutex_unlock(&conn->lock);
	return r;
}

static int64_t guard_of(int64_t timeout_ns)
{
	int64_t until;

	if (timeout_ns == 0 || __builtin_add_overflow(now_monotonic_ns(), timeout_ns, &until) ||
	    __builtin_add_overflow(until, GUARD_NS, &until))
		return INT64_MAX;
	return until;
}

/* The caller waits no longer for a call that is not done. */
static int give_up(struct pending *p, struct call *call, int waited, struct err *err)
{
	int r = 0;

	atomic_fetch_add(&p->refs, 1);
	if (loop_post(p->conn->agent->loop, cancel_job, p) < 0)
		pending_unref(p);
	if (waited == -ECANCELED || now_monotonic_ns() >= call_deadline(call))
		r = call_check(call, err);
	return r < 0 ? r
		     : err_set(err, -ETIMEDOUT, "the server's event loop is too busy to send %s",
			       p->method->name);
}

/* Waits until the call is done. 0 or what the caller is to return. */
static int await(struct pending *p, struct call *call, struct err *err)
{
	struct agent_conn *conn = p->conn;
	int64_t until = guard_of(p->timeout_ns);
	int waited = 0, r;
	bool done;

	pthread_mutex_lock(&conn->lock);
	while (!p->done && waited == 0)
		waited = call_wait(call, &p->cond, &conn->lock, until);
	done = p->done;
	if (!done)
		set_done(p);
	r = p->code;
	pthread_mutex_unlock(&conn->lock);
	return done ? r : give_up(p, call, waited, err);
}

int agent_conn_call_by(struct agent_conn *conn, struct call *call, const struct agent_method *method,
		       const ProtobufCMessage *req, int64_t timeout_ns, ProtobufCMessage **ret_resp,
		       struct err *err)
{
	ProtobufCMessage *msg = NULL;
	struct pending *p;
	int r;

	if (loop_on_thread(conn->agent->loop))
		return err_set(err, -EDEADLK, "a call to the agent would block the event loop");
	r = call_check(call, err);
	if (r < 0)
		return r;
	p = pending_new(conn, method, req, timeout_ns);
	if (!p)
		return err_oom(err);
	cond_init(&p->cond);
	p->err = err;
	r = enlist(p, err);
	if (r == 0) {
		atomic_fetch_add(&p->refs, 1);
		r = loop_post(conn->agent->loop, start_job, p);
		if (r < 0) {
			pending_unref(p);
			pthread_mutex_lock(&conn->lock);
			set_done(p);
			pthread_mutex_unlock(&conn->lock);
			err_oom(err);
		}
	}
	if (r == 0)
		r = await(p, call, err);
	if (r == 0)
		r = read_answer(p, p->answer, p->answer_len, &msg, err);
	pending_unref(p);
	if (r < 0)
		return r;
	if (ret_resp)
		*ret_resp = msg;
	else
		protobuf_c_message_free_unpacked(msg, NULL);
	return 0;
}

int agent_conn_call_async(struct agent_conn *conn, const struct agent_method *method,
			  const ProtobufCMessage *req, int64_t timeout_ns, agent_reply_fn *reply, void *arg)
{
	struct pending *p = pending_new(conn, method, req, timeout_ns);
	int r;

	if (!p)
		return -ENOMEM;
	p->reply = reply;
	p->arg = arg;
	r = enlist(p, NULL);
	if (r < 0) {
		pending_unref(p);
		return r;
	}
	r = loop_post(conn->agent->loop, start_job, p);
	if (r < 0) {
		pthread_mutex_lock(&conn->lock);
		if (!set_done(p))
			r = 0; /* ended meanwhile, and the callback has run */
		pthread_mutex_unlock(&conn->lock);
		pending_unref(p);
	}
	return r;
}

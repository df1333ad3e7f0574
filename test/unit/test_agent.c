/* SPDX-License-Identifier: Apache-2.0 */
/* The host's client of the agent against a scripted agent on a socket pair. */
#include "api/agent/agent.pb-c.h"
#include "api/agent/streaming.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "api/ttrpc/ttrpc.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "vmm/vm.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* As assert_true, for threads other than cmocka's. */
static void must(bool ok)
{
	if (!ok)
		abort();
}

/* ---- a scripted agent, on a thread of its own ---------------------------------------------------------- */

struct fake {
	int fd, stop_fd[2];
	pthread_t thread;
	struct ttrpc_conn *conn;
};

static void pack_respond(struct ttrpc_request *req, const ProtobufCMessage *msg)
{
	unsigned char data[4096];
	size_t len = protobuf_c_message_get_packed_size(msg);

	must(len <= sizeof(data));
	protobuf_c_message_pack(msg, data);
	ttrpc_respond(req, data, len);
}

static void check(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	(void)payload;
	(void)len;
	ttrpc_respond(req, NULL, 0);
}

static void info(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	Crivisor__Agent__V1__InfoResponse resp = CRIVISOR__AGENT__V1__INFO_RESPONSE__INIT;

	(void)ctx;
	(void)payload;
	(void)len;
	resp.version = (char *)"fake";
	pack_respond(req, &resp.base);
}

/* Never answers. */
static void hang(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	(void)payload;
	(void)len;
	ttrpc_request_on_cancel(req, free, NULL);
}

static void nonsense(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	(void)payload;
	(void)len;
	ttrpc_respond(req, "\x0a\x02\xff\xfe", 4);
}

static void refuse(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct err err = ERR_INIT;

	(void)ctx;
	(void)payload;
	(void)len;
	err_set(&err, -ENOENT, "no container \"c1\"");
	ttrpc_fail(req, &err);
}

/* Cuts the connection. */
static void cut(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)payload;
	(void)len;
	hang(req, ctx, payload, len);
	shutdown(((struct fake *)ctx)->fd, SHUT_RDWR);
}

static void on_stream_data(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct ttrpc_request *req = arg;

	if (err)
		ttrpc_fail(req, err);
	else if (eof)
		ttrpc_stream_finish(req);
	else
		ttrpc_request_send(req, payload, len);
}

static void stream(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	(void)payload;
	(void)len;
	ttrpc_request_on_data(req, on_stream_data, req);
}

static void fake_serve(struct fake *f)
{
	const struct ttrpc_method agent_methods[] = {{.name = "Info", .unary = info},
						     {.name = "ReadLog", .unary = nonsense},
						     {.name = "Stats", .unary = hang},
						     {0}};
	const struct ttrpc_method task_methods[] = {{.name = "Wait", .unary = hang},
						    {.name = "State", .unary = refuse},
						    {.name = "Kill", .unary = cut},
						    {0}};
	const struct ttrpc_method sandbox_methods[] = {{.name = "Check", .unary = check}, {0}};
	const struct ttrpc_method stream_methods[] = {{.name = "Stream", .streaming = stream}, {0}};
	const struct ttrpc_service services[] = {
		{.name = "crivisor.agent.v1.Agent", .methods = agent_methods, .ctx = f},
		{.name = "containerd.task.v2.Task", .methods = task_methods, .ctx = f},
		{.name = "grpc.SandboxService", .methods = sandbox_methods, .ctx = f},
		{.name = "containerd.services.streaming.v1.Streaming", .methods = stream_methods, .ctx = f},
		{0},
	};
	struct ttrpc_conn *conn = ttrpc_server_new(services, NULL, NULL);
	struct buf *out = ttrpc_out(conn);

	for (;;) {
		struct pollfd p[2] = {{.fd = f->fd, .events = POLLIN},
				      {.fd = f->stop_fd[0], .events = POLLIN}};
		unsigned char data[4096];
		ssize_t n;

		if (out->len > 0)
			p[0].events |= POLLOUT;
		poll(p, 2, -1);
		if (p[1].revents)
			break;
		if (p[0].revents & POLLOUT)
			buf_write_fd(out, f->fd);
		if (!(p[0].revents & (POLLIN | POLLHUP)))
			continue;
		n = read(f->fd, data, sizeof(data));
		if (n <= 0 || ttrpc_feed(conn, data, (size_t)n, NULL) < 0)
			break;
	}
	ttrpc_conn_free(conn);
	shutdown(f->fd, SHUT_RDWR);
}

static void *fake_thread(void *arg)
{
	fake_serve(arg);
	return NULL;
}

static int fake_start(struct fake *f)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
	assert_int_equal(pipe(f->stop_fd), 0);
	f->fd = fds[1];
	assert_int_equal(pthread_create(&f->thread, NULL, fake_thread, f), 0);
	return fds[0];
}

static void fake_stop(struct fake *f)
{
	f->stop_fd[1] = close_fd(f->stop_fd[1]);
	pthread_join(f->thread, NULL);
	f->stop_fd[0] = close_fd(f->stop_fd[0]);
	f->fd = close_fd(f->fd);
}

/* ---- the VM: the test gives the next connection -------------------------------------------------------- */

static int next_fds[4];
static atomic_int next_fd_at, next_fd_count;

int vm_connect(struct vm *vm, uint32_t port, int64_t deadline_ns, struct err *err)
{
	int at = atomic_fetch_add(&next_fd_at, 1);

	(void)vm;
	(void)deadline_ns;
	must(port == 1024);
	if (at >= atomic_load(&next_fd_count))
		return err_set_status(err, -ENOTCONN, ERR_UNAVAILABLE, "the VMM has exited");
	return next_fds[at];
}

/* ---- the loop, on a thread of its own ------------------------------------------------------------------ */

struct fixture {
	struct loop *loop;
	pthread_t thread;
	struct agent *agent;
	struct fake fake;
};

static void *loop_thread(void *arg)
{
	struct fixture *x = arg;

	must(loop_new(&x->loop, NULL) == 0);
	return NULL;
}

static void *run_thread(void *arg)
{
	struct fixture *x = arg;

	loop_run(x->loop, NULL);
	loop_free(x->loop);
	return NULL;
}

static void stop_job(void *arg)
{
	loop_stop(arg);
}

static int set_up(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	assert_non_null(x);
	loop_thread(x);
	assert_int_equal(pthread_create(&x->thread, NULL, run_thread, x), 0);
	while (loop_on_thread(x->loop)) /* until the thread has taken the loop over */
		sched_yield();
	assert_int_equal(agent_new(x->loop, NULL, &x->agent, NULL), 0);
	next_fds[0] = fake_start(&x->fake);
	atomic_store(&next_fd_at, 0);
	atomic_store(&next_fd_count, 1);
	*state = x;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *x = *state;

	agent_free(x->agent);
	/* On its own thread, which frees the loop as soon as it has stopped. */
	loop_post(x->loop, stop_job, x->loop);
	pthread_join(x->thread, NULL);
	fake_stop(&x->fake);
	free(x);
	return 0;
}

static int64_t in_s(int s)
{
	return now_monotonic_ns() + s * NS_PER_SEC;
}

/* ---- calls --------------------------------------------------------------------------------------------- */

static int call_info(struct agent *agent, int64_t timeout_ns, struct err *err)
{
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
	ProtobufCMessage *msg = NULL;
	int r = agent_call(agent, &AGENT_INFO, &req.base, timeout_ns, &msg, err);

	if (r == 0) {
		assert_string_equal(((Crivisor__Agent__V1__InfoResponse *)(void *)msg)->version, "fake");
		protobuf_c_message_free_unpacked(msg, NULL);
	}
	return r;
}

static void call_answers(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;

	assert_int_equal(call_info(x->agent, NS_PER_SEC, &err), -ENOTCONN);
	assert_int_equal(agent_connect(x->agent, in_s(10), &err), 0);
	for (int i = 0; i < 100; i++)
		assert_int_equal(call_info(x->agent, NS_PER_SEC * (i % 2), &err), 0);
}

static void call_errors_reach_the_caller(void **state)
{
	Crivisor__Agent__V1__ReadLogRequest read_log = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;
	Crivisor__Agent__V1__StatsRequest stats = CRIVISOR__AGENT__V1__STATS_REQUEST__INIT;
	Crivisor__Agent__V1__AckRequest ack = CRIVISOR__AGENT__V1__ACK_REQUEST__INIT;
	Containerd__Task__V2__StateRequest get = CONTAINERD__TASK__V2__STATE_REQUEST__INIT;
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	int64_t before;

	agent_connect(x->agent, in_s(10), &err);
	assert_int_equal(agent_call(x->agent, &AGENT_TASK_STATE, &get.base, 0, NULL, &err), -ENOENT);
	assert_int_equal(err.status, ERR_NOT_FOUND);
	assert_string_equal(err.msg, "no container \"c1\"");
	assert_int_equal(agent_call(x->agent, &AGENT_READ_LOG, &read_log.base, 0, NULL, &err), -EBADMSG);
	assert_int_equal(err.status, ERR_INTERNAL);
	assert_string_equal(err.msg, "agent answered nonsense: offset: sent with wire type 2 instead of 0");
	assert_int_equal(agent_call(x->agent, &AGENT_ACK, &ack.base, 0, NULL, &err), -EOPNOTSUPP);
	before = now_monotonic_ns();
	assert_int_equal(agent_call(x->agent, &AGENT_STATS, &stats.base, 100 * NS_PER_MS, NULL, &err),
			 -ETIMEDOUT);
	assert_true(now_monotonic_ns() - before < NS_PER_SEC);
	assert_int_equal(err.status, ERR_DEADLINE_EXCEEDED);
	assert_string_equal(err.msg, "the guest's agent did not answer Stats within 0.1 s");
	assert_int_equal(call_info(x->agent, NS_PER_SEC, &err), 0);
}

struct waiter {
	struct agent *agent;
	struct agent_conn *conn;
	const struct agent_method *method;
	pthread_t thread;
	struct err err;
	int r;
};

static void *wait_thread(void *arg)
{
	struct waiter *w = arg;
	Containerd__Task__V2__WaitRequest req = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;

	if (w->conn)
		w->r = agent_conn_call(w->conn, w->method, &req.base, 0, NULL, &w->err);
	else
		w->r = agent_call(w->agent, w->method, &req.base, 0, NULL, &w->err);
	return NULL;
}

static void abort_wakes_blocked_callers(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT, why = ERR_INIT;
	struct waiter w[8];

	agent_connect(x->agent, in_s(10), &err);
	for (size_t i = 0; i < ARRAY_SIZE(w); i++) {
		w[i] = (struct waiter){.agent = x->agent, .method = &AGENT_TASK_WAIT};
		pthread_create(&w[i].thread, NULL, wait_thread, &w[i]);
	}
	usleep(20000); /* so that some are under way; the outcome does not depend on it */
	err_set_status(&why, -EPIPE, ERR_UNAVAILABLE, "the VM died: killed by signal 9");
	agent_abort(x->agent, &why);
	for (size_t i = 0; i < ARRAY_SIZE(w); i++) {
		pthread_join(w[i].thread, NULL);
		assert_int_equal(w[i].r, -EPIPE);
		assert_string_equal(w[i].err.msg, why.msg);
	}
	assert_int_equal(call_info(x->agent, NS_PER_SEC, &err), -EPIPE);
	assert_int_equal(agent_connect(x->agent, in_s(10), &err), -EPIPE);
}

static void death_of_the_connection_ends_calls(void **state)
{
	Containerd__Task__V2__KillRequest kill = CONTAINERD__TASK__V2__KILL_REQUEST__INIT;
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct fake second;

	agent_connect(x->agent, in_s(10), &err);
	assert_int_equal(agent_call(x->agent, &AGENT_TASK_KILL, &kill.base, 10 * NS_PER_SEC, NULL, &err),
			 -ECONNRESET);
	assert_int_equal(err.status, ERR_UNAVAILABLE);
	assert_int_equal(call_info(x->agent, NS_PER_SEC, &err), -ECONNRESET);
	/* A new connection takes its place. */
	next_fds[1] = fake_start(&second);
	atomic_store(&next_fd_count, 2);
	assert_int_equal(agent_connect(x->agent, in_s(10), &err), 0);
	assert_int_equal(call_info(x->agent, NS_PER_SEC, &err), 0);
	fake_stop(&second);
}

static void connect_tries_again_until_check_is_answered(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	int dead[2];

	/* The first connection ends before it says anything. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, dead), 0);
	close(dead[1]);
	next_fds[1] = next_fds[0];
	next_fds[0] = dead[0];
	atomic_store(&next_fd_count, 2);
	assert_int_equal(agent_connect(x->agent, in_s(10), &err), 0);
	assert_int_equal(call_info(x->agent, NS_PER_SEC, &err), 0);
}

/* ---- asynchronous calls -------------------------------------------------------------------------------- */

struct outcome {
	atomic_int count, errors;
	_Atomic(int) code;
	struct agent_conn *close_me;
};

static void on_reply(void *arg, const struct err *err, const ProtobufCMessage *resp)
{
	struct outcome *o = arg;

	if (err) {
		must(!resp);
		atomic_store(&o->code, err->code);
		atomic_fetch_add(&o->errors, 1);
	} else {
		must(resp);
	}
	if (o->close_me) {
		agent_conn_close(o->close_me);
		o->close_me = NULL;
	}
	atomic_fetch_add(&o->count, 1);
}

static void await_count(struct outcome *o, int want)
{
	int64_t deadline = in_s(10);

	while (atomic_load(&o->count) < want) {
		assert_true(now_monotonic_ns() < deadline);
		usleep(1000);
	}
	assert_int_equal(atomic_load(&o->count), want);
}

static void async_each_call_gets_one_callback(void **state)
{
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
	Crivisor__Agent__V1__StatsRequest stats = CRIVISOR__AGENT__V1__STATS_REQUEST__INIT;
	struct fixture *x = *state;
	struct outcome o = {0}, hung = {0};
	struct err err = ERR_INIT;

	assert_true(agent_call_async(x->agent, &AGENT_INFO, &req.base, 0, on_reply, &o) < 0);
	agent_connect(x->agent, in_s(10), &err);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(
			agent_call_async(x->agent, &AGENT_INFO, &req.base, NS_PER_SEC * 10, on_reply, &o), 0);
	for (int i = 0; i < 10; i++)
		assert_int_equal(agent_call_async(x->agent, &AGENT_STATS, &stats.base, 0, on_reply, &hung),
				 0);
	await_count(&o, 1000);
	assert_int_equal(atomic_load(&o.errors), 0);
	for (int i = 0; i < 10; i++)
		assert_int_equal(agent_call_async(x->agent, &AGENT_STATS, &stats.base, 0, on_reply, &hung),
				 0);
	assert_int_equal(atomic_load(&hung.count), 0);
	x->agent = agent_free(x->agent);
	await_count(&hung, 20);
	assert_int_equal(atomic_load(&hung.errors), 20);
}

struct closing {
	struct agent_conn *conn;
	struct outcome o;
	atomic_bool done;
};

static void close_job(void *arg)
{
	Crivisor__Agent__V1__StatsRequest stats = CRIVISOR__AGENT__V1__STATS_REQUEST__INIT;
	struct closing *c = arg;

	agent_conn_call_async(c->conn, &AGENT_STATS, &stats.base, 0, on_reply, &c->o);
	agent_conn_call_async(c->conn, &AGENT_STATS, &stats.base, 0, on_reply, &c->o);
	c->conn = agent_conn_close(c->conn);
	must(atomic_load(&c->o.count) == 2);
	must(atomic_load(&c->o.code) == -ECANCELED);
	atomic_store(&c->done, true);
}

static void close_on_the_loop_leaves_no_callback(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct closing c = {0};

	assert_int_equal(agent_open(x->agent, in_s(1), &c.conn, &err), 0);
	assert_int_equal(loop_post(x->loop, close_job, &c), 0);
	while (!atomic_load(&c.done))
		usleep(1000);
}

static void close_inside_a_callback_works(void **state)
{
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct outcome o = {0}, rest = {0};
	struct agent_conn *conn;

	assert_int_equal(agent_open(x->agent, in_s(1), &conn, &err), 0);
	o.close_me = conn;
	agent_conn_call_async(conn, &AGENT_INFO, &req.base, 0, on_reply, &o);
	await_count(&o, 1);
	(void)rest;
}

static void close_wakes_a_blocked_caller(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct waiter w = {.method = &AGENT_TASK_WAIT};

	assert_int_equal(agent_open(x->agent, in_s(1), &w.conn, &err), 0);
	pthread_create(&w.thread, NULL, wait_thread, &w);
	usleep(10000);
	/* The caller's use of the connection ends with an abort, not with a close beside it. */
	err_set(&err, -ECANCELED, "stopping");
	agent_abort(x->agent, &err);
	pthread_join(w.thread, NULL);
	assert_int_equal(w.r, -ECANCELED);
	agent_conn_close(w.conn);
}

/* ---- streams ------------------------------------------------------------------------------------------- */

struct streaming {
	struct agent_conn *conn;
	atomic_int messages, ends;
	_Atomic(int) code;
	size_t sent;
};

static void on_data(void *arg, const struct err *err, const ProtobufCMessage *msg, bool eof)
{
	struct streaming *s = arg;

	if (msg) {
		must(((const Google__Protobuf__Any *)(const void *)msg)->value.len == 1000);
		atomic_fetch_add(&s->messages, 1);
	}
	if (err)
		atomic_store(&s->code, err->code);
	if (eof)
		atomic_fetch_add(&s->ends, 1);
}

static void stream_job(void *arg)
{
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	struct streaming *s = arg;
	uint8_t data[1000] = {0};

	any.value.data = data;
	any.value.len = sizeof(data);
	must(agent_stream_open(s->conn, &AGENT_STREAM, &any.base, on_data, s, NULL) == 0);
	must(agent_stream_open(s->conn, &AGENT_STREAM, &any.base, on_data, s, NULL) == -EBUSY);
	for (int i = 0; i < 2000; i++)
		must(agent_stream_send(s->conn, &any.base, i == 1999) == 0);
	must(agent_stream_send(s->conn, &any.base, false) == -EPIPE);
}

static void stream_carries_messages_both_ways(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct streaming s = {0};
	int64_t deadline = in_s(20);

	assert_int_equal(agent_open(x->agent, in_s(1), &s.conn, &err), 0);
	assert_int_equal(loop_post(x->loop, stream_job, &s), 0);
	while (atomic_load(&s.ends) == 0) {
		assert_true(now_monotonic_ns() < deadline);
		usleep(1000);
	}
	assert_int_equal(atomic_load(&s.code), 0);
	assert_int_equal(atomic_load(&s.messages), 2001);
	agent_conn_close(s.conn);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(call_answers),
		TEST(call_errors_reach_the_caller),
		TEST(abort_wakes_blocked_callers),
		TEST(death_of_the_connection_ends_calls),
		TEST(connect_tries_again_until_check_is_answered),
		TEST(async_each_call_gets_one_callback),
		TEST(close_on_the_loop_leaves_no_callback),
		TEST(close_inside_a_callback_works),
		TEST(close_wakes_a_blocked_caller),
		TEST(stream_carries_messages_both_ways),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

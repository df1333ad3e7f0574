/* SPDX-License-Identifier: Apache-2.0 */
/* The host's client of the agent against a scripted agent on a socket pair. */
#include "api/agent/agent.pb-c.h"
#include "api/agent/streaming.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "fake_agent.h"

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

/* ---- the loop, on a thread of its own ------------------------------------------------------------------ */

struct fixture {
	struct loop *loop;
	struct workers *workers;
	pthread_t thread;
	struct agent *agent;
	struct fake_agent *fake;
	int dead_fd; /* the next connection, if it is not -1 */
};

static int dial(void *arg, uint32_t port, int64_t deadline_ns, struct err *err)
{
	struct fixture *x = arg;

	if (x->dead_fd >= 0)
		return move_fd(x->dead_fd);
	return fake_agent_dial(x->fake, port, deadline_ns, err);
}

static void new_agent(struct fixture *x, const char *boot_id, int64_t lost_ns)
{
	const struct agent_options options = {.loop = x->loop,
					      .workers = x->workers,
					      .dial = dial,
					      .arg = x,
					      .boot_id = boot_id,
					      .lost_ns = lost_ns};

	agent_free(x->agent);
	assert_int_equal(agent_new(&options, &x->agent, NULL), 0);
}

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
	assert_int_equal(workers_new(&x->workers, NULL), 0);
	x->dead_fd = -1;
	x->fake = fake_agent_new();
	new_agent(x, NULL, 0);
	*state = x;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *x = *state;

	agent_free(x->agent);
	workers_free(x->workers, 10 * NS_PER_SEC);
	/* On its own thread, which frees the loop as soon as it has stopped. */
	loop_post(x->loop, stop_job, x->loop);
	pthread_join(x->thread, NULL);
	fake_agent_free(x->fake);
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
	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
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

	get.id = (char *)(uintptr_t) "c1";
	fake_agent_answer(x->fake, "ReadLog", "\x0a\x02\xff\xfe", 4);
	fake_agent_hang(x->fake, "Stats", true);
	fake_agent_fail(x->fake, "Ack", -EOPNOTSUPP, "not here");
	agent_connect(x->agent, NULL, in_s(10), &err);
	assert_int_equal(agent_call(x->agent, &AGENT_TASK_STATE, &get.base, 0, NULL, &err), -ENOENT);
	assert_int_equal(err.status, ERR_NOT_FOUND);
	assert_string_equal(err.msg, "no container \"c1\"");
	assert_int_equal(agent_call(x->agent, &AGENT_READ_LOG, &read_log.base, 0, NULL, &err), -EBADMSG);
	assert_int_equal(err.status, ERR_INTERNAL);
	assert_string_equal(
		err.msg, "malformed reply from the guest agent: offset: sent with wire type 2 instead of 0");
	assert_int_equal(agent_call(x->agent, &AGENT_ACK, &ack.base, 0, NULL, &err), -EOPNOTSUPP);
	before = now_monotonic_ns();
	assert_int_equal(agent_call(x->agent, &AGENT_STATS, &stats.base, 100 * NS_PER_MS, NULL, &err),
			 -ETIMEDOUT);
	assert_true(now_monotonic_ns() - before < NS_PER_SEC);
	assert_int_equal(err.status, ERR_DEADLINE_EXCEEDED);
	assert_string_equal(err.msg, "the guest agent did not answer Stats within 0.1 s");
	assert_int_equal(call_info(x->agent, NS_PER_SEC, &err), 0);
}

struct waiter {
	struct agent *agent;
	struct agent_conn *conn;
	const struct agent_method *method;
	const char *id;
	struct call *call;
	pthread_t thread;
	struct err err;
	int r;
};

static void *wait_thread(void *arg)
{
	struct waiter *w = arg;
	Containerd__Task__V2__WaitRequest req = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;

	req.id = (char *)(uintptr_t)(w->id ? w->id : "");
	if (w->conn)
		w->r = agent_conn_call_by(w->conn, w->call, w->method, &req.base, 0, NULL, &w->err);
	else
		w->r = agent_call_by(w->agent, w->call, w->method, &req.base, 0, NULL, &w->err);
	return NULL;
}

static void abort_wakes_blocked_callers(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT, why = ERR_INIT;
	struct waiter w[8];

	fake_agent_hang(x->fake, "Wait", true);
	agent_connect(x->agent, NULL, in_s(10), &err);
	for (size_t i = 0; i < ARRAY_SIZE(w); i++) {
		w[i] = (struct waiter){.agent = x->agent, .method = &AGENT_TASK_WAIT};
		pthread_create(&w[i].thread, NULL, wait_thread, &w[i]);
	}
	fake_agent_await(x->fake, "Wait", ARRAY_SIZE(w));
	err_set_status(&why, -EPIPE, ERR_UNAVAILABLE, "the VM died: killed by signal 9");
	agent_abort(x->agent, &why);
	for (size_t i = 0; i < ARRAY_SIZE(w); i++) {
		pthread_join(w[i].thread, NULL);
		assert_int_equal(w[i].r, -EPIPE);
		assert_string_equal(w[i].err.msg, why.msg);
	}
	assert_int_equal(call_info(x->agent, NS_PER_SEC, &err), -EPIPE);
	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), -EPIPE);
}

static void connect_tries_again_until_check_is_answered(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	int dead[2];

	/* The first connection ends before it says anything. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, dead), 0);
	close(dead[1]);
	x->dead_fd = dead[0];
	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
	assert_int_equal(call_info(x->agent, NS_PER_SEC, &err), 0);
}

static void connect_ends_with_its_call(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct call *call CLEANUP_CALL = NULL;
	int64_t before = now_monotonic_ns();

	fake_agent_hang(x->fake, "Check", true);
	assert_int_equal(call_new(before + 200 * NS_PER_MS, &call, &err), 0);
	assert_int_equal(agent_connect(x->agent, call, in_s(100), &err), -ETIMEDOUT);
	assert_true(now_monotonic_ns() - before < 5 * NS_PER_SEC);
	call_unref(call);
	assert_int_equal(call_new(INT64_MAX, &call, &err), 0);
	call_cancel(call, "the client left");
	assert_int_equal(agent_connect(x->agent, call, in_s(100), &err), -ECANCELED);
	assert_string_equal(err.msg, "the client left");
}

static void connect_to_another_boot_is_stale(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;

	new_agent(x, "boot-0", 0);
	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), -ESTALE);
	assert_string_equal(err.msg, "the guest was reset");
	assert_int_equal(fake_agent_dials(x->fake), 1);
	new_agent(x, "boot-1", 0);
	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
}

static void identity_is_what_info_says(void **state)
{
	static const char *const features[] = {"readlog", "shutdown", NULL};
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct agent_identity id;

	agent_identify(x->agent, &id);
	assert_int_equal(id.epoch, 0);
	fake_agent_set_features(x->fake, features);
	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
	agent_identify(x->agent, &id);
	assert_string_equal(id.boot_id, "boot-1");
	assert_string_equal(id.version, "fake");
	assert_int_equal(id.epoch, 1);
	assert_true(agent_has(x->agent, "shutdown"));
	assert_false(agent_has(x->agent, "dial"));
}

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

/* ---- epochs -------------------------------------------------------------------------------------------- */

struct watching {
	struct agent_watch watch;
	struct agent *agent;
	atomic_int epochs, overs;
	char why[256]; /* read once overs is set */
};

static void on_epoch(void *arg, const struct err *over)
{
	struct watching *w = arg;

	if (over) {
		snprintf(w->why, sizeof(w->why), "%s", over->msg);
		atomic_fetch_add(&w->overs, 1);
	} else {
		atomic_fetch_add(&w->epochs, 1);
	}
}

static void watch_job(void *arg)
{
	struct watching *w = arg;

	agent_watch_add(w->agent, &w->watch, on_epoch, w);
}

static void watch(struct fixture *x, struct watching *w)
{
	*w = (struct watching){.agent = x->agent};
	assert_int_equal(loop_post(x->loop, watch_job, w), 0);
}

static void unwatch_job(void *arg)
{
	struct watching *w = arg;

	agent_watch_remove(w->agent, &w->watch);
	w->agent = NULL;
	atomic_store(&w->epochs, -1);
}

/* Before the agent goes. */
static void unwatch(struct fixture *x, struct watching *w)
{
	assert_int_equal(loop_post(x->loop, unwatch_job, w), 0);
	while (atomic_load(&w->epochs) != -1)
		usleep(1000);
}

static void await_int(atomic_int *n, int want)
{
	int64_t deadline = in_s(20);

	while (atomic_load(n) < want) {
		assert_true(now_monotonic_ns() < deadline);
		usleep(1000);
	}
	assert_int_equal(atomic_load(n), want);
}

static void cut_in_a_call_fails_it_as_unavailable_and_dials_again(void **state)
{
	Containerd__Task__V2__KillRequest kill = CONTAINERD__TASK__V2__KILL_REQUEST__INIT;
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct agent_identity id;
	struct watching w;

	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
	watch(x, &w);
	fake_agent_cut_at(x->fake, "Kill", false);
	assert_int_equal(agent_call(x->agent, &AGENT_TASK_KILL, &kill.base, 10 * NS_PER_SEC, NULL, &err),
			 -ECONNRESET);
	assert_int_equal(err.status, ERR_UNAVAILABLE);
	/* Calls wait for the next connection. */
	assert_int_equal(call_info(x->agent, 10 * NS_PER_SEC, &err), 0);
	await_int(&w.epochs, 1);
	agent_identify(x->agent, &id);
	assert_int_equal(id.epoch, 2);
	assert_int_equal(atomic_load(&w.overs), 0);
	assert_int_equal(fake_agent_calls(x->fake, "Kill"), 1);
	unwatch(x, &w);
}

static void cut_in_a_repeatable_call_asks_again(void **state)
{
	Containerd__Task__V2__WaitRequest req = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	ProtobufCMessage *resp = NULL;
	struct waiter w = {.agent = x->agent, .method = &AGENT_TASK_WAIT};

	req.id = (char *)(uintptr_t) "c1";
	fake_agent_put(x->fake, "c1", true);
	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
	/* In the middle of a wait without a time of its own. */
	w.id = "c1";
	pthread_create(&w.thread, NULL, wait_thread, &w);
	fake_agent_await(x->fake, "Wait", 1);
	fake_agent_cut(x->fake);
	fake_agent_await(x->fake, "Wait", 2);
	fake_agent_exit(x->fake, "c1", 7);
	pthread_join(w.thread, NULL);
	assert_int_equal(w.r, 0);
	/* Carried out, and the answer lost. */
	fake_agent_cut_at(x->fake, "Wait", true);
	assert_int_equal(agent_call(x->agent, &AGENT_TASK_WAIT, &req.base, 10 * NS_PER_SEC, &resp, &err), 0);
	assert_int_equal(((Containerd__Task__V2__WaitResponse *)(void *)resp)->exit_status, 7);
	protobuf_c_message_free_unpacked(resp, NULL);
}

static void cut_while_redialling_counts_epochs_and_slows_down(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct watching w;
	int64_t before = now_monotonic_ns();
	unsigned int dials;

	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
	watch(x, &w);
	for (int i = 1; i <= 4; i++) {
		fake_agent_cut(x->fake);
		await_int(&w.epochs, i);
		assert_int_equal(call_info(x->agent, 10 * NS_PER_SEC, &err), 0);
	}
	dials = fake_agent_dials(x->fake);
	assert_int_equal(dials, 5);
	/* At once, then after 50, 100 and 200 ms. */
	assert_true(now_monotonic_ns() - before >= 300 * NS_PER_MS);
	unwatch(x, &w);
}

static void call_while_disconnected_ends_with_its_caller(void **state)
{
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct call *call CLEANUP_CALL = NULL;
	struct agent_conn *conn = NULL;
	struct outcome o = {0};

	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
	fake_agent_refuse(x->fake, -ECONNREFUSED);
	fake_agent_cut(x->fake);
	while (agent_call_async(x->agent, &AGENT_INFO, &req.base, NS_PER_SEC, on_reply, &o) != -ENOTCONN)
		usleep(1000);
	assert_int_equal(agent_open(x->agent, in_s(1), &conn, &err), -ENOTCONN);
	assert_int_equal(call_info(x->agent, 50 * NS_PER_MS, &err), -ETIMEDOUT);
	assert_int_equal(err.status, ERR_UNAVAILABLE);
	assert_int_equal(call_new(now_monotonic_ns() + 50 * NS_PER_MS, &call, &err), 0);
	assert_int_equal(agent_call_by(x->agent, call, &AGENT_INFO, &req.base, 0, NULL, &err), -ETIMEDOUT);
	call_cancel(call, "the client left");
	assert_int_equal(agent_call_by(x->agent, call, &AGENT_INFO, &req.base, 0, NULL, &err), -ECANCELED);
	fake_agent_refuse(x->fake, 0);
	assert_int_equal(call_info(x->agent, 10 * NS_PER_SEC, &err), 0);
	assert_int_equal(agent_open(x->agent, in_s(1), &conn, &err), 0);
	agent_conn_close(conn);
}

static void call_ends_at_once_when_its_caller_leaves(void **state)
{
	Crivisor__Agent__V1__StatsRequest req = CRIVISOR__AGENT__V1__STATS_REQUEST__INIT;
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct call *call CLEANUP_CALL = NULL;
	struct waiter w = {.agent = x->agent, .method = &AGENT_STATS};
	int64_t before;

	(void)req;
	assert_int_equal(call_new(INT64_MAX, &call, &err), 0);
	w.call = call;
	fake_agent_hang(x->fake, "Stats", true);
	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
	pthread_create(&w.thread, NULL, wait_thread, &w);
	fake_agent_await(x->fake, "Stats", 1);
	before = now_monotonic_ns();
	call_cancel(call, "the client left");
	pthread_join(w.thread, NULL);
	assert_true(now_monotonic_ns() - before < 2 * NS_PER_SEC);
	assert_int_equal(w.r, -ECANCELED);
	assert_string_equal(w.err.msg, "the client left");
}

static void other_boot_after_reconnect_is_the_end(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct watching w, late;

	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
	watch(x, &w);
	fake_agent_set_boot(x->fake, "boot-2");
	fake_agent_cut(x->fake);
	await_int(&w.overs, 1);
	assert_string_equal(w.why, "the guest was reset");
	assert_int_equal(call_info(x->agent, NS_PER_SEC, &err), -ESTALE);
	/* One that comes after the end is told too. */
	watch(x, &late);
	await_int(&late.overs, 1);
	assert_int_equal(atomic_load(&w.overs), 1);
	assert_int_equal(atomic_load(&w.epochs), 0);
	unwatch(x, &w);
	unwatch(x, &late);
}

static void other_instance_after_reconnect_is_the_end(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct watching w;

	fake_agent_set_instance(x->fake, "one");
	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
	watch(x, &w);
	fake_agent_cut(x->fake);
	await_int(&w.epochs, 1);
	fake_agent_set_instance(x->fake, "two");
	fake_agent_cut(x->fake);
	await_int(&w.overs, 1);
	assert_string_equal(w.why, "the guest agent was started again");
	unwatch(x, &w);
}

static void agent_that_never_comes_back_is_lost(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct waiter w = {.method = &AGENT_TASK_WAIT};
	struct watching seen;
	int64_t before;

	new_agent(x, NULL, 500 * NS_PER_MS);
	w.agent = x->agent;
	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
	watch(x, &seen);
	fake_agent_refuse(x->fake, -ECONNREFUSED);
	before = now_monotonic_ns();
	fake_agent_cut(x->fake);
	pthread_create(&w.thread, NULL, wait_thread, &w);
	pthread_join(w.thread, NULL);
	assert_true(now_monotonic_ns() - before >= 500 * NS_PER_MS);
	assert_int_equal(w.r, -ECONNRESET);
	assert_non_null(strstr(w.err.msg, "the guest agent could not be reached for"));
	assert_non_null(strstr(w.err.msg, "the fake refuses the connection"));
	await_int(&seen.overs, 1);
	unwatch(x, &seen);
}

static void free_while_redialling_leaves_nothing(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;

	for (int i = 0; i < 20; i++) {
		new_agent(x, NULL, 0);
		assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
		fake_agent_refuse(x->fake, i % 2 ? -ECONNREFUSED : 0);
		fake_agent_cut(x->fake);
		usleep((useconds_t)i * 1000); /* any moment will do */
		x->agent = agent_free(x->agent);
		fake_agent_refuse(x->fake, 0);
	}
}

/* ---- asynchronous calls -------------------------------------------------------------------------------- */

static void async_each_call_gets_one_callback(void **state)
{
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
	Crivisor__Agent__V1__StatsRequest stats = CRIVISOR__AGENT__V1__STATS_REQUEST__INIT;
	struct fixture *x = *state;
	struct outcome o = {0}, hung = {0};
	struct err err = ERR_INIT;

	fake_agent_hang(x->fake, "Stats", true);
	assert_true(agent_call_async(x->agent, &AGENT_INFO, &req.base, 0, on_reply, &o) < 0);
	agent_connect(x->agent, NULL, in_s(10), &err);
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

	fake_agent_hang(x->fake, "Stats", true);
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

	fake_agent_hang(x->fake, "Wait", true);
	assert_int_equal(agent_open(x->agent, in_s(1), &w.conn, &err), 0);
	pthread_create(&w.thread, NULL, wait_thread, &w);
	fake_agent_await(x->fake, "Wait", 1);
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
	atomic_int messages, ends, drains;
	_Atomic(int) code;
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

static void on_drained(void *arg)
{
	struct streaming *s = arg;

	atomic_fetch_add(&s->drains, 1);
}

static void hold_back_job(void *arg)
{
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	struct streaming *s = arg;
	uint8_t data[1000] = {0};

	any.value.data = data;
	any.value.len = sizeof(data);
	must(agent_stream_open(s->conn, &AGENT_STREAM, &any.base, on_data, s, NULL) == 0);
	agent_conn_on_drained(s->conn, on_drained, s);
	agent_conn_set_reading(s->conn, false);
	for (int i = 0; i < 20; i++)
		must(agent_stream_send(s->conn, &any.base, i == 19) == 0);
	must(agent_conn_queued(s->conn) == 0); /* a socket takes so little at once */
}

static void resume_job(void *arg)
{
	struct streaming *s = arg;

	agent_conn_set_reading(s->conn, true);
}

static void stream_that_is_not_read_holds_back_the_guest(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct streaming s = {0};

	assert_int_equal(agent_open(x->agent, in_s(1), &s.conn, &err), 0);
	assert_int_equal(loop_post(x->loop, hold_back_job, &s), 0);
	await_int(&s.drains, 20);
	usleep(100000); /* for answers that would come, were they read */
	assert_int_equal(atomic_load(&s.messages), 0);
	assert_int_equal(loop_post(x->loop, resume_job, &s), 0);
	await_int(&s.ends, 1);
	assert_int_equal(atomic_load(&s.code), 0);
	assert_int_equal(atomic_load(&s.messages), 21);
	agent_conn_close(s.conn);
}

static void hang_up_job(void *arg)
{
	struct streaming *s = arg;

	must(agent_stream_open(s->conn, &AGENT_STREAM, NULL, on_data, s, NULL) == 0);
}

static void cut_in_a_stream_ends_it(void **state)
{
	struct fixture *x = *state;
	struct err err = ERR_INIT;
	struct streaming s = {0};

	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), &err), 0);
	assert_int_equal(agent_open(x->agent, in_s(1), &s.conn, &err), 0);
	assert_int_equal(loop_post(x->loop, hang_up_job, &s), 0);
	usleep(20000); /* so that the stream is open on the far side, mostly */
	fake_agent_cut(x->fake);
	await_int(&s.ends, 1);
	assert_int_equal(atomic_load(&s.code), -ECONNRESET);
	agent_conn_close(s.conn);
	assert_int_equal(call_info(x->agent, 10 * NS_PER_SEC, &err), 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(call_answers),
		TEST(call_errors_reach_the_caller),
		TEST(abort_wakes_blocked_callers),
		TEST(connect_tries_again_until_check_is_answered),
		TEST(connect_ends_with_its_call),
		TEST(connect_to_another_boot_is_stale),
		TEST(identity_is_what_info_says),
		TEST(cut_in_a_call_fails_it_as_unavailable_and_dials_again),
		TEST(cut_in_a_repeatable_call_asks_again),
		TEST(cut_while_redialling_counts_epochs_and_slows_down),
		TEST(call_while_disconnected_ends_with_its_caller),
		TEST(call_ends_at_once_when_its_caller_leaves),
		TEST(other_boot_after_reconnect_is_the_end),
		TEST(other_instance_after_reconnect_is_the_end),
		TEST(agent_that_never_comes_back_is_lost),
		TEST(free_while_redialling_leaves_nothing),
		TEST(async_each_call_gets_one_callback),
		TEST(close_on_the_loop_leaves_no_callback),
		TEST(close_inside_a_callback_works),
		TEST(close_wakes_a_blocked_caller),
		TEST(stream_carries_messages_both_ways),
		TEST(stream_that_is_not_read_holds_back_the_guest),
		TEST(cut_in_a_stream_ends_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

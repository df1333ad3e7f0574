/* SPDX-License-Identifier: Apache-2.0 */
/* Agent.Shutdown: what it answers, and that nothing holds it up beyond its timeout. */
#include "guest_service_fixture.h"

#define SHUTDOWN_RESPONSE &crivisor__agent__v1__shutdown_response__descriptor

static void ask(struct reply *r, int64_t timeout_ns)
{
	Crivisor__Agent__V1__ShutdownRequest req = CRIVISOR__AGENT__V1__SHUTDOWN_REQUEST__INIT;

	*r = (struct reply){.type = SHUTDOWN_RESPONSE};
	req.timeout_ns = (uint64_t)timeout_ns;
	start_call(r, AGENT, "Shutdown", &req.base);
}

static void expect(struct reply *r, bool synced, bool unmounted, unsigned int left)
{
	Crivisor__Agent__V1__ShutdownResponse *m;

	await(&r->done);
	assert_int_equal(r->err.code, 0);
	m = r->msg;
	assert_int_equal(m->synced, synced);
	assert_int_equal(m->unmounted, unmounted);
	assert_int_equal(m->containers_left, left);
	protobuf_c_message_free_unpacked(&m->base, NULL);
}

static void await_end(void)
{
	int64_t end = now_monotonic_ns() + 5 * NS_PER_SEC;

	while (ended == 0 && now_monotonic_ns() < end)
		turn();
	assert_int_equal(ended, 1);
}

static void shutdown_answers_once_file_systems_are_released(void **state)
{
	struct reply r;

	(void)state;
	release_ms = 200;
	ask(&r, 5 * NS_PER_SEC);
	for (int i = 0; i < 20; i++)
		turn();
	assert_false(r.done);
	assert_int_equal(ended, 0);
	expect(&r, true, true, 0);
	await_end();
}

static void shutdown_tells_what_stays_mounted_or_failed(void **state)
{
	struct reply r;

	(void)state;
	release_status = AGENT_RELEASE_BUSY;
	ask(&r, 0);
	expect(&r, true, false, 0);
	await_end();
	ended = 0;
	release_status = 3;
	ask(&r, 0);
	expect(&r, false, false, 0);
	await_end();
}

static void shutdown_ends_in_time_though_the_release_hangs(void **state)
{
	int64_t begin = now_monotonic_ns();
	struct reply r;

	(void)state;
	release_ms = 60000;
	ask(&r, NS_PER_SEC / 2);
	expect(&r, false, false, 0);
	await_end();
	assert_in_range(now_monotonic_ns() - begin, NS_PER_SEC / 2, 3 * NS_PER_SEC);
}

static void shutdown_syncs_though_a_container_does_not_die(void **state)
{
	int64_t begin = now_monotonic_ns();
	struct reply r;

	(void)state;
	box->init.pid = getpid(); /* running, as it seems; its cgroup is there for nobody to be killed in */
	box->cgroup = strdup("/crvtest-none/box");
	ask(&r, NS_PER_SEC);
	expect(&r, true, true, 1);
	await_end();
	assert_in_range(now_monotonic_ns() - begin, NS_PER_SEC / 2, 3 * NS_PER_SEC);
	box->init.pid = 0;
}

static void shutdown_asked_twice_is_one_and_the_earlier_deadline_wins(void **state)
{
	int64_t begin = now_monotonic_ns();
	struct reply first, second;

	(void)state;
	release_ms = 60000;
	ask(&first, 30 * NS_PER_SEC);
	for (int i = 0; i < 5; i++)
		turn();
	ask(&second, NS_PER_SEC / 2);
	expect(&second, false, false, 0);
	expect(&first, false, false, 0);
	await_end();
	assert_in_range(now_monotonic_ns() - begin, NS_PER_SEC / 2, 5 * NS_PER_SEC);
}

static void shutdown_goes_on_when_its_caller_leaves(void **state)
{
	struct reply r;

	(void)state;
	release_ms = 100;
	ask(&r, 5 * NS_PER_SEC);
	for (int i = 0; i < 5; i++)
		turn();
	client = ttrpc_conn_free(client);
	sock = close_fd(sock);
	await_end();
}

static void nothing_begins_during_a_shutdown(void **state)
{
	Containerd__Task__V2__CreateTaskRequest cr = CONTAINERD__TASK__V2__CREATE_TASK_REQUEST__INIT;
	struct reply r;

	(void)state;
	release_ms = 200;
	ask(&r, 5 * NS_PER_SEC);
	cr.id = (char *)"new";
	assert_int_equal(status_of(TASK, "Create", &cr.base), ERR_UNAVAILABLE);
	expect(&r, true, true, 0);
	await_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(shutdown_answers_once_file_systems_are_released),
		T(shutdown_tells_what_stays_mounted_or_failed),
		T(shutdown_ends_in_time_though_the_release_hangs),
		T(shutdown_syncs_though_a_container_does_not_die),
		T(shutdown_asked_twice_is_one_and_the_earlier_deadline_wins),
		T(shutdown_goes_on_when_its_caller_leaves),
		T(nothing_begins_during_a_shutdown),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

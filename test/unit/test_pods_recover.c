/* SPDX-License-Identifier: Apache-2.0 */
/* cri/pods across a restart of the server, over fakes of what touches a host: pods_fixture.h. */
#include "pods_fixture.h"

#include "api/cri/state.pb-c.h"

static bool has_exited(void *arg)
{
	return look(arg).state == CONTAINER_EXITED;
}

static void restart(void)
{
	end_room();
	begin_room(0);
}

static void recover_adopts_pods_and_containers(void **state)
{
	char pod[65], created[65], running[65], exited[65];

	(void)state;
	run_pod("pod", pod);
	create(pod, "created", created);
	create(pod, "running", running);
	do_it(containers_start, running);
	create(pod, "exited", exited);
	do_it(containers_start, exited);
	guest_exit(exited, "", 3);
	eventually(has_exited, exited, "its exit is not learned");
	restart();
	assert_true(look_pod(pod).ready);
	assert_string_equal(look_pod(pod).ip, "10.0.0.2");
	assert_int_equal(look(created).state, CONTAINER_CREATED);
	assert_int_equal(look(running).state, CONTAINER_RUNNING);
	assert_int_equal(look(exited).state, CONTAINER_EXITED);
	assert_int_equal(look(exited).code, 3);
	assert_int_equal(fake.checks, 1);
	assert_int_equal(fake.gcs, 102); /* two starts, one pod */
	do_it(containers_start, created);
	guest_exit(running, "", 5);
	eventually(has_exited, running, "its exit is not learned");
	assert_int_equal(look(running).code, 5);
	do_it(pods_remove, pod);
	assert_nothing_left();
}

static void recover_learns_what_ended_meanwhile(void **state)
{
	char pod[65], c[65];

	(void)state;
	run_pod("pod", pod);
	create(pod, "c", c);
	do_it(containers_start, c);
	end_room();
	guest_exit(c, "", 9);
	begin_room(0);
	eventually(has_exited, c, "its exit is not learned");
	assert_int_equal(look(c).code, 9);
}

static void recover_of_a_dead_sandbox_says_why(void **state)
{
	char pod[65], c[65];

	(void)state;
	run_pod("pod", pod);
	create(pod, "c", c);
	do_it(containers_start, c);
	end_room();
	fail_step(STEP_ADOPT, ESRCH);
	begin_room(0);
	fail_step(STEP_ADOPT, 0);
	assert_false(look_pod(pod).ready);
	assert_non_null(strstr(look_pod(pod).reason, "fails"));
	assert_int_equal(look(c).state, CONTAINER_EXITED);
	assert_int_equal(look(c).code, 137);
	do_it(pods_remove, pod);
	fake.sandboxes = 0;
	assert_nothing_left();
}

static void recover_keeps_what_was_stopped(void **state)
{
	char pod[65], c[65];

	(void)state;
	run_pod("pod", pod);
	create(pod, "c", c);
	do_it(pods_stop, pod);
	restart();
	assert_false(look_pod(pod).ready);
	assert_string_equal(look_pod(pod).reason, "");
	assert_int_equal(look(c).state, CONTAINER_EXITED);
	do_it(pods_remove, pod);
	assert_nothing_left();
}

static void recover_answers_the_retry_of_a_lost_answer(void **state)
{
	char pod[65], c[65], again[65];

	(void)state;
	run_pod("pod", pod);
	create(pod, "c", c);
	restart();
	run_pod("pod", again);
	assert_string_equal(pod, again);
	create(pod, "c", again);
	assert_string_equal(c, again);
}

/* ---- guests that do not answer ------------------------------------------------------------------------- */

/*
 * Fault B: the first question that the guest lets pass condemns it; nobody waits for each container in turn.
 */
static void recover_condemns_a_guest_at_the_first_silence(void **state)
{
	enum { CONTAINERS = 5 };
	char pod[65], c[CONTAINERS][65], name[8];

	(void)state;
	run_pod("pod", pod);
	for (size_t i = 0; i < CONTAINERS; i++) {
		snprintf(name, sizeof(name), "c%zu", i);
		create(pod, name, c[i]);
		do_it(containers_start, c[i]);
	}
	end_room();
	fake.step[STEP_STATE].hits = 0;
	fail_step(STEP_STATE, ETIMEDOUT);
	begin_room(0);
	assert_int_equal(hits(STEP_STATE), 1);
	for (size_t i = 0; i < CONTAINERS; i++) {
		eventually(has_exited, c[i], "it did not end with its guest");
		assert_int_equal(look(c[i]).code, 137);
	}
	assert_false(look_pod(pod).ready);
	assert_non_null(strstr(look_pod(pod).reason, "did not answer"));
	do_it(pods_remove, pod);
	assert_nothing_left();
}

static void start_while_adopting(void)
{
	end_room();
	hold(STEP_ADOPT);
	fake.adopt_wait_ns = NS_PER_MS;
	begin_room(0);
	fake.adopt_wait_ns = 0;
}

/*
 * Fault B: hung guests are adopted side by side, and the start does not wait for them; all rows are listed.
 */
static void recover_lists_pods_whose_guests_hang(void **state)
{
	char pod[3][65], c[65];

	(void)state;
	run_pod("a", pod[0]);
	run_pod("b", pod[1]);
	run_pod("c", pod[2]);
	create(pod[0], "c", c);
	start_while_adopting();
	until_inside(STEP_ADOPT, 3);
	assert_int_equal(listed_pods(), 3);
	assert_int_equal(listed_containers(), 1);
	assert_true(look_pod(pod[2]).ready);
	let_go(STEP_ADOPT);
	for (size_t i = 0; i < 3; i++)
		do_it(pods_remove, pod[i]);
	assert_nothing_left();
}

/* Fault B: calls on a pod wait for its adoption, each as long as itself; what is new does not. */
static void recover_lets_calls_wait_for_the_adoption(void **state)
{
	struct answer start, made, stop, left, gone, twin;
	char pod[65], c[65], other[65], id[65];

	(void)state;
	run_pod("pod", pod);
	create(pod, "c", c);
	start_while_adopting();
	ask(&start, containers_start, c);
	ask_create(&made, pod, "later");
	ask_stop(&stop, c, 5);
	ask(&left, pods_stop, pod);
	ask(&gone, containers_remove, c);
	leave(&left);
	leave(&gone);
	answer_done(&left);
	answer_done(&gone);
	ask_run(&twin, "pod"); /* the same pod, not a second one */
	expect(&twin, id);
	assert_string_equal(id, pod);
	run_pod("new", other);
	assert_false(answered(&start) || answered(&made) || answered(&stop));
	let_go(STEP_ADOPT);
	expect(&start, NULL);
	expect(&made, NULL);
	expect(&stop, NULL);
	assert_true(look_pod(pod).ready);
	do_it(pods_remove, pod);
	do_it(pods_remove, other);
	assert_nothing_left();
}

/* Fault B: as an exec and a log rotation do. */
static void recover_lets_blocking_calls_wait_for_the_adoption(void **state)
{
	struct call *call CLEANUP_CALL = NULL;
	struct exec_result result;
	char *const args[] = {(char *)(uintptr_t) "true", NULL};
	char pod[65], c[65];

	(void)state;
	run_pod("pod", pod);
	create(pod, "c", c);
	do_it(containers_start, c);
	start_while_adopting();
	assert_int_equal(call_new(now_monotonic_ns() + 20 * NS_PER_MS, &call, NULL), 0);
	assert_int_equal(containers_exec(fake.pods, c, args, 0, call, &result, NULL), -ETIMEDOUT);
	assert_int_equal(containers_reopen_log(fake.pods, c, call, NULL), -ETIMEDOUT);
	let_go(STEP_ADOPT);
	assert_int_equal(containers_reopen_log(fake.pods, c, NULL, NULL), 0);
	assert_int_equal(containers_exec(fake.pods, c, args, 0, NULL, &result, NULL), 0);
	free(result.out);
	free(result.err_out);
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

/* What is changed in a row while no server runs. */
static void change_row(const char *kind, const char *id, void (*fn)(ProtobufCMessage *msg))
{
	const ProtobufCMessageDescriptor *d = str_eq(kind, "pod")
						      ? &crivisor__state__v1__pod__descriptor
						      : &crivisor__state__v1__container__descriptor;
	struct store *store;
	void *data CLEANUP_FREE = NULL;
	void *packed CLEANUP_FREE = NULL;
	ProtobufCMessage *msg;
	size_t len;

	assert_int_equal(store_open(fake.dir, &store, NULL), 0);
	assert_int_equal(store_get(store, kind, id, &data, &len, NULL), 0);
	msg = protobuf_c_message_unpack(d, NULL, len, data);
	assert_non_null(msg);
	fn(msg);
	assert_int_equal(pb_pack(msg, &packed, &len), 0);
	assert_int_equal(store_put(store, kind, id, NULL, packed, len, NULL), 0);
	pb_free(msg);
	store_close(store);
}

static void half_made_pod(ProtobufCMessage *msg)
{
	((Crivisor__State__V1__Pod *)(void *)msg)->phase = CRIVISOR__STATE__V1__PHASE__PHASE_CREATING;
}

static void recover_undoes_a_pod_that_is_half_made(void **state)
{
	char pod[65];

	(void)state;
	run_pod("pod", pod);
	end_room();
	change_row("pod", pod, half_made_pod);
	begin_room(0);
	assert_int_equal(listed_pods(), 0);
	assert_nothing_left();
	run_pod("pod", NULL);
}

static void recover_half_made_pod_that_cannot_be_undone_is_seen(void **state)
{
	struct answer a;
	char pod[65];

	(void)state;
	run_pod("pod", pod);
	end_room();
	change_row("pod", pod, half_made_pod);
	fail_step(STEP_DEL, EIO);
	begin_room(0);
	assert_false(look_pod(pod).ready);
	assert_non_null(strstr(look_pod(pod).reason, "restart"));
	ask(&a, pods_remove, pod);
	expect_error(&a, ERR_INTERNAL, "fails");
	fail_step(STEP_DEL, 0);
	do_it(pods_remove, pod);
	assert_nothing_left();
}

/* Fault B: nor does the start wait for the undo of what was half made; a retry gets its outcome. */
static void recover_undoes_beside_the_service(void **state)
{
	struct answer again;
	char pod[65];

	(void)state;
	run_pod("pod", pod);
	end_room();
	change_row("pod", pod, half_made_pod);
	hold(STEP_DEL);
	fake.adopt_wait_ns = NS_PER_MS;
	begin_room(0);
	assert_int_equal(listed_pods(), 0);
	ask_run(&again, "pod");
	assert_false(answered(&again));
	let_go(STEP_DEL);
	expect_error(&again, ERR_UNAVAILABLE, "restart");
	run_pod("pod", pod);
	do_it(pods_remove, pod);
	assert_nothing_left();
}

static void long_dir(ProtobufCMessage *msg)
{
	Crivisor__State__V1__Pod *pod = (void *)msg;

	free(pod->dir);
	pod->dir = calloc(1, 1000);
	memset(pod->dir, 'd', 999);
}

/* What cannot be read may live: its containers are left alone. */
static void recover_leaves_the_containers_of_an_unreadable_pod(void **state)
{
	char pod[65], c[65];
	void *data CLEANUP_FREE = NULL;
	size_t len;

	(void)state;
	run_pod("pod", pod);
	create(pod, "c", c);
	end_room();
	change_row("pod", pod, long_dir);
	begin_room(0);
	assert_int_equal(fake.roots, 1);
	assert_int_equal(store_get(fake.store, "container", c, &data, &len, NULL), 0);
}

static void half_made_container(ProtobufCMessage *msg)
{
	((Crivisor__State__V1__Container *)(void *)msg)->state =
		CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_CREATING;
}

static void recover_ends_a_half_made_container_in_its_guest(void **state)
{
	char pod[65], c[65];

	(void)state;
	run_pod("pod", pod);
	create(pod, "c", c);
	end_room();
	change_row("container", c, half_made_container);
	begin_room(0);
	assert_int_equal(listed_containers(), 0);
	assert_int_equal(fake.roots, 0);
	create(pod, "c", NULL);
	do_it(pods_remove, pod);
	assert_nothing_left();
}

static void running_container(ProtobufCMessage *msg)
{
	((Crivisor__State__V1__Container *)(void *)msg)->state =
		CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_RUNNING;
}

static void recover_of_a_start_that_was_not_sent(void **state)
{
	char pod[65], c[65];

	(void)state;
	run_pod("pod", pod);
	create(pod, "c", c);
	end_room();
	change_row("container", c, running_container);
	begin_room(0);
	assert_int_equal(look(c).state, CONTAINER_CREATED);
	do_it(containers_start, c);
	assert_int_equal(look(c).state, CONTAINER_RUNNING);
}

static void put_row(struct store *store, const char *kind, const char *id, const char *name, const char *hex)
{
	uint8_t data[1024];
	size_t len = strlen(hex) / 2;

	assert_true(len <= sizeof(data));
	for (size_t i = 0; i < len; i++) {
		unsigned int byte;

		assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
		data[i] = (uint8_t)byte;
	}
	assert_int_equal(store_put(store, kind, id, name, data, len, NULL), 0);
}

#define OLD_POD	 "aa00000000000000000000000000000000000000000000000000000000000000"
#define OLD_MADE "bb00000000000000000000000000000000000000000000000000000000000000"
#define OLD_RUNS "cc00000000000000000000000000000000000000000000000000000000000000"
#define OLD_DONE "dd00000000000000000000000000000000000000000000000000000000000000"
#define OLD_HALF "ee00000000000000000000000000000000000000000000000000000000000000"

/* The bytes of rows that version 0.1.0 wrote before sandboxes had ids and containers had states. */
#include "pods_old_rows.h"

static void recover_reads_rows_of_before_sandbox_ids_and_container_states(void **state)
{
	struct store *store;
	int64_t step;

	(void)state;
	end_room();
	assert_int_equal(store_open(fake.dir, &store, NULL), 0);
	put_row(store, "pod", OLD_POD, "old_default_uid_0", OLD_POD_ROW);
	put_row(store, "container", OLD_MADE, "made_0 in pod " OLD_POD, OLD_MADE_ROW);
	put_row(store, "container", OLD_RUNS, "runs_0 in pod " OLD_POD, OLD_RUNS_ROW);
	put_row(store, "container", OLD_DONE, "done_0 in pod " OLD_POD, OLD_DONE_ROW);
	put_row(store, "container", OLD_HALF, "half_0 in pod " OLD_POD, OLD_HALF_ROW);
	assert_int_equal(journal_begin(store, OLD_POD, "rundir", "/nowhere", &step, NULL), 0);
	assert_int_equal(journal_begin(store, OLD_POD, "share", "/nowhere", &step, NULL), 0);
	assert_int_equal(journal_begin(store, OLD_POD, "netns", "/nowhere/netns", &step, NULL), 0);
	assert_int_equal(journal_begin(store, OLD_POD, "cni", "/nowhere/netns", &step, NULL), 0);
	assert_int_equal(journal_begin(store, OLD_POD, "cgroup", "/nowhere", &step, NULL), 0);
	assert_int_equal(journal_begin(store, OLD_HALF, "upper", OLD_HALF, &step, NULL), 0);
	assert_int_equal(journal_begin(store, OLD_HALF, "cdir", "/nowhere/half", &step, NULL), 0);
	store_close(store);
	fake.attached = 1;
	begin_room(0);
	assert_true(look_pod(OLD_POD).ready);
	assert_string_equal(sandbox_id(last_sandbox), OLD_POD);
	assert_int_equal(listed_containers(), 3);
	assert_int_equal(look(OLD_MADE).state, CONTAINER_CREATED);
	assert_int_equal(look(OLD_DONE).state, CONTAINER_EXITED);
	assert_int_equal(look(OLD_DONE).code, 3);
	/* The fake guest does not know the one that ran: its exit is not to be learned any more. */
	eventually(has_exited, (void *)(uintptr_t)OLD_RUNS, "its exit is not learned");
	assert_string_equal(look(OLD_RUNS).reason, "ContainerStatusUnknown");
	restart();
	assert_true(look_pod(OLD_POD).ready);
	assert_int_equal(look(OLD_MADE).state, CONTAINER_CREATED);
	do_it(pods_remove, OLD_POD);
	assert_nothing_left();
}

static void recover_of_a_row_that_is_no_row(void **state)
{
	struct store *store;

	(void)state;
	end_room();
	assert_int_equal(store_open(fake.dir, &store, NULL), 0);
	put_row(store, "pod", OLD_POD, "a", "ffffffff");
	put_row(store, "container", OLD_MADE, "b", "00");
	put_row(store, "container", OLD_RUNS, "c", "");
	store_close(store);
	begin_room(0);
	assert_nothing_left();
}

/* Every moment at which a server can end leaves the same object or nothing. */
static void recover_after_an_end_at_each_step_of_a_creation(void **state)
{
	static const enum step steps[] = {STEP_BOOT, STEP_ADD, STEP_ASSIGN, STEP_SAVE};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		struct answer a;

		hold(steps[i]);
		ask_run(&a, "pod");
		until_inside(steps[i], 1);
		/* The server's orderly end undoes it. */
		pods_close(fake.pods);
		let_go(steps[i]);
		assert_true(answer_wait(&a) < 0);
		answer_done(&a);
		restart();
		assert_nothing_left();
	}
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

/* fault D: the grace period of a stop goes on after a restart, whether or not its client asks again. */
static void recover_goes_on_with_a_stop(void **state)
{
	char pod[65], id[65];
	struct answer a;

	(void)state;
	fake.deaf = true;
	run_pod("pod", pod);
	create(pod, "c", id);
	do_it(containers_start, id);
	ask_stop(&a, id, 2);
	settle();
	call_cancel(a.call, "the server ends");
	(void)answer_wait(&a);
	answer_done(&a);
	restart();
	assert_int_equal(look(id).state, CONTAINER_RUNNING);
	eventually(has_exited, id, "the stop does not go on");
	assert_int_equal(look(id).code, 137);
}

static void *begin_on_thread(void *arg)
{
	(void)arg;
	begin_room(0);
	return NULL;
}

/* A stop and a removal while a pod is slowly adopted wait for that, and the pod lives on. */
static void recover_slow_adoption_is_waited_for(void **state)
{
	char pod[65], stopped[65], removed[65];
	struct answer a, b;
	pthread_t thread;

	(void)state;
	run_pod("pod", pod);
	create(pod, "a", stopped);
	do_it(containers_start, stopped);
	create(pod, "b", removed);
	end_room();
	hold(STEP_ADOPT);
	assert_int_equal(pthread_create(&thread, NULL, begin_on_thread, NULL), 0);
	until_inside(STEP_ADOPT, 1);
	ask_stop(&a, stopped, 0);
	ask(&b, containers_remove, removed);
	usleep(300000);
	assert_false(answered(&a));
	assert_false(answered(&b));
	let_go(STEP_ADOPT);
	pthread_join(thread, NULL);
	expect(&a, NULL);
	expect(&b, NULL);
	assert_true(look_pod(pod).ready);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(recover_adopts_pods_and_containers),
		CASE(recover_goes_on_with_a_stop),
		CASE(recover_slow_adoption_is_waited_for),
		CASE(recover_learns_what_ended_meanwhile),
		CASE(recover_of_a_dead_sandbox_says_why),
		CASE(recover_keeps_what_was_stopped),
		CASE(recover_answers_the_retry_of_a_lost_answer),
		CASE(recover_condemns_a_guest_at_the_first_silence),
		CASE(recover_lists_pods_whose_guests_hang),
		CASE(recover_lets_calls_wait_for_the_adoption),
		CASE(recover_lets_blocking_calls_wait_for_the_adoption),
		CASE(recover_undoes_beside_the_service),
		CASE(recover_leaves_the_containers_of_an_unreadable_pod),
		CASE(recover_undoes_a_pod_that_is_half_made),
		CASE(recover_half_made_pod_that_cannot_be_undone_is_seen),
		CASE(recover_ends_a_half_made_container_in_its_guest),
		CASE(recover_of_a_start_that_was_not_sent),
		CASE(recover_reads_rows_of_before_sandbox_ids_and_container_states),
		CASE(recover_of_a_row_that_is_no_row),
		CASE(recover_after_an_end_at_each_step_of_a_creation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* cri/pods: pods, over fakes of what touches a host: pods_fixture.h. */
#include "pods_fixture.h"

/* ---- one pod ------------------------------------------------------------------------------------------- */

static void pods_run_stop_remove_leaves_nothing(void **state)
{
	char id[65];

	(void)state;
	run_pod("a", id);
	assert_true(look_pod(id).ready);
	assert_string_equal(look_pod(id).ip, "10.0.0.2");
	assert_int_equal(fake.sandboxes, 1);
	do_it(pods_stop, id);
	assert_false(look_pod(id).ready);
	assert_string_equal(look_pod(id).reason, "");
	do_it(pods_stop, id);
	do_it(pods_remove, id);
	do_it(pods_remove, id);
	assert_nothing_left();
	assert_string_equal(fake.events, "RNX");
}

static void pods_unknown_id_is_success_to_end_and_not_found_to_look(void **state)
{
	struct err err = ERR_INIT;
	struct pod_copy copy;

	(void)state;
	do_it(pods_stop, "0123");
	do_it(pods_remove, "0123");
	do_it(containers_remove, "0123");
	assert_int_equal(pods_look(fake.pods, "0123", copy_pod, &copy, &err), -ENOENT);
	assert_int_equal(err.status, ERR_NOT_FOUND);
	assert_non_null(strstr(err.msg, "0123"));
}

static void pods_run_is_hidden_until_it_is_ready(void **state)
{
	struct answer a;
	char id[65];

	(void)state;
	hold(STEP_ASSIGN);
	ask_run(&a, "a");
	until_inside(STEP_ASSIGN, 1);
	assert_int_equal(listed_pods(), 0);
	let_go(STEP_ASSIGN);
	expect(&a, id);
	assert_int_equal(listed_pods(), 1);
}

static void pods_run_fails_at_each_step_and_leaves_nothing(void **state)
{
	static const enum step steps[] = {STEP_READY, STEP_NEW, STEP_BOOT, STEP_ADD, STEP_ASSIGN, STEP_SAVE};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		char words[32];
		struct answer a;

		snprintf(words, sizeof(words), "step %d fails", steps[i]);
		fail_step(steps[i], EIO);
		ask_run(&a, "a");
		expect_error(&a, ERR_INTERNAL, words);
		fail_step(steps[i], 0);
		assert_nothing_left();
	}
	run_pod("a", NULL);
}

static void pods_run_bad_config_is_refused_at_once(void **state)
{
	Runtime__V1__PodSandboxConfig *config = pod_config("");
	struct answer a;

	(void)state;
	answer_init(&a);
	pods_run(fake.pods, config, "", a.call, on_answer, &a);
	assert_true(answered(&a));
	expect_error(&a, ERR_INVALID_ARGUMENT, "config.metadata.name");
	pb_free(config);
	assert_int_equal(hits(STEP_READY), 0);
}

/* ---- clients that leave -------------------------------------------------------------------------------- */

static bool one_pod(void *arg)
{
	(void)arg;
	return listed_pods() == 1;
}

static void pods_run_goes_on_when_its_client_leaves_at_any_step(void **state)
{
	static const enum step steps[] = {STEP_READY, STEP_BOOT, STEP_ADD, STEP_ASSIGN, STEP_SAVE};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		struct answer a, b;
		char id[65];

		hold(steps[i]);
		ask_run(&a, "a");
		until_inside(steps[i], 1);
		leave(&a);
		answer_done(&a);
		let_go(steps[i]);
		eventually(one_pod, NULL, "the pod is not completed");
		ask_run(&b, "a");
		expect(&b, id);
		assert_int_equal(fake.sandboxes, 1);
		do_it(pods_remove, id);
		assert_nothing_left();
	}
}

static void pods_run_same_request_joins_what_is_being_made(void **state)
{
	struct answer a[5];
	char id[5][65];

	(void)state;
	hold(STEP_BOOT);
	for (size_t i = 0; i < 5; i++)
		ask_run(&a[i], "a");
	until_inside(STEP_BOOT, 1);
	leave(&a[0]);
	let_go(STEP_BOOT);
	for (size_t i = 1; i < 5; i++) {
		expect(&a[i], id[i]);
		assert_string_equal(id[i], id[1]);
	}
	answer_done(&a[0]);
	assert_int_equal(hits(STEP_BOOT), 1);
	run_pod("a", id[0]);
	assert_string_equal(id[0], id[1]);
}

static void pods_run_joins_fail_together(void **state)
{
	struct answer a, b;

	(void)state;
	hold(STEP_BOOT);
	fail_step(STEP_BOOT, EIO);
	ask_run(&a, "a");
	ask_run(&b, "a");
	until_inside(STEP_BOOT, 1);
	let_go(STEP_BOOT);
	expect_error(&a, ERR_INTERNAL, "fails");
	expect_error(&b, ERR_INTERNAL, "fails");
	assert_nothing_left();
}

static void pods_run_other_config_is_refused_and_named(void **state)
{
	Runtime__V1__PodSandboxConfig *config = pod_config("a");
	struct answer a, b;

	(void)state;
	pb_map_add(&config->annotations, &config->n_annotations,
		   &runtime__v1__pod_sandbox_config__annotations_entry__descriptor, "key", "secret");
	hold(STEP_BOOT);
	ask_run(&a, "a");
	for (int i = 0; i < 2; i++) {
		answer_init(&b);
		pods_run(fake.pods, config, "", b.call, on_answer, &b);
		answer_wait(&b);
		assert_null(strstr(b.err.msg, "secret"));
		expect_error(&b, ERR_ALREADY_EXISTS, "config.annotations[\"key\"]");
		if (i > 0)
			break;
		let_go(STEP_BOOT);
		expect(&a, NULL);
	}
	pb_free(config);
	config = pod_config("a");
	answer_init(&b);
	pods_run(fake.pods, config, "crivisor", b.call, on_answer, &b);
	expect_error(&b, ERR_ALREADY_EXISTS, "runtime_handler");
	pb_free(config);
}

static void pods_run_name_of_an_ended_pod_is_taken_until_it_is_removed(void **state)
{
	struct answer a;
	char id[65], again[65];

	(void)state;
	run_pod("a", id);
	do_it(pods_stop, id);
	ask_run(&a, "a");
	expect_error(&a, ERR_ALREADY_EXISTS, id);
	do_it(pods_remove, id);
	run_pod("a", again);
	assert_string_not_equal(id, again);
}

/* ---- unclaimed ----------------------------------------------------------------------------------------- */

static void abandon(const char *name)
{
	struct answer a;

	hold(STEP_BOOT);
	ask_run(&a, name);
	until_inside(STEP_BOOT, 1);
	leave(&a);
	answer_done(&a);
	let_go(STEP_BOOT);
	eventually(one_pod, NULL, "the pod is not completed");
}

static bool no_pod(void *arg)
{
	(void)arg;
	return listed_pods() == 0;
}

static void pods_nobody_claims_are_removed(void **state)
{
	(void)state;
	end_room();
	begin_room(200);
	abandon("a");
	eventually(no_pod, NULL, "the pod is not removed");
	assert_nothing_left();
}

static bool undone_twice(void *arg)
{
	(void)arg;
	return hits(STEP_UNDO) >= 2;
}

/* A removal that fails is tried again, without a restart. */
static void pods_nobody_claims_are_removed_though_it_fails_at_first(void **state)
{
	(void)state;
	end_room();
	begin_room(20);
	fail_step(STEP_UNDO, EIO);
	abandon("a");
	eventually(undone_twice, NULL, "its removal is not tried again");
	fail_step(STEP_UNDO, 0);
	eventually(no_pod, NULL, "the pod is not removed");
	assert_nothing_left();
}

static void pods_claimed_by_a_retry_stay(void **state)
{
	const struct timespec pause = {.tv_nsec = 600 * NS_PER_MS};
	char id[65], container[65];

	(void)state;
	end_room();
	begin_room(300);
	abandon("a");
	run_pod("a", id);
	create(id, "c", container);
	nanosleep(&pause, NULL);
	settle();
	assert_int_equal(listed_pods(), 1);
	assert_int_equal(listed_containers(), 1);
}

static void pods_unclaimed_time_begins_anew_with_a_server(void **state)
{
	(void)state;
	abandon("a");
	end_room();
	begin_room(300);
	assert_int_equal(listed_pods(), 1);
	eventually(no_pod, NULL, "the pod is not removed");
	assert_nothing_left();
}

/* ---- death --------------------------------------------------------------------------------------------- */

static bool not_ready(void *arg)
{
	return !look_pod(arg).ready;
}

static void pods_death_of_the_sandbox_shows_and_can_be_removed(void **state)
{
	char id[65], c[65];

	(void)state;
	run_pod("a", id);
	create(id, "c", c);
	sandbox_condemn(last_sandbox, "the guest kernel panicked");
	eventually(not_ready, id, "the pod is still ready");
	settle();
	assert_string_equal(look_pod(id).reason, "the guest kernel panicked");
	assert_int_equal(look(c).state, CONTAINER_EXITED);
	assert_int_equal(look(c).code, 137);
	assert_string_equal(look(c).message, "the guest kernel panicked");
	assert_string_equal(fake.events, "RceN");
	do_it(pods_remove, id);
	assert_nothing_left();
}

static void pods_death_during_each_step_of_a_creation_fails_it(void **state)
{
	static const enum step steps[] = {STEP_ASSIGN, STEP_SAVE};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		struct answer a;

		hold(steps[i]);
		ask_run(&a, "a");
		until_inside(steps[i], 1);
		sandbox_condemn(last_sandbox, "the VMM ended");
		let_go(steps[i]);
		expect_error(&a, ERR_INTERNAL, "the VMM ended");
		assert_nothing_left();
	}
}

static void pods_death_while_it_is_stopped_or_removed(void **state)
{
	static simple_fn *const ends[] = {pods_stop, pods_remove};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		struct answer a;
		char id[65];

		run_pod("a", id);
		hold(STEP_SHUTDOWN);
		ask(&a, ends[i], id);
		until_inside(STEP_SHUTDOWN, 1);
		sandbox_condemn(last_sandbox, "the VMM ended");
		let_go(STEP_SHUTDOWN);
		expect(&a, NULL);
		do_it(pods_remove, id);
		assert_nothing_left();
	}
}

/* ---- ends that are asked for twice --------------------------------------------------------------------- */

static void pods_stop_goes_on_when_its_client_leaves_and_is_joined(void **state)
{
	struct answer a, b;
	char id[65];

	(void)state;
	run_pod("a", id);
	hold(STEP_SHUTDOWN);
	ask(&a, pods_stop, id);
	until_inside(STEP_SHUTDOWN, 1);
	ask(&b, pods_stop, id);
	leave(&a);
	answer_done(&a);
	assert_false(answered(&b));
	let_go(STEP_SHUTDOWN);
	expect(&b, NULL);
	assert_int_equal(hits(STEP_SHUTDOWN), 1);
	assert_false(look_pod(id).ready);
}

static int copy_id(void *arg, const struct pod_view *view, struct err *err)
{
	(void)err;
	snprintf(arg, 65, "%s", view->id);
	return 0;
}

static void pods_stop_that_fails_can_be_asked_for_again(void **state)
{
	struct answer a;
	char id[65];

	(void)state;
	run_pod("a", id);
	fail_step(STEP_DEL, EIO);
	ask(&a, pods_stop, id);
	expect_error(&a, ERR_INTERNAL, id);
	fail_step(STEP_DEL, 0);
	do_it(pods_stop, id);
	do_it(pods_remove, id);
	assert_nothing_left();
}

static void pods_run_that_cannot_be_undone_is_seen_and_removed(void **state)
{
	struct answer a, b;
	struct err err = ERR_INIT;
	char id[65];

	(void)state;
	fail_step(STEP_ASSIGN, EIO);
	fail_step(STEP_DEL, EIO);
	ask_run(&a, "a");
	expect_error(&a, ERR_INTERNAL, "fails");
	fail_step(STEP_ASSIGN, 0);
	assert_int_equal(listed_pods(), 1);
	ask_run(&b, "a");
	expect_error(&b, ERR_ALREADY_EXISTS, "has ended");
	if (pods_each(fake.pods, NULL, copy_id, id, &err) < 0)
		fail_msg("%s", err.msg);
	assert_false(look_pod(id).ready);
	assert_non_null(strstr(look_pod(id).reason, "fails"));
	fail_step(STEP_DEL, 0);
	do_it(pods_remove, id);
	assert_nothing_left();
	run_pod("a", NULL);
}

static void pods_remove_crosses_stop(void **state)
{
	struct answer a, b, c;
	char id[65];

	(void)state;
	run_pod("a", id);
	hold(STEP_SHUTDOWN);
	ask(&a, pods_stop, id);
	until_inside(STEP_SHUTDOWN, 1);
	ask(&b, pods_remove, id);
	ask(&c, pods_remove, id);
	let_go(STEP_SHUTDOWN);
	expect(&a, NULL);
	expect(&b, NULL);
	expect(&c, NULL);
	assert_nothing_left();
}

static void pods_close_ends_creations_and_refuses_new_ones(void **state)
{
	struct answer a, b;

	(void)state;
	hold(STEP_BOOT);
	ask_run(&a, "a");
	until_inside(STEP_BOOT, 1);
	pods_close(fake.pods);
	expect_error(&a, ERR_CANCELLED, "the server is being stopped");
	ask_run(&b, "b");
	expect_error(&b, ERR_UNAVAILABLE, "being stopped");
	let_go(STEP_BOOT);
	assert_nothing_left();
}

/* ---- many at once -------------------------------------------------------------------------------------- */

#define MANY 40

static void pods_many_at_once(void **state)
{
	struct answer a[MANY];
	char id[MANY][65], name[16];

	(void)state;
	for (size_t i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "p%zu", i / 2); /* each twice */
		ask_run(&a[i], name);
	}
	for (size_t i = 0; i < MANY; i++)
		expect(&a[i], id[i]);
	assert_int_equal(listed_pods(), MANY / 2);
	for (size_t i = 0; i < MANY; i++) {
		assert_string_equal(id[i], id[i & ~(size_t)1]);
		ask(&a[i], i & 1 ? pods_stop : pods_remove, id[i]);
	}
	for (size_t i = 0; i < MANY; i++)
		expect(&a[i], NULL);
	for (size_t i = 0; i < MANY; i++)
		do_it(pods_remove, id[i]);
	assert_nothing_left();
}

/*
 * More boots than their lane has threads wait for their turn; a running pod's containers do not wait with
 * them.
 */
static void pods_that_wait_to_boot_hold_up_no_container(void **state)
{
	enum { BOOTS = 132 };
	struct answer a[BOOTS];
	char pod[65], c[65], name[16];

	(void)state;
	run_pod("ready", pod);
	hold(STEP_BOOT);
	for (size_t i = 0; i < BOOTS; i++) {
		snprintf(name, sizeof(name), "p%zu", i);
		ask_run(&a[i], name);
	}
	until_inside(STEP_BOOT, 128);
	create(pod, "c", c);
	do_it(containers_start, c);
	let_go(STEP_BOOT);
	for (size_t i = 0; i < BOOTS; i++)
		expect(&a[i], NULL);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(pods_run_stop_remove_leaves_nothing),
		CASE(pods_unknown_id_is_success_to_end_and_not_found_to_look),
		CASE(pods_run_is_hidden_until_it_is_ready),
		CASE(pods_run_fails_at_each_step_and_leaves_nothing),
		CASE(pods_run_bad_config_is_refused_at_once),
		CASE(pods_run_goes_on_when_its_client_leaves_at_any_step),
		CASE(pods_run_same_request_joins_what_is_being_made),
		CASE(pods_run_joins_fail_together),
		CASE(pods_run_other_config_is_refused_and_named),
		CASE(pods_run_name_of_an_ended_pod_is_taken_until_it_is_removed),
		CASE(pods_nobody_claims_are_removed),
		CASE(pods_nobody_claims_are_removed_though_it_fails_at_first),
		CASE(pods_claimed_by_a_retry_stay),
		CASE(pods_unclaimed_time_begins_anew_with_a_server),
		CASE(pods_death_of_the_sandbox_shows_and_can_be_removed),
		CASE(pods_death_during_each_step_of_a_creation_fails_it),
		CASE(pods_death_while_it_is_stopped_or_removed),
		CASE(pods_stop_goes_on_when_its_client_leaves_and_is_joined),
		CASE(pods_stop_that_fails_can_be_asked_for_again),
		CASE(pods_run_that_cannot_be_undone_is_seen_and_removed),
		CASE(pods_remove_crosses_stop),
		CASE(pods_close_ends_creations_and_refuses_new_ones),
		CASE(pods_many_at_once),
		CASE(pods_that_wait_to_boot_hold_up_no_container),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

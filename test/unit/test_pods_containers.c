/* SPDX-License-Identifier: Apache-2.0 */
/* cri/pods: containers, over fakes of what touches a host: pods_fixture.h. */
#include "pods_fixture.h"

static char pod[65];

static int setup(void **state)
{
	fake_setup(state);
	run_pod("pod", pod);
	return 0;
}

static void create_and_start(const char *name, char ret_id[65])
{
	create(pod, name, ret_id);
	do_it(containers_start, ret_id);
}

static bool has_exited(void *arg)
{
	return look(arg).state == CONTAINER_EXITED;
}

/* ---- one container ------------------------------------------------------------------------------------- */

static void containers_life_leaves_nothing(void **state)
{
	struct answer a;
	char id[65];

	(void)state;
	create(pod, "c", id);
	assert_int_equal(look(id).state, CONTAINER_CREATED);
	do_it(containers_start, id);
	assert_int_equal(look(id).state, CONTAINER_RUNNING);
	ask(&a, containers_start, id);
	expect_error(&a, ERR_FAILED_PRECONDITION, "running");
	guest_exit(id, "", 0);
	eventually(has_exited, id, "its exit is not learned");
	assert_int_equal(look(id).code, 0);
	assert_string_equal(look(id).reason, "Completed");
	do_it(containers_remove, id);
	do_it(containers_remove, id);
	assert_int_equal(listed_containers(), 0);
	do_it(pods_remove, pod);
	assert_nothing_left();
	assert_string_equal(fake.events, "RcserNX");
}

struct row {
	char id[65], *name;
};

static int first_row(void *arg, const char *id, const char *name, const void *value, size_t len)
{
	struct row *row = arg;

	(void)value;
	(void)len;
	snprintf(row->id, sizeof(row->id), "%s", id);
	free(row->name);
	row->name = strdup(name);
	return 0;
}

static void containers_start_that_cannot_be_stored_leaves_it_created(void **state)
{
	struct row row = {.name = NULL};
	struct answer a;
	char id[65];

	(void)state;
	create(pod, "c", id);
	/* Its row's name is another's: no put succeeds. */
	assert_int_equal(store_each(fake.store, "container", first_row, &row, NULL), 0);
	assert_int_equal(store_delete(fake.store, "container", id, NULL), 0);
	assert_int_equal(store_put(fake.store, "container", "other", row.name, "", 0, NULL), 0);
	ask(&a, containers_start, id);
	expect_error(&a, ERR_ALREADY_EXISTS, "other");
	assert_int_equal(look(id).state, CONTAINER_CREATED);
	assert_int_equal(store_delete(fake.store, "container", "other", NULL), 0);
	do_it(containers_start, id);
	guest_exit(id, "", 0);
	eventually(has_exited, id, "its exit is not learned");
	free(row.name);
}

static void containers_creation_that_cannot_be_undone_goes_with_its_pod(void **state)
{
	struct row row = {.name = NULL};
	struct answer a;
	int64_t step;

	(void)state;
	hold(STEP_CREATE);
	ask_create(&a, pod, "c");
	until_inside(STEP_CREATE, 1);
	assert_int_equal(store_each(fake.store, "container", first_row, &row, NULL), 0);
	assert_int_equal(journal_begin(fake.store, row.id, "nonsense", "", &step, NULL), 0);
	fail_step(STEP_CREATE, EIO);
	let_go(STEP_CREATE);
	expect_error(&a, ERR_INTERNAL, "fails");
	assert_int_equal(listed_containers(), 0);
	assert_int_equal(journal_end(fake.store, step, NULL), 0);
	do_it(pods_remove, pod);
	assert_nothing_left();
	assert_string_equal(fake.events, "RNX");
	free(row.name);
}

static void containers_exit_with_an_error_and_out_of_memory(void **state)
{
	char id[65];

	(void)state;
	create_and_start("c", id);
	guest_exit(id, "", 3);
	eventually(has_exited, id, "its exit is not learned");
	assert_int_equal(look(id).code, 3);
	assert_string_equal(look(id).reason, "Error");
	fake.oom = true;
	create_and_start("d", id);
	guest_exit(id, "", 137);
	eventually(has_exited, id, "its exit is not learned");
	assert_string_equal(look(id).reason, "OOMKilled");
	/* An exit shows before it is told. */
	eventually(events_are, (void *)(uintptr_t) "Rcsmecsme", "the events are not those of two exits");
}

static void containers_exec_gives_output_and_code(void **state)
{
	static char *const args[] = {(char *)(uintptr_t) "true", NULL};
	struct exec_result result = {0};
	struct err err = ERR_INIT;
	char id[65];

	(void)state;
	create(pod, "c", id);
	assert_int_equal(containers_exec(fake.pods, id, args, 0, NULL, &result, &err), -EINVAL);
	assert_int_equal(err.status, ERR_FAILED_PRECONDITION);
	do_it(containers_start, id);
	if (containers_exec(fake.pods, id, args, 0, NULL, &result, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(result.out_len, 4);
	assert_memory_equal(result.out, "out\n", 4);
	assert_int_equal(result.exit_code, 0);
	free(result.out);
}

struct exec_thread {
	pthread_t thread;
	const char *id;
	struct call *call;
	int64_t timeout_s;
	int code;
	struct err err;
};

static void *exec_long(void *arg)
{
	static char *const args[] = {(char *)(uintptr_t) "sleep", (char *)(uintptr_t) "1000", NULL};
	struct exec_thread *t = arg;
	struct exec_result result = {0};

	t->code = containers_exec(fake.pods, t->id, args, t->timeout_s, t->call, &result, &t->err);
	free(result.out);
	free(result.err_out);
	return NULL;
}

static unsigned int processes(void)
{
	unsigned int n = 0;

	pthread_mutex_lock(&fake.lock);
	for (size_t i = 0; i < ARRAY_SIZE(fake.guest); i++)
		n += fake.guest[i].state != GUEST_NONE;
	pthread_mutex_unlock(&fake.lock);
	return n;
}

static bool two_processes(void *arg)
{
	(void)arg;
	return processes() == 2;
}

/* The three ends of an exec that would go on: in each case no process of it is left. */
static void containers_exec_is_killed_at_its_end(void **state)
{
	struct exec_thread t = {0};
	char id[65];

	(void)state;
	fake.deaf = true;
	create_and_start("c", id);
	for (int how = 0; how < 3; how++) {
		int64_t begun = now_monotonic_ns();

		t = (struct exec_thread){.id = id, .timeout_s = how == 0};
		call_new(how == 1 ? begun + 300 * NS_PER_MS : INT64_MAX, &t.call, NULL);
		assert_int_equal(pthread_create(&t.thread, NULL, exec_long, &t), 0);
		if (how == 2) {
			eventually(two_processes, NULL, "the command does not start");
			call_cancel(t.call, "the client has left");
		}
		pthread_join(t.thread, NULL);
		assert_int_equal(t.code, how == 2 ? -ECANCELED : -ETIMEDOUT);
		assert_int_equal(t.err.status, how == 2 ? ERR_CANCELLED : ERR_DEADLINE_EXCEEDED);
		assert_true(now_monotonic_ns() - begun < 5 * NS_PER_SEC);
		assert_int_equal(processes(), 1);
		call_unref(t.call);
	}
}

/*
 * fault K3: output that a background process holds is waited for as long as the call lasts, then it is ended.
 */
static void containers_exec_whose_output_is_held_is_killed_at_its_timeout(void **state)
{
	struct exec_thread t = {0};
	char id[65];

	(void)state;
	create_and_start("c", id);
	fake.held = true;
	t = (struct exec_thread){.id = id, .timeout_s = 1};
	exec_long(&t);
	assert_int_equal(t.err.status, ERR_DEADLINE_EXCEEDED);
	assert_non_null(strstr(t.err.msg, "output is still held by other processes"));
	assert_int_equal(fake.killed, 1);
	/* Without a timeout it lasts until the caller goes. */
	t = (struct exec_thread){.id = id};
	call_new(INT64_MAX, &t.call, NULL);
	assert_int_equal(pthread_create(&t.thread, NULL, exec_long, &t), 0);
	eventually(two_processes, NULL, "the command does not start");
	call_cancel(t.call, "the client has left");
	pthread_join(t.thread, NULL);
	assert_int_equal(t.code, -ECANCELED);
	assert_int_equal(fake.killed, 2);
	assert_int_equal(processes(), 1);
	call_unref(t.call);
	fake.held = false;
}

/*
 * fault E2: 40 MiB of output on two streams are cut to what fits into one message of 16 MiB, framing
 * included.
 */
static void containers_exec_with_much_output_fits_one_message(void **state)
{
	static char *const args[] = {(char *)(uintptr_t) "yes", NULL};
	struct exec_result result = {0};
	struct err err = ERR_INIT;
	char id[65];

	(void)state;
	create_and_start("c", id);
	fake.output = 40 << 20;
	if (containers_exec(fake.pods, id, args, 0, NULL, &result, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(result.out_len + result.err_len, EXEC_OUTPUT_MAX);
	assert_true(result.out_len > 0 && result.err_len > 0);
	assert_true(EXEC_OUTPUT_MAX + 64 < 16 << 20);
	free(result.out);
	free(result.err_out);
	fake.output = 0;
}

/* fault J: a pod cannot take all threads of ExecSync, and what it has taken is given back. */
static void containers_exec_beyond_its_pod_s_share_is_refused(void **state)
{
	static char *const args[] = {(char *)(uintptr_t) "true", NULL};
	enum { N = 128 };
	struct exec_thread *t = calloc(N, sizeof(*t));
	struct exec_result result = {0};
	struct err err = ERR_INIT;
	char id[65], other[65], there[65];

	(void)state;
	assert_non_null(t);
	create_and_start("c", id);
	run_pod("other", other);
	create(other, "c", there);
	do_it(containers_start, there);
	hold(STEP_EXEC);
	for (size_t i = 0; i < N; i++) {
		t[i].id = id;
		assert_int_equal(pthread_create(&t[i].thread, NULL, exec_long, &t[i]), 0);
	}
	until_inside(STEP_EXEC, N);
	assert_true(containers_exec(fake.pods, id, args, 0, NULL, &result, &err) < 0);
	assert_int_equal(err.status, ERR_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(err.msg, "128 commands"));
	assert_int_equal(hits(STEP_EXEC), N);
	let_go(STEP_EXEC);
	assert_int_equal(containers_exec(fake.pods, there, args, 0, NULL, &result, &err), 0);
	free(result.out);
	for (size_t i = 0; i < N; i++) {
		pthread_join(t[i].thread, NULL);
		assert_int_equal(t[i].code, 0);
	}
	assert_int_equal(containers_exec(fake.pods, id, args, 0, NULL, &result, &err), 0);
	free(result.out);
	free(t);
}

struct image_names {
	char id[32], ref[64], name[64];
};

static int take_names(void *arg, const struct container_view *view, struct err *err)
{
	struct image_names *names = arg;

	(void)err;
	snprintf(names->id, sizeof(names->id), "%s", view->image_id);
	snprintf(names->ref, sizeof(names->ref), "%s", view->image_ref);
	snprintf(names->name, sizeof(names->name), "%s", view->image_name);
	return 0;
}

static void create_of(const char *name, const char *image, const char *user_said, char ret_id[65])
{
	Runtime__V1__ContainerConfig *config = container_config(name);
	struct answer a;

	pb_set_str(&config->image->image, image);
	pb_set_str(&config->image->user_specified_image, user_said);
	answer_init(&a);
	containers_create(fake.pods, pod, config, a.call, on_answer, &a);
	pb_free(config);
	expect(&a, ret_id);
}

/*
 * fault K2: a container made by image id shows tag and manifest digest; its id stays for garbage collection.
 */
static void containers_image_is_shown_by_tag_and_digest(void **state)
{
	struct image_names n;
	char id[65];

	(void)state;
	fake.tagged = true;
	create_of("a", "sha256:1", "", id);
	assert_int_equal(containers_look(fake.pods, id, take_names, &n, NULL), 0);
	assert_string_equal(n.id, "sha256:1");
	assert_string_equal(n.ref, "a.b:5000/one@sha256:2");
	assert_string_equal(n.name, "a.b:5000/one:tag");
	create_of("b", "sha256:1", "a.b:5000/two:tag", id);
	assert_int_equal(containers_look(fake.pods, id, take_names, &n, NULL), 0);
	assert_string_equal(n.ref, "a.b:5000/two@sha256:2");
	assert_string_equal(n.name, "a.b:5000/two:tag");
	end_room();
	begin_room(0);
	settle();
	assert_int_equal(containers_look(fake.pods, id, take_names, &n, NULL), 0);
	assert_string_equal(n.name, "a.b:5000/two:tag");
	fake.tagged = false;
	create_of("c", "sha256:1", "", id);
	assert_int_equal(containers_look(fake.pods, id, take_names, &n, NULL), 0);
	assert_string_equal(n.ref, "sha256:1");
	assert_string_equal(n.name, "");
}

/* ---- creations ----------------------------------------------------------------------------------------- */

static void containers_create_fails_at_each_step_and_leaves_nothing(void **state)
{
	static const enum step steps[] = {STEP_IMAGE, STEP_ROOT, STEP_CREATE};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		struct answer a;

		fail_step(steps[i], EIO);
		ask_create(&a, pod, "c");
		expect_error(&a, ERR_INTERNAL, "fails");
		fail_step(steps[i], 0);
		settle();
		assert_int_equal(listed_containers(), 0);
		assert_int_equal(fake.roots, 0);
		assert_int_equal(processes(), 0);
	}
	do_it(pods_remove, pod);
	assert_nothing_left();
}

/* Fault P: a place that cannot be unmounted does not keep the rest from being undone. */
static void containers_create_undoes_the_rest_when_its_place_stays_busy(void **state)
{
	struct answer a;
	char id[65];

	(void)state;
	fail_step(STEP_CREATE, EIO);
	fail_step(STEP_UNPLACE, EBUSY);
	ask_create(&a, pod, "c");
	expect_error(&a, ERR_INTERNAL, "fails");
	fail_step(STEP_CREATE, 0);
	settle();
	assert_int_equal(hits(STEP_UNPLACE), 1);
	fail_step(STEP_UNPLACE, 0);
	assert_int_equal(fake.roots, 0);
	assert_int_equal(listed_containers(), 0);
	/* Its name is free, too. */
	create(pod, "c", id);
}

static bool one_container(void *arg)
{
	(void)arg;
	return listed_containers() == 1;
}

static void containers_create_goes_on_when_its_client_leaves_at_any_step(void **state)
{
	static const enum step steps[] = {STEP_IMAGE, STEP_ROOT, STEP_CREATE};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		struct answer a;
		char id[65], again[65];

		hold(steps[i]);
		ask_create(&a, pod, "c");
		until_inside(steps[i], 1);
		leave(&a);
		answer_done(&a);
		assert_int_equal(listed_containers(), 0);
		let_go(steps[i]);
		eventually(one_container, NULL, "the container is not completed");
		create(pod, "c", id);
		create(pod, "c", again);
		assert_string_equal(id, again);
		do_it(containers_start, id);
		create(pod, "c", again);
		assert_string_equal(id, again);
		do_it(containers_remove, id);
	}
}

static void containers_create_joins_and_refuses_another_config(void **state)
{
	Runtime__V1__ContainerConfig *config = container_config("c");
	struct answer a, b, other;
	char x[65], y[65];

	(void)state;
	config->n_envs = 1;
	config->envs = calloc(1, sizeof(*config->envs));
	config->envs[0] = pb_new(&runtime__v1__key_value__descriptor);
	pb_set_str(&config->envs[0]->key, "PASSWORD");
	pb_set_str(&config->envs[0]->value, "secret");
	hold(STEP_CREATE);
	ask_create(&a, pod, "c");
	ask_create(&b, pod, "c");
	answer_init(&other);
	containers_create(fake.pods, pod, config, other.call, on_answer, &other);
	answer_wait(&other);
	assert_null(strstr(other.err.msg, "secret"));
	expect_error(&other, ERR_ALREADY_EXISTS, "config.envs");
	let_go(STEP_CREATE);
	expect(&a, x);
	expect(&b, y);
	assert_string_equal(x, y);
	assert_int_equal(hits(STEP_CREATE), 1);
	pb_free(config);
}

static void containers_name_of_an_exited_one_is_taken(void **state)
{
	struct answer a;
	char id[65];

	(void)state;
	create_and_start("c", id);
	guest_exit(id, "", 0);
	eventually(has_exited, id, "its exit is not learned");
	ask_create(&a, pod, "c");
	expect_error(&a, ERR_ALREADY_EXISTS, id);
}

static void containers_create_needs_a_ready_pod(void **state)
{
	struct answer a;

	(void)state;
	ask_create(&a, "0123", "c");
	expect_error(&a, ERR_NOT_FOUND, "0123");
	do_it(pods_stop, pod);
	ask_create(&a, pod, "c");
	expect_error(&a, ERR_FAILED_PRECONDITION, "not ready");
	do_it(pods_remove, pod);
	assert_nothing_left();
}

static void containers_nobody_claims_are_removed(void **state)
{
	struct answer a;

	(void)state;
	end_room();
	begin_room(200);
	hold(STEP_CREATE);
	ask_create(&a, pod, "c");
	until_inside(STEP_CREATE, 1);
	leave(&a);
	answer_done(&a);
	let_go(STEP_CREATE);
	eventually(one_container, NULL, "the container is not completed");
	for (int i = 0; i < 3000 && listed_containers() > 0; i++)
		nanosleep(&(struct timespec){.tv_nsec = 10 * NS_PER_MS}, NULL);
	settle();
	assert_int_equal(listed_containers(), 0);
	assert_int_equal(processes(), 0);
	assert_int_equal(listed_pods(), 1);
}

/* ---- starts -------------------------------------------------------------------------------------------- */

static void containers_start_goes_on_and_is_joined(void **state)
{
	struct answer a, b;
	char id[65];

	(void)state;
	create(pod, "c", id);
	hold(STEP_START);
	ask(&a, containers_start, id);
	until_inside(STEP_START, 1);
	ask(&b, containers_start, id);
	leave(&a);
	answer_done(&a);
	let_go(STEP_START);
	expect(&b, NULL);
	assert_int_equal(hits(STEP_START), 1);
	assert_int_equal(look(id).state, CONTAINER_RUNNING);
}

static void containers_start_that_fails_shows_in_the_status(void **state)
{
	struct answer a;
	char id[65];

	(void)state;
	create(pod, "c", id);
	fail_step(STEP_START, EIO);
	ask(&a, containers_start, id);
	expect_error(&a, ERR_INTERNAL, "starting container");
	assert_int_equal(look(id).state, CONTAINER_EXITED);
	assert_int_equal(look(id).code, 128);
	assert_string_equal(look(id).reason, "StartError");
	assert_non_null(strstr(look(id).message, "fails"));
}

static void containers_stop_waits_for_a_start(void **state)
{
	struct answer a, b;
	char id[65];

	(void)state;
	create(pod, "c", id);
	hold(STEP_START);
	ask(&a, containers_start, id);
	until_inside(STEP_START, 1);
	ask_stop(&b, id, 10);
	assert_false(answered(&b));
	let_go(STEP_START);
	expect(&a, NULL);
	expect(&b, NULL);
	assert_int_equal(look(id).code, 128 + SIGTERM);
}

/* ---- stops --------------------------------------------------------------------------------------------- */

static void containers_stop_by_its_signal(void **state)
{
	struct answer a;
	char id[65];

	(void)state;
	create_and_start("c", id);
	ask_stop(&a, id, 600);
	expect(&a, NULL);
	assert_int_equal(look(id).code, 128 + SIGTERM);
	ask_stop(&a, id, 600);
	expect(&a, NULL);
}

static void containers_stop_kills_after_its_grace_whoever_listens(void **state)
{
	struct answer a;
	char id[65];
	int64_t begun;

	(void)state;
	fake.deaf = true;
	create_and_start("c", id);
	begun = now_monotonic_ns();
	ask_stop(&a, id, 1);
	leave(&a);
	answer_done(&a);
	assert_int_equal(look(id).state, CONTAINER_RUNNING);
	eventually(has_exited, id, "it is not killed");
	assert_true(now_monotonic_ns() - begun >= NS_PER_SEC);
	assert_int_equal(look(id).code, 137);
}

static void containers_stop_is_shortened_by_a_second_one(void **state)
{
	struct answer a, b, c;
	char id[65];

	(void)state;
	fake.deaf = true;
	create_and_start("c", id);
	ask_stop(&a, id, 600);
	ask_stop(&b, id, 1000);
	settle();
	assert_false(answered(&a));
	ask_stop(&c, id, 0);
	expect(&a, NULL);
	expect(&b, NULL);
	expect(&c, NULL);
	assert_int_equal(look(id).code, 137);
}

#define DEAF 130

static void containers_stops_in_their_grace_hold_nothing_up(void **state)
{
	static struct answer a[DEAF], b;
	static char id[DEAF][65];
	char other[65], name[16];
	unsigned int running, queued;
	int64_t begun;

	(void)state;
	fake.deaf = true;
	for (size_t i = 0; i < DEAF; i++) {
		snprintf(name, sizeof(name), "c%zu", i);
		create_and_start(name, id[i]);
		ask_stop(&a[i], id[i], 600);
	}
	run_pod("other", other);
	settle();
	for (int lane = 0; lane < LANES; lane++) {
		workers_load(fake.workers, (enum workers_lane)lane, &running, &queued);
		assert_int_equal(running + queued, 0);
	}
	begun = now_monotonic_ns();
	ask(&b, pods_remove, other);
	expect(&b, NULL);
	assert_true(now_monotonic_ns() - begun < 2 * NS_PER_SEC);
	do_it(pods_remove, pod);
	for (size_t i = 0; i < DEAF; i++)
		expect(&a[i], NULL);
	assert_nothing_left();
}

static void containers_remove_kills_what_runs_and_is_joined(void **state)
{
	struct answer a, b;
	char id[65];

	(void)state;
	fake.deaf = true;
	create_and_start("c", id);
	hold(STEP_DELETE);
	ask(&a, containers_remove, id);
	until_inside(STEP_DELETE, 1);
	ask(&b, containers_remove, id);
	leave(&a);
	answer_done(&a);
	let_go(STEP_DELETE);
	expect(&b, NULL);
	assert_int_equal(listed_containers(), 0);
	assert_int_equal(processes(), 0);
}

static void containers_remove_in_each_state(void **state)
{
	char id[65];

	(void)state;
	create(pod, "c", id);
	do_it(containers_remove, id);
	create_and_start("c", id);
	do_it(containers_remove, id);
	create_and_start("c", id);
	do_it(pods_stop, pod);
	assert_int_equal(look(id).state, CONTAINER_EXITED);
	do_it(containers_remove, id);
	do_it(pods_remove, pod);
	assert_nothing_left();
}

/* ---- the sandbox's death and its agent's return -------------------------------------------------------- */

static void containers_creation_dies_with_its_sandbox(void **state)
{
	static const enum step steps[] = {STEP_IMAGE, STEP_ROOT, STEP_CREATE};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		struct answer a;
		char id[65];

		run_pod("mortal", id);
		hold(steps[i]);
		ask_create(&a, id, "c");
		until_inside(steps[i], 1);
		sandbox_condemn(last_sandbox, "the VMM ended");
		let_go(steps[i]);
		assert_true(answer_wait(&a) < 0);
		answer_done(&a);
		settle();
		assert_int_equal(listed_containers(), 0);
		do_it(pods_remove, id);
	}
	do_it(pods_remove, pod);
	assert_nothing_left();
}

static void containers_work_in_progress_ends_with_the_sandbox(void **state)
{
	struct answer start, stop;
	char id[2][65];

	(void)state;
	fake.deaf = true;
	create_and_start("stopped", id[0]);
	create(pod, "started", id[1]);
	hold(STEP_START);
	ask(&start, containers_start, id[1]);
	until_inside(STEP_START, 1);
	ask_stop(&stop, id[0], 600);
	sandbox_condemn(last_sandbox, "the VMM ended");
	assert_true(answer_wait(&start) < 0);
	answer_done(&start);
	expect(&stop, NULL);
	for (size_t i = 0; i < 2; i++) {
		eventually(has_exited, id[i], "it has not exited");
		assert_string_equal(i == 0 ? look(id[i]).message : "the VMM ended", "the VMM ended");
	}
	do_it(pods_remove, pod);
	assert_nothing_left();
}

static void containers_pod_stop_ends_creations_in_it(void **state)
{
	struct answer a, b;

	(void)state;
	hold(STEP_CREATE);
	ask_create(&a, pod, "c");
	until_inside(STEP_CREATE, 1);
	ask(&b, pods_remove, pod);
	assert_true(answer_wait(&a) < 0);
	answer_done(&a);
	expect(&b, NULL);
	assert_nothing_left();
}

static void tell_reconnected(void *arg)
{
	struct sandbox *s = arg;

	s->hooks.reconnected(s->hooks.arg);
}

static void containers_exit_is_asked_for_again_after_a_lost_connection(void **state)
{
	struct err err = ERR_INIT;
	char id[65];

	(void)state;
	create_and_start("c", id);
	settle();
	fake.lost_wait = true;
	err_set_status(&err, -ECONNRESET, ERR_UNAVAILABLE, "the connection broke");
	for (size_t i = 0; i < ARRAY_SIZE(fake.guest); i++)
		guest_reply(&fake.guest[i], &err);
	settle();
	guest_exit(id, "", 7);
	settle();
	assert_int_equal(look(id).state, CONTAINER_RUNNING);
	fake.lost_wait = false;
	assert_int_equal(loop_post(fake.loop, tell_reconnected, last_sandbox), 0);
	eventually(has_exited, id, "its exit is not learned");
	assert_int_equal(look(id).code, 7);
}

static void containers_that_cannot_be_killed_condemn_the_sandbox(void **state)
{
	struct answer a;
	char id[65];

	(void)state;
	fake.hung_guest = true;
	create_and_start("c", id);
	ask_stop(&a, id, 0);
	expect(&a, NULL); /* after 10 s */
	assert_int_equal(look(id).code, 137);
	assert_non_null(strstr(look(id).message, "SIGKILL"));
	assert_false(look_pod(pod).ready);
	do_it(pods_remove, pod);
	assert_nothing_left();
}

/* ---- writable layers ----------------------------------------------------------------------------------- */

static int setup_looks(void **state)
{
	setup(state);
	end_room();
	fake.layers_ns = 10 * NS_PER_MS;
	begin_room(0);
	return 0;
}

static bool was_looked_at(void *arg)
{
	bool yes;

	pthread_mutex_lock(&fake.lock);
	yes = fake.looks >= *(unsigned int *)arg;
	pthread_mutex_unlock(&fake.lock);
	return yes;
}

static unsigned int looks(void)
{
	unsigned int n;

	pthread_mutex_lock(&fake.lock);
	n = fake.looks;
	pthread_mutex_unlock(&fake.lock);
	return n;
}

static void set_full(const char *id)
{
	pthread_mutex_lock(&fake.lock);
	snprintf(fake.full, sizeof(fake.full), "%s", id);
	pthread_mutex_unlock(&fake.lock);
}

/* Fault S: one whose layer exceeds the limit ends with the reason; its neighbour runs on. */
static void containers_with_a_full_layer_are_killed_and_say_why(void **state)
{
	char id[65], other[65];
	unsigned int more;

	(void)state;
	create_and_start("c", id);
	create_and_start("other", other);
	more = looks() + 4;
	eventually(was_looked_at, &more, "layers are not looked at");
	assert_int_equal(look(id).state, CONTAINER_RUNNING);
	set_full(id);
	eventually(has_exited, id, "it runs on");
	assert_int_equal(look(id).code, 137);
	assert_string_equal(look(id).reason, "WritableLayerFull");
	assert_string_equal(look(id).message, "the writable layer takes 3 MiB");
	assert_int_equal(look(other).state, CONTAINER_RUNNING);
}

/* Nothing is looked at while nothing runs; a container that starts then is. */
static void containers_layers_are_looked_at_while_they_run(void **state)
{
	unsigned int more, before;
	char id[65];

	(void)state;
	create_and_start("c", id);
	more = looks() + 2;
	eventually(was_looked_at, &more, "layers are not looked at");
	guest_exit(id, "", 0);
	eventually(has_exited, id, "its exit is not learned");
	usleep(100000); /* a look may have been under way */
	before = looks();
	usleep(200000);
	assert_int_equal(looks(), before);
	create_and_start("d", id);
	set_full(id);
	eventually(has_exited, id, "it runs on");
}

/* A server that takes containers over looks at them too. */
static void containers_layers_are_looked_at_after_a_restart(void **state)
{
	char id[65];

	(void)state;
	create_and_start("c", id);
	end_room();
	begin_room(0);
	set_full(id);
	eventually(has_exited, id, "it runs on");
	assert_string_equal(look(id).reason, "WritableLayerFull");
}

#define LOOKS(fn) cmocka_unit_test_setup_teardown(fn, setup_looks, fake_teardown)
#define CASE(fn)  cmocka_unit_test_setup_teardown(fn, setup, fake_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(containers_life_leaves_nothing),
		CASE(containers_start_that_cannot_be_stored_leaves_it_created),
		CASE(containers_creation_that_cannot_be_undone_goes_with_its_pod),
		CASE(containers_exit_with_an_error_and_out_of_memory),
		CASE(containers_exec_gives_output_and_code),
		CASE(containers_exec_is_killed_at_its_end),
		CASE(containers_image_is_shown_by_tag_and_digest),
		CASE(containers_exec_whose_output_is_held_is_killed_at_its_timeout),
		CASE(containers_exec_with_much_output_fits_one_message),
		CASE(containers_exec_beyond_its_pod_s_share_is_refused),
		CASE(containers_create_undoes_the_rest_when_its_place_stays_busy),
		CASE(containers_create_fails_at_each_step_and_leaves_nothing),
		CASE(containers_create_goes_on_when_its_client_leaves_at_any_step),
		CASE(containers_create_joins_and_refuses_another_config),
		CASE(containers_name_of_an_exited_one_is_taken),
		CASE(containers_create_needs_a_ready_pod),
		CASE(containers_nobody_claims_are_removed),
		CASE(containers_start_goes_on_and_is_joined),
		CASE(containers_start_that_fails_shows_in_the_status),
		CASE(containers_stop_waits_for_a_start),
		CASE(containers_stop_by_its_signal),
		CASE(containers_stop_kills_after_its_grace_whoever_listens),
		CASE(containers_stop_is_shortened_by_a_second_one),
		CASE(containers_stops_in_their_grace_hold_nothing_up),
		CASE(containers_remove_kills_what_runs_and_is_joined),
		CASE(containers_remove_in_each_state),
		CASE(containers_creation_dies_with_its_sandbox),
		CASE(containers_work_in_progress_ends_with_the_sandbox),
		CASE(containers_pod_stop_ends_creations_in_it),
		CASE(containers_exit_is_asked_for_again_after_a_lost_connection),
		CASE(containers_that_cannot_be_killed_condemn_the_sandbox),
		LOOKS(containers_with_a_full_layer_are_killed_and_say_why),
		LOOKS(containers_layers_are_looked_at_while_they_run),
		LOOKS(containers_layers_are_looked_at_after_a_restart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

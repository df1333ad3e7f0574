/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cri/pods with too little memory and with full lanes, over the fakes of pods_fixture.h. In each call the
 * n-th allocation fails, for every n until the call makes fewer; then each lane refuses its first, second and
 * third job. After each: a clear error, or success where it did without; nothing is left; the same call made
 * again succeeds. A fake makes one allocation for the many of the room in its place. Only in builds with
 * fault points: gRPC core and C++ are linked dynamically there and keep the C library's allocator, since they
 * abort when it fails.
 */
#include "../unit/pods_fixture.h"

#define HITS_MAX  5000
#define LANE_HITS 3

/* What a call is made on. All of it is made anew for each fault. */
struct subject {
	char pod[65], container[65];
	Runtime__V1__PodSandboxConfig *pod_config;
	Runtime__V1__ContainerConfig *container_config;
};

struct case_of {
	const char *name;
	void (*prepare)(struct subject *s);
	void (*call)(struct subject *s, struct answer *a);
	/* After an error: what is there is as it was before the call. */
	void (*unchanged)(struct subject *s);
	/* After success: what the call is for. */
	void (*made)(struct subject *s, struct answer *a);
};

struct counts {
	unsigned int hits, errors;
};

/* ---- one fault ----------------------------------------------------------------------------------------- */

static unsigned int journal_steps(void)
{
	char **owners CLEANUP_STRV = NULL;

	assert_int_equal(journal_owners(fake.store, &owners, NULL), 0);
	return (unsigned int)strv_len(owners);
}

static void begin(const struct case_of *c, struct subject *s)
{
	SPARED;

	memset(s, 0, sizeof(*s));
	s->pod_config = pod_config("a");
	s->container_config = container_config("c");
	if (c->prepare)
		c->prepare(s);
	settle();
}

static void end(struct subject *s)
{
	SPARED;

	do_it(pods_remove, s->pod);
	assert_nothing_left();
	pb_free(s->pod_config);
	pb_free(s->container_config);
}

/* False: the call has no such hit. */
static bool one_fault(const struct case_of *c, const char *point, unsigned int n, struct counts *counts)
{
	struct subject s;
	struct answer a;
	char spec[32];
	unsigned long hits_made;
	int r;

	begin(c, &s);
	snprintf(spec, sizeof(spec), "%s:%u", point, n);
	answer_init(&a);
	fault_set(spec);
	c->call(&s, &a);
	r = answer_wait(&a);
	settle();
	hits_made = fault_hits();
	fault_set(NULL);
	if (hits_made < n && r < 0)
		fail_msg("%s: without a fault: %s", c->name, a.err.msg);
	if (r < 0) {
		bool is_alloc = str_eq(point, "alloc");

		if (a.err.status != ERR_RESOURCE_EXHAUSTED ||
		    !strstr(a.err.msg, is_alloc ? "memory" : "too many"))
			fail_msg("%s: %s: %d, \"%s\" (%s)", c->name, spec, r, a.err.msg,
				 err_status_name(a.err.status));
		counts->errors++;
		c->unchanged(&s);
		answer_done(&a);
		answer_init(&a);
		c->call(&s, &a);
		if (answer_wait(&a) < 0)
			fail_msg("%s: %s: again: %s", c->name, spec, a.err.msg);
		settle();
	}
	c->made(&s, &a);
	answer_done(&a);
	end(&s);
	counts->hits += hits_made >= n;
	return hits_made >= n;
}

static void each_fault(const struct case_of *c)
{
	struct counts alloc = {0}, lane = {0};
	unsigned int n = 1;

	while (one_fault(c, "alloc", n, &alloc))
		assert_true(++n < HITS_MAX);
	for (size_t i = 0; i < LANES; i++) {
		char point[16];

		snprintf(point, sizeof(point), "lane.%s", workers_lane_name((enum workers_lane)i));
		for (n = 1; n <= LANE_HITS && one_fault(c, point, n, &lane); n++)
			;
	}
	print_message("%s: %u allocations failed, %u of them ended the call; %u times a lane was full, %u "
		      "of them ended it\n",
		      c->name, alloc.hits, alloc.errors, lane.hits, lane.errors);
	assert_true(alloc.hits > 0);
}

/* ---- RunPodSandbox ------------------------------------------------------------------------------------- */

static void call_run(struct subject *s, struct answer *a)
{
	pods_run(fake.pods, s->pod_config, "", a->call, on_answer, a);
}

static void no_pod(struct subject *s)
{
	(void)s;
	assert_nothing_left();
}

static void pod_made(struct subject *s, struct answer *a)
{
	snprintf(s->pod, sizeof(s->pod), "%s", a->id);
	assert_int_equal(listed_pods(), 1);
	assert_true(look_pod(a->id).ready);
	assert_int_equal(fake.sandboxes, 1);
	assert_int_equal(fake.attached, 1);
}

static void fault_run_pod_sandbox(void **state)
{
	static const struct case_of c = {"RunPodSandbox", NULL, call_run, no_pod, pod_made};

	(void)state;
	each_fault(&c);
}

/* ---- CreateContainer ----------------------------------------------------------------------------------- */

static void prepare_pod(struct subject *s)
{
	run_pod("a", s->pod);
}

static void call_create(struct subject *s, struct answer *a)
{
	containers_create(fake.pods, s->pod, s->container_config, a->call, on_answer, a);
}

static unsigned int guest_containers(void)
{
	unsigned int n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(fake.guest); i++)
		n += fake.guest[i].state != GUEST_NONE;
	return n;
}

static void no_container(struct subject *s)
{
	unsigned int rows = 0;

	assert_true(look_pod(s->pod).ready);
	assert_int_equal(listed_containers(), 0);
	assert_int_equal(store_each(fake.store, "container", count_row, &rows, NULL), 0);
	assert_int_equal(rows, 0);
	assert_int_equal(journal_steps(), 1); /* the pod's */
	assert_int_equal(fake.roots, 0);
	assert_int_equal(guest_containers(), 0);
}

static void container_made(struct subject *s, struct answer *a)
{
	snprintf(s->container, sizeof(s->container), "%s", a->id);
	assert_int_equal(listed_containers(), 1);
	assert_int_equal(look(a->id).state, CONTAINER_CREATED);
	assert_int_equal(guest_containers(), 1);
	assert_int_equal(fake.roots, 1);
}

static void fault_create_container(void **state)
{
	static const struct case_of c = {"CreateContainer", prepare_pod, call_create, no_container,
					 container_made};

	(void)state;
	each_fault(&c);
}

/* ---- StartContainer ------------------------------------------------------------------------------------ */

static void prepare_container(struct subject *s)
{
	prepare_pod(s);
	create(s->pod, "c", s->container);
}

static void call_start(struct subject *s, struct answer *a)
{
	containers_start(fake.pods, s->container, a->call, on_answer, a);
}

static void still_created(struct subject *s)
{
	assert_true(look_pod(s->pod).ready);
	assert_int_equal(look(s->container).state, CONTAINER_CREATED);
}

static bool has_exited(void *arg)
{
	return look(arg).state == CONTAINER_EXITED;
}

/* It runs, and its exit is learned. */
static void container_runs(struct subject *s, struct answer *a)
{
	(void)a;
	assert_int_equal(look(s->container).state, CONTAINER_RUNNING);
	guest_exit(s->container, "", 7);
	eventually(has_exited, s->container, "the exit is not learned");
	assert_int_equal(look(s->container).code, 7);
	assert_true(look_pod(s->pod).ready);
}

static void fault_start_container(void **state)
{
	static const struct case_of c = {"StartContainer", prepare_container, call_start, still_created,
					 container_runs};

	(void)state;
	each_fault(&c);
}

/* ---- StopContainer, RemoveContainer -------------------------------------------------------------------- */

static void prepare_running(struct subject *s)
{
	prepare_container(s);
	do_it(containers_start, s->container);
}

static void call_stop(struct subject *s, struct answer *a)
{
	containers_stop(fake.pods, s->container, 1, a->call, on_answer, a);
}

static void pod_still_ready(struct subject *s)
{
	assert_true(look_pod(s->pod).ready);
	assert_int_equal(listed_containers(), 1);
}

static void container_stopped(struct subject *s, struct answer *a)
{
	(void)a;
	assert_int_equal(look(s->container).state, CONTAINER_EXITED);
	assert_true(look_pod(s->pod).ready);
}

/* A stop whose end could not be posted keeps its container until its timer is due. */
static void wait_for_timers(int64_t ns)
{
	assert_int_equal(call_sleep(NULL, now_monotonic_ns() + ns + 200 * NS_PER_MS, NULL), 0);
	settle();
}

static void fault_stop_container(void **state)
{
	static const struct case_of c = {"StopContainer", prepare_running, call_stop, pod_still_ready,
					 container_stopped};

	(void)state;
	each_fault(&c);
	wait_for_timers(NS_PER_SEC); /* its grace period */
}

static void call_remove(struct subject *s, struct answer *a)
{
	containers_remove(fake.pods, s->container, a->call, on_answer, a);
}

static void pod_ready_after_all(struct subject *s)
{
	assert_true(look_pod(s->pod).ready);
}

static void container_removed(struct subject *s, struct answer *a)
{
	(void)a;
	no_container(s);
}

static void fault_remove_container(void **state)
{
	static const struct case_of c = {"RemoveContainer", prepare_running, call_remove, pod_ready_after_all,
					 container_removed};

	(void)state;
	each_fault(&c);
	wait_for_timers(10 * NS_PER_SEC); /* that of SIGKILL */
}

/* ---- StopPodSandbox, RemovePodSandbox ------------------------------------------------------------------ */

static void call_stop_pod(struct subject *s, struct answer *a)
{
	pods_stop(fake.pods, s->pod, a->call, on_answer, a);
}

static void call_remove_pod(struct subject *s, struct answer *a)
{
	pods_remove(fake.pods, s->pod, a->call, on_answer, a);
}

static void nothing_to_see(struct subject *s)
{
	(void)s; /* an end that failed half-way is asked for again, and ends it */
}

static void pod_stopped(struct subject *s, struct answer *a)
{
	(void)a;
	assert_false(look_pod(s->pod).ready);
	assert_int_equal(look(s->container).state, CONTAINER_EXITED);
	assert_int_equal(fake.sandboxes, 0);
	assert_int_equal(fake.attached, 0);
}

static void pod_removed(struct subject *s, struct answer *a)
{
	(void)a;
	(void)s;
	assert_nothing_left();
}

static void fault_stop_pod_sandbox(void **state)
{
	static const struct case_of c = {"StopPodSandbox", prepare_running, call_stop_pod, nothing_to_see,
					 pod_stopped};

	(void)state;
	each_fault(&c);
}

static void fault_remove_pod_sandbox(void **state)
{
	static const struct case_of c = {"RemovePodSandbox", prepare_running, call_remove_pod, nothing_to_see,
					 pod_removed};

	(void)state;
	each_fault(&c);
}

/* ---- what happens without a call ----------------------------------------------------------------------- */

/* False: it makes fewer allocations. */
static bool one_death(unsigned int n)
{
	static const struct case_of c = {.name = "death", .prepare = prepare_running};
	struct subject s;
	char spec[32], created[65];
	unsigned long hits_made;

	begin(&c, &s);
	create(s.pod, "d", created);
	snprintf(spec, sizeof(spec), "alloc:%u", n);
	fault_set(spec);
	sandbox_condemn(last_sandbox, "the guest kernel panicked");
	settle();
	hits_made = fault_hits();
	fault_set(NULL);
	assert_false(look_pod(s.pod).ready);
	assert_int_equal(look(s.container).state, CONTAINER_EXITED);
	assert_int_equal(look(created).state, CONTAINER_EXITED);
	end(&s);
	return hits_made >= n;
}

static void fault_death_of_a_sandbox_shows(void **state)
{
	unsigned int n = 1;

	(void)state;
	while (one_death(n))
		assert_true(++n < HITS_MAX);
	print_message("death of a sandbox: %u allocations failed, and it shows\n", n - 1);
	assert_true(n > 1);
}

static bool one_exit(unsigned int n)
{
	static const struct case_of c = {.name = "exit", .prepare = prepare_running};
	struct subject s;
	char spec[32];
	unsigned long hits_made;

	begin(&c, &s);
	snprintf(spec, sizeof(spec), "alloc:%u", n);
	fault_set(spec);
	guest_exit(s.container, "", 7);
	eventually(has_exited, s.container, "the exit is not learned");
	settle();
	hits_made = fault_hits();
	fault_set(NULL);
	assert_int_equal(look(s.container).code, 7);
	assert_true(look_pod(s.pod).ready);
	end(&s);
	return hits_made >= n;
}

static void fault_exit_of_a_container_shows(void **state)
{
	unsigned int n = 1;

	(void)state;
	while (one_exit(n))
		assert_true(++n < HITS_MAX);
	print_message("exit of a container: %u allocations failed, and it shows\n", n - 1);
	assert_true(n > 1);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(fault_run_pod_sandbox),	       CASE(fault_create_container),
		CASE(fault_start_container),	       CASE(fault_stop_container),
		CASE(fault_remove_container),	       CASE(fault_stop_pod_sandbox),
		CASE(fault_remove_pod_sandbox),	       CASE(fault_death_of_a_sandbox_shows),
		CASE(fault_exit_of_a_container_shows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* fault K1: containers with sets of host CPUs: the table's rules, and a pod's vCPUs over the fakes. */
#include "pods_fixture.h"

#include "cri/pods/cpus_internal.h"

/* ---- the table ----------------------------------------------------------------------------------------- */

static const char *take(uint32_t *host, uint32_t vcpus, const char *wanted)
{
	static char words[64];
	cpu_set_t set, guest;

	assert_int_equal(cpulist_parse(wanted, &set), 0);
	cpus_take(host, vcpus, &set, &guest);
	cpulist_words(&guest, words, sizeof(words));
	return words;
}

static void cpus_take_gives_each_cpu_a_vcpu_of_its_own(void **state)
{
	uint32_t host[4] = {0};

	(void)state;
	assert_string_equal(take(host, 4, "2-3"), "0-1");
	assert_string_equal(take(host, 4, "7"), "2");
	assert_string_equal(take(host, 4, "3,7"), "1-2");
	assert_int_equal(host[0], 3);
	assert_int_equal(host[1], 4);
	assert_int_equal(host[2], 8);
	assert_int_equal(host[3], 0);
}

static void cpus_take_with_too_few_vcpus_gives_as_many_as_there_are(void **state)
{
	uint32_t host[2] = {0};

	(void)state;
	assert_string_equal(take(host, 1, "2-3"), "0");
	assert_string_equal(take(host, 2, "0-63"), "0-1");
	assert_int_equal(host[0] + host[1], 0);
	assert_string_equal(take(host, 2, "4-5"), "0-1");
	/* All stand for CPUs: the next one shares. */
	assert_string_equal(take(host, 2, "6"), "0");
	assert_int_equal(host[0], 5);
}

static void cpus_keep_frees_what_nobody_uses(void **state)
{
	uint32_t host[3] = {0};
	cpu_set_t used;

	(void)state;
	take(host, 3, "1-3");
	assert_int_equal(cpulist_parse("2,9", &used), 0);
	cpus_keep(host, 3, &used);
	assert_int_equal(host[0], 0);
	assert_int_equal(host[1], 3);
	assert_int_equal(host[2], 0);
	/* Who stays keeps its vCPU. */
	assert_string_equal(take(host, 3, "0,2"), "0-1");
}

static void cpus_places_pins_one_each(void **state)
{
	uint32_t host[2] = {4, 0};
	cpu_set_t others, sets[2];
	char words[64];

	(void)state;
	assert_int_equal(cpulist_parse("3,5-6", &others), 0);
	cpus_places(host, 2, &others, sets);
	cpulist_words(&sets[0], words, sizeof(words));
	assert_string_equal(words, "3");
	cpulist_words(&sets[1], words, sizeof(words));
	assert_string_equal(words, "3,5-6");
}

/* ---- a pod's ------------------------------------------------------------------------------------------- */

static char pod[65];

static int setup(void **state)
{
	fake_setup(state);
	fake.vcpus = 2;
	run_pod("pod", pod);
	return 0;
}

static void ask_with_cpus(struct answer *a, const char *name, const char *cpus, const char *mems)
{
	Runtime__V1__ContainerConfig config = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	Runtime__V1__ContainerMetadata metadata = RUNTIME__V1__CONTAINER_METADATA__INIT;
	Runtime__V1__ImageSpec image = RUNTIME__V1__IMAGE_SPEC__INIT;
	Runtime__V1__LinuxContainerConfig lx = RUNTIME__V1__LINUX_CONTAINER_CONFIG__INIT;
	Runtime__V1__LinuxContainerResources res = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	char *command[] = {(char *)"sleep"};

	config.metadata = &metadata;
	metadata.name = (char *)(uintptr_t)name;
	config.image = &image;
	image.image = (char *)(uintptr_t) "image";
	config.command = command;
	config.n_command = 1;
	config.linux = &lx;
	lx.resources = &res;
	res.cpuset_cpus = (char *)(uintptr_t)cpus;
	res.cpuset_mems = (char *)(uintptr_t)mems;
	answer_init(a);
	containers_create(fake.pods, pod, &config, a->call, on_answer, a);
}

static void create_with_cpus(const char *name, const char *cpus, char ret_id[65])
{
	struct answer a;

	ask_with_cpus(&a, name, cpus, "0");
	if (answer_wait(&a) < 0)
		fail_msg("%s", a.err.msg);
	snprintf(ret_id, 65, "%s", a.id);
	answer_done(&a);
}

/* The cpus of its OCI runtime spec; "" if it has none. */
static void spec_has(const char *id, const char *cpus)
{
	char wanted[64];
	char *json CLEANUP_FREE = NULL;

	assert_int_equal(containers_spec(fake.pods, id, &json, NULL), 0);
	snprintf(wanted, sizeof(wanted), "\"cpus\":\"%s\"", cpus);
	if (cpus[0])
		assert_non_null(strstr(json, wanted));
	else
		assert_null(strstr(json, "\"cpus\""));
	assert_null(strstr(json, "\"mems\""));
}

static const char *online(void)
{
	static char words[CPULIST_WORDS_MAX];
	cpu_set_t set;

	assert_int_equal(cpulist_online(&set), 0);
	cpulist_words(&set, words, sizeof(words));
	return words;
}

static void container_with_host_cpus_gets_the_guest_s(void **state)
{
	cpu_set_t set;
	char last[16], id[65], other[65];

	(void)state;
	assert_int_equal(cpulist_online(&set), 0);
	for (size_t i = 0; i < CPU_SETSIZE; i++) {
		if (CPU_ISSET(i, &set))
			snprintf(last, sizeof(last), "%zu", i);
	}
	create_with_cpus("c", last, id);
	spec_has(id, "0");
	assert_string_equal(fake.pins[0], last);
	assert_string_equal(fake.pins[1], last);
	/* A container without a set may run anywhere, and so may the vCPU that stands for no CPU. */
	create(pod, "d", other);
	spec_has(other, "");
	assert_string_equal(fake.pins[0], last);
	assert_string_equal(fake.pins[1], online());
	/* The same CPU again: the same vCPU. */
	create_with_cpus("e", last, other);
	spec_has(other, "0");
	do_it(pods_remove, pod);
	assert_nothing_left();
}

static void container_after_a_restart_finds_the_table(void **state)
{
	char id[65];

	(void)state;
	create_with_cpus("c", "0", id);
	do_it(containers_start, id);
	end_room();
	memset(fake.pins, 0, sizeof(fake.pins));
	begin_room(0);
	settle();
	create_with_cpus("d", "0", id);
	spec_has(id, "0");
	assert_string_equal(fake.pins[0], "0");
}

static void container_whose_cpus_cannot_be_had_is_refused(void **state)
{
	static const char *const bad[] = {"1023", "0-1023", "x", "1-0"};
	struct answer a;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		ask_with_cpus(&a, "c", bad[i], "");
		expect_error(&a, ERR_INVALID_ARGUMENT, "cpuset_cpus");
	}
	ask_with_cpus(&a, "c", "", "one");
	expect_error(&a, ERR_INVALID_ARGUMENT, "cpuset_mems");
	fail_step(STEP_PIN, EIO);
	ask_with_cpus(&a, "c", "0", "");
	expect_error(&a, ERR_INTERNAL, "fails");
	fail_step(STEP_PIN, 0);
	assert_int_equal(listed_containers(), 0);
	do_it(pods_remove, pod);
	assert_nothing_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cpus_take_gives_each_cpu_a_vcpu_of_its_own),
		cmocka_unit_test(cpus_take_with_too_few_vcpus_gives_as_many_as_there_are),
		cmocka_unit_test(cpus_keep_frees_what_nobody_uses),
		cmocka_unit_test(cpus_places_pins_one_each),
		cmocka_unit_test_setup_teardown(container_with_host_cpus_gets_the_guest_s, setup,
						fake_teardown),
		cmocka_unit_test_setup_teardown(container_after_a_restart_finds_the_table, setup,
						fake_teardown),
		cmocka_unit_test_setup_teardown(container_whose_cpus_cannot_be_had_is_refused, setup,
						fake_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

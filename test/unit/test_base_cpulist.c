/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of CPUs in the kernel's words. */
#include "base/cpulist.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void round_trip(const char *text, int count, const char *words)
{
	char out[CPULIST_WORDS_MAX];
	cpu_set_t set;

	assert_int_equal(cpulist_parse(text, &set), 0);
	assert_int_equal(CPU_COUNT(&set), count);
	cpulist_words(&set, out, sizeof(out));
	assert_string_equal(out, words);
}

static void cpulist_parse_list_gives_its_numbers(void **state)
{
	(void)state;
	round_trip("0", 1, "0");
	round_trip("2-3", 2, "2-3");
	round_trip("3,0-1,8", 4, "0-1,3,8");
	round_trip("0-1\n", 2, "0-1");
	round_trip("1023", 1, "1023");
	round_trip("0-3,2-5", 6, "0-5");
}

static void cpulist_parse_nonsense_is_refused(void **state)
{
	static const char *const bad[] = {"", "a", "-1", "3-1", "1-", "1,,2", "1 2", ",1", "0x1", "1;2"};
	cpu_set_t set;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(cpulist_parse(bad[i], &set), -EINVAL);
	assert_int_equal(cpulist_parse("1024", &set), -ERANGE);
	assert_int_equal(cpulist_parse("99999999999999999999", &set), -ERANGE);
}

static void cpulist_words_small_buffer_is_cut(void **state)
{
	char out[4];
	cpu_set_t set;

	(void)state;
	assert_int_equal(cpulist_parse("100-200,300", &set), 0);
	cpulist_words(&set, out, sizeof(out));
	assert_string_equal(out, "100");
}

static void cpulist_online_has_this_thread(void **state)
{
	cpu_set_t online;
	int cpu = sched_getcpu();

	(void)state;
	assert_int_equal(cpulist_online(&online), 0);
	assert_true(cpu >= 0 && CPU_ISSET((size_t)cpu, &online));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cpulist_parse_list_gives_its_numbers),
		cmocka_unit_test(cpulist_parse_nonsense_is_refused),
		cmocka_unit_test(cpulist_words_small_buffer_is_cut),
		cmocka_unit_test(cpulist_online_has_this_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

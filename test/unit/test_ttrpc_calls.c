/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of calls when memory is short: the source is compiled here with an allocator that fails when
 * told.
 */
#include <stdlib.h>

static unsigned int allocations, fail_at;

static void *failing_malloc(size_t size)
{
	return ++allocations == fail_at ? NULL : malloc(size);
}

#define uthash_malloc(size) failing_malloc(size)
#include "api/ttrpc/calls.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define CALLS 600

static unsigned int fill(struct ttrpc_calls *calls, struct ttrpc_request *list)
{
	unsigned int refused = 0;

	for (uint32_t i = 0; i < CALLS; i++) {
		list[i] =
			(struct ttrpc_request){.id = 2 * i + 1, .deadline_ns = i % 3 ? INT64_MAX : 1000 - i};
		if (ttrpc_calls_add(calls, &list[i]) < 0) {
			list[i].id = 0;
			refused++;
		}
	}
	return refused;
}

static void check_all(const struct ttrpc_calls *calls, struct ttrpc_request *list)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < CALLS; i++) {
		assert_ptr_equal(ttrpc_calls_find(calls, 2 * i + 1), list[i].id ? &list[i] : NULL);
		n += list[i].id != 0;
	}
	assert_int_equal(calls->count, n);
}

static void add_without_memory_leaves_the_rest_as_it_is(void **state)
{
	static struct ttrpc_request list[CALLS];
	unsigned int failures = 0;

	(void)state;
	for (fail_at = 1;; fail_at++) {
		struct ttrpc_calls calls = {.table = NULL};
		unsigned int refused;

		allocations = 0;
		refused = fill(&calls, list);
		check_all(&calls, list);
		failures += refused;
		for (uint32_t i = 0; i < CALLS; i++) {
			if (list[i].id)
				ttrpc_calls_remove(&calls, &list[i]);
		}
		assert_int_equal(calls.count, 0);
		assert_null(ttrpc_calls_any(&calls));
		assert_null(ttrpc_calls_earliest(&calls));
		ttrpc_calls_done(&calls);
		if (allocations < fail_at)
			break;
	}
	/* The table, its buckets, and every growth of them. */
	assert_true(fail_at > 4);
	assert_true(failures >= 2);
}

static void earliest_follows_what_is_added_and_removed(void **state)
{
	static struct ttrpc_request list[CALLS];
	struct ttrpc_calls calls = {.table = NULL};
	struct ttrpc_request *call;
	int64_t last = INT64_MIN;

	(void)state;
	fail_at = 0;
	assert_int_equal(fill(&calls, list), 0);
	while ((call = ttrpc_calls_earliest(&calls))) {
		assert_true(call->deadline_ns >= last);
		last = call->deadline_ns;
		ttrpc_calls_remove(&calls, call);
	}
	assert_int_equal(calls.count, CALLS - CALLS / 3);
	ttrpc_calls_done(&calls);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(add_without_memory_leaves_the_rest_as_it_is),
		cmocka_unit_test(earliest_follows_what_is_added_and_removed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

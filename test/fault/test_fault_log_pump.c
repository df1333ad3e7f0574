/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log pump with too little memory and with full lanes, over a fake agent. The n-th allocation fails, for
 * every n until a start and the lines after it make fewer; then each lane refuses its first, second and third
 * job. After each: a clear error of the start, after which a start succeeds, or a log that is only late. No
 * line is lost or repeated, and all output is acknowledged. Only in builds with fault points.
 */
#include "../unit/log_pump_fixture.h"

#include "base/fault.h"

#define HITS_MAX  5000
#define LANE_HITS 3

struct counts {
	unsigned int hits, starts; /* starts: that failed */
	uint64_t total;		   /* bytes that the guest has printed */
};

static void free_pump(struct fixture *x)
{
	x->pump = log_pump_free(x->pump);
	looping_turn(&x->l);
	usleep(10000); /* for a job under way: two pumps never share a file in the server */
	looping_turn(&x->l);
}

/* False: there is no such hit. */
static bool one_fault(struct fixture *x, const char *point, unsigned int n, struct counts *counts)
{
	struct err err = ERR_INIT;
	char spec[32];
	unsigned long hits;
	int r;

	print(x, false);
	print(x, true);
	snprintf(spec, sizeof(spec), "%s:%u", point, n);
	fault_set(spec);
	r = start(x, NULL, true, &err);
	if (r < 0) {
		if (err.status != ERR_RESOURCE_EXHAUSTED || !err.msg[0])
			fail_msg("%s: %d, \"%s\" (%s)", spec, r, err.msg, err_status_name(err.status));
		counts->starts++;
		assert_int_equal(start(x, NULL, true, NULL), 0);
	}
	print(x, false);
	counts->total += (uint64_t)3 * 17;
	AWAIT(fake_agent_acked(x->fake, ID) == counts->total);
	hits = fault_hits();
	fault_set(NULL);
	assert_log(x);
	free_pump(x);
	counts->hits += hits >= n;
	return hits >= n;
}

static void pump_with_any_fault_is_only_late(void **state)
{
	struct fixture *x = *state;
	struct counts alloc = {0}, lane;
	unsigned int n = 1;

	while (one_fault(x, "alloc", n, &alloc))
		assert_true(++n < HITS_MAX);
	lane = (struct counts){.total = alloc.total};
	for (size_t i = 0; i < LANES; i++) {
		char point[16];

		snprintf(point, sizeof(point), "lane.%s", workers_lane_name((enum workers_lane)i));
		for (n = 1; n <= LANE_HITS && one_fault(x, point, n, &lane); n++)
			;
	}
	print_message(
		"log pump: %u allocations failed, %u of them ended the start; %u times a lane was full, "
		"%u of them ended it; no line lost, none repeated\n",
		alloc.hits, alloc.starts, lane.hits, lane.starts);
	assert_true(alloc.hits > 20);
	assert_true(lane.hits > 2);
	assert_int_equal(start(x, NULL, true, NULL), 0);
	finish(x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(pump_with_any_fault_is_only_late, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The log of a process's output: offsets, caps, acknowledgement. */
#include "guest/container/outlog_internal.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static struct outlog_pool pool;
static struct outlog log_;

static int setup(void **state)
{
	(void)state;
	pool = (struct outlog_pool){.max = 1000000};
	outlog_init(&log_, &pool, 100000);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	outlog_done(&log_);
	assert_int_equal(pool.used, 0);
	return 0;
}

static void expect(uint64_t *offset, enum outlog_stream stream, const char *text)
{
	struct outlog_record rec;

	assert_true(outlog_next(&log_, offset, 1000, &rec));
	assert_int_equal(rec.stream, stream);
	assert_int_equal(rec.len, strlen(text));
	assert_memory_equal(rec.data, text, rec.len);
}

static void outlog_append_both_streams_keep_their_order(void **state)
{
	uint64_t offset = 0;
	struct outlog_record rec;

	(void)state;
	assert_int_equal(outlog_append(&log_, OUTLOG_STDOUT, "one", 3), 0);
	assert_int_equal(outlog_append(&log_, OUTLOG_STDOUT, "two", 3), 0);
	assert_int_equal(outlog_append(&log_, OUTLOG_STDERR, "three", 5), 0);
	assert_int_equal(outlog_append(&log_, OUTLOG_STDOUT, "four", 4), 0);
	assert_int_equal(outlog_end(&log_), 15);
	expect(&offset, OUTLOG_STDOUT, "onetwo");
	expect(&offset, OUTLOG_STDERR, "three");
	expect(&offset, OUTLOG_STDOUT, "four");
	assert_false(outlog_next(&log_, &offset, 1000, &rec));
	assert_int_equal(offset, 15);
}

static void outlog_next_reads_from_any_offset_in_any_pieces(void **state)
{
	uint64_t offset = 2;
	struct outlog_record rec;

	(void)state;
	outlog_append(&log_, OUTLOG_STDOUT, "abcdef", 6);
	outlog_append(&log_, OUTLOG_STDERR, "gh", 2);
	assert_true(outlog_next(&log_, &offset, 3, &rec));
	assert_memory_equal(rec.data, "cde", 3);
	assert_int_equal(offset, 5);
	assert_true(outlog_next(&log_, &offset, 3, &rec));
	assert_int_equal(rec.len, 1);
	expect(&offset, OUTLOG_STDERR, "gh");
	offset = 0;
	assert_false(outlog_next(&log_, &offset, 0, &rec));
}

static void outlog_ack_in_the_middle_of_a_run_keeps_the_rest(void **state)
{
	uint64_t offset = 0;

	(void)state;
	outlog_append(&log_, OUTLOG_STDOUT, "abc", 3);
	outlog_append(&log_, OUTLOG_STDERR, "defg", 4);
	outlog_append(&log_, OUTLOG_STDOUT, "hi", 2);
	assert_int_equal(outlog_ack(&log_, 5), 0);
	assert_int_equal(pool.used, 4);
	assert_int_equal(outlog_ack(&log_, 2), 0); /* older: nothing */
	expect(&offset, OUTLOG_STDERR, "fg");
	expect(&offset, OUTLOG_STDOUT, "hi");
	assert_int_equal(outlog_ack(&log_, 9), 0);
	assert_int_equal(pool.used, 0);
	assert_int_equal(outlog_ack(&log_, 10), -ERANGE);
	outlog_append(&log_, OUTLOG_STDERR, "j", 1);
	offset = 0;
	expect(&offset, OUTLOG_STDERR, "j");
	assert_int_equal(offset, 10);
}

static void outlog_append_beyond_its_cap_takes_nothing(void **state)
{
	char *big = calloc(1, 100000);

	(void)state;
	assert_int_equal(outlog_space(&log_), 100000);
	assert_int_equal(outlog_append(&log_, OUTLOG_STDOUT, big, 99990), 0);
	assert_int_equal(outlog_space(&log_), 10);
	assert_int_equal(outlog_append(&log_, OUTLOG_STDOUT, big, 11), -ENOBUFS);
	assert_int_equal(outlog_append(&log_, OUTLOG_STDOUT, big, 10), 0);
	assert_int_equal(outlog_space(&log_), 0);
	assert_int_equal(outlog_end(&log_), 100000);
	outlog_ack(&log_, 60);
	assert_int_equal(outlog_space(&log_), 60);
	free(big);
}

static void outlog_space_of_a_full_pool_leaves_each_its_share(void **state)
{
	struct outlog other;
	char *big = calloc(1, 100000);

	(void)state;
	pool.max = 50000;
	outlog_init(&other, &pool, 100000);
	assert_int_equal(outlog_append(&log_, OUTLOG_STDOUT, big, 50000), 0);
	assert_int_equal(outlog_space(&log_), 0);
	assert_int_equal(outlog_space(&other), OUTLOG_SHARE_MIN);
	assert_int_equal(outlog_append(&other, OUTLOG_STDOUT, big, 4000), 0);
	assert_int_equal(outlog_space(&other), OUTLOG_SHARE_MIN - 4000);
	outlog_done(&other);
	assert_int_equal(pool.used, 50000);
	free(big);
}

static void outlog_append_alternating_bytes_is_bounded(void **state)
{
	int n = 0;

	(void)state;
	while (outlog_append(&log_, n % 2 ? OUTLOG_STDERR : OUTLOG_STDOUT, "x", 1) == 0)
		n++;
	assert_int_equal(n, OUTLOG_RUNS_MAX);
	outlog_ack(&log_, 1);
	assert_true(outlog_space(&log_) > 0);
}

/* Against a plain model: random appends, acks and reads. */
static void outlog_random_walk_matches_a_model(void **state)
{
	static unsigned char model[1 << 20], streams[1 << 20];
	size_t end = 0, start = 0;
	unsigned int seed = 1;

	(void)state;
	for (int i = 0; i < 20000 && end < sizeof(model) - 3000; i++) {
		seed = seed * 1103515245 + 12345;
		if (seed % 3 == 0) {
			size_t len = (seed >> 8) % 3000;
			enum outlog_stream s = (seed >> 20) & 1 ? OUTLOG_STDERR : OUTLOG_STDOUT;

			for (size_t k = 0; k < len; k++) {
				model[end + k] = (unsigned char)(end + k * 7);
				streams[end + k] = (unsigned char)s;
			}
			if (outlog_append(&log_, s, model + end, len) == 0)
				end += len;
		} else if (seed % 3 == 1) {
			start += end > start ? (seed >> 8) % (end - start + 1) : 0;
			assert_int_equal(outlog_ack(&log_, start), 0);
		} else {
			uint64_t offset = start + (end > start ? (seed >> 8) % (end - start + 1) : 0);
			struct outlog_record rec;
			uint64_t at = offset;

			while (outlog_next(&log_, &offset, 1 + (seed >> 12) % 5000, &rec)) {
				assert_memory_equal(rec.data, model + at, rec.len);
				for (size_t k = 0; k < rec.len; k++)
					assert_int_equal(streams[at + k], rec.stream);
				at += rec.len;
			}
			assert_int_equal(at, end);
		}
		assert_int_equal(outlog_end(&log_), end);
		assert_int_equal(pool.used, end - start);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(outlog_append_both_streams_keep_their_order),
		T(outlog_next_reads_from_any_offset_in_any_pieces),
		T(outlog_ack_in_the_middle_of_a_run_keeps_the_rest),
		T(outlog_append_beyond_its_cap_takes_nothing),
		T(outlog_space_of_a_full_pool_leaves_each_its_share),
		T(outlog_append_alternating_bytes_is_bounded),
		T(outlog_random_walk_matches_a_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A process's standard I/O and the loop under it: backpressure, ends, the grace for forgotten writers. */
#include "guest/container/stdio_internal.h"

#include "api/agent/guest_abi.h"
#include "base/util.h"
#include "guest/container/containers_internal.h"

#include <fcntl.h>
#include <signal.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static struct agent agent;
static struct stdio *stdio;
static int child[3];
static int told;

static void on_change(void *arg)
{
	(void)arg;
	told++;
}

static int setup(void **state)
{
	(void)state;
	agent = (struct agent){.loop = loop_new(), .containers = containers_new(&agent)};
	agent.containers->logs.max = 1 << 20;
	told = 0;
	stdio = stdio_new(&agent, false, true, child, NULL);
	return stdio ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	stdio_free(stdio);
	for (int i = 0; i < 3; i++)
		close_fd(child[i]);
	assert_int_equal(agent.containers->logs.used, 0);
	assert_null(agent.containers->stdios);
	containers_free(agent.containers);
	loop_free(agent.loop);
	return 0;
}

static void rounds(int n)
{
	while (n-- > 0)
		assert_int_equal(loop_round(agent.loop, 0), 0);
}

static void stdio_reads_both_streams_and_tells(void **state)
{
	struct stdio_listener l;
	uint64_t offset = 0;
	struct outlog_record rec;

	(void)state;
	stdio_listen(stdio, &l, on_change, NULL);
	assert_int_equal(write(child[1], "out", 3), 3);
	rounds(2);
	assert_int_equal(write(child[2], "err", 3), 3);
	rounds(2);
	assert_int_equal(told, 2);
	assert_true(outlog_next(&stdio->log, &offset, 100, &rec));
	assert_int_equal(rec.stream, OUTLOG_STDOUT);
	assert_true(outlog_next(&stdio->log, &offset, 100, &rec));
	assert_int_equal(rec.stream, OUTLOG_STDERR);
	stdio_unlisten(stdio, &l);
}

static void stdio_full_log_stops_reading_until_acknowledged(void **state)
{
	char block[4096] = {0};
	size_t written = 0;
	ssize_t n;

	(void)state;
	set_nonblock(child[1], true);
	for (int i = 0; i < 200; i++) {
		while ((n = write(child[1], block, sizeof(block))) > 0)
			written += (size_t)n;
		rounds(3);
	}
	/* The log is full, and so is the pipe behind it. */
	assert_int_equal(stdio->log.data.len, GUEST_LOG_BUFFER_BYTES);
	assert_true(written > GUEST_LOG_BUFFER_BYTES);
	assert_true(written <= GUEST_LOG_BUFFER_BYTES + 65536);
	assert_int_equal(stdio_ack(stdio, 10000, NULL), 0);
	rounds(3);
	assert_int_equal(stdio->log.data.len, GUEST_LOG_BUFFER_BYTES);
	assert_int_equal(stdio_ack(stdio, outlog_end(&stdio->log) + 1, NULL), -ERANGE);
	while (outlog_end(&stdio->log) < written) {
		stdio_ack(stdio, outlog_end(&stdio->log), NULL);
		rounds(2);
	}
	assert_int_equal(outlog_end(&stdio->log), written);
}

static void stdio_hang_up_while_full_does_not_spin(void **state)
{
	char *block = calloc(1, GUEST_LOG_BUFFER_BYTES);

	(void)state;
	outlog_append(&stdio->log, OUTLOG_STDOUT, block, GUEST_LOG_BUFFER_BYTES);
	(void)!write(child[1], "x", 1);
	rounds(1);
	child[1] = close_fd(child[1]);
	/*
	 * With nothing watched the round runs into its timeout instead of returning at once again and again.
	 */
	for (int i = 0; i < 3; i++) {
		int64_t begin = now_monotonic_ns();

		loop_round(agent.loop, 5 * NS_PER_MS);
		assert_true(now_monotonic_ns() - begin >= 4 * NS_PER_MS);
	}
	assert_false(stdio_ended(stdio, OUTLOG_STDOUT));
	stdio_ack(stdio, GUEST_LOG_BUFFER_BYTES, NULL);
	rounds(3);
	assert_true(stdio_ended(stdio, OUTLOG_STDOUT));
	assert_int_equal(outlog_end(&stdio->log), GUEST_LOG_BUFFER_BYTES + 1);
	free(block);
}

static void stdio_closed_pipes_are_the_end(void **state)
{
	(void)state;
	child[1] = close_fd(child[1]);
	rounds(2);
	assert_true(stdio_ended(stdio, OUTLOG_STDOUT));
	assert_false(stdio_all_ended(stdio));
	child[2] = close_fd(child[2]);
	rounds(2);
	assert_true(stdio_all_ended(stdio));
}

static void stdio_exited_gives_forgotten_writers_a_grace_only(void **state)
{
	int64_t begin = now_monotonic_ns();

	(void)state;
	(void)!write(child[1], "last words", 10);
	stdio_exited(stdio);
	while (!stdio_all_ended(stdio) && now_monotonic_ns() - begin < 5 * NS_PER_SEC)
		loop_round(agent.loop, NS_PER_SEC);
	assert_true(stdio_all_ended(stdio));
	assert_true(now_monotonic_ns() - begin >= STDIO_GRACE_NS);
	assert_int_equal(outlog_end(&stdio->log), 10);
}

static void stdio_write_reaches_the_child_and_ends(void **state)
{
	char buf[16];

	(void)state;
	assert_true(stdio_has_in(stdio));
	assert_int_equal(stdio_write(stdio, "hello", 5), 0);
	stdio_close_in(stdio);
	assert_int_equal(read(child[0], buf, sizeof(buf)), 5);
	assert_int_equal(read(child[0], buf, sizeof(buf)), 0);
	assert_int_equal(stdio_write(stdio, "x", 1), -EPIPE);
	assert_false(stdio_has_in(stdio));
}

static void stdio_write_is_bounded_and_keeps_order(void **state)
{
	static unsigned char block[1 << 20];
	unsigned char got[65536];
	size_t sent = 0, seen = 0;
	ssize_t n;

	(void)state;
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (unsigned char)(i * 31 >> 3);
	while (stdio_write(stdio, block, sizeof(block)) == 0)
		sent += sizeof(block);
	assert_true(sent >= STDIO_IN_MAX - sizeof(block) && sent <= STDIO_IN_MAX + sizeof(block));
	stdio_close_in(stdio);
	while ((n = read(child[0], got, sizeof(got))) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			if (got[i] != block[(seen + (size_t)i) % sizeof(block)])
				fail_msg("byte %zu differs", seen + (size_t)i);
		}
		seen += (size_t)n;
		rounds(1);
	}
	assert_int_equal(seen, sent);
}

static void stdio_write_to_a_reader_that_left_is_an_end(void **state)
{
	(void)state;
	child[0] = close_fd(child[0]);
	(void)stdio_write(stdio, "x", 1);
	assert_int_equal(stdio_write(stdio, "x", 1), -EPIPE);
}

static void stdio_resize_without_a_terminal_fails(void **state)
{
	(void)state;
	assert_int_equal(stdio_resize(stdio, 80, 24, NULL), -ENOTTY);
	assert_int_equal(stdio_resize(stdio, 100000, 24, NULL), -EINVAL);
}

static int order[4], order_len;

static void on_timer(void *arg)
{
	order[order_len++] = *(int *)arg;
}

static void loop_timers_run_in_order_and_once(void **state)
{
	struct loop_timer t[3] = {{.loop = NULL}};
	int ids[3] = {0, 1, 2};
	int64_t now = now_monotonic_ns();

	(void)state;
	order_len = 0;
	loop_timer_set(agent.loop, &t[0], now + 3, on_timer, &ids[0]);
	loop_timer_set(agent.loop, &t[1], now + 1, on_timer, &ids[1]);
	loop_timer_set(agent.loop, &t[2], now + 2, on_timer, &ids[2]);
	loop_timer_clear(&t[2]);
	rounds(2);
	assert_int_equal(order_len, 2);
	assert_int_equal(order[0], 1);
	assert_int_equal(order[1], 0);
}

static void loop_tasks_run_once_and_can_be_taken_back(void **state)
{
	struct loop_task t[3] = {{.queued = false}};
	int ids[3] = {0, 1, 2};

	(void)state;
	order_len = 0;
	for (int i = 0; i < 3; i++) {
		loop_later(agent.loop, &t[i], on_timer, &ids[i]);
		loop_later(agent.loop, &t[i], on_timer, &ids[i]);
	}
	loop_task_clear(agent.loop, &t[2]);
	loop_later(agent.loop, &t[2], on_timer, &ids[2]);
	loop_task_clear(agent.loop, &t[0]);
	rounds(1);
	assert_int_equal(order_len, 2);
	assert_int_equal(order[0], 1);
	assert_int_equal(order[1], 2);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(stdio_reads_both_streams_and_tells),
		T(stdio_full_log_stops_reading_until_acknowledged),
		T(stdio_hang_up_while_full_does_not_spin),
		T(stdio_closed_pipes_are_the_end),
		T(stdio_exited_gives_forgotten_writers_a_grace_only),
		T(stdio_write_reaches_the_child_and_ends),
		T(stdio_write_is_bounded_and_keeps_order),
		T(stdio_write_to_a_reader_that_left_is_an_end),
		T(stdio_resize_without_a_terminal_fails),
		T(loop_timers_run_in_order_and_once),
		T(loop_tasks_run_once_and_can_be_taken_back),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

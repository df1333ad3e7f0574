/* A process's standard I/O and the loop under it: backpressure, ends, the grace for forgotten writers. */
#include "guest/container/stdio.h"

#include "api/agent/guest_abi.h"
#include "base/util.h"
#include "guest/core/agent.h"

#include <fcntl.h>
#include <signal.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static struct guest g;
static struct pio *pio;
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
	g = (struct guest){.loop = eloop_new(), .logs.max = 1 << 20};
	told = 0;
	pio = pio_new(&g, false, true, child, NULL);
	return pio ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	pio_free(pio);
	for (int i = 0; i < 3; i++)
		close_fd(child[i]);
	assert_int_equal(g.logs.used, 0);
	assert_null(g.pios);
	eloop_free(g.loop);
	return 0;
}

static void rounds(int n)
{
	while (n-- > 0)
		assert_int_equal(eloop_round(g.loop, 0), 0);
}

static void pio_reads_both_streams_and_tells(void **state)
{
	struct pio_listener l;
	uint64_t offset = 0;
	struct outlog_record rec;

	(void)state;
	pio_listen(pio, &l, on_change, NULL);
	assert_int_equal(write(child[1], "out", 3), 3);
	rounds(2);
	assert_int_equal(write(child[2], "err", 3), 3);
	rounds(2);
	assert_int_equal(told, 2);
	assert_true(outlog_next(&pio->log, &offset, 100, &rec));
	assert_int_equal(rec.stream, OUTLOG_STDOUT);
	assert_true(outlog_next(&pio->log, &offset, 100, &rec));
	assert_int_equal(rec.stream, OUTLOG_STDERR);
	pio_unlisten(pio, &l);
}

static void pio_full_log_stops_reading_until_acknowledged(void **state)
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
	assert_int_equal(pio->log.data.len, GUEST_LOG_BUFFER_BYTES);
	assert_true(written > GUEST_LOG_BUFFER_BYTES);
	assert_true(written <= GUEST_LOG_BUFFER_BYTES + 65536);
	assert_int_equal(pio_ack(pio, 10000, NULL), 0);
	rounds(3);
	assert_int_equal(pio->log.data.len, GUEST_LOG_BUFFER_BYTES);
	assert_int_equal(pio_ack(pio, outlog_end(&pio->log) + 1, NULL), -ERANGE);
	while (outlog_end(&pio->log) < written) {
		pio_ack(pio, outlog_end(&pio->log), NULL);
		rounds(2);
	}
	assert_int_equal(outlog_end(&pio->log), written);
}

static void pio_hang_up_while_full_does_not_spin(void **state)
{
	char *block = calloc(1, GUEST_LOG_BUFFER_BYTES);

	(void)state;
	outlog_append(&pio->log, OUTLOG_STDOUT, block, GUEST_LOG_BUFFER_BYTES);
	(void)!write(child[1], "x", 1);
	rounds(1);
	child[1] = close_fd(child[1]);
	/*
	 * With nothing watched the round runs into its timeout instead of returning at once again and again.
	 */
	for (int i = 0; i < 3; i++) {
		int64_t begin = now_monotonic_ns();

		eloop_round(g.loop, 5 * NS_PER_MS);
		assert_true(now_monotonic_ns() - begin >= 4 * NS_PER_MS);
	}
	assert_false(pio_ended(pio, OUTLOG_STDOUT));
	pio_ack(pio, GUEST_LOG_BUFFER_BYTES, NULL);
	rounds(3);
	assert_true(pio_ended(pio, OUTLOG_STDOUT));
	assert_int_equal(outlog_end(&pio->log), GUEST_LOG_BUFFER_BYTES + 1);
	free(block);
}

static void pio_closed_pipes_are_the_end(void **state)
{
	(void)state;
	child[1] = close_fd(child[1]);
	rounds(2);
	assert_true(pio_ended(pio, OUTLOG_STDOUT));
	assert_false(pio_all_ended(pio));
	child[2] = close_fd(child[2]);
	rounds(2);
	assert_true(pio_all_ended(pio));
}

static void pio_exited_gives_forgotten_writers_a_grace_only(void **state)
{
	int64_t begin = now_monotonic_ns();

	(void)state;
	(void)!write(child[1], "last words", 10);
	pio_exited(pio);
	while (!pio_all_ended(pio) && now_monotonic_ns() - begin < 5 * NS_PER_SEC)
		eloop_round(g.loop, NS_PER_SEC);
	assert_true(pio_all_ended(pio));
	assert_true(now_monotonic_ns() - begin >= PIO_GRACE_NS);
	assert_int_equal(outlog_end(&pio->log), 10);
}

static void pio_write_reaches_the_child_and_ends(void **state)
{
	char buf[16];

	(void)state;
	assert_true(pio_has_in(pio));
	assert_int_equal(pio_write(pio, "hello", 5), 0);
	pio_close_in(pio);
	assert_int_equal(read(child[0], buf, sizeof(buf)), 5);
	assert_int_equal(read(child[0], buf, sizeof(buf)), 0);
	assert_int_equal(pio_write(pio, "x", 1), -EPIPE);
	assert_false(pio_has_in(pio));
}

static void pio_write_is_bounded_and_keeps_order(void **state)
{
	static unsigned char block[1 << 20];
	unsigned char got[65536];
	size_t sent = 0, seen = 0;
	ssize_t n;

	(void)state;
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (unsigned char)(i * 31 >> 3);
	while (pio_write(pio, block, sizeof(block)) == 0)
		sent += sizeof(block);
	assert_true(sent >= PIO_IN_MAX - sizeof(block) && sent <= PIO_IN_MAX + sizeof(block));
	pio_close_in(pio);
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

static void pio_write_to_a_reader_that_left_is_an_end(void **state)
{
	(void)state;
	child[0] = close_fd(child[0]);
	(void)pio_write(pio, "x", 1);
	assert_int_equal(pio_write(pio, "x", 1), -EPIPE);
}

static void pio_resize_without_a_terminal_fails(void **state)
{
	(void)state;
	assert_int_equal(pio_resize(pio, 80, 24, NULL), -ENOTTY);
	assert_int_equal(pio_resize(pio, 100000, 24, NULL), -EINVAL);
}

static int order[4], order_len;

static void on_timer(void *arg)
{
	order[order_len++] = *(int *)arg;
}

static void eloop_timers_run_in_order_and_once(void **state)
{
	struct eloop_timer t[3] = {{.loop = NULL}};
	int ids[3] = {0, 1, 2};
	int64_t now = now_monotonic_ns();

	(void)state;
	order_len = 0;
	eloop_timer_set(g.loop, &t[0], now + 3, on_timer, &ids[0]);
	eloop_timer_set(g.loop, &t[1], now + 1, on_timer, &ids[1]);
	eloop_timer_set(g.loop, &t[2], now + 2, on_timer, &ids[2]);
	eloop_timer_clear(&t[2]);
	rounds(2);
	assert_int_equal(order_len, 2);
	assert_int_equal(order[0], 1);
	assert_int_equal(order[1], 0);
}

static void eloop_tasks_run_once_and_can_be_taken_back(void **state)
{
	struct eloop_task t[3] = {{.queued = false}};
	int ids[3] = {0, 1, 2};

	(void)state;
	order_len = 0;
	for (int i = 0; i < 3; i++) {
		eloop_later(g.loop, &t[i], on_timer, &ids[i]);
		eloop_later(g.loop, &t[i], on_timer, &ids[i]);
	}
	eloop_task_clear(g.loop, &t[2]);
	eloop_later(g.loop, &t[2], on_timer, &ids[2]);
	eloop_task_clear(g.loop, &t[0]);
	rounds(1);
	assert_int_equal(order_len, 2);
	assert_int_equal(order[0], 1);
	assert_int_equal(order[1], 2);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(pio_reads_both_streams_and_tells),
		T(pio_full_log_stops_reading_until_acknowledged),
		T(pio_hang_up_while_full_does_not_spin),
		T(pio_closed_pipes_are_the_end),
		T(pio_exited_gives_forgotten_writers_a_grace_only),
		T(pio_write_reaches_the_child_and_ends),
		T(pio_write_is_bounded_and_keeps_order),
		T(pio_write_to_a_reader_that_left_is_an_end),
		T(pio_resize_without_a_terminal_fails),
		T(eloop_timers_run_in_order_and_once),
		T(eloop_tasks_run_once_and_can_be_taken_back),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

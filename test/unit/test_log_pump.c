/* SPDX-License-Identifier: Apache-2.0 */
/* The log pump over a fake agent: whatever breaks, no line is lost or repeated. */
#include "log_pump_fixture.h"

/* ---- the usual ----------------------------------------------------------------------------------------- */

static void pump_lines_of_both_streams_arrive_in_order(void **state)
{
	struct fixture *x = *state;

	for (int i = 0; i < 50; i++)
		print(x, i % 3 == 0);
	assert_int_equal(start(x, NULL, false, NULL), 0);
	for (int i = 0; i < 200; i++)
		print(x, i % 2);
	finish(x);
}

static void pump_log_exists_when_start_returns(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(start(x, NULL, false, NULL), 0);
	assert_int_equal(access(x->log, F_OK), 0);
	finish(x);
}

static void pump_without_a_path_reads_and_drops(void **state)
{
	struct fixture *x = *state;

	x->log[0] = 0;
	print(x, false);
	assert_int_equal(start(x, NULL, false, NULL), 0);
	AWAIT(fake_agent_acked(x->fake, ID) == 17);
	fake_agent_exit(x->fake, ID, 0);
	assert_int_equal(log_pump_wait_eof(x->pump, NULL, in_s(20)), 0);
}

static void pump_reopen_goes_on_in_a_new_file(void **state)
{
	struct fixture *x = *state;
	char old[160], *have;

	snprintf(old, sizeof(old), "%s.1", x->log);
	assert_int_equal(start(x, NULL, false, NULL), 0);
	print(x, false);
	AWAIT(fake_agent_acked(x->fake, ID) == 17);
	assert_int_equal(rename(x->log, old), 0);
	assert_int_equal(log_pump_reopen(x->pump, NULL, NULL), 0);
	have = without_stamps(old);
	assert_string_equal(have, x->want);
	free(have);
	x->want_len = 0;
	print(x, true);
	finish(x);
}

static void pump_restarted_goes_on_where_it_was(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(start(x, NULL, false, NULL), 0);
	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < 20; i++)
			print(x, i % 2);
		/* At any moment: what was written and not acknowledged is read again, and cut off first. */
		usleep((useconds_t)round * 700);
		x->pump = log_pump_free(x->pump);
		looping_turn(&x->l);
		usleep(20000); /* for a job that was under way: two pumps never share a file in the server */
		assert_int_equal(start(x, NULL, true, NULL), 0);
	}
	finish(x);
}

/* ---- the connection ------------------------------------------------------------------------------------ */

static void pump_cut_at_any_call_loses_and_repeats_nothing(void **state)
{
	static const char *const methods[] = {"ReadLog", "Ack"};
	struct fixture *x = *state;

	assert_int_equal(start(x, NULL, false, NULL), 0);
	for (int i = 0; i < 12; i++) {
		const char *method = methods[i % 2];
		unsigned int calls = fake_agent_calls(x->fake, method);

		fake_agent_cut_at(x->fake, method, i % 4 < 2);
		print(x, i % 3 == 0);
		print(x, i % 3 == 1);
		fake_agent_await(x->fake, method, calls + 1);
	}
	finish(x);
}

static void pump_cut_with_the_control_connection_waits_for_the_next_epoch(void **state)
{
	struct fixture *x = *state;
	unsigned int dials;

	assert_int_equal(start(x, NULL, false, NULL), 0);
	print(x, false);
	AWAIT(fake_agent_acked(x->fake, ID) == 17);
	fake_agent_refuse(x->fake, -ECONNREFUSED);
	fake_agent_cut(x->fake);
	print(x, true);
	usleep(300000);
	/* The agent dials, with pauses; the pump does not. */
	dials = fake_agent_dials(x->fake);
	assert_true(dials <= 8);
	fake_agent_refuse(x->fake, 0);
	finish(x);
}

static void pump_of_a_lost_agent_ends(void **state)
{
	struct fixture *x = *state;

	connect_agent(x, 300 * NS_PER_MS);
	assert_int_equal(start(x, NULL, false, NULL), 0);
	print(x, false);
	AWAIT(fake_agent_acked(x->fake, ID) == 17);
	fake_agent_refuse(x->fake, -ECONNREFUSED);
	fake_agent_cut(x->fake);
	assert_int_equal(log_pump_wait_eof(x->pump, NULL, in_s(20)), -ECONNRESET);
	assert_log(x);
}

static atomic_bool dials_wait;
static atomic_uint waiting;

static int dial_late(void *arg, uint32_t port, int64_t deadline_ns, struct err *err)
{
	atomic_fetch_add(&waiting, 1);
	AWAIT(!atomic_load(&dials_wait));
	atomic_fetch_sub(&waiting, 1);
	return fake_agent_dial(arg, port, deadline_ns, err);
}

static void pump_of_an_agent_that_ends_while_it_dials_ends(void **state)
{
	struct fixture *x = *state;
	const struct agent_options options = {
		.loop = x->l.loop, .workers = x->l.workers, .dial = dial_late, .arg = x->fake};
	struct err why = ERR_INIT;

	x->agent = agent_free(x->agent);
	assert_int_equal(agent_new(&options, &x->agent, NULL), 0);
	assert_int_equal(agent_connect(x->agent, NULL, in_s(10), NULL), 0);
	assert_int_equal(start(x, NULL, false, NULL), 0);
	fake_agent_await(x->fake, "ReadLog", 1);
	atomic_store(&dials_wait, true);
	fake_agent_cut_at(x->fake, "ReadLog", false);
	print(x, false);
	AWAIT(atomic_load(&waiting) == 1);
	err_set(&why, -ECONNRESET, "the guest is gone");
	agent_abort(x->agent, &why);
	assert_int_equal(log_pump_wait_eof(x->pump, NULL, in_s(20)), -ECONNRESET);
	atomic_store(&dials_wait, false);
	AWAIT(atomic_load(&waiting) == 0);
	assert_true(workers_stop(x->l.workers, 20 * NS_PER_SEC));
	looping_turn(&x->l);
}

static void pump_read_that_fails_is_tried_again(void **state)
{
	static const int codes[] = {-EIO, -ENOMEM, -EINVAL, -EAGAIN, -EPERM};
	struct fixture *x = *state;

	assert_int_equal(start(x, NULL, false, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
		unsigned int calls = fake_agent_calls(x->fake, "ReadLog");

		fake_agent_fail(x->fake, "ReadLog", codes[i], "not now");
		print(x, false);
		fake_agent_await(x->fake, "ReadLog", calls + 1);
		AWAIT(fake_agent_acked(x->fake, ID) > 0);
	}
	finish(x);
}

static void pump_of_an_unknown_container_ends(void **state)
{
	struct fixture *x = *state;

	fake_agent_fail(x->fake, "ReadLog", -ENOENT, "no container");
	assert_int_equal(start(x, NULL, false, NULL), 0);
	assert_int_equal(log_pump_wait_eof(x->pump, NULL, in_s(20)), -ECONNRESET);
}

/* ---- a hostile guest ----------------------------------------------------------------------------------- */

static void answer_with(struct fixture *x, uint64_t offset, int stream, size_t len, size_t n)
{
	Crivisor__Agent__V1__ReadLogResponse resp = CRIVISOR__AGENT__V1__READ_LOG_RESPONSE__INIT;
	Crivisor__Agent__V1__LogRecord rec = CRIVISOR__AGENT__V1__LOG_RECORD__INIT;
	Crivisor__Agent__V1__LogRecord **recs = calloc(n ? n : 1, sizeof(*recs));
	unsigned char *data = calloc(1, len ? len : 1), *packed;
	size_t size;

	assert_non_null(recs);
	assert_non_null(data);
	memset(data, 'x', len);
	rec.stream = (Crivisor__Agent__V1__Stream)stream;
	rec.data.data = data;
	rec.data.len = len;
	for (size_t i = 0; i < n; i++)
		recs[i] = &rec;
	resp.offset = offset;
	resp.records = recs;
	resp.n_records = n;
	size = protobuf_c_message_get_packed_size(&resp.base);
	packed = malloc(size ? size : 1);
	assert_non_null(packed);
	protobuf_c_message_pack(&resp.base, packed);
	fake_agent_answer(x->fake, "ReadLog", packed, size);
	free(packed);
	free(data);
	free(recs);
}

static void refuses(struct fixture *x)
{
	assert_int_equal(start(x, NULL, false, NULL), 0);
	assert_int_equal(log_pump_wait_eof(x->pump, NULL, in_s(20)), -ECONNRESET);
	assert_log(x);
	x->pump = log_pump_free(x->pump);
	looping_turn(&x->l);
}

static void pump_records_that_do_not_fit_end_the_log(void **state)
{
	struct fixture *x = *state;

	answer_with(x, 1, 1, 5, 1); /* a gap */
	refuses(x);
	answer_with(x, UINT64_MAX, 1, 5, 1);
	refuses(x);
	answer_with(x, 0, 0, 5, 1); /* no such stream */
	refuses(x);
	answer_with(x, 0, 1, GUEST_READLOG_MAX + 1, 1); /* too much */
	refuses(x);
	answer_with(x, 0, 1, 1, 5000); /* too many */
	refuses(x);
}

static void pump_malformed_answers_are_asked_for_again(void **state)
{
	struct fixture *x = *state;

	print(x, false);
	answer_with(x, 0, 3, 5, 1); /* a number that the protocol does not have */
	assert_int_equal(start(x, NULL, false, NULL), 0);
	fake_agent_await(x->fake, "ReadLog", 2);
	fake_agent_answer(x->fake, "ReadLog", "\x0a\x02\xff\xfe", 4);
	print(x, true);
	finish(x);
}

static void pump_empty_answers_do_not_busy_the_loop(void **state)
{
	struct fixture *x = *state;
	int64_t before = now_monotonic_ns();

	/* Each call is answered at once, with nothing: the next comes after 100 ms. */
	fake_agent_answer(x->fake, "ReadLog", "", 0);
	assert_int_equal(start(x, NULL, false, NULL), 0);
	for (unsigned int i = 1; i <= 5; i++) {
		fake_agent_await(x->fake, "ReadLog", i);
		fake_agent_answer(x->fake, "ReadLog", "", 0);
	}
	assert_true(now_monotonic_ns() - before >= 400 * NS_PER_MS);
	print(x, false);
	finish(x);
}

/* ---- the disk ------------------------------------------------------------------------------------------ */

static void limit_files(rlim_t bytes)
{
	struct rlimit lim;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &lim), 0);
	lim.rlim_cur = bytes;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &lim), 0);
}

static void pump_full_disk_holds_the_process_back_and_goes_on(void **state)
{
	struct fixture *x = *state;
	uint64_t acked;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(start(x, NULL, false, NULL), 0);
	print(x, false);
	AWAIT(fake_agent_acked(x->fake, ID) == 17);
	/* In the middle of the next line: part of it is written, and must go again. */
	limit_files(60);
	for (int i = 0; i < 5; i++)
		print(x, i % 2);
	usleep(1500000);
	acked = fake_agent_acked(x->fake, ID);
	limit_files(RLIM_INFINITY);
	assert_int_equal(acked, 17);
	finish(x);
}

/* Fault M: what is acknowledged is gone from the guest, so its position must be safe before. */
static void pump_position_that_cannot_be_saved_acknowledges_nothing(void **state)
{
	struct fixture *x = *state;
	uint64_t acked;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(start(x, NULL, false, NULL), 0);
	print(x, false);
	AWAIT(fake_agent_acked(x->fake, ID) == 17);
	/* The log has room; the second slot of the position lies beyond. */
	limit_files(40000);
	for (int i = 0; i < 5; i++)
		print(x, i % 2);
	usleep(1500000);
	acked = fake_agent_acked(x->fake, ID);
	/* The server is killed now, and starts again once there is room. */
	x->pump = log_pump_free(x->pump);
	looping_turn(&x->l);
	usleep(100000);
	limit_files(RLIM_INFINITY);
	assert_true(acked < 17 * 3); /* one of the two slots can still be written */
	assert_int_equal(start(x, NULL, true, NULL), 0);
	finish(x);
}

/* Fault M: a position that was lost all the same ends no log; a line says what may be missing. */
static void pump_resumed_without_its_position_says_what_is_missing(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(start(x, NULL, false, NULL), 0);
	for (int i = 0; i < 4; i++)
		print(x, i % 2);
	AWAIT(fake_agent_acked(x->fake, ID) == 4 * 17);
	x->pump = log_pump_free(x->pump);
	looping_turn(&x->l);
	AWAIT(unlink(x->pos) == 0);
	assert_int_equal(start(x, NULL, true, NULL), 0);
	x->want_len += (size_t)snprintf(x->want + x->want_len, sizeof(x->want) - x->want_len,
					"stderr F crivisor: the position of this log was lost, up to 68 "
					"bytes of output are missing here\n");
	print(x, false);
	fake_agent_exit(x->fake, ID, 0);
	assert_int_equal(log_pump_wait_eof(x->pump, NULL, in_s(20)), 0);
	x->pump = log_pump_free(x->pump);
	char *have = without_stamps(x->log);
	assert_string_equal(have, x->want);
	free(have);
}

/* Fault M: nor does a disk that is full at the moment of the restart. */
static void pump_resumed_on_a_full_disk_goes_on_later(void **state)
{
	struct fixture *x = *state;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(start(x, NULL, false, NULL), 0);
	print(x, false);
	AWAIT(fake_agent_acked(x->fake, ID) == 17);
	x->pump = log_pump_free(x->pump);
	looping_turn(&x->l);
	limit_files(1);
	print(x, false);
	assert_int_equal(start(x, NULL, true, NULL), 0);
	usleep(300000);
	limit_files(RLIM_INFINITY);
	finish(x);
}

static void pump_reopen_with_an_unsaved_position_changes_nothing(void **state)
{
	struct fixture *x = *state;
	char old[160];
	struct err err = ERR_INIT;
	int r;

	signal(SIGXFSZ, SIG_IGN);
	snprintf(old, sizeof(old), "%s.1", x->log);
	assert_int_equal(start(x, NULL, false, NULL), 0);
	for (int i = 0; i < 2; i++) {
		print(x, false);
		AWAIT(fake_agent_acked(x->fake, ID) == 17u * (unsigned int)(i + 1));
	}
	limit_files(40000);
	print(x, false);
	print(x, false);
	usleep(300000);
	assert_int_equal(rename(x->log, old), 0);
	r = log_pump_reopen(x->pump, NULL, &err);
	limit_files(RLIM_INFINITY);
	assert_true(r < 0);
	assert_int_equal(access(x->log, F_OK), -1);
	assert_int_equal(rename(old, x->log), 0);
	finish(x);
}

/* ---- a file system that hangs -------------------------------------------------------------------------- */

static void pump_start_on_a_hung_file_system_ends_with_its_call(void **state)
{
	struct fixture *x = *state;
	struct call *call CLEANUP_CALL = NULL;
	char dir[160];
	int64_t before = now_monotonic_ns();
	int fd;

	/* Opening a FIFO for writing blocks until somebody reads. */
	snprintf(dir, sizeof(dir), "%s/pod/ctr", x->dir);
	assert_int_equal(mkdir_p(dir, 0755), 0);
	assert_int_equal(mkfifo(x->log, 0600), 0);
	assert_int_equal(call_new(before + 200 * NS_PER_MS, &call, NULL), 0);
	assert_int_equal(start(x, call, false, NULL), -ETIMEDOUT);
	assert_true(now_monotonic_ns() - before < 3 * NS_PER_SEC);
	looping_turn(&x->l);
	fd = open(x->log, O_RDONLY | O_NONBLOCK);
	assert_true(fd >= 0);
	usleep(100000);
	close(fd);
}

/* Fault L: a restart does not wait for a disk either: the log of one container holds up no other's. */
static void pump_resumed_on_a_hung_file_system_holds_up_nobody(void **state)
{
	struct fixture *x = *state;
	char dir[160];
	int64_t before = now_monotonic_ns();
	int fd;

	snprintf(dir, sizeof(dir), "%s/pod/ctr", x->dir);
	assert_int_equal(mkdir_p(dir, 0755), 0);
	assert_int_equal(mkfifo(x->log, 0600), 0); /* its opening waits for a reader */
	assert_int_equal(start(x, NULL, true, NULL), 0);
	looping_turn(&x->l);
	assert_true(now_monotonic_ns() - before < 3 * NS_PER_SEC);
	x->pump = log_pump_free(x->pump);
	looping_turn(&x->l);
	fd = open(x->log, O_RDONLY | O_NONBLOCK);
	assert_true(fd >= 0);
	usleep(100000);
	close(fd);
}

/* Fault L: the loop's thread takes no lock that is held over a file. */
static void pump_write_that_hangs_holds_up_neither_loop_nor_caller(void **state)
{
	struct fixture *x = *state;
	struct call *call CLEANUP_CALL = NULL;
	char dir[160], *big = calloc(1, 60000);
	int64_t before;
	int fd;

	assert_non_null(big);
	memset(big, 'y', 60000);
	snprintf(dir, sizeof(dir), "%s/pod/ctr", x->dir);
	assert_int_equal(mkdir_p(dir, 0755), 0);
	assert_int_equal(mkfifo(x->log, 0600), 0);
	fd = open(x->log, O_RDWR | O_NONBLOCK);
	assert_true(fd >= 0);
	assert_int_equal(start(x, NULL, false, NULL), 0);
	for (int i = 0; i < 4; i++) {
		big[59999] = '\n';
		fake_agent_print(x->fake, ID, false, big, 60000);
	}
	usleep(300000); /* the pipe is full by now */
	looping_turn(&x->l);
	before = now_monotonic_ns();
	assert_int_equal(call_new(before + 200 * NS_PER_MS, &call, NULL), 0);
	assert_int_equal(log_pump_reopen(x->pump, call, NULL), -ETIMEDOUT);
	assert_int_equal(log_pump_wait_eof(x->pump, call, INT64_MAX), -ETIMEDOUT);
	assert_true(now_monotonic_ns() - before < 3 * NS_PER_SEC);
	x->pump = log_pump_free(x->pump);
	looping_turn(&x->l);
	/* The pipe is emptied, so that the thread that writes can end. */
	for (int i = 0; i < 200; i++) {
		while (read(fd, big, 60000) > 0)
			;
		usleep(1000);
	}
	close(fd);
	free(big);
}

static void pump_freed_at_any_moment_leaves_nothing(void **state)
{
	struct fixture *x = *state;

	for (int i = 0; i < 30; i++) {
		assert_int_equal(start(x, NULL, true, NULL), 0);
		print(x, false);
		if (i % 5 == 0)
			fake_agent_cut(x->fake);
		usleep((useconds_t)(i % 6) * 300);
		x->pump = log_pump_free(x->pump);
		looping_turn(&x->l);
		usleep(10000);
	}
	assert_int_equal(start(x, NULL, true, NULL), 0);
	finish(x);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(pump_lines_of_both_streams_arrive_in_order),
		TEST(pump_log_exists_when_start_returns),
		TEST(pump_without_a_path_reads_and_drops),
		TEST(pump_reopen_goes_on_in_a_new_file),
		TEST(pump_restarted_goes_on_where_it_was),
		TEST(pump_cut_at_any_call_loses_and_repeats_nothing),
		TEST(pump_cut_with_the_control_connection_waits_for_the_next_epoch),
		TEST(pump_of_a_lost_agent_ends),
		TEST(pump_of_an_agent_that_ends_while_it_dials_ends),
		TEST(pump_read_that_fails_is_tried_again),
		TEST(pump_of_an_unknown_container_ends),
		TEST(pump_records_that_do_not_fit_end_the_log),
		TEST(pump_malformed_answers_are_asked_for_again),
		TEST(pump_empty_answers_do_not_busy_the_loop),
		TEST(pump_full_disk_holds_the_process_back_and_goes_on),
		TEST(pump_position_that_cannot_be_saved_acknowledges_nothing),
		TEST(pump_resumed_without_its_position_says_what_is_missing),
		TEST(pump_resumed_on_a_full_disk_goes_on_later),
		TEST(pump_resumed_on_a_hung_file_system_holds_up_nobody),
		TEST(pump_reopen_with_an_unsaved_position_changes_nothing),
		TEST(pump_start_on_a_hung_file_system_ends_with_its_call),
		TEST(pump_write_that_hangs_holds_up_neither_loop_nor_caller),
		TEST(pump_freed_at_any_moment_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

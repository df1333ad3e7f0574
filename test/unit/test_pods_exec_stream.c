/* SPDX-License-Identifier: Apache-2.0 */
/* Exec with a client, over the fake sandbox. */
#include "pod_streams_fixture.h"

#include "api/agent/agent.pb-c.h"

#define MUCH (4u << 20)

static void assert_refused(struct house *x, const char *id, char *const *args, const struct container_io *io,
			   enum err_status status, const char *words)
{
	struct err err = ERR_INIT;
	char *url = NULL;

	assert_true(containers_offer_exec(x->pods, id, args, io, &url, &err) < 0);
	assert_int_equal(err.status, status);
	assert_non_null(strstr(err.msg, words));
	assert_null(url);
}

static void offer_that_makes_no_sense_is_refused(void **state)
{
	static const struct container_io none = {.tty = true}, both = {.out = true, .err = true, .tty = true};
	char *const cat[] = {(char *)(uintptr_t) "cat", NULL}, *const empty[] = {NULL};
	struct house *x = *state;

	assert_refused(x, "0c0c", cat, &io_all, ERR_NOT_FOUND, "0c0c");
	assert_refused(x, CONTAINER_ID, empty, &io_all, ERR_INVALID_ARGUMENT, "cmd");
	assert_refused(x, CONTAINER_ID, NULL, &io_all, ERR_INVALID_ARGUMENT, "cmd");
	assert_refused(x, CONTAINER_ID, cat, &none, ERR_INVALID_ARGUMENT, "stdin, stdout and stderr");
	assert_refused(x, CONTAINER_ID, cat, &both, ERR_INVALID_ARGUMENT, "tty and stderr");
	fake_agent_exit(x->guest, CONTAINER_ID, 0);
	AWAIT(container_state(x->container) == CONTAINER_EXITED);
	assert_refused(x, CONTAINER_ID, cat, &io_all, ERR_FAILED_PRECONDITION, "not running");
}

/* The offer holds the container, and lets it go: nothing leaks where no client ever comes. */
static void offer_without_a_client_starts_nothing(void **state)
{
	struct house *x = *state;

	free(offer_exec(x, &io_all));
	looping_turn(&x->base.l);
	assert_int_equal(fake_agent_calls(x->guest, "Exec"), 0);
}

static void input_and_output_pass_and_success_is_told(void **state)
{
	struct house *x = *state;
	char *url = offer_exec(x, &io_all);
	int fd = dial(&x->base);
	struct client c;
	struct heard h;

	client_command(&c, url, &io_all);
	client_data(&c, 3, "hello ", false);
	client_data(&c, 3, "world", true);
	client_flush(&c, fd);
	h = hear(fd);
	assert_true(heard_is(&h, 5, "hello world"));
	assert_true(heard_is(&h, 7, ""));
	assert_true(heard_has(&h, 1, "\"Success\""));
	house_is_quiet(x);
	free(h.all);
	client_done(&c);
	free(url);
}

/* Starts a command whose client only listens: its process, for the fake. */
static int begin_listening(struct house *x, struct client *c, char ret_process[80])
{
	char *url CLEANUP_FREE = offer_exec(x, &io_out);
	unsigned int before = fake_agent_calls(x->guest, "Start");
	int fd = dial(&x->base);

	client_command(c, url, &io_out);
	client_flush(c, fd);
	fake_agent_await(x->guest, "Start", before + 1);
	fake_agent_last_exec(x->guest, ret_process);
	return fd;
}

static void both_outputs_and_the_exit_code_are_told(void **state)
{
	struct house *x = *state;
	char process[80];
	struct client c;
	struct heard h;
	int fd = begin_listening(x, &c, process);

	fake_agent_print(x->guest, process, false, "out", 3);
	fake_agent_print(x->guest, process, true, "err", 3);
	fake_agent_exit(x->guest, process, 7);
	h = hear(fd);
	assert_true(heard_is(&h, 5, "out"));
	assert_true(heard_is(&h, 7, "err"));
	assert_true(heard_has(&h, 1, "{\"reason\":\"ExitCode\",\"message\":\"7\"}"));
	house_is_quiet(x);
	free(h.all);
	client_done(&c);
}

static void size_of_the_terminal_reaches_the_guest(void **state)
{
	struct house *x = *state;
	char *url = offer_exec(x, &io_tty);
	int fd = dial(&x->base);
	struct client c;
	uint32_t width = 0, height = 0;

	fake_agent_hang(x->guest, "Start", true);
	client_command(&c, url, &io_tty);
	client_data(&c, 7, "{\"Width\":97,\"Height\":33}\n", false);
	client_flush(&c, fd);
	fake_agent_await(x->guest, "Start", 1);
	assert_int_equal(fake_agent_calls(x->guest, "ResizePty"), 0); /* it waits for the process */
	fake_agent_hang(x->guest, "Start", false);
	fake_agent_await(x->guest, "ResizePty", 1);
	client_data(&c, 7, "{\"Width\":50,\"Height\":20}\n", false);
	client_flush(&c, fd);
	fake_agent_await(x->guest, "ResizePty", 2);
	AWAIT((fake_agent_size(x->guest, &width, &height), width == 50));
	assert_int_equal(height, 20);
	client_data(&c, 3, "", true);
	client_flush(&c, fd);
	free(hear(fd).all);
	house_is_quiet(x);
	client_done(&c);
	free(url);
}

/* ---- what fails ---------------------------------------------------------------------------------------- */

static void start_that_fails_is_told_and_leaves_nothing(void **state)
{
	static const char *const methods[] = {"Exec", "Start"};
	struct house *x = *state;

	for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
		char *url = offer_exec(x, &io_all);
		int fd = dial(&x->base);
		struct client c;
		struct heard h;

		fake_agent_fail(x->guest, methods[i], -ENOENT, "no such program");
		client_command(&c, url, &io_all);
		client_flush(&c, fd);
		h = hear(fd);
		assert_true(heard_has(&h, 1, "\"Failure\""));
		assert_true(heard_has(&h, 1, "no such program"));
		assert_true(heard_has(&h, 1, CONTAINER_ID));
		house_is_quiet(x);
		free(h.all);
		client_done(&c);
		free(url);
	}
}

static void container_that_ends_before_the_client_comes_is_told(void **state)
{
	struct house *x = *state;
	char *url = offer_exec(x, &io_all);
	struct client c;
	struct heard h;
	int fd;

	fake_agent_exit(x->guest, CONTAINER_ID, 0);
	AWAIT(container_state(x->container) == CONTAINER_EXITED);
	fd = dial(&x->base);
	client_command(&c, url, &io_all);
	client_flush(&c, fd);
	h = hear(fd);
	assert_true(heard_has(&h, 1, "not running"));
	assert_int_equal(fake_agent_calls(x->guest, "Exec"), 0);
	free(h.all);
	client_done(&c);
	free(url);
}

static void guest_that_dies_is_told(void **state)
{
	struct house *x = *state;
	char process[80];
	struct client c;
	struct heard h;
	int fd = begin_listening(x, &c, process);

	fake_sandbox_end(x->pod->sandbox, "the VM has crashed", 1);
	h = hear(fd);
	assert_true(heard_has(&h, 1, "\"Failure\""));
	assert_true(heard_has(&h, 1, "the VM has crashed"));
	free(h.all);
	client_done(&c);
}

/* All connections to the guest break, the guest lives: the output is lost, so the command is ended. */
static void connection_that_breaks_is_told_and_the_command_killed(void **state)
{
	struct house *x = *state;
	char process[80];
	struct client c;
	struct heard h;
	int fd = begin_listening(x, &c, process);

	fake_agent_await(x->guest, "ReadLog", fake_agent_calls(x->guest, "ReadLog"));
	fake_agent_cut(x->guest);
	h = hear(fd);
	assert_true(heard_has(&h, 1, "\"Failure\""));
	free(h.all);
	client_done(&c);
}

static void output_at_a_wrong_offset_ends_the_command(void **state)
{
	Crivisor__Agent__V1__ReadLogResponse lie = CRIVISOR__AGENT__V1__READ_LOG_RESPONSE__INIT;
	struct house *x = *state;
	unsigned char data[32];
	char process[80];
	struct client c;
	struct heard h;
	int fd;

	/* The log's own read is waiting; the next one is the command's. */
	fake_agent_await(x->guest, "ReadLog", 1);
	lie.offset = 1u << 30;
	fake_agent_answer(x->guest, "ReadLog", data,
			  crivisor__agent__v1__read_log_response__pack(&lie, data));
	fd = begin_listening(x, &c, process);
	h = hear(fd);
	assert_true(heard_has(&h, 1, "wrong offset"));
	fake_agent_await(x->guest, "Kill", 1);
	house_is_quiet(x);
	free(h.all);
	client_done(&c);
}

/* ---- the client leaves --------------------------------------------------------------------------------- */

static void client_that_vanishes_ends_the_command(void **state)
{
	struct house *x = *state;
	char process[80];
	struct client c;
	int fd = begin_listening(x, &c, process);

	close(fd);
	fake_agent_await(x->guest, "Kill", 1);
	AWAIT(!fake_agent_has(x->guest, process));
	assert_int_equal(container_state(x->container), CONTAINER_RUNNING);
	house_is_quiet(x);
	client_done(&c);
}

static void client_that_vanishes_during_the_start_ends_the_command(void **state)
{
	static const char *const methods[] = {"Exec", "Start"};
	struct house *x = *state;

	for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
		unsigned int before = fake_agent_calls(x->guest, methods[i]);
		char *url = offer_exec(x, &io_all), process[80];
		int fd = dial(&x->base);
		struct client c;

		fake_agent_hang(x->guest, methods[i], true);
		client_command(&c, url, &io_all);
		client_flush(&c, fd);
		fake_agent_await(x->guest, methods[i], before + 1);
		close(fd);
		usleep(20000);
		fake_agent_hang(x->guest, methods[i], false);
		fake_agent_await(x->guest, "Delete", (unsigned int)i + 1);
		fake_agent_last_exec(x->guest, process);
		AWAIT(!fake_agent_has(x->guest, process));
		house_is_quiet(x);
		client_done(&c);
		free(url);
	}
}

static char *offer_all(struct house *x)
{
	return offer_exec(x, &io_all);
}

/* More than 4 KiB. */
static void write_4k(struct client *c, const char *url)
{
	unsigned char *data CLEANUP_FREE = bytes_at(0, 700);

	client_command(c, url, &io_all);
	while (c->out.len < 4096)
		client_bytes(c, 3, data, 700);
}

static void cut_at_each_of_the_first_4_kib_leaves_nothing(void **state)
{
	struct house *x = *state;

	cut_everywhere(x, offer_all, write_4k, 4096);
	assert_true(fake_agent_calls(x->guest, "Start") > 500);
	assert_int_equal(container_state(x->container), CONTAINER_RUNNING);
}

/* ---- backpressure -------------------------------------------------------------------------------------- */

static void client_that_does_not_read_holds_up_the_process(void **state)
{
	const size_t part = 32768;
	struct house *x = *state;
	char process[80];
	struct client c;
	struct taker t = {.id = 5};
	uint64_t acked, later = 0;

	t.fd = begin_listening(x, &c, process);
	for (size_t at = 0; at < 4 * (size_t)MUCH; at += part) {
		unsigned char *data CLEANUP_FREE = bytes_at(at, part);

		fake_agent_print(x->guest, process, false, data, part);
	}
	fake_agent_exit(x->guest, process, 0);
	do { /* until nothing goes on */
		acked = later;
		usleep(100000);
		later = fake_agent_acked(x->guest, process);
	} while (later != acked);
	assert_true(acked < 4 * (uint64_t)MUCH);
	/* One that reads beside it is not held up. */
	{
		char other[80];
		struct client c2;
		struct heard h;
		int fd2 = begin_listening(x, &c2, other);

		fake_agent_print(x->guest, other, false, "alive", 5);
		fake_agent_exit(x->guest, other, 0);
		h = hear(fd2);
		assert_true(heard_is(&h, 5, "alive"));
		free(h.all);
		client_done(&c2);
	}
	taker_take(&t, 4 * (size_t)MUCH, 20000);
	assert_int_equal(t.taken, 4 * (size_t)MUCH);
	assert_false(t.wrong);
	close(t.fd);
	AWAIT(!fake_agent_has(x->guest, process));
	house_is_quiet(x);
	buf_done(&t.in);
	client_done(&c);
}

static void process_that_does_not_read_holds_up_its_client(void **state)
{
	struct house *x = *state;
	char *url = offer_exec(x, &io_all);
	int fd = dial(&x->base), small = 65536;
	struct client c;
	struct taker t = {.id = 5, .fd = fd};
	size_t offset = 0;

	must(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)) == 0);
	fake_agent_stop_reading(x->guest, true);
	client_command(&c, url, &io_all);
	client_pour(&c, fd, 3, &offset, MUCH, 300);
	assert_true(offset < MUCH);
	assert_int_equal(fake_agent_ahead(x->guest), 0); /* nothing was granted */
	fake_agent_stop_reading(x->guest, false);
	while (offset < MUCH || c.out.len > 0) {
		client_pour(&c, fd, 3, &offset, MUCH, 20);
		taker_take(&t, MUCH, 5);
	}
	client_data(&c, 3, "", true);
	client_flush(&c, fd);
	taker_take(&t, MUCH, 20000);
	assert_int_equal(t.taken, MUCH);
	assert_false(t.wrong);
	assert_true(fake_agent_ahead(x->guest) <= 64 * 1024); /* what the guest had granted */
	free(read_to_end(fd, NULL));
	close(fd);
	house_is_quiet(x);
	buf_done(&t.in);
	client_done(&c);
	free(url);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(offer_that_makes_no_sense_is_refused),
		T(offer_without_a_client_starts_nothing),
		T(input_and_output_pass_and_success_is_told),
		T(both_outputs_and_the_exit_code_are_told),
		T(size_of_the_terminal_reaches_the_guest),
		T(start_that_fails_is_told_and_leaves_nothing),
		T(container_that_ends_before_the_client_comes_is_told),
		T(guest_that_dies_is_told),
		T(connection_that_breaks_is_told_and_the_command_killed),
		T(output_at_a_wrong_offset_ends_the_command),
		T(client_that_vanishes_ends_the_command),
		T(client_that_vanishes_during_the_start_ends_the_command),
		T(cut_at_each_of_the_first_4_kib_leaves_nothing),
		T(client_that_does_not_read_holds_up_the_process),
		T(process_that_does_not_read_holds_up_its_client),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

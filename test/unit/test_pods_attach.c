/* SPDX-License-Identifier: Apache-2.0 */
/* Attach, over the fake sandbox. */
#include "pod_streams_fixture.h"

static char *offer_attach(struct house *x, const struct container_io *io)
{
	struct err err = ERR_INIT;
	char *url = NULL;

	if (containers_offer_attach(x->pods, CONTAINER_ID, io, &url, &err) < 0)
		fail_msg("%s", err.msg);
	return url;
}

/* Returns once it listens. */
static int begin(struct house *x, struct client *c, const struct container_io *io)
{
	char *url CLEANUP_FREE = offer_attach(x, io);
	unsigned int tokens, before, now, streams = fake_agent_streams_begun(x->guest);
	int fd = dial(&x->base);

	stream_server_load(x->base.server, &tokens, &before);
	client_command(c, url, io);
	client_flush(c, fd);
	do {
		usleep(1000);
		stream_server_load(x->base.server, &tokens, &now);
	} while (now == before);
	if (io->in)
		AWAIT(fake_agent_streams_begun(x->guest) == streams + 1);
	looping_turn(&x->base.l);
	usleep(5000); /* what came with the request has been read */
	looping_turn(&x->base.l);
	return fd;
}

static void assert_refused(struct house *x, const char *id, const struct container_io *io,
			   enum err_status status, const char *words)
{
	struct err err = ERR_INIT;
	char *url = NULL;

	assert_true(containers_offer_attach(x->pods, id, io, &url, &err) < 0);
	assert_int_equal(err.status, status);
	assert_non_null(strstr(err.msg, words));
	assert_null(url);
}

static void offer_that_makes_no_sense_is_refused(void **state)
{
	static const struct container_io none = {.tty = true}, both = {.out = true, .err = true, .tty = true};
	struct house *x = house_new(&(struct house_options){.features = house_features});

	(void)state;
	assert_refused(x, "0c0c", &io_out, ERR_NOT_FOUND, "0c0c");
	assert_refused(x, CONTAINER_ID, &none, ERR_INVALID_ARGUMENT, "stdin, stdout and stderr");
	assert_refused(x, CONTAINER_ID, &both, ERR_INVALID_ARGUMENT, "tty and stderr");
	assert_refused(x, CONTAINER_ID, &io_all, ERR_INVALID_ARGUMENT, "without stdin");
	assert_refused(x, CONTAINER_ID, &(struct container_io){.out = true, .tty = true},
		       ERR_INVALID_ARGUMENT, "without a terminal");
	fake_agent_exit(x->guest, CONTAINER_ID, 0);
	AWAIT(container_state(x->container) == CONTAINER_EXITED);
	assert_refused(x, CONTAINER_ID, &io_out, ERR_FAILED_PRECONDITION, "not running");
	house_free(x);
}

static void assert_log(struct house *x, const char *want)
{
	char *log = NULL, *line, *next;
	char got[4096] = "";

	assert_int_equal(read_file(x->log, sizeof(got) / 2, &log, NULL), 0);
	for (line = log; *line; line = next) { /* "<time> <stream> F <text>\n" */
		char *text = line;

		next = strchr(line, '\n');
		assert_non_null(next);
		*next++ = 0;
		for (int i = 0; i < 3; i++)
			text = strchr(text, ' ') + 1;
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s\n", text);
	}
	assert_string_equal(got, want);
	free(log);
}

static void output_goes_to_each_client_and_to_the_log(void **state)
{
	struct house *x = *state;
	struct client c[2];
	struct heard h;
	int fd[2];

	fake_agent_print(x->guest, CONTAINER_ID, false, "before\n", 7);
	AWAIT(fake_agent_acked(x->guest, CONTAINER_ID) == 7);
	for (int i = 0; i < 2; i++)
		fd[i] = begin(x, &c[i], &io_out);
	fake_agent_print(x->guest, CONTAINER_ID, false, "out\n", 4);
	fake_agent_print(x->guest, CONTAINER_ID, true, "err\n", 4);
	fake_agent_print(x->guest, CONTAINER_ID, false, "end\n", 4);
	fake_agent_exit(x->guest, CONTAINER_ID, 5);
	for (int i = 0; i < 2; i++) {
		h = hear(fd[i]);
		assert_true(heard_is(&h, 5, "out\nend\n"));
		assert_true(heard_is(&h, 7, "err\n"));
		assert_true(heard_has(&h, 1, "\"Success\""));
		free(h.all);
		client_done(&c[i]);
	}
	AWAIT(container_state(x->container) == CONTAINER_EXITED);
	assert_log(x, "before\nout\nerr\nend\n");
	house_is_quiet(x);
}

static void input_reaches_the_process_and_a_client_may_come_again(void **state)
{
	struct house *x = *state;

	for (int i = 0; i < 2; i++) {
		struct client c;
		struct taker t = {.id = 5};
		unsigned char *data CLEANUP_FREE = bytes_at(0, 1000);

		t.fd = begin(x, &c, &io_all);
		client_bytes(&c, 3, data, 1000);
		client_flush(&c, t.fd);
		taker_take(&t, 1000, 10000);
		assert_int_equal(t.taken, 1000);
		assert_false(t.wrong);
		close(t.fd);
		house_is_quiet(x);
		buf_done(&t.in);
		client_done(&c);
	}
	assert_int_equal(fake_agent_calls(x->guest, "CloseIO"), 0); /* its stdin stays open */
	assert_int_equal(container_state(x->container), CONTAINER_RUNNING);
}

static void stdin_once_ends_with_its_client(void **state)
{
	struct house *x =
		house_new(&(struct house_options){.in = true, .in_once = true, .features = house_features});
	struct client c;
	struct heard h;
	int fd = begin(x, &c, &io_all);

	(void)state;
	client_data(&c, 3, "last words", true);
	client_flush(&c, fd);
	h = hear(fd); /* the fake's process ends with its input */
	assert_true(heard_is(&h, 5, "last words"));
	AWAIT(container_state(x->container) == CONTAINER_EXITED);
	house_is_quiet(x);
	free(h.all);
	client_done(&c);
	house_free(x);
}

static void stdin_once_ends_with_a_client_that_vanishes(void **state)
{
	struct house *x =
		house_new(&(struct house_options){.in = true, .in_once = true, .features = house_features});
	struct client c;
	int fd = begin(x, &c, &io_all);

	(void)state;
	close(fd);
	fake_agent_await(x->guest, "CloseIO", 1);
	house_is_quiet(x);
	client_done(&c);
	house_free(x);
}

static void size_of_the_terminal_reaches_the_guest(void **state)
{
	struct house *x =
		house_new(&(struct house_options){.in = true, .tty = true, .features = house_features});
	struct client c;
	uint32_t width, height;
	int fd = begin(x, &c, &io_tty);

	(void)state;
	client_data(&c, 7, "{\"Width\":50,\"Height\":20}\n", false);
	client_flush(&c, fd);
	fake_agent_await(x->guest, "ResizePty", 1);
	AWAIT((fake_agent_size(x->guest, &width, &height), width == 50));
	assert_int_equal(height, 20);
	close(fd);
	house_is_quiet(x);
	client_done(&c);
	house_free(x);
}

static void guest_that_dies_ends_the_connection(void **state)
{
	struct house *x = *state;
	struct client c;
	int fd = begin(x, &c, &io_all);

	fake_sandbox_end(x->pod->sandbox, "the VM has crashed", 1);
	free(hear(fd).all);
	AWAIT(container_state(x->container) == CONTAINER_EXITED);
	client_done(&c);
}

static void write_4k(struct client *c, const char *url)
{
	unsigned char *data CLEANUP_FREE = bytes_at(0, 700);

	client_command(c, url, &io_all);
	while (c->out.len < 4096)
		client_bytes(c, 3, data, 700);
}

static char *offer_all(struct house *x)
{
	return offer_attach(x, &io_all);
}

static void cut_at_each_of_the_first_4_kib_leaves_nothing(void **state)
{
	struct house *x = *state;

	cut_everywhere(x, offer_all, write_4k, 4096);
	assert_int_equal(container_state(x->container), CONTAINER_RUNNING);
	assert_int_equal(fake_agent_calls(x->guest, "CloseIO"), 0);
}

/* The process waits for such a client, and for 10 s only; then it goes on, and so does its other client. */
static void client_that_does_not_read_is_ended(void **state)
{
	const size_t part = 32768, parts = 512;
	struct house *x = *state;
	struct client c, c2;
	struct taker t = {.id = 5};
	int small = 65536, fd = begin(x, &c, &io_out);
	uint64_t acked;

	must(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)) == 0);
	t.fd = begin(x, &c2, &io_out);
	for (size_t i = 0; i < parts; i++) {
		unsigned char *data CLEANUP_FREE = bytes_at(i * part, part);

		fake_agent_print(x->guest, CONTAINER_ID, false, data, part);
	}
	taker_take(&t, parts * part, 3000);
	acked = fake_agent_acked(x->guest, CONTAINER_ID);
	assert_true(acked < parts * part);
	taker_take(&t, parts * part, 30000);
	assert_int_equal(t.taken, parts * part);
	assert_false(t.wrong);
	assert_int_equal(container_state(x->container), CONTAINER_RUNNING);
	close(fd);
	close(t.fd);
	house_is_quiet(x);
	buf_done(&t.in);
	client_done(&c);
	client_done(&c2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(offer_that_makes_no_sense_is_refused),
		T(output_goes_to_each_client_and_to_the_log),
		T(input_reaches_the_process_and_a_client_may_come_again),
		cmocka_unit_test(stdin_once_ends_with_its_client),
		cmocka_unit_test(stdin_once_ends_with_a_client_that_vanishes),
		cmocka_unit_test(size_of_the_terminal_reaches_the_guest),
		T(guest_that_dies_ends_the_connection),
		T(cut_at_each_of_the_first_4_kib_leaves_nothing),
		T(client_that_does_not_read_is_ended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

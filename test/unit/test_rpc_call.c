/* SPDX-License-Identifier: Apache-2.0 */
/* Calls that end before their handlers do, and answers that come later. */
#include "rpc_fixture.h"

#include <poll.h>

#define SOON_NS (100 * NS_PER_MS)

/* ---- the log, which says how an RPC ended -------------------------------------------------------------- */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[65536];
static size_t log_len;

static void keep_line(enum log_level level, const char *line, size_t len)
{
	(void)level;
	pthread_mutex_lock(&log_lock);
	if (log_len + len + 1 < sizeof(log_text)) {
		memcpy(log_text + log_len, line, len);
		log_len += len;
		log_text[log_len++] = '\n';
	}
	pthread_mutex_unlock(&log_lock);
}

/* Waits for a line with both texts; when it was found. */
static int64_t await_line(const char *one, const char *other)
{
	int64_t until = now_monotonic_ns() + 20 * NS_PER_SEC;

	for (;;) {
		bool found = false;

		pthread_mutex_lock(&log_lock);
		log_text[log_len] = 0;
		for (char *line = log_text; *line && !found; line = strchr(line, '\n') + 1) {
			char *end = strchr(line, '\n');

			*end = 0;
			found = strstr(line, one) && strstr(line, other);
			*end = '\n';
		}
		pthread_mutex_unlock(&log_lock);
		if (found)
			return now_monotonic_ns();
		if (now_monotonic_ns() > until)
			fail_msg("no line with \"%s\" and \"%s\" in:\n%s", one, other, log_text);
		usleep(1000);
	}
}

static int setup_log(void **state)
{
	pthread_mutex_lock(&log_lock);
	log_len = 0;
	pthread_mutex_unlock(&log_lock);
	return setup(state);
}

/* ---- an end before the handler's ----------------------------------------------------------------------- */

static void client_that_cancels_ends_its_call_while_the_handler_blocks(void **state)
{
	struct fixture *f = *state;
	struct client c;
	int64_t begin, ended;
	char pid[32];

	client_open(&c, f->socket);
	client_begin(&c, SERVICE "StopContainer", "", 0, -1);
	await(f, &f->waiting, 1);
	begin = now_monotonic_ns();
	grpc_call_cancel(c.call, NULL);
	ended = await_line("code=Cancelled", "the client has left");
	assert_true(ended - begin < SOON_NS);
	await(f, &f->cancelled, 1);
	assert_true(f->cancelled_ns - begin < SOON_NS);
	assert_int_equal(count(f, &f->waiting), 1);
	client_wait(&c);
	assert_int_equal(client_end(&c), GRPC_STATUS_CANCELLED);
	client_close(&c);
	snprintf(pid, sizeof(pid), "client_pid=%d", (int)getpid());
	await_line("method=StopContainer", pid);
	assert_version_answered(f);
	open_gate(f);
	await_line("level=debug", "answer dropped: late failure");
}

static void client_process_that_dies_ends_its_call(void **state)
{
	struct fixture *f = *state;
	int fd = raw_begin(f, SERVICE "StopContainer", NULL);
	int64_t begin;

	await(f, &f->waiting, 1);
	begin = now_monotonic_ns();
	close(fd);
	assert_true(await_line("code=Cancelled", "the client has left") - begin < SOON_NS);
	await(f, &f->cancelled, 1);
	assert_int_equal(count(f, &f->waiting), 1);
}

/* Reads until the server has sent END_STREAM or RST_STREAM for stream 1; when that was. */
static int64_t raw_await_end(int fd)
{
	for (;;) {
		unsigned char head[9];
		char skip[4096];
		size_t len;

		assert_int_equal(read_full(fd, head, sizeof(head)), sizeof(head));
		len = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
		assert_true(len <= sizeof(skip));
		assert_int_equal(read_full(fd, skip, len), len);
		if (head[8] == 1 && ((head[3] == 1 && head[4] & 1) || head[3] == 3))
			return now_monotonic_ns();
	}
}

/* The client keeps no deadline: the server does. */
static void deadline_that_passes_ends_the_call_while_the_handler_blocks(void **state)
{
	struct fixture *f = *state;
	int64_t begin = now_monotonic_ns(), ended;
	int fd = raw_begin(f, SERVICE "StopContainer", "300m");

	await(f, &f->waiting, 1);
	ended = raw_await_end(fd);
	assert_true(ended - begin >= 295 * NS_PER_MS);
	assert_true(ended - begin < 300 * NS_PER_MS + SOON_NS);
	await(f, &f->cancelled, 1);
	assert_true(f->cancelled_ns - begin < 300 * NS_PER_MS + SOON_NS);
	await_line("code=DeadlineExceeded", "the call's deadline has passed");
	assert_int_equal(count(f, &f->waiting), 1);
	close(fd);
}

static void deadline_ends_the_handlers_waits(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__ExecSyncRequest q = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
	struct client c;

	client_open(&c, f->socket);
	assert_int_equal(client_call(&c, SERVICE "ExecSync", &q.base, 200), GRPC_STATUS_DEADLINE_EXCEEDED);
	client_close(&c);
	await_line("method=ExecSync code=DeadlineExceeded", "the call's deadline has passed");
}

static void call_that_ends_in_the_queue_never_reaches_its_handler(void **state)
{
	enum { LANE = 128 };
	struct fixture *f = *state;
	struct client *c = calloc(LANE + 1, sizeof(*c));

	for (int i = 0; i <= LANE; i++) {
		if (i == 0)
			client_open(&c[0], f->socket);
		else
			client_share(&c[i], &c[0]);
		client_begin(&c[i], SERVICE "StopContainer", "", 0, -1);
		await(f, &f->waiting, i < LANE ? i + 1 : LANE);
	}
	grpc_call_cancel(c[LANE].call, NULL);
	await_line("code=Cancelled", "the client has left");
	open_gate(f);
	for (int i = LANE; i >= 0; i--) {
		client_wait(&c[i]);
		assert_int_equal(client_end(&c[i]), i == LANE ? GRPC_STATUS_CANCELLED : GRPC_STATUS_INTERNAL);
		client_close(&c[i]);
	}
	assert_int_equal(f->cancelled, 0);
	free(c);
}

static void stop_does_not_wait_for_handlers_whose_calls_have_ended(void **state)
{
	struct fixture *f = *state;
	struct client c;
	int64_t begin;

	client_open(&c, f->socket);
	client_begin(&c, SERVICE "StopContainer", "", 0, -1);
	await(f, &f->waiting, 1);
	begin = now_monotonic_ns();
	stop(f, 0);
	assert_true(now_monotonic_ns() - begin < NS_PER_SEC);
	assert_int_equal(count(f, &f->waiting), 1);
	await_line("code=Cancelled", "the server is stopping");
	client_wait(&c);
	assert_int_not_equal(client_end(&c), GRPC_STATUS_OK);
	client_close(&c);
}

/* ---- answers that come later --------------------------------------------------------------------------- */

static grpc_status_code end_of(struct client *c)
{
	client_wait(c);
	client_next(c);
	return client_end(c);
}

static void *answer(void *arg)
{
	struct fixture *f = arg;
	Runtime__V1__CreateContainerResponse resp = RUNTIME__V1__CREATE_CONTAINER_RESPONSE__INIT;

	resp.container_id = (char *)"c1";
	rpc_reply_end(f->replies[0], &resp.base, NULL);
	return NULL;
}

static void async_answered_by_another_thread(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__CreateContainerResponse *a;
	unsigned int running;
	pthread_t thread;
	struct client c;

	client_open(&c, f->socket);
	client_begin(&c, SERVICE "CreateContainer", "", 0, -1);
	await(f, &f->kept, 1);
	/* The handler has returned, or is about to: waiting holds no thread. */
	do
		workers_load(f->workers, LANE_SLOW, &running, NULL);
	while (running > 0);
	assert_int_equal(pthread_create(&thread, NULL, answer, f), 0);
	assert_int_equal(end_of(&c), GRPC_STATUS_OK);
	pthread_join(thread, NULL);
	a = (void *)client_take(&c, &runtime__v1__create_container_response__descriptor);
	assert_non_null(a);
	assert_string_equal(a->container_id, "c1");
	protobuf_c_message_free_unpacked(&a->base, NULL);
	client_close(&c);
}

static void async_answered_before_the_handler_returns(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__CreateContainerRequest q = RUNTIME__V1__CREATE_CONTAINER_REQUEST__INIT;
	char message[2048];

	q.pod_sandbox_id = (char *)"no such pod";
	assert_int_equal(one_call(f, SERVICE "CreateContainer", &q.base, message), GRPC_STATUS_NOT_FOUND);
	assert_string_equal(message, "no such pod");
}

static void async_answered_without_message_or_with_an_error(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__CreateContainerResponse *a;
	struct err err = ERR_INIT;
	struct client c;

	client_open(&c, f->socket);
	client_begin(&c, SERVICE "CreateContainer", "", 0, -1);
	await(f, &f->kept, 1);
	rpc_reply_end(f->replies[0], NULL, &err);
	assert_int_equal(end_of(&c), GRPC_STATUS_OK);
	a = (void *)client_take(&c, &runtime__v1__create_container_response__descriptor);
	assert_string_equal(a->container_id, "");
	protobuf_c_message_free_unpacked(&a->base, NULL);
	client_begin(&c, SERVICE "CreateContainer", "", 0, -1);
	await(f, &f->kept, 2);
	err_set(&err, -ENOSPC, "no room");
	rpc_reply_end(f->replies[1], NULL, &err);
	assert_int_equal(end_of(&c), GRPC_STATUS_RESOURCE_EXHAUSTED);
	assert_string_equal(c.message, "no room");
	client_close(&c);
}

static void async_answered_after_its_client_has_left_is_dropped(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct client c;
	int64_t begin;

	client_open(&c, f->socket);
	client_begin(&c, SERVICE "CreateContainer", "", 0, -1);
	await(f, &f->kept, 1);
	begin = now_monotonic_ns();
	grpc_call_cancel(c.call, NULL);
	assert_true(await_line("code=Cancelled", "the client has left") - begin < SOON_NS);
	err_set(&err, -EIO, "too late");
	rpc_reply_end(f->replies[0], NULL, &err);
	await_line("level=debug", "answer dropped: too late");
	client_wait(&c);
	assert_int_equal(client_end(&c), GRPC_STATUS_CANCELLED);
	client_close(&c);
}

static void async_answered_after_the_server_has_stopped_is_dropped(void **state)
{
	struct fixture *f = *state;
	struct client c;

	client_open(&c, f->socket);
	client_begin(&c, SERVICE "CreateContainer", "", 0, -1);
	await(f, &f->kept, 1);
	stop(f, 0);
	client_wait(&c);
	assert_int_not_equal(client_end(&c), GRPC_STATUS_OK);
	client_close(&c);
	answer(f);
}

/* ---- both at once -------------------------------------------------------------------------------------- */

/* Answer and cancellation at the same moment: one of them ends the call. */
static void async_answered_while_its_client_leaves(void **state)
{
	struct fixture *f = *state;
	struct client c;

	client_open(&c, f->socket);
	for (int i = 0; i < 200; i++) {
		pthread_t thread;

		client_begin(&c, SERVICE "CreateContainer", "", 0, -1);
		await(f, &f->kept, 1);
		assert_int_equal(pthread_create(&thread, NULL, answer, f), 0);
		grpc_call_cancel(c.call, NULL);
		client_wait(&c);
		client_next(&c);
		if (c.response)
			grpc_byte_buffer_destroy(move_ptr(c.response));
		client_end(&c);
		assert_true(c.status == GRPC_STATUS_OK || c.status == GRPC_STATUS_CANCELLED);
		pthread_join(thread, NULL);
		f->kept = 0;
	}
	client_close(&c);
	assert_version_answered(f);
}

#define L(name) cmocka_unit_test_setup_teardown(name, setup_log, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		L(client_that_cancels_ends_its_call_while_the_handler_blocks),
		L(client_process_that_dies_ends_its_call),
		L(deadline_that_passes_ends_the_call_while_the_handler_blocks),
		L(deadline_ends_the_handlers_waits),
		L(call_that_ends_in_the_queue_never_reaches_its_handler),
		L(stop_does_not_wait_for_handlers_whose_calls_have_ended),
		L(async_answered_by_another_thread),
		L(async_answered_before_the_handler_returns),
		L(async_answered_without_message_or_with_an_error),
		L(async_answered_after_its_client_has_left_is_dropped),
		L(async_answered_after_the_server_has_stopped_is_dropped),
		L(async_answered_while_its_client_leaves),
	};

	rpc_global_init();
	log_set_sink(keep_line);
	log_set_level(LOG_LEVEL_DEBUG);
	/* One reference for the whole run: what the clients left must not meet a gRPC that is gone. */
	grpc_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

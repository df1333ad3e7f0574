/* SPDX-License-Identifier: Apache-2.0 */
/* Calls, their errors, limits and deadlines, and streams. */
#include "rpc_fixture.h"

/* ---- unary calls --------------------------------------------------------------------------------------- */

static void version_is_answered_and_knows_its_peer(void **state)
{
	assert_version_answered(*state);
}

static void unknown_method_is_unimplemented(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__VersionRequest q = RUNTIME__V1__VERSION_REQUEST__INIT;
	char message[2048];

	assert_int_equal(one_call(f, SERVICE "Nonsense", &q.base, message), GRPC_STATUS_UNIMPLEMENTED);
	assert_non_null(strstr(message, "Nonsense"));
	assert_int_equal(one_call(f, SERVICE "CheckpointContainer", &q.base, message),
			 GRPC_STATUS_UNIMPLEMENTED);
}

static void handler_error_becomes_status_and_message(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__PodSandboxStatusRequest q = RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
	char message[2048];

	q.pod_sandbox_id = (char *)"p\xc3\xb6"
				   "d\nx%";
	assert_int_equal(one_call(f, SERVICE "PodSandboxStatus", &q.base, message), GRPC_STATUS_NOT_FOUND);
	assert_string_equal(message, "no pod \"p\xc3\xb6"
				     "d x%\"");
	q.pod_sandbox_id = (char *)"silent";
	assert_int_equal(one_call(f, SERVICE "PodSandboxStatus", &q.base, message), GRPC_STATUS_INTERNAL);
}

static void malformed_request_is_invalid_argument_and_names_the_field(void **state)
{
	struct fixture *f = *state;
	struct client c;

	client_open(&c, f->socket);
	assert_int_equal(client_raw(&c, SERVICE "PodSandboxStatus", "\x0a\x02\xff\xff", 4, 10000),
			 GRPC_STATUS_INVALID_ARGUMENT);
	assert_non_null(strstr(c.message, "pod_sandbox_id"));
	assert_int_equal(client_raw(&c, SERVICE "PodSandboxStatus", "\x0a\x7fshort", 7, 10000),
			 GRPC_STATUS_INVALID_ARGUMENT);
	client_close(&c);
}

static void request_beyond_the_limit_is_refused(void **state)
{
	struct fixture *f = *state;
	size_t len = (16 << 20) + 1;
	char *big CLEANUP_FREE = calloc(1, len);
	struct client c;

	client_open(&c, f->socket);
	assert_int_equal(client_raw(&c, SERVICE "Version", big, len, 20000), GRPC_STATUS_RESOURCE_EXHAUSTED);
	client_close(&c);
	assert_version_answered(f);
}

static void answer_beyond_the_limit_is_refused(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__ExecRequest q = RUNTIME__V1__EXEC_REQUEST__INIT;
	char message[2048];

	assert_int_equal(one_call(f, SERVICE "Exec", &q.base, message), GRPC_STATUS_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(message, "bytes"));
}

static void deadline_reaches_the_handler(void **state)
{
	struct fixture *f = *state;
	Runtime__V1__ExecSyncRequest q = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
	struct client c;

	client_open(&c, f->socket);
	assert_int_equal(client_call(&c, SERVICE "ExecSync", &q.base, 200), GRPC_STATUS_DEADLINE_EXCEEDED);
	client_close(&c);
	await(f, &f->cancelled, 1);
}

static void client_that_cancels_is_noticed(void **state)
{
	struct fixture *f = *state;
	struct client c;

	client_open(&c, f->socket);
	client_begin(&c, SERVICE "ExecSync", "", 0, -1);
	await(f, &f->waiting, 1);
	grpc_call_cancel(c.call, NULL);
	client_wait(&c);
	assert_int_equal(client_end(&c), GRPC_STATUS_CANCELLED);
	client_close(&c);
	await(f, &f->cancelled, 1);
}

static void client_process_that_dies_is_noticed(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_un addr;
	/* An HTTP/2 client by hand: preface, SETTINGS, HEADERS of an ExecSync call, one empty message; then
	 * it is gone. */
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	static const unsigned char settings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};
	unsigned char headers[512] = {0, 0, 0, 1, 4, 0, 0, 0, 1};
	static const unsigned char data[] = {0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0};
	static const char *const fields[][2] = {{":method", "POST"},
						{":scheme", "http"},
						{":path", SERVICE "ExecSync"},
						{":authority", "localhost"},
						{"content-type", "application/grpc"},
						{"te", "trailers"}};
	size_t len = 9;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		headers[len++] = 0x10; /* HPACK: literal, never indexed, new name */
		for (int k = 0; k < 2; k++) {
			size_t n = strlen(fields[i][k]);

			headers[len++] = (unsigned char)n;
			memcpy(headers + len, fields[i][k], n);
			len += n;
		}
	}
	headers[1] = (unsigned char)((len - 9) >> 8);
	headers[2] = (unsigned char)(len - 9);
	addr = address_of(f);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(write_full(fd, preface, strlen(preface)), 0);
	assert_int_equal(write_full(fd, settings, sizeof(settings)), 0);
	assert_int_equal(write_full(fd, headers, len), 0);
	assert_int_equal(write_full(fd, data, sizeof(data)), 0);
	await(f, &f->waiting, 1);
	close(fd);
	await(f, &f->cancelled, 1);
}

static void connection_that_speaks_no_http2_harms_nobody(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_un addr;
	char buf[256];

	addr = address_of(f);
	for (int i = 0; i < 20; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
		if (i % 2)
			(void)!send(fd, "GET / HTTP/1.1\r\n\r\n\xff\xff\xff\xff", 22, MSG_NOSIGNAL);
		if (i % 4 == 3)
			(void)!read(fd, buf, sizeof(buf));
		close(fd);
	}
	assert_version_answered(f);
}

/* ---- streams ------------------------------------------------------------------------------------------- */

static size_t pack_stream_request(uint8_t data[64], const char *n)
{
	Runtime__V1__StreamContainersRequest q = RUNTIME__V1__STREAM_CONTAINERS_REQUEST__INIT;
	Runtime__V1__ContainerFilter filter = RUNTIME__V1__CONTAINER_FILTER__INIT;

	filter.id = (char *)n;
	q.filter = &filter;
	return protobuf_c_message_pack(&q.base, data);
}

static int take_all(struct client *c)
{
	int n = 0;

	while (client_next(c)) {
		Runtime__V1__StreamContainersResponse *a =
			(void *)client_take(c, &runtime__v1__stream_containers_response__descriptor);

		assert_int_equal(a->containers[0]->id[0], 'a' + n % 26);
		protobuf_c_message_free_unpacked(&a->base, NULL);
		n++;
	}
	return n;
}

static void stream_messages_come_in_order_then_the_status(void **state)
{
	struct fixture *f = *state;
	uint8_t data[64];
	struct client c;

	client_open(&c, f->socket);
	client_begin(&c, SERVICE "StreamContainers", data, pack_stream_request(data, "100"), 20000);
	client_wait(&c);
	assert_int_equal(take_all(&c), 100);
	assert_int_equal(client_end(&c), GRPC_STATUS_OK);
	client_begin(&c, SERVICE "StreamContainers", data, pack_stream_request(data, "0"), 20000);
	client_wait(&c);
	assert_int_equal(take_all(&c), 0);
	assert_int_equal(client_end(&c), GRPC_STATUS_OK);
	client_begin(&c, SERVICE "StreamContainers", data, pack_stream_request(data, "3"), 20000);
	client_wait(&c);
	assert_int_equal(take_all(&c), 3);
	assert_int_equal(client_end(&c), GRPC_STATUS_INTERNAL);
	assert_string_equal(c.message, "failed after three");
	client_close(&c);
}

static void slow_client_holds_the_sender_back_and_its_end_frees_it(void **state)
{
	struct fixture *f = *state;
	uint8_t data[64];
	struct client c;
	int sent;

	client_open(&c, f->socket);
	client_begin(&c, SERVICE "StreamContainers", data, pack_stream_request(data, "1000"), -1);
	client_wait(&c);
	await(f, &f->sent, 1);
	/* It reads nothing: the sender must stop long before its 1000 messages (64 MB). */
	do {
		sent = count(f, &f->sent);
		usleep(300000);
	} while (sent != count(f, &f->sent));
	assert_true(sent < 500);
	assert_version_answered(f);
	grpc_call_cancel(c.call, NULL);
	client_end(&c);
	client_close(&c);
	await(f, &f->send_errors, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(version_is_answered_and_knows_its_peer),
		T(unknown_method_is_unimplemented),
		T(handler_error_becomes_status_and_message),
		T(malformed_request_is_invalid_argument_and_names_the_field),
		T(request_beyond_the_limit_is_refused),
		T(answer_beyond_the_limit_is_refused),
		T(deadline_reaches_the_handler),
		T(client_that_cancels_is_noticed),
		T(client_process_that_dies_is_noticed),
		T(connection_that_speaks_no_http2_harms_nobody),
		T(stream_messages_come_in_order_then_the_status),
		T(slow_client_holds_the_sender_back_and_its_end_frees_it),
	};

	rpc_global_init();
	log_set_level(LOG_LEVEL_ERROR);
	/* One reference for the whole run: what the clients left must not meet a gRPC that is gone. */
	grpc_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Calls, their errors and limits. */
#include "rpc_fixture.h"

/* ---- unary calls --------------------------------------------------------------------------------------- */

static void version_is_answered(void **state)
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(version_is_answered),
		T(unknown_method_is_unimplemented),
		T(handler_error_becomes_status_and_message),
		T(malformed_request_is_invalid_argument_and_names_the_field),
		T(request_beyond_the_limit_is_refused),
		T(answer_beyond_the_limit_is_refused),
		T(connection_that_speaks_no_http2_harms_nobody),
	};

	rpc_global_init();
	log_set_level(LOG_LEVEL_ERROR);
	/* One reference for the whole run: what the clients left must not meet a gRPC that is gone. */
	grpc_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

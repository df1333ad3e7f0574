/* SPDX-License-Identifier: Apache-2.0 */
/* Many clients at once, and those that vanish; the server's end; its socket. */
#include "rpc_fixture.h"

/* ---- many ---------------------------------------------------------------------------------------------- */

static void *caller(void *arg)
{
	struct fixture *f = arg;
	Runtime__V1__VersionRequest q = RUNTIME__V1__VERSION_REQUEST__INIT;
	struct client c;

	client_open(&c, f->socket);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(client_call(&c, SERVICE "Version", &q.base, 30000), GRPC_STATUS_OK);
		grpc_byte_buffer_destroy(move_ptr(c.response));
	}
	client_close(&c);
	return NULL;
}

/* Begins a call that hangs, and goes in the middle of it. */
static void *vanisher(void *arg)
{
	struct fixture *f = arg;
	struct client c;

	for (int i = 0; i < 5; i++) {
		client_open(&c, f->socket);
		client_begin(&c, SERVICE "ExecSync", "", 0, -1);
		usleep((useconds_t)(i * 3000));
		grpc_call_cancel(c.call, NULL);
		client_wait(&c);
		client_end(&c);
		client_close(&c);
	}
	return NULL;
}

static void two_hundred_calls_beside_clients_that_vanish(void **state)
{
	struct fixture *f = *state;
	pthread_t callers[20], vanishers[10];

	for (size_t i = 0; i < ARRAY_SIZE(callers); i++)
		pthread_create(&callers[i], NULL, caller, f);
	for (size_t i = 0; i < ARRAY_SIZE(vanishers); i++)
		pthread_create(&vanishers[i], NULL, vanisher, f);
	for (size_t i = 0; i < ARRAY_SIZE(callers); i++)
		pthread_join(callers[i], NULL);
	for (size_t i = 0; i < ARRAY_SIZE(vanishers); i++)
		pthread_join(vanishers[i], NULL);
	assert_int_equal(f->served, 200);
	assert_version_answered(f);
}

static void hundred_hung_execs_delay_no_other_call(void **state)
{
	struct fixture *f = *state;
	struct client c[100];
	int64_t start_ns;

	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		client_open(&c[i], f->socket);
		client_begin(&c[i], SERVICE "ExecSync", "", 0, -1);
	}
	await(f, &f->waiting, 100);
	start_ns = now_monotonic_ns();
	assert_version_answered(f);
	assert_true(now_monotonic_ns() - start_ns < 2 * NS_PER_SEC);
	open_gate(f);
	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		client_wait(&c[i]);
		client_next(&c[i]);
		grpc_byte_buffer_destroy(c[i].response);
		assert_int_equal(client_end(&c[i]), GRPC_STATUS_OK);
		client_close(&c[i]);
	}
}

static void calls_beyond_the_lane_are_refused_and_the_rest_served(void **state)
{
	struct fixture *f = *state;
	enum { LANE = 512 };
	struct client *c = calloc(LANE + 1, sizeof(*c));

	for (int i = 0; i <= LANE; i++) {
		if (i == 0)
			client_open(&c[0], f->socket);
		else
			client_share(&c[i], &c[0]);
		if (i == LANE)
			break;
		client_begin(&c[i], SERVICE "ExecSync", "", 0, -1);
	}
	await(f, &f->waiting, LANE);
	assert_int_equal(client_raw(&c[LANE], SERVICE "ExecSync", "", 0, 10000),
			 GRPC_STATUS_RESOURCE_EXHAUSTED);
	assert_version_answered(f);
	open_gate(f);
	for (int i = LANE; i >= 0; i--) {
		if (i < LANE) {
			client_wait(&c[i]);
			assert_true(client_next(&c[i]));
			grpc_byte_buffer_destroy(c[i].response);
			assert_int_equal(client_end(&c[i]), GRPC_STATUS_OK);
		}
		client_close(&c[i]);
	}
	free(c);
}

static void connections_beyond_the_limit_are_closed_and_room_comes_back(void **state)
{
	enum { MANY = 1030 };
	struct fixture *f = *state;
	struct sockaddr_un addr = address_of(f);
	struct rlimit limit;
	int fds[MANY];
	char c;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < 2 * MANY + 200)
		skip();
	for (int i = 0; i < MANY; i++) {
		fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(fds[i], (struct sockaddr *)&addr, sizeof(addr)), 0);
	}
	/* The last one is closed without a word; the others get an HTTP/2 SETTINGS frame. */
	assert_int_equal(read(fds[MANY - 1], &c, 1), 0);
	assert_int_equal(read(fds[0], &c, 1), 1);
	for (int i = 0; i < MANY; i++)
		close(fds[i]);
	assert_version_answered(f);
}

/* ---- stop ---------------------------------------------------------------------------------------------- */

static void *open_gate_soon(void *arg)
{
	usleep(100000);
	open_gate(arg);
	return NULL;
}

static void stop_lets_calls_in_flight_end(void **state)
{
	struct fixture *f = *state;
	pthread_t opener;
	struct client c;

	client_open(&c, f->socket);
	client_begin(&c, SERVICE "ExecSync", "", 0, -1);
	await(f, &f->waiting, 1);
	pthread_create(&opener, NULL, open_gate_soon, f);
	stop(f, 10 * NS_PER_SEC);
	pthread_join(opener, NULL);
	client_wait(&c);
	assert_true(client_next(&c));
	grpc_byte_buffer_destroy(c.response);
	assert_int_equal(client_end(&c), GRPC_STATUS_OK);
	client_close(&c);
	assert_int_equal(f->cancelled, 0);
}

static void stop_cancels_what_does_not_end(void **state)
{
	struct fixture *f = *state;
	struct client c[5];

	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		client_open(&c[i], f->socket);
		client_begin(&c[i], SERVICE "ExecSync", "", 0, -1);
	}
	await(f, &f->waiting, 5);
	stop(f, 100 * NS_PER_MS);
	assert_int_equal(f->cancelled, 5);
	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		client_wait(&c[i]);
		assert_int_not_equal(client_end(&c[i]), GRPC_STATUS_OK);
		client_close(&c[i]);
	}
}

static void stop_removes_socket_and_lock(void **state)
{
	struct fixture *f = *state;
	char *lock CLEANUP_FREE = xasprintf("%s.lock", f->socket);
	struct stat st;

	assert_int_equal(stat(f->socket, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0660);
	assert_int_equal(stat(lock, &st), 0);
	stop(f, NS_PER_SEC);
	assert_int_equal(stat(f->socket, &st), -1);
	assert_int_equal(stat(lock, &st), -1);
	/* and it can start again in the same place */
	assert_int_equal(start(f), 0);
	assert_version_answered(f);
}

/* ---- the socket ---------------------------------------------------------------------------------------- */

static void second_instance_is_refused_and_the_first_unharmed(void **state)
{
	struct fixture *f = *state;
	struct fixture *second = fixture_new();
	char pid[32];

	snprintf(pid, sizeof(pid), "pid %d", (int)getpid());
	memcpy(second->socket, f->socket, sizeof(f->socket));
	assert_int_equal(start(second), -EADDRINUSE);
	assert_non_null(strstr(second->err.msg, pid));
	assert_non_null(strstr(second->err.msg, f->socket));
	fixture_free(second);
	assert_version_answered(f);
}

static void stale_socket_is_replaced(void **state)
{
	struct fixture *f = fixture_new();
	struct sockaddr_un addr;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	char *path CLEANUP_FREE = NULL;

	(void)state;
	path = xasprintf("%s/run", f->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	addr = address_of(f);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	/* with a lock file that a dead server left */
	free(path);
	path = xasprintf("%s.lock", f->socket);
	assert_int_equal(write_file(path, "1\n", 2, 0600), 0);
	assert_int_equal(start(f), 0);
	assert_version_answered(f);
	stop(f, NS_PER_SEC);
	fixture_free(f);
}

static void socket_of_another_program_is_left_alone(void **state)
{
	struct fixture *f = fixture_new();
	struct sockaddr_un addr;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct stat st;

	(void)state;
	snprintf(f->socket, sizeof(f->socket), "%s/s.sock", f->dir);
	addr = address_of(f);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(start(f), -EADDRINUSE);
	assert_non_null(strstr(f->err.msg, "another program"));
	assert_int_equal(stat(f->socket, &st), 0);
	close(fd);
	unlink(f->socket);
	assert_int_equal(write_file(f->socket, "precious", 8, 0600), 0);
	assert_int_equal(start(f), -EEXIST);
	assert_non_null(strstr(f->err.msg, "not a socket"));
	assert_int_equal(stat(f->socket, &st), 0);
	fixture_free(f);
}

static void path_too_long_is_said(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	snprintf(f->socket, sizeof(f->socket), "%s/%0100d", f->dir, 0);
	assert_int_equal(start(f), -ENAMETOOLONG);
	fixture_free(f);
}

static void socket_given_by_the_service_manager_is_served_and_kept(void **state)
{
	struct fixture *f = fixture_new();
	struct sockaddr_un addr;
	struct stat st;

	(void)state;
	snprintf(f->socket, sizeof(f->socket), "%s/s.sock", f->dir);
	f->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	addr = address_of(f);
	assert_int_equal(bind(f->listen_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(f->listen_fd, 8), 0);
	assert_int_equal(start(f), 0);
	assert_version_answered(f);
	stop(f, NS_PER_SEC);
	assert_int_equal(stat(f->socket, &st), 0);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(two_hundred_calls_beside_clients_that_vanish),
		T(hundred_hung_execs_delay_no_other_call),
		T(calls_beyond_the_lane_are_refused_and_the_rest_served),
		T(connections_beyond_the_limit_are_closed_and_room_comes_back),
		T(stop_lets_calls_in_flight_end),
		T(stop_cancels_what_does_not_end),
		T(stop_removes_socket_and_lock),
		T(second_instance_is_refused_and_the_first_unharmed),
		cmocka_unit_test(stale_socket_is_replaced),
		cmocka_unit_test(socket_of_another_program_is_left_alone),
		cmocka_unit_test(path_too_long_is_said),
		cmocka_unit_test(socket_given_by_the_service_manager_is_served_and_kept),
	};

	rpc_global_init();
	log_set_level(LOG_LEVEL_ERROR);
	/* One reference for the whole run: what the clients left must not meet a gRPC that is gone. */
	grpc_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

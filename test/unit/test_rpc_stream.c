/* SPDX-License-Identifier: Apache-2.0 */
/* Streams, and a thousand watchers of which one does not read. */
#include "rpc_fixture.h"

#include <dirent.h>
#include <malloc.h>
#include <spawn.h>
#include <sys/sysinfo.h>

#define EVENTS	SERVICE "GetContainerEvents"
#define SOON_NS (100 * NS_PER_MS)

extern char **environ;

/* What has been freed would otherwise count as used. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "quarantine_size_mb=4";
}

/* ---- one stream: the test is its owner ----------------------------------------------------------------- */

struct owner {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct rpc_stream *stream;
	struct call_hook hook;
	int ended;
	int64_t ended_ns;
};
static struct owner owner = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void stream_ended(void *arg)
{
	struct owner *o = arg;

	pthread_mutex_lock(&o->lock);
	o->ended++;
	o->ended_ns = now_monotonic_ns();
	pthread_cond_broadcast(&o->changed);
	pthread_mutex_unlock(&o->lock);
}

static void events(void *ctx, struct call *call, const ProtobufCMessage *req, struct rpc_stream *stream)
{
	(void)ctx;
	(void)req;
	call_hook_add(call, &owner.hook, stream_ended, &owner);
	pthread_mutex_lock(&owner.lock);
	owner.stream = stream;
	pthread_cond_broadcast(&owner.changed);
	pthread_mutex_unlock(&owner.lock);
}

static const struct rpc_method event_methods[] = {
	METHOD("GetContainerEvents", get_events_request, container_event_response, LANE_QUICK,
	       .stream = events),
	METHOD("Version", version_request, version_response, LANE_QUICK, .unary = version),
	{0},
};

static int setup_events(void **state)
{
	owner.stream = NULL;
	owner.ended = 0;
	return setup_with(state, event_methods);
}

static struct rpc_stream *await_stream(void)
{
	pthread_mutex_lock(&owner.lock);
	while (!owner.stream)
		pthread_cond_wait(&owner.changed, &owner.lock);
	pthread_mutex_unlock(&owner.lock);
	return owner.stream;
}

static int64_t await_ended(void)
{
	pthread_mutex_lock(&owner.lock);
	while (!owner.ended)
		pthread_cond_wait(&owner.changed, &owner.lock);
	pthread_mutex_unlock(&owner.lock);
	return owner.ended_ns;
}

static int send_event(struct rpc_stream *s, int64_t number, size_t len, struct err *err)
{
	Runtime__V1__ContainerEventResponse e = RUNTIME__V1__CONTAINER_EVENT_RESPONSE__INIT;
	char *text CLEANUP_FREE = malloc(len + 1);
	struct rpc_message *m;
	int r;

	memset(text, 'x', len);
	text[len] = 0;
	e.container_id = text;
	e.created_at = number;
	assert_int_equal(rpc_message_new(&e.base, &m, err), 0);
	r = rpc_stream_send(s, m, err);
	rpc_message_unref(m);
	return r;
}

static int64_t take_event(struct client *c)
{
	Runtime__V1__ContainerEventResponse *e;
	int64_t number;

	if (!client_next(c))
		return -1;
	e = (void *)client_take(c, &runtime__v1__container_event_response__descriptor);
	assert_non_null(e);
	number = e->created_at;
	protobuf_c_message_free_unpacked(&e->base, NULL);
	return number;
}

static void stream_messages_come_in_order_then_the_status(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct rpc_stream *s;
	struct client c;

	client_open(&c, f->socket);
	client_begin(&c, EVENTS, "", 0, 20000);
	client_wait(&c); /* the headers come before any message */
	s = await_stream();
	for (int i = 0; i < 500; i++)
		assert_int_equal(send_event(s, i, 100, &err), 0);
	err_set(&err, -EIO, "failed after all");
	rpc_stream_end(s, &err);
	for (int i = 0; i < 500; i++)
		assert_int_equal(take_event(&c), i);
	assert_int_equal(take_event(&c), -1);
	assert_int_equal(client_end(&c), GRPC_STATUS_INTERNAL);
	assert_string_equal(c.message, "failed after all");
	client_close(&c);
}

static void stream_without_messages_ends_well(void **state)
{
	struct fixture *f = *state;
	struct client c;

	client_open(&c, f->socket);
	client_begin(&c, EVENTS, "", 0, 20000);
	client_wait(&c);
	rpc_stream_end(await_stream(), NULL);
	assert_int_equal(take_event(&c), -1);
	assert_int_equal(client_end(&c), GRPC_STATUS_OK);
	client_close(&c);
}

static void stream_whose_client_leaves_tells_its_owner(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct rpc_stream *s;
	struct client c;
	int64_t begin;

	client_open(&c, f->socket);
	client_begin(&c, EVENTS, "", 0, -1);
	client_wait(&c);
	s = await_stream();
	assert_int_equal(send_event(s, 0, 10, &err), 0);
	begin = now_monotonic_ns();
	grpc_call_cancel(c.call, NULL);
	assert_true(await_ended() - begin < SOON_NS);
	assert_int_equal(send_event(s, 1, 10, &err), -ECANCELED);
	assert_int_equal(err.status, ERR_CANCELLED);
	rpc_stream_end(s, NULL);
	client_end(&c);
	client_close(&c);
	assert_version_answered(f);
}

static void stream_at_its_deadline_ends(void **state)
{
	struct fixture *f = *state;
	struct rpc_stream *s;
	struct client c;

	client_open(&c, f->socket);
	client_begin(&c, EVENTS, "", 0, 300);
	s = await_stream();
	await_ended();
	rpc_stream_end(s, NULL);
	client_wait(&c);
	assert_int_equal(client_end(&c), GRPC_STATUS_DEADLINE_EXCEEDED);
	client_close(&c);
}

static void stream_is_left_when_the_server_stops(void **state)
{
	struct fixture *f = *state;
	struct rpc_stream *s;
	struct client c;

	client_open(&c, f->socket);
	client_begin(&c, EVENTS, "", 0, -1);
	client_wait(&c);
	s = await_stream();
	stop(f, 0);
	assert_int_equal(send_event(s, 1, 10, NULL), -ECANCELED);
	rpc_stream_end(s, NULL);
	assert_int_not_equal(client_end(&c), GRPC_STATUS_OK);
	client_close(&c);
}

/* Messages beyond the bytes that may wait, long before there are too many of them. */
static void stream_of_a_client_that_does_not_read_is_dropped(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct rpc_stream *s;
	int64_t n = 0, sent;
	struct client c;
	int r = 0;

	client_open(&c, f->socket);
	client_begin(&c, EVENTS, "", 0, -1);
	client_wait(&c);
	s = await_stream();
	for (sent = 0; r == 0 && sent < 400; sent++)
		r = send_event(s, sent, 1 << 20, &err);
	assert_int_equal(r, -ENOBUFS);
	assert_int_equal(err.status, ERR_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(err.msg, "the client reads too slowly: "));
	await_ended();
	rpc_stream_end(s, NULL);
	while (take_event(&c) == n)
		n++;
	assert_true(n < sent);
	assert_int_equal(client_end(&c), GRPC_STATUS_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(c.message, "the client reads too slowly: "));
	client_close(&c);
	assert_version_answered(f);
}

/* ---- a thousand watchers: a server in a process of its own --------------------------------------------- */

enum { WATCHERS = 1000, ROUNDS = 13, ROUND = 16, WAITING = 32, PER_CONNECTION = 100 };
#define EVENT_BYTES 1024

static void watch(void *ctx, struct call *call, const ProtobufCMessage *req, struct rpc_stream *stream)
{
	struct fixture *f = ctx;

	(void)call;
	(void)req;
	(void)rpc_watchers_add(f->watchers, stream, NULL);
}

static const struct rpc_method watch_methods[] = {
	METHOD("GetContainerEvents", get_events_request, container_event_response, LANE_QUICK,
	       .stream = watch),
	{0},
};

/*
 * Ours bear the process's name; gRPC names its own, of which it keeps more under load, up to twice the CPUs.
 */
static void count_threads(int *ret_own, int *ret_grpc)
{
	char *own CLEANUP_FREE = NULL;
	DIR *dir = opendir("/proc/self/task");
	const struct dirent *de;

	*ret_own = *ret_grpc = 0;
	if (read_file("/proc/self/comm", 64, &own, NULL) < 0)
		abort();
	while ((de = readdir(dir))) {
		char *path CLEANUP_FREE = xasprintf("/proc/self/task/%s/comm", de->d_name);
		char *comm CLEANUP_FREE = NULL;

		if (de->d_name[0] == '.' || read_file(path, 64, &comm, NULL) < 0)
			continue;
		if (str_eq(comm, own))
			++*ret_own;
		else
			++*ret_grpc;
	}
	closedir(dir);
}

static long rss_kib(void)
{
	char *text CLEANUP_FREE = NULL;

	malloc_trim(0);
	if (read_file("/proc/self/status", 65536, &text, NULL) < 0)
		return -1;
	return strtol(strstr(text, "VmRSS:") + 6, NULL, 10);
}

static void publish(struct fixture *f, int n)
{
	static int64_t number;
	char text[EVENT_BYTES + 1];

	memset(text, 'x', EVENT_BYTES);
	text[EVENT_BYTES] = 0;
	for (int i = 0; i < n; i++) {
		Runtime__V1__ContainerEventResponse e = RUNTIME__V1__CONTAINER_EVENT_RESPONSE__INIT;

		e.container_id = text;
		e.created_at = number++;
		if (rpc_watchers_publish(f->watchers, &e.base, NULL) < 0)
			abort();
	}
}

static atomic_bool publishing;

static void *publisher(void *arg)
{
	while (publishing)
		publish(arg, 1);
	return NULL;
}

/*
 * They come, read a little and leave, while messages are published at full speed; many are dropped as slow.
 */
static void *visitor(void *arg)
{
	struct fixture *f = arg;
	struct client c;

	client_open(&c, f->socket);
	for (int i = 0; i < 30; i++) {
		client_begin(&c, EVENTS, "", 0, -1);
		client_wait(&c);
		for (int k = 0; k < i % 7; k++)
			(void)take_event(&c);
		grpc_call_cancel(c.call, NULL);
		client_end(&c);
		assert_true(c.status == GRPC_STATUS_CANCELLED || c.status == GRPC_STATUS_RESOURCE_EXHAUSTED);
	}
	client_close(&c);
	return NULL;
}

static void watchers_come_and_leave_while_all_is_published(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[8], one;
	struct err err = ERR_INIT;
	struct client last;

	publishing = true;
	pthread_create(&one, NULL, publisher, f);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_create(&threads[i], NULL, visitor, f);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	publishing = false;
	pthread_join(one, NULL);
	while (rpc_watchers_count(f->watchers) > 0)
		usleep(1000);
	client_open(&last, f->socket);
	client_begin(&last, EVENTS, "", 0, -1);
	client_wait(&last);
	while (rpc_watchers_count(f->watchers) < 1)
		usleep(1000);
	publish(f, 1);
	err_set_status(&err, -ESHUTDOWN, ERR_UNAVAILABLE, "the server is stopping");
	f->watchers = rpc_watchers_free(f->watchers, &err);
	assert_true(take_event(&last) > 0);
	assert_int_equal(take_event(&last), -1);
	assert_int_equal(client_end(&last), GRPC_STATUS_UNAVAILABLE);
	assert_string_equal(last.message, "the server is stopping");
	client_close(&last);
}

/* They come and are ended, by the set or by themselves. */
static void *guest(void *arg)
{
	struct fixture *f = arg;
	struct client c;

	client_open(&c, f->socket);
	for (int i = 0; i < 60; i++) {
		client_begin(&c, EVENTS, "", 0, -1);
		client_wait(&c);
		if (i % 3 == 0)
			grpc_call_cancel(c.call, NULL);
		client_end(&c);
		assert_true(c.status == GRPC_STATUS_CANCELLED || c.status == GRPC_STATUS_UNAVAILABLE);
	}
	client_close(&c);
	return NULL;
}

static void *dropper(void *arg)
{
	struct fixture *f = arg;
	struct err err = ERR_INIT;

	err_set_status(&err, -EAGAIN, ERR_UNAVAILABLE, "an event was lost");
	while (publishing)
		rpc_watchers_drop(f->watchers, &err);
	return NULL;
}

/* A watcher that is added while the set ends its watchers is ended by exactly one of them. */
static void watchers_come_while_the_set_drops_them(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[8], one;
	struct err err = ERR_INIT;
	struct client late;

	publishing = true;
	pthread_create(&one, NULL, dropper, f);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_create(&threads[i], NULL, guest, f);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	publishing = false;
	pthread_join(one, NULL);
	assert_int_equal(rpc_watchers_count(f->watchers), 0);
	err_set_status(&err, -ESHUTDOWN, ERR_UNAVAILABLE, "the server is stopping");
	rpc_watchers_close(f->watchers, &err);
	client_open(&late, f->socket);
	client_begin(&late, EVENTS, "", 0, -1);
	client_wait(&late);
	assert_int_equal(take_event(&late), -1);
	assert_int_equal(client_end(&late), GRPC_STATUS_UNAVAILABLE);
	assert_string_equal(late.message, "the server is stopping");
	client_close(&late);
	f->watchers = rpc_watchers_free(f->watchers, NULL);
}

static int setup_watchers(void **state)
{
	int r = setup_with(state, watch_methods);
	struct fixture *f = *state;

	return r < 0 ? r : rpc_watchers_new(WAITING, &f->watchers, NULL);
}

/* A number of messages to publish on each line; answers how things stand. */
static int server_main(const char *socket_path)
{
	struct fixture *f = fixture_new();
	char line[32];
	int own, grpc;

	snprintf(f->socket, sizeof(f->socket), "%s", socket_path);
	f->methods = watch_methods;
	if (rpc_watchers_new(WAITING, &f->watchers, NULL) < 0 || start(f) < 0)
		return 1;
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		publish(f, atoi(line));
		count_threads(&own, &grpc);
		printf("%zu %d %d %ld\n", rpc_watchers_count(f->watchers), own, grpc, rss_kib());
		fflush(stdout);
	}
	f->watchers = rpc_watchers_free(f->watchers, NULL);
	stop(f, 5 * NS_PER_SEC);
	fixture_free(f);
	return 0;
}

struct child {
	pid_t pid;
	FILE *to, *from;
	size_t watchers;
	int own, grpc; /* threads */
	long rss;
};

static void child_start(struct child *c, const char *socket_path)
{
	char *const argv[] = {(char *)"test_rpc_stream", (char *)"--server", (char *)socket_path, NULL};
	posix_spawn_file_actions_t actions;
	int in[2], out[2];
	char line[32];

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in[0], 0);
	posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	assert_int_equal(posix_spawn(&c->pid, "/proc/self/exe", &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(in[0]);
	close(out[1]);
	c->to = fdopen(in[1], "w");
	c->from = fdopen(out[0], "r");
	assert_non_null(fgets(line, sizeof(line), c->from));
	assert_string_equal(line, "ready\n");
}

static void child_publish(struct child *c, int n)
{
	fprintf(c->to, "%d\n", n);
	fflush(c->to);
	assert_int_equal(fscanf(c->from, "%zu %d %d %ld", &c->watchers, &c->own, &c->grpc, &c->rss), 4);
}

static void child_end(struct child *c)
{
	int status;

	fclose(c->to);
	assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
	assert_int_equal(status, 0);
	fclose(c->from);
}

/* One watcher's side: its tags are the addresses of its two counters. */
struct watcher_client {
	struct client c; /* its own call on the shared queue */
	char begun, got;
	int64_t next;
};

static struct client *connections_open(const char *socket_path, size_t n)
{
	struct client *list = calloc(n, sizeof(*list));

	for (size_t i = 0; i < n; i++)
		client_open(&list[i], socket_path);
	return list;
}

static void watcher_ask(struct watcher_client *w)
{
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};

	op.data.recv_message.recv_message = &w->c.response;
	assert_int_equal(grpc_call_start_batch(w->c.call, &op, 1, &w->got, NULL), GRPC_CALL_OK);
}

static void watchers_begin(struct watcher_client *w, size_t n, struct client *connections,
			   grpc_completion_queue *cq)
{
	for (size_t i = 0; i < n; i++) {
		w[i].c = (struct client){.channel = connections[i / PER_CONNECTION].channel, .cq = cq};
		client_begin_tag(&w[i].c, EVENTS, "", 0, -1, &w[i].begun);
	}
	for (size_t i = 0; i < n; i++)
		assert_true(client_wait(&w[i].c));
	for (size_t i = 0; i < n; i++)
		watcher_ask(&w[i]);
}

/* Every watcher gets messages up to `end`, each in its order. */
static void watchers_take(size_t n, int64_t end, grpc_completion_queue *cq)
{
	gpr_timespec until = client_deadline(60000);
	size_t left = n;

	while (left > 0) {
		grpc_event e = grpc_completion_queue_next(cq, until, NULL);
		struct watcher_client *one;
		Runtime__V1__ContainerEventResponse *m;

		assert_int_equal(e.type, GRPC_OP_COMPLETE);
		one = (void *)((char *)e.tag - offsetof(struct watcher_client, got));
		assert_non_null(one->c.response);
		m = (void *)client_take(&one->c, &runtime__v1__container_event_response__descriptor);
		assert_int_equal(m->created_at, one->next);
		protobuf_c_message_free_unpacked(&m->base, NULL);
		left -= ++one->next == end;
		watcher_ask(one);
	}
}

static void watchers_cancel(struct watcher_client *w, size_t n, grpc_completion_queue *cq)
{
	for (size_t i = 0; i < n; i++)
		grpc_call_cancel(w[i].c.call, NULL);
	for (size_t i = 0; i < n; i++)
		(void)grpc_completion_queue_next(cq, client_deadline(20000), NULL);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(client_end(&w[i].c), GRPC_STATUS_CANCELLED);
}

/* Beside the worker threads, which end when idle. */
static void child_settle(struct child *c, size_t watchers, int own)
{
	int64_t until = now_monotonic_ns() + 30 * NS_PER_SEC;

	do {
		usleep(50000);
		child_publish(c, 0);
		if (now_monotonic_ns() > until)
			fail_msg("%zu watchers instead of %zu, %d threads instead of %d", c->watchers,
				 watchers, c->own, own);
	} while (c->watchers != watchers || c->own > own);
}

static void thousand_watchers_one_of_which_is_slow(void **state)
{
	char dir[] = "/tmp/crv-rpc-XXXXXX", socket_path[64];
	struct watcher_client *w = calloc(WATCHERS, sizeof(*w));
	struct client *connections, slow;
	grpc_completion_queue *cq = grpc_completion_queue_create_for_next(NULL);
	struct child child = {0};
	int own, own_max = 0;
	int64_t n = 0;
	long rss;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(socket_path, sizeof(socket_path), "%s/s.sock", dir);
	child_start(&child, socket_path);
	connections = connections_open(socket_path, WATCHERS / PER_CONNECTION);
	client_open_narrow(&slow, socket_path);
	child_publish(&child, 0);
	own = child.own;
	client_begin(&slow, EVENTS, "", 0, -1);
	client_wait(&slow);
	watchers_begin(w, WATCHERS - 1, connections, cq);
	child_settle(&child, WATCHERS, own);
	rss = child.rss;
	for (int i = 0; i < ROUNDS; i++) {
		child_publish(&child, ROUND);
		own_max = child.own > own_max ? child.own : own_max;
		watchers_take(WATCHERS - 1, (i + 1) * ROUND, cq);
	}
	child_settle(&child, WATCHERS - 1, own);
	print_message(
		"%d messages to %d watchers: %d threads of ours, at most %d while publishing, %d of gRPC's; "
		"RSS %ld KiB, before %ld KiB\n",
		ROUNDS * ROUND, WATCHERS, own, own_max, child.grpc, child.rss, rss);
	assert_true(own_max <= own + 2);
	assert_true(child.grpc <= 8 + 2 * get_nprocs());
	assert_true(child.rss - rss < 64 * 1024);
	while (take_event(&slow) == n)
		n++;
	assert_true(n > 0 && n < ROUNDS * ROUND);
	assert_int_equal(client_end(&slow), GRPC_STATUS_RESOURCE_EXHAUSTED);
	assert_string_equal(slow.message, "the client reads too slowly: 32 messages waiting");
	watchers_cancel(w, WATCHERS - 1, cq);
	child_settle(&child, 0, own);
	child_end(&child);
	client_close(&slow);
	grpc_completion_queue_shutdown(cq);
	while (grpc_completion_queue_next(cq, client_deadline(20000), NULL).type != GRPC_QUEUE_SHUTDOWN)
		;
	grpc_completion_queue_destroy(cq);
	for (size_t i = 0; i < WATCHERS / PER_CONNECTION; i++)
		client_close(&connections[i]);
	free(connections);
	free(w);
	assert_int_equal(remove_tree(dir), 0);
}

#define E(name) cmocka_unit_test_setup_teardown(name, setup_events, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		E(stream_messages_come_in_order_then_the_status),
		E(stream_without_messages_ends_well),
		E(stream_whose_client_leaves_tells_its_owner),
		E(stream_at_its_deadline_ends),
		E(stream_is_left_when_the_server_stops),
		E(stream_of_a_client_that_does_not_read_is_dropped),
		cmocka_unit_test_setup_teardown(watchers_come_and_leave_while_all_is_published,
						setup_watchers, teardown),
		cmocka_unit_test_setup_teardown(watchers_come_while_the_set_drops_them, setup_watchers,
						teardown),
		cmocka_unit_test(thousand_watchers_one_of_which_is_slow),
	};

	rpc_global_init();
	log_set_level(LOG_LEVEL_ERROR);
	if (argc == 3 && str_eq(argv[1], "--server"))
		return server_main(argv[2]);
	/* One reference for the whole run: what the clients left must not meet a gRPC that is gone. */
	grpc_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

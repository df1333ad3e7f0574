#include "api/cri/runtime.pb-c.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/rpc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <fcntl.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

/* gRPC itself is not built for TSan: what it does inside is not for this test to judge. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "ignore_noninstrumented_modules=1";
}

#define SERVICE "/runtime.v1.RuntimeService/"

/* ---- the server under test ----------------------------------------------------------------------------- */

struct fixture {
	char dir[64], socket[192];
	struct loop *loop;
	struct pool *pool;
	struct rpc_server *server;
	pthread_t thread;
	int listen_fd;
	int start_result;
	struct err err;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool started, gate_open;
	int waiting, cancelled, sent, send_errors;
	atomic_int served;
};

static int version(void *ctx, struct rpc_call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
		   struct err *err)
{
	struct fixture *f = ctx;
	const Runtime__V1__VersionRequest *q = (const void *)req;
	Runtime__V1__VersionResponse *a = (void *)resp;

	(void)err;
	f->served++;
	a->version = xasprintf("%d:%s", (int)rpc_call_peer_pid(call), q->version);
	a->runtime_name = strdup("crivisor");
	return 0;
}

/* Fails with the text it was asked with. */
static int fail_with(void *ctx, struct rpc_call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
		     struct err *err)
{
	const Runtime__V1__PodSandboxStatusRequest *q = (const void *)req;

	(void)ctx;
	(void)call;
	(void)resp;
	if (str_eq(q->pod_sandbox_id, "silent"))
		return -EIO;
	return err_set(err, -ENOENT, "no pod \"%s\"", q->pod_sandbox_id);
}

static int huge(void *ctx, struct rpc_call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
		struct err *err)
{
	Runtime__V1__ExecResponse *a = (void *)resp;
	const size_t len = 17 << 20;

	(void)ctx;
	(void)call;
	(void)req;
	(void)err;
	a->url = malloc(len + 1);
	memset(a->url, 'x', len);
	a->url[len] = 0;
	return 0;
}

static void on_cancel(void *arg)
{
	struct fixture *f = arg;

	pthread_mutex_lock(&f->lock);
	f->cancelled++;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

/* Waits for the gate or for the client to go. */
static int hang(void *ctx, struct rpc_call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
		struct err *err)
{
	struct fixture *f = ctx;

	(void)req;
	(void)resp;
	rpc_call_on_cancel(call, on_cancel, f);
	pthread_mutex_lock(&f->lock);
	f->waiting++;
	pthread_cond_broadcast(&f->changed);
	while (!f->gate_open && !rpc_call_cancelled(call))
		pthread_cond_wait(&f->changed, &f->lock);
	f->waiting--;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	rpc_call_on_cancel(call, NULL, NULL);
	return rpc_call_cancelled(call) ? err_set(err, -ECANCELED, "client has gone") : 0;
}

/* Sends `n` messages (attempt of the filter's id, as a number), each of 64 KiB. */
static int stream(void *ctx, struct rpc_call *call, const ProtobufCMessage *req, struct err *err)
{
	struct fixture *f = ctx;
	const Runtime__V1__StreamContainersRequest *q = (const void *)req;
	uint64_t n = 0;
	int r = 0;

	parse_u64(q->filter ? q->filter->id : "", &n);
	for (uint64_t i = 0; i < n && r == 0; i++) {
		Runtime__V1__StreamContainersResponse msg = RUNTIME__V1__STREAM_CONTAINERS_RESPONSE__INIT;
		Runtime__V1__Container c = RUNTIME__V1__CONTAINER__INIT, *list = &c;
		char *id = calloc(1, 65537);

		memset(id, 'a' + (int)(i % 26), 65536);
		c.id = id;
		msg.n_containers = 1;
		msg.containers = &list;
		r = rpc_send(call, &msg.base, err);
		free(id);
		pthread_mutex_lock(&f->lock);
		f->sent += r == 0;
		f->send_errors += r < 0;
		pthread_cond_broadcast(&f->changed);
		pthread_mutex_unlock(&f->lock);
	}
	if (r == 0 && n == 3)
		return err_set(err, -EIO, "failed after three");
	return r;
}

#define METHOD(name, req, resp, lane, ...)                                                                   \
	{                                                                                                    \
		SERVICE name, &runtime__v1__##req##__descriptor, &runtime__v1__##resp##__descriptor, lane,   \
			__VA_ARGS__                                                                          \
	}
static const struct rpc_method methods[] = {
	METHOD("Version", version_request, version_response, POOL_QUICK, version, NULL),
	METHOD("PodSandboxStatus", pod_sandbox_status_request, pod_sandbox_status_response, POOL_QUICK,
	       fail_with, NULL),
	METHOD("Exec", exec_request, exec_response, POOL_QUICK, huge, NULL),
	METHOD("ExecSync", exec_sync_request, exec_sync_response, POOL_EXEC, hang, NULL),
	METHOD("StreamContainers", stream_containers_request, stream_containers_response, POOL_SLOW, NULL,
	       stream),
	METHOD("CheckpointContainer", checkpoint_container_request, checkpoint_container_response, POOL_SLOW,
	       NULL, NULL),
	{0},
};

static void *serve(void *arg)
{
	struct fixture *f = arg;
	int r = loop_new(&f->loop, &f->err);

	if (r == 0)
		r = rpc_server_start(f->socket, f->listen_fd, methods, f, f->loop, f->pool, &f->server,
				     &f->err);
	pthread_mutex_lock(&f->lock);
	f->start_result = r;
	f->started = true;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	if (r == 0)
		loop_run(f->loop, NULL);
	f->loop = loop_free(f->loop);
	return NULL;
}

static int start(struct fixture *f)
{
	f->started = false;
	pthread_create(&f->thread, NULL, serve, f);
	pthread_mutex_lock(&f->lock);
	while (!f->started)
		pthread_cond_wait(&f->changed, &f->lock);
	pthread_mutex_unlock(&f->lock);
	if (f->start_result < 0)
		pthread_join(f->thread, NULL);
	return f->start_result;
}

static void stop(struct fixture *f, int64_t timeout_ns)
{
	f->server = rpc_server_stop(f->server, now_monotonic_ns() + timeout_ns);
	loop_stop(f->loop);
	pthread_join(f->thread, NULL);
}

static struct fixture *fixture_new(void)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->listen_fd = -1;
	snprintf(f->dir, sizeof(f->dir), "/tmp/crv-rpc-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->socket, sizeof(f->socket), "%s/run/s.sock", f->dir);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	assert_int_equal(pool_new(&f->pool, NULL), 0);
	return f;
}

static void fixture_free(struct fixture *f)
{
	pool_free(f->pool, 5 * NS_PER_SEC);
	assert_int_equal(remove_tree(f->dir), 0);
	free(f);
}

static int setup(void **state)
{
	struct fixture *f = fixture_new();

	if (start(f) < 0)
		fail_msg("%s", f->err.msg);
	*state = f;
	return 0;
}

static void open_gate(struct fixture *f)
{
	pthread_mutex_lock(&f->lock);
	f->gate_open = true;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	open_gate(f);
	if (f->server)
		stop(f, 5 * NS_PER_SEC);
	fixture_free(f);
	return 0;
}

static struct sockaddr_un address_of(const struct fixture *f)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	assert_true(strlen(f->socket) < sizeof(addr.sun_path));
	memcpy(addr.sun_path, f->socket, strlen(f->socket));
	return addr;
}

static void await(struct fixture *f, const int *counter, int n)
{
	struct timespec until = {.tv_sec = time(NULL) + 20};
	int r = 0;

	pthread_mutex_lock(&f->lock);
	while (*counter < n && r == 0)
		r = pthread_cond_timedwait(&f->changed, &f->lock, &until);
	pthread_mutex_unlock(&f->lock);
	assert_int_equal(r, 0);
}

static int count(struct fixture *f, const int *counter)
{
	int n;

	pthread_mutex_lock(&f->lock);
	n = *counter;
	pthread_mutex_unlock(&f->lock);
	return n;
}

/* ---- a client on gRPC core ----------------------------------------------------------------------------- */

struct client {
	grpc_channel *channel;
	grpc_completion_queue *cq;
	grpc_call *call;
	grpc_metadata_array initial, trailing;
	grpc_status_code status;
	grpc_slice details;
	grpc_byte_buffer *response;
	char message[2048];
	bool shared;
};

static void client_open(struct client *c, const char *socket)
{
	grpc_channel_credentials *creds = grpc_insecure_credentials_create();
	/* A connection of its own for each client, and no limit on what it receives. */
	grpc_arg args[] = {
		{.type = GRPC_ARG_INTEGER,
		 .key = (char *)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL,
		 .value.integer = 1},
		{.type = GRPC_ARG_INTEGER,
		 .key = (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
		 .value.integer = -1},
	};
	const grpc_channel_args all = {.num_args = ARRAY_SIZE(args), .args = args};
	char target[128];

	memset(c, 0, sizeof(*c));
	snprintf(target, sizeof(target), "unix:%s", socket);
	c->channel = grpc_channel_create(target, creds, &all);
	grpc_channel_credentials_release(creds);
	c->cq = grpc_completion_queue_create_for_next(NULL);
}

/* A client on the connection of another, which must be closed later. */
static void client_share(struct client *c, const struct client *with)
{
	memset(c, 0, sizeof(*c));
	c->channel = with->channel;
	c->shared = true;
	c->cq = grpc_completion_queue_create_for_next(NULL);
}

static void client_close(struct client *c)
{
	grpc_completion_queue_shutdown(c->cq);
	while (grpc_completion_queue_next(c->cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
	       GRPC_QUEUE_SHUTDOWN)
		;
	grpc_completion_queue_destroy(c->cq);
	if (!c->shared)
		grpc_channel_destroy(c->channel);
}

static bool client_wait(struct client *c)
{
	grpc_event e = grpc_completion_queue_next(c->cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);

	return e.type == GRPC_OP_COMPLETE && e.success;
}

static gpr_timespec client_deadline(int ms)
{
	return ms < 0 ? gpr_inf_future(GPR_CLOCK_MONOTONIC)
		      : gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

/* Begins a call with raw request bytes; for a stream, responses are then taken by client_next. */
static void client_begin(struct client *c, const char *path, const void *data, size_t len, int timeout_ms)
{
	grpc_slice payload = grpc_slice_from_copied_buffer(data, len);
	grpc_byte_buffer *request = grpc_raw_byte_buffer_create(&payload, 1);
	grpc_slice method = grpc_slice_from_copied_string(path),
		   host = grpc_slice_from_static_string("localhost");
	grpc_op ops[4];

	grpc_metadata_array_init(&c->initial);
	grpc_metadata_array_init(&c->trailing);
	c->details = grpc_empty_slice();
	c->call = grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS, c->cq, method, &host,
					   client_deadline(timeout_ms), NULL);
	memset(ops, 0, sizeof(ops));
	ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
	ops[0].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY;
	ops[1].op = GRPC_OP_SEND_MESSAGE;
	ops[1].data.send_message.send_message = request;
	ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
	ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
	ops[3].data.recv_initial_metadata.recv_initial_metadata = &c->initial;
	assert_int_equal(grpc_call_start_batch(c->call, ops, 4, c, NULL), GRPC_CALL_OK);
	grpc_byte_buffer_destroy(request);
	grpc_slice_unref(payload);
	grpc_slice_unref(method);
}

static bool client_next(struct client *c)
{
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};

	op.data.recv_message.recv_message = &c->response;
	assert_int_equal(grpc_call_start_batch(c->call, &op, 1, c, NULL), GRPC_CALL_OK);
	client_wait(c);
	return c->response != NULL;
}

static grpc_status_code client_end(struct client *c)
{
	grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};

	op.data.recv_status_on_client.trailing_metadata = &c->trailing;
	op.data.recv_status_on_client.status = &c->status;
	op.data.recv_status_on_client.status_details = &c->details;
	assert_int_equal(grpc_call_start_batch(c->call, &op, 1, c, NULL), GRPC_CALL_OK);
	client_wait(c);
	snprintf(c->message, sizeof(c->message), "%.*s", (int)GRPC_SLICE_LENGTH(c->details),
		 (const char *)GRPC_SLICE_START_PTR(c->details));
	grpc_slice_unref(c->details);
	grpc_metadata_array_destroy(&c->initial);
	grpc_metadata_array_destroy(&c->trailing);
	grpc_call_unref(c->call);
	return c->status;
}

static ProtobufCMessage *client_take(struct client *c, const ProtobufCMessageDescriptor *d)
{
	grpc_byte_buffer_reader reader;
	ProtobufCMessage *msg;
	grpc_slice slice;

	assert_true(grpc_byte_buffer_reader_init(&reader, c->response));
	slice = grpc_byte_buffer_reader_readall(&reader);
	grpc_byte_buffer_reader_destroy(&reader);
	grpc_byte_buffer_destroy(move_ptr(c->response));
	msg = protobuf_c_message_unpack(d, NULL, GRPC_SLICE_LENGTH(slice), GRPC_SLICE_START_PTR(slice));
	grpc_slice_unref(slice);
	return msg;
}

/* A whole unary call; the response stays in c->response. */
static grpc_status_code client_raw(struct client *c, const char *path, const void *data, size_t len,
				   int timeout_ms)
{
	client_begin(c, path, data, len, timeout_ms);
	client_wait(c);
	client_next(c);
	return client_end(c);
}

static grpc_status_code client_call(struct client *c, const char *path, const ProtobufCMessage *req,
				    int timeout_ms)
{
	size_t len = protobuf_c_message_get_packed_size(req);
	uint8_t *data CLEANUP_FREE = malloc(len + 1);

	protobuf_c_message_pack(req, data);
	return client_raw(c, path, data, len, timeout_ms);
}

static grpc_status_code one_call(struct fixture *f, const char *path, const ProtobufCMessage *req,
				 char message[2048])
{
	struct client c;
	grpc_status_code status;

	client_open(&c, f->socket);
	status = client_call(&c, path, req, 10000);
	if (c.response)
		grpc_byte_buffer_destroy(c.response);
	if (message)
		memcpy(message, c.message, sizeof(c.message));
	client_close(&c);
	return status;
}

/* True if the server of this fixture answers Version with our pid and text. */
static void assert_version_answered(struct fixture *f)
{
	Runtime__V1__VersionRequest q = RUNTIME__V1__VERSION_REQUEST__INIT;
	Runtime__V1__VersionResponse *a;
	struct client c;
	char want[64];

	q.version = (char *)"0.1.0";
	snprintf(want, sizeof(want), "%d:0.1.0", (int)getpid());
	client_open(&c, f->socket);
	assert_int_equal(client_call(&c, SERVICE "Version", &q.base, 10000), GRPC_STATUS_OK);
	a = (void *)client_take(&c, &runtime__v1__version_response__descriptor);
	assert_non_null(a);
	assert_string_equal(a->version, want);
	assert_string_equal(a->runtime_name, "crivisor");
	protobuf_c_message_free_unpacked(&a->base, NULL);
	client_close(&c);
}

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

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

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

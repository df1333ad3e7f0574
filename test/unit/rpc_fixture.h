/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_fixture.h: a server with one method for each thing to test, and a client on gRPC's own core, for
 * test_rpc*.c.
 */
#ifndef TEST_UNIT_RPC_FIXTURE_H
#define TEST_UNIT_RPC_FIXTURE_H

#include "api/cri/runtime.pb-c.h"
#include "base/cond.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/rpc/rpc.h"

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
	struct workers *workers;
	struct rpc_server *server;
	const struct rpc_method *methods;
	struct rpc_watchers *watchers; /* where there are */
	pthread_t thread;
	int listen_fd;
	int start_result;
	struct err err;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool started, gate_open;
	int waiting, cancelled, kept;
	int64_t cancelled_ns; /* when the last call was */
	struct rpc_reply *replies[8];
	atomic_int served;
};

static inline int version(void *ctx, struct call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
			  struct err *err)
{
	struct fixture *f = ctx;
	const Runtime__V1__VersionRequest *q = (const void *)req;
	Runtime__V1__VersionResponse *a = (void *)resp;

	(void)call;
	(void)err;
	f->served++;
	a->version = strdup(q->version);
	a->runtime_name = strdup("crivisor");
	return 0;
}

/* Fails with the text it was asked with. */
static inline int fail_with(void *ctx, struct call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
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

static inline int huge(void *ctx, struct call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
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

static inline void on_cancel(void *arg)
{
	struct fixture *f = arg;

	pthread_mutex_lock(&f->lock);
	f->cancelled++;
	f->cancelled_ns = now_monotonic_ns();
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

/* Waits for the gate or for the end of the call. */
static inline int hang(void *ctx, struct call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
		       struct err *err)
{
	struct fixture *f = ctx;
	struct call_hook hook;

	(void)req;
	(void)resp;
	call_hook_add(call, &hook, on_cancel, f);
	pthread_mutex_lock(&f->lock);
	f->waiting++;
	pthread_cond_broadcast(&f->changed);
	while (!f->gate_open && call_wait(call, &f->changed, &f->lock, INT64_MAX) == 0)
		;
	f->waiting--;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	call_hook_remove(call, &hook);
	return call_check(call, err);
}

/* Waits for the gate, whatever its caller does, and then fails. */
static inline int block(void *ctx, struct call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
			struct err *err)
{
	struct fixture *f = ctx;
	struct call_hook hook;

	(void)req;
	(void)resp;
	call_hook_add(call, &hook, on_cancel, f);
	pthread_mutex_lock(&f->lock);
	f->waiting++;
	pthread_cond_broadcast(&f->changed);
	while (!f->gate_open)
		pthread_cond_wait(&f->changed, &f->lock);
	f->waiting--;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	call_hook_remove(call, &hook);
	return err_set(err, -EIO, "late failure");
}

/* Fails at once with the request's pod as its words; without one, leaves the reply to the test. */
static inline void later(void *ctx, struct call *call, const ProtobufCMessage *req, struct rpc_reply *reply)
{
	struct fixture *f = ctx;
	const Runtime__V1__CreateContainerRequest *q = (const void *)req;
	struct err err = ERR_INIT;

	(void)call;
	if (!str_empty(q->pod_sandbox_id)) {
		err_set(&err, -ENOENT, "%s", q->pod_sandbox_id);
		rpc_reply_end(reply, NULL, &err);
		return;
	}
	pthread_mutex_lock(&f->lock);
	f->replies[f->kept++] = reply;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

#define METHOD(name, req, resp, lane, ...)                                                                   \
	{                                                                                                    \
		SERVICE name, &runtime__v1__##req##__descriptor, &runtime__v1__##resp##__descriptor, lane,   \
			__VA_ARGS__                                                                          \
	}
static const struct rpc_method methods[] = {
	METHOD("Version", version_request, version_response, LANE_QUICK, .unary = version),
	METHOD("PodSandboxStatus", pod_sandbox_status_request, pod_sandbox_status_response, LANE_QUICK,
	       .unary = fail_with),
	METHOD("Exec", exec_request, exec_response, LANE_QUICK, .unary = huge),
	METHOD("ExecSync", exec_sync_request, exec_sync_response, LANE_EXEC, .unary = hang),
	METHOD("StopContainer", stop_container_request, stop_container_response, LANE_STOP, .unary = block),
	METHOD("CreateContainer", create_container_request, create_container_response, LANE_SLOW,
	       .async = later),
	METHOD("CheckpointContainer", checkpoint_container_request, checkpoint_container_response, LANE_SLOW,
	       .unary = NULL),
	{0},
};

static inline void *serve(void *arg)
{
	struct fixture *f = arg;
	int r = loop_new(&f->loop, &f->err);

	if (r == 0)
		r = rpc_server_start(f->socket, f->listen_fd, f->methods, f, f->loop, f->workers, &f->server,
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

static inline int start(struct fixture *f)
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

static inline void stop(struct fixture *f, int64_t timeout_ns)
{
	f->server = rpc_server_stop(f->server, now_monotonic_ns() + timeout_ns);
	loop_stop(f->loop);
	pthread_join(f->thread, NULL);
}

static inline struct fixture *fixture_new(void)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->listen_fd = -1;
	f->methods = methods;
	snprintf(f->dir, sizeof(f->dir), "/tmp/crv-rpc-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->socket, sizeof(f->socket), "%s/run/s.sock", f->dir);
	pthread_mutex_init(&f->lock, NULL);
	cond_init(&f->changed);
	assert_int_equal(workers_new(&f->workers, NULL), 0);
	return f;
}

static inline void fixture_free(struct fixture *f)
{
	workers_free(f->workers, 5 * NS_PER_SEC);
	assert_int_equal(remove_tree(f->dir), 0);
	free(f);
}

static inline int setup_with(void **state, const struct rpc_method *with)
{
	struct fixture *f = fixture_new();

	f->methods = with;
	if (start(f) < 0)
		fail_msg("%s", f->err.msg);
	*state = f;
	return 0;
}

static inline int setup(void **state)
{
	return setup_with(state, methods);
}

static inline void open_gate(struct fixture *f)
{
	pthread_mutex_lock(&f->lock);
	f->gate_open = true;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	open_gate(f);
	if (f->server)
		stop(f, 5 * NS_PER_SEC);
	fixture_free(f);
	return 0;
}

static inline struct sockaddr_un address_of(const struct fixture *f)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	assert_true(strlen(f->socket) < sizeof(addr.sun_path));
	memcpy(addr.sun_path, f->socket, strlen(f->socket));
	return addr;
}

static inline void await(struct fixture *f, const int *counter, int n)
{
	int64_t until = now_monotonic_ns() + 20 * NS_PER_SEC;
	int r = 0;

	pthread_mutex_lock(&f->lock);
	while (*counter < n && r == 0)
		r = cond_wait_until(&f->changed, &f->lock, until);
	pthread_mutex_unlock(&f->lock);
	assert_int_equal(r, 0);
}

static inline int count(struct fixture *f, const int *counter)
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

static inline void client_open_with(struct client *c, const char *socket, size_t n_args)
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
		/* A fixed window of 64 KiB. */
		{.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_HTTP2_BDP_PROBE, .value.integer = 0},
	};
	const grpc_channel_args all = {.num_args = n_args, .args = args};
	char target[128];

	memset(c, 0, sizeof(*c));
	snprintf(target, sizeof(target), "unix:%s", socket);
	c->channel = grpc_channel_create(target, creds, &all);
	grpc_channel_credentials_release(creds);
	c->cq = grpc_completion_queue_create_for_next(NULL);
}

static inline void client_open(struct client *c, const char *socket)
{
	client_open_with(c, socket, 2);
}

/* One whose server can send it only 64 KiB more than it reads. */
static inline void client_open_narrow(struct client *c, const char *socket)
{
	client_open_with(c, socket, 3);
}

/* A client on the connection of another, which must be closed later. */
static inline void client_share(struct client *c, const struct client *with)
{
	memset(c, 0, sizeof(*c));
	c->channel = with->channel;
	c->shared = true;
	c->cq = grpc_completion_queue_create_for_next(NULL);
}

static inline void client_close(struct client *c)
{
	grpc_completion_queue_shutdown(c->cq);
	while (grpc_completion_queue_next(c->cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
	       GRPC_QUEUE_SHUTDOWN)
		;
	grpc_completion_queue_destroy(c->cq);
	if (!c->shared)
		grpc_channel_destroy(c->channel);
}

static inline bool client_wait(struct client *c)
{
	grpc_event e = grpc_completion_queue_next(c->cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);

	return e.type == GRPC_OP_COMPLETE && e.success;
}

static inline gpr_timespec client_deadline(int ms)
{
	return ms < 0 ? gpr_inf_future(GPR_CLOCK_MONOTONIC)
		      : gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

/* Begins a call with raw request bytes; for a stream, responses are then taken by client_next. */
static inline void client_begin_tag(struct client *c, const char *path, const void *data, size_t len,
				    int timeout_ms, void *tag)
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
	assert_int_equal(grpc_call_start_batch(c->call, ops, 4, tag, NULL), GRPC_CALL_OK);
	grpc_byte_buffer_destroy(request);
	grpc_slice_unref(payload);
	grpc_slice_unref(method);
}

static inline void client_begin(struct client *c, const char *path, const void *data, size_t len,
				int timeout_ms)
{
	client_begin_tag(c, path, data, len, timeout_ms, c);
}

static inline bool client_next(struct client *c)
{
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};

	op.data.recv_message.recv_message = &c->response;
	assert_int_equal(grpc_call_start_batch(c->call, &op, 1, c, NULL), GRPC_CALL_OK);
	client_wait(c);
	return c->response != NULL;
}

static inline grpc_status_code client_end(struct client *c)
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

static inline ProtobufCMessage *client_take(struct client *c, const ProtobufCMessageDescriptor *d)
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
static inline grpc_status_code client_raw(struct client *c, const char *path, const void *data, size_t len,
					  int timeout_ms)
{
	client_begin(c, path, data, len, timeout_ms);
	client_wait(c);
	client_next(c);
	return client_end(c);
}

static inline grpc_status_code client_call(struct client *c, const char *path, const ProtobufCMessage *req,
					   int timeout_ms)
{
	size_t len = protobuf_c_message_get_packed_size(req);
	uint8_t *data CLEANUP_FREE = malloc(len + 1);

	protobuf_c_message_pack(req, data);
	return client_raw(c, path, data, len, timeout_ms);
}

static inline grpc_status_code one_call(struct fixture *f, const char *path, const ProtobufCMessage *req,
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

/* The server of this fixture answers Version with the text it was asked with. */
static inline void assert_version_answered(struct fixture *f)
{
	Runtime__V1__VersionRequest q = RUNTIME__V1__VERSION_REQUEST__INIT;
	Runtime__V1__VersionResponse *a;
	struct client c;

	q.version = (char *)"0.1.0";
	client_open(&c, f->socket);
	assert_int_equal(client_call(&c, SERVICE "Version", &q.base, 10000), GRPC_STATUS_OK);
	a = (void *)client_take(&c, &runtime__v1__version_response__descriptor);
	assert_non_null(a);
	assert_string_equal(a->version, "0.1.0");
	assert_string_equal(a->runtime_name, "crivisor");
	protobuf_c_message_free_unpacked(&a->base, NULL);
	client_close(&c);
}

/* ---- a client by hand ---------------------------------------------------------------------------------- */

/* HPACK: literal, never indexed, new name. */
static inline size_t raw_header(unsigned char *out, const char *name, const char *value)
{
	size_t len = 0;

	out[len++] = 0x10;
	for (int k = 0; k < 2; k++) {
		const char *s = k ? value : name;
		size_t n = strlen(s);

		out[len++] = (unsigned char)n;
		memcpy(out + len, s, n);
		len += n;
	}
	return len;
}

/*
 * HTTP/2 by hand: preface, SETTINGS, HEADERS and one empty message; the connection's fd. Such a client does
 * nothing by itself: neither keeps a deadline nor resets a call.
 */
static inline int raw_begin(struct fixture *f, const char *path, const char *timeout)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	static const unsigned char settings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};
	static const unsigned char data[] = {0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0};
	const char *const fields[][2] = {{":method", "POST"},
					 {":scheme", "http"},
					 {":path", path},
					 {":authority", "localhost"},
					 {"content-type", "application/grpc"},
					 {"te", "trailers"},
					 {"grpc-timeout", timeout}};
	unsigned char headers[512] = {0, 0, 0, 1, 4, 0, 0, 0, 1};
	struct sockaddr_un addr = address_of(f);
	size_t len = 9;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	for (size_t i = 0; i < ARRAY_SIZE(fields) && fields[i][1]; i++)
		len += raw_header(headers + len, fields[i][0], fields[i][1]);
	headers[1] = (unsigned char)((len - 9) >> 8);
	headers[2] = (unsigned char)(len - 9);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(write_full(fd, preface, strlen(preface)), 0);
	assert_int_equal(write_full(fd, settings, sizeof(settings)), 0);
	assert_int_equal(write_full(fd, headers, len), 0);
	assert_int_equal(write_full(fd, data, sizeof(data)), 0);
	return fd;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_fixture.h: a server with one method for each thing to test, and a client on gRPC's own core, for
 * test_rpc*.c.
 */
#ifndef TEST_UNIT_RPC_FIXTURE_H
#define TEST_UNIT_RPC_FIXTURE_H

#include "api/cri/runtime.pb-c.h"
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

static inline int version(void *ctx, struct rpc_call *call, const ProtobufCMessage *req,
			  ProtobufCMessage *resp, struct err *err)
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
static inline int fail_with(void *ctx, struct rpc_call *call, const ProtobufCMessage *req,
			    ProtobufCMessage *resp, struct err *err)
{
	const Runtime__V1__PodSandboxStatusRequest *q = (const void *)req;

	(void)ctx;
	(void)call;
	(void)resp;
	if (str_eq(q->pod_sandbox_id, "silent"))
		return -EIO;
	return err_set(err, -ENOENT, "no pod \"%s\"", q->pod_sandbox_id);
}

static inline int huge(void *ctx, struct rpc_call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
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
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

/* Waits for the gate or for the client to go. */
static inline int hang(void *ctx, struct rpc_call *call, const ProtobufCMessage *req, ProtobufCMessage *resp,
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
static inline int stream(void *ctx, struct rpc_call *call, const ProtobufCMessage *req, struct err *err)
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
	METHOD("Version", version_request, version_response, LANE_QUICK, version, NULL),
	METHOD("PodSandboxStatus", pod_sandbox_status_request, pod_sandbox_status_response, LANE_QUICK,
	       fail_with, NULL),
	METHOD("Exec", exec_request, exec_response, LANE_QUICK, huge, NULL),
	METHOD("ExecSync", exec_sync_request, exec_sync_response, LANE_EXEC, hang, NULL),
	METHOD("StreamContainers", stream_containers_request, stream_containers_response, LANE_SLOW, NULL,
	       stream),
	METHOD("CheckpointContainer", checkpoint_container_request, checkpoint_container_response, LANE_SLOW,
	       NULL, NULL),
	{0},
};

static inline void *serve(void *arg)
{
	struct fixture *f = arg;
	int r = loop_new(&f->loop, &f->err);

	if (r == 0)
		r = rpc_server_start(f->socket, f->listen_fd, methods, f, f->loop, f->workers, &f->server,
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
	snprintf(f->dir, sizeof(f->dir), "/tmp/crv-rpc-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->socket, sizeof(f->socket), "%s/run/s.sock", f->dir);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	assert_int_equal(workers_new(&f->workers, NULL), 0);
	return f;
}

static inline void fixture_free(struct fixture *f)
{
	workers_free(f->workers, 5 * NS_PER_SEC);
	assert_int_equal(remove_tree(f->dir), 0);
	free(f);
}

static inline int setup(void **state)
{
	struct fixture *f = fixture_new();

	if (start(f) < 0)
		fail_msg("%s", f->err.msg);
	*state = f;
	return 0;
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
	struct timespec until = {.tv_sec = time(NULL) + 20};
	int r = 0;

	pthread_mutex_lock(&f->lock);
	while (*counter < n && r == 0)
		r = pthread_cond_timedwait(&f->changed, &f->lock, &until);
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

static inline void client_open(struct client *c, const char *socket)
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
static inline void client_begin(struct client *c, const char *path, const void *data, size_t len,
				int timeout_ms)
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

/* True if the server of this fixture answers Version with our pid and text. */
static inline void assert_version_answered(struct fixture *f)
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

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif

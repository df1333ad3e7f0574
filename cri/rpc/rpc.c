/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/rpc/rpc_internal.h"

#include "base/cond.h"
#include "base/log.h"
#include "base/util.h"

#include <assert.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <time.h>

#define SERVER_MAGIC 0x59c5e22eU
/* What gRPC may hold in buffers for all connections together. */
#define QUOTA_BYTES (128u << 20)
/*
 * Cancelled RPCs end on the wire without their handlers' help, so this is ample. What takes longer hangs in
 * gRPC, and the server is left to exit().
 */
#define CANCEL_GRACE_NS (3 * NS_PER_SEC)
/* The loop's callbacks do not block, so it runs what is posted within milliseconds. */
#define CLOSE_NS (3 * NS_PER_SEC)

/* ---- methods ------------------------------------------------------------------------------------------- */

static int compare_methods(const void *a, const void *b)
{
	const struct rpc_method *const *x = a, *const *y = b;

	return strcmp((*x)->path, (*y)->path);
}

static int compare_path(const void *path, const void *entry)
{
	const struct rpc_method *const *m = entry;

	return strcmp(path, (*m)->path);
}

const struct rpc_method *rpc_server_method(const struct rpc_server *server, const char *path)
{
	const struct rpc_method **found =
		bsearch(path, server->methods, server->n_methods, sizeof(*server->methods), compare_path);

	return found ? *found : NULL;
}

static int sort_methods(struct rpc_server *server, const struct rpc_method *methods)
{
	size_t n = 0;

	while (methods[n].path)
		n++;
	server->methods = calloc(n ? n : 1, sizeof(*server->methods));
	if (!server->methods)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		server->methods[i] = &methods[i];
	server->n_methods = n;
	qsort(server->methods, n, sizeof(*server->methods), compare_methods);
	return 0;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

void rpc_server_unref(struct rpc_server *server)
{
	if (atomic_fetch_sub(&server->refs, 1) > 1)
		return;
	pthread_mutex_destroy(&server->lock);
	pthread_cond_destroy(&server->changed);
	free(server->methods);
	server->magic = 0;
	free(server);
}

bool rpc_server_enter(struct rpc_server *server)
{
	bool room;

	pthread_mutex_lock(&server->lock);
	room = ++server->in_flight <= RPC_IN_FLIGHT_MAX;
	pthread_mutex_unlock(&server->lock);
	return room;
}

void rpc_server_leave(struct rpc_server *server)
{
	pthread_mutex_lock(&server->lock);
	server->in_flight--;
	pthread_cond_broadcast(&server->changed);
	pthread_mutex_unlock(&server->lock);
}

/* ---- the completion queue's thread --------------------------------------------------------------------- */

static void on_event(struct rpc_server *server, struct rpc_tag *tag, bool success)
{
	if (tag->type == RPC_TAG_SHUTDOWN) {
		pthread_mutex_lock(&server->lock);
		server->shutdown_done = true;
		pthread_cond_broadcast(&server->changed);
		pthread_mutex_unlock(&server->lock);
		return;
	}
	/* First, so that the next call is awaited while this one is looked at. */
	if (tag->type == RPC_TAG_NEW && success && rpc_call_await(server) == -ENOMEM)
		log_error("no memory to take further calls");
	rpc_call_event(tag, success);
}

static void *cq_main(void *arg)
{
	struct rpc_server *server = arg;

	assert(server->magic == SERVER_MAGIC);
	for (;;) {
		grpc_event event =
			grpc_completion_queue_next(server->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);

		if (event.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		if (event.type == GRPC_OP_COMPLETE)
			on_event(server, event.tag, event.success != 0);
	}
}

void rpc_global_init(void)
{
	/* What gRPC reads from the environment: the user's own values win. */
	setenv("GRPC_ENABLE_FORK_SUPPORT", "0", 0);
	setenv("GRPC_VERBOSITY", "NONE", 0);
}

/* ---- start --------------------------------------------------------------------------------------------- */

/* Loop thread. gRPC owns the fd from here. */
static void on_accept(void *arg, int fd)
{
	struct rpc_server *server = arg;

	grpc_server_add_channel_from_fd(server->grpc, fd, server->creds);
}

static grpc_arg int_arg(const char *key, int value)
{
	return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

static grpc_server *make_grpc_server(void)
{
	grpc_resource_quota *quota = grpc_resource_quota_create("crivisor");
	grpc_arg args[] = {
		int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, RPC_MESSAGE_MAX),
		int_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, RPC_MESSAGE_MAX),
		int_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, RPC_IN_FLIGHT_MAX),
		int_arg(GRPC_ARG_MAX_METADATA_SIZE, 16384),
		int_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
		int_arg(GRPC_ARG_ENABLE_CENSUS, 0),
		/* A compressed message of 16 MiB could unfold to any size. */
		int_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE),
		/* Clients may ping an idle connection as often as they like. */
		int_arg(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0),
		int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
		{.type = GRPC_ARG_POINTER,
		 .key = (char *)GRPC_ARG_RESOURCE_QUOTA,
		 .value.pointer = {.p = quota, .vtable = grpc_resource_quota_arg_vtable()}},
	};
	const grpc_channel_args all = {.num_args = ARRAY_SIZE(args), .args = args};
	grpc_server *server;

	grpc_resource_quota_resize(quota, QUOTA_BYTES);
	grpc_resource_quota_set_max_threads(quota, 4);
	server = grpc_server_create(&all, NULL);
	grpc_resource_quota_unref(quota);
	return server;
}

static int start_grpc(struct rpc_server *server, struct err *err)
{
	int r;

	grpc_init();
	server->creds = grpc_insecure_server_credentials_create();
	server->grpc = make_grpc_server();
	server->cq = grpc_completion_queue_create_for_next(NULL);
	grpc_server_register_completion_queue(server->grpc, server->cq, NULL);
	grpc_server_start(server->grpc);
	r = rpc_call_await(server);
	if (r == 0)
		r = -pthread_create(&server->thread, NULL, cq_main, server);
	return r < 0 ? err_set_errno(err, r, "gRPC server") : 0;
}

static void stop_grpc(struct rpc_server *server)
{
	grpc_completion_queue_shutdown(server->cq);
	pthread_join(server->thread, NULL);
	grpc_server_destroy(server->grpc);
	grpc_completion_queue_destroy(server->cq);
	grpc_server_credentials_release(server->creds);
	grpc_shutdown_blocking();
}

int rpc_server_start(const char *socket_path, int listen_fd, const struct rpc_method *methods, void *ctx,
		     struct loop *loop, struct workers *workers, struct rpc_server **ret_server,
		     struct err *err)
{
	struct rpc_server *server = calloc(1, sizeof(*server));
	int r;

	if (!server)
		return err_set(err, -ENOMEM, "no memory for the gRPC server");
	server->magic = SERVER_MAGIC;
	atomic_init(&server->refs, 1);
	server->ctx = ctx;
	server->loop = loop;
	server->workers = workers;
	server->shutdown_tag.type = RPC_TAG_SHUTDOWN;
	pthread_mutex_init(&server->lock, NULL);
	cond_init(&server->changed);
	if (sort_methods(server, methods) < 0)
		r = err_set(err, -ENOMEM, "no memory for the gRPC server");
	else /* Connections are taken on this same thread, so none comes before gRPC is up. */
		r = rpc_listener_new(socket_path, listen_fd, on_accept, server, loop, &server->listener, err);
	if (r == 0)
		r = start_grpc(server, err);
	if (r < 0) {
		if (server->listener)
			rpc_listener_close(server->listener);
		rpc_listener_free(server->listener);
		rpc_server_unref(server);
		return r;
	}
	*ret_server = server;
	return 0;
}

/* ---- stop ---------------------------------------------------------------------------------------------- */

/* Loop thread, or any once the loop has ended. Takes over a reference. */
static void close_listener(void *arg)
{
	struct rpc_server *server = arg;

	rpc_listener_close(server->listener);
	pthread_mutex_lock(&server->lock);
	server->closed = true;
	pthread_cond_broadcast(&server->changed);
	pthread_mutex_unlock(&server->lock);
	rpc_server_unref(server);
}

/* False: the loop does not run what is posted to it. */
static bool stop_accepting(struct rpc_server *server)
{
	int64_t until = now_monotonic_ns() + CLOSE_NS;
	bool closed;
	int r = 0;

	atomic_fetch_add(&server->refs, 1);
	if (loop_on_thread(server->loop) || loop_post(server->loop, close_listener, server) < 0)
		close_listener(server);
	pthread_mutex_lock(&server->lock);
	while (!server->closed && r == 0)
		r = cond_wait_until(&server->changed, &server->lock, until);
	closed = server->closed;
	pthread_mutex_unlock(&server->lock);
	return closed;
}

/* True once no RPC is left on the wire and gRPC has said so. */
static bool await_end(struct rpc_server *server, int64_t deadline_ns)
{
	bool ended;
	int r = 0;

	pthread_mutex_lock(&server->lock);
	while (!(server->shutdown_done && server->in_flight == 0) && r == 0)
		r = cond_wait_until(&server->changed, &server->lock, deadline_ns);
	ended = server->shutdown_done && server->in_flight == 0;
	pthread_mutex_unlock(&server->lock);
	return ended;
}

static void cancel_all(struct rpc_server *server)
{
	pthread_mutex_lock(&server->lock);
	server->cancelling = true;
	pthread_mutex_unlock(&server->lock);
	grpc_server_cancel_all_calls(server->grpc);
}

struct rpc_server *rpc_server_stop(struct rpc_server *server, int64_t deadline_ns)
{
	bool ended;

	if (!server)
		return NULL;
	if (!stop_accepting(server)) {
		log_warn("the event loop hangs; the gRPC server is left to the process's exit");
		return NULL;
	}
	grpc_server_shutdown_and_notify(server->grpc, server->cq, &server->shutdown_tag);
	ended = await_end(server, deadline_ns);
	if (!ended) {
		cancel_all(server);
		ended = await_end(server, now_monotonic_ns() + CANCEL_GRACE_NS);
	}
	if (!ended) {
		log_warn("gRPC does not end its calls; it is left to the process's exit");
		return NULL;
	}
	stop_grpc(server);
	server->listener = rpc_listener_free(server->listener);
	rpc_server_unref(server);
	return NULL;
}

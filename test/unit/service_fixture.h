/* SPDX-License-Identifier: Apache-2.0 */
/*
 * service_fixture.h: methods of cri/service over the fakes of pods_fixture.h, called by a client of gRPC's
 * own.
 *
 * A test gives service_setup its table of methods.
 */
#ifndef TEST_UNIT_SERVICE_FIXTURE_H
#define TEST_UNIT_SERVICE_FIXTURE_H

#include "pods_fixture.h"
#include "rpc_fixture.h"

#include "cri/service/service.h"

#define RPC(method, request_, response_, ...)                                                                \
	{                                                                                                    \
		"/runtime.v1.RuntimeService/" method, &runtime__v1__##request_##__descriptor,                \
			&runtime__v1__##response_##__descriptor, LANE_QUICK, __VA_ARGS__                     \
	}

/* What the methods of images would reach, which these tests do not call. */
int image_pull(struct image_store *images, const char *ref, const struct image_auth *auth, struct call *call,
	       char **ret_id, struct err *err)
{
	(void)images;
	(void)ref;
	(void)auth;
	(void)call;
	(void)ret_id;
	return err_set(err, -ENOSYS, "no image store");
}
int image_remove(struct image_store *images, const char *ref, struct err *err)
{
	(void)images;
	(void)ref;
	return err_set(err, -ENOSYS, "no image store");
}
int image_fs_info(struct image_store *images, struct image_fs_info *ret_info, struct err *err)
{
	(void)images;
	(void)ret_info;
	return err_set(err, -ENOSYS, "no image store");
}

static struct {
	struct service service;
	const struct rpc_method *methods;
	struct rpc_server *rpc;
	char socket[128];
	int code;
	struct err err;
	atomic_bool started;
} served;

static inline void serve_on_loop(void *arg)
{
	(void)arg;
	served.code = rpc_server_start(served.socket, -1, served.methods, &served.service, fake.loop,
				       fake.workers, &served.rpc, &served.err);
	atomic_store(&served.started, true);
}

/* Over the room as it is. */
static inline void service_serve(void)
{
	atomic_store(&served.started, false);
	service_events_begin(served.service.events, fake.pods);
	served.service.workers = fake.workers;
	served.service.pods = fake.pods;
	served.service.config = &fake.config;
	snprintf(served.socket, sizeof(served.socket), "%s/socket", fake.dir);
	assert_int_equal(loop_post(fake.loop, serve_on_loop, NULL), 0);
	eventually(is_true, &served.started, "the server does not start");
	if (served.code < 0)
		fail_msg("%s", served.err.msg);
}

static inline int service_setup(void **state, const struct rpc_method *with)
{
	memset(&served, 0, sizeof(served));
	rpc_global_init();
	grpc_init();
	served.methods = with;
	assert_int_equal(service_events_new(&served.service.events, NULL), 0);
	service_events_hooks(served.service.events, &fake_listener);
	fake_setup(state);
	service_serve();
	return 0;
}

/* The server ends, and another one begins on what it has left. Events end for good. */
static inline void service_stop(void)
{
	service_events_close(served.service.events);
	served.rpc = rpc_server_stop(served.rpc, now_monotonic_ns() + LONG_NS);
	end_room();
}
static inline void service_begin(void)
{
	begin_room(0);
	service_serve();
}

static inline int service_teardown(void **state)
{
	service_events_close(served.service.events);
	served.rpc = rpc_server_stop(served.rpc, now_monotonic_ns() + LONG_NS);
	fake_teardown(state);
	memset(&fake_listener, 0, sizeof(fake_listener));
	served.service.events = service_events_free(served.service.events);
	return 0;
}

/* A unary call: its answer, or NULL and the status in the client. */
static inline void *rpc_answer(struct client *c, const char *method, const ProtobufCMessage *req,
			       const ProtobufCMessageDescriptor *response)
{
	char path[128];

	snprintf(path, sizeof(path), SERVICE "%s", method);
	if (client_call(c, path, req, 30000) == GRPC_STATUS_OK)
		return client_take(c, response);
	if (c->response)
		grpc_byte_buffer_destroy(move_ptr(c->response));
	return NULL;
}

/* Begins a streaming call, and waits until the server has taken it up. */
static inline void rpc_listen(struct client *c, const char *method, const ProtobufCMessage *req)
{
	size_t len = protobuf_c_message_get_packed_size(req);
	uint8_t *data CLEANUP_FREE = malloc(len + 1);
	char path[128];

	snprintf(path, sizeof(path), SERVICE "%s", method);
	protobuf_c_message_pack(req, data);
	client_begin(c, path, data, len, -1);
	client_wait(c);
}

/* The next message, or NULL at the end. */
static inline void *rpc_next(struct client *c, const ProtobufCMessageDescriptor *response)
{
	return client_next(c) ? client_take(c, response) : NULL;
}

#endif

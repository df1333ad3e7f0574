/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest_service_fixture.h: a ttrpc client on a socket pair before the agent's services, and processes of this
 * machine in the place of containers', for test_guest_*.c. Nothing here may touch the machine itself: only
 * harmless methods are called.
 */
#ifndef TEST_UNIT_GUEST_SERVICE_FIXTURE_H
#define TEST_UNIT_GUEST_SERVICE_FIXTURE_H

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "api/agent/sandbox.pb-c.h"
#include "api/agent/streaming.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "api/agent/transfer.pb-c.h"
#include "base/util.h"
#include "base/version.h"
#include "google/protobuf/any.pb-c.h"
#include "guest/container/ctr_internal.h"
#include "guest/core/loop.h"
#include "guest/rpc/events.h"
#include "guest/rpc/server.h"
#include "guest/core/agent.h"
#include "guest/core/reap.h"
#include "guest/rpc/request.h"
#include "guest/pod/pod.h"
#include "guest/core/spawn.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define TASK	  "containerd.task.v2.Task"
#define SANDBOX	  "grpc.SandboxService"
#define AGENT	  "crivisor.agent.v1.Agent"
#define STREAMING "containerd.services.streaming.v1.Streaming"

static struct agent agent;
static unsigned int ended; /* calls of ops.end */
static struct ttrpc_conn *client;
static int sock = -1;
static struct ctr *box; /* stands for a container */

/* ---- the client ----------------------------------------------------------------------------------- */

static inline void on_output(void *owner)
{
	(void)owner;
}

/* One turn of both sides. */
static inline void turn(void)
{
	unsigned char buf[65536];
	ssize_t n;

	while (client && ttrpc_out(client)->len > 0 && buf_write_fd(ttrpc_out(client), sock) > 0)
		;
	reap_collect();
	assert_int_equal(loop_round(agent.loop, 2 * NS_PER_MS), 0);
	while (client && (n = recv(sock, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		assert_int_equal(ttrpc_feed(client, buf, (size_t)n, NULL), 0);
}

struct reply {
	bool done;
	struct err err;
	void *msg;
	const ProtobufCMessageDescriptor *type;
};

static inline void on_reply(void *arg, const struct err *err, const void *payload, size_t len)
{
	struct reply *r = arg;

	r->done = true;
	if (err)
		r->err = *err;
	else if (r->type)
		r->msg = protobuf_c_message_unpack(r->type, NULL, len, payload);
}

static inline void start_call(struct reply *r, const char *service, const char *method,
			      const ProtobufCMessage *req)
{
	unsigned char data[8192];
	size_t len = protobuf_c_message_pack(req, data);

	assert_int_equal(ttrpc_call(client, service, method, data, len, 0, on_reply, r, NULL, NULL), 0);
}

static inline void await(const bool *done)
{
	int64_t end = now_monotonic_ns() + 10 * NS_PER_SEC;

	while (!*done && now_monotonic_ns() < end)
		turn();
	assert_true(*done);
}

/* The reply, or NULL with *ret_status set. */
static inline void *call(const char *service, const char *method, const ProtobufCMessage *req,
			 const ProtobufCMessageDescriptor *type, enum err_status *ret_status)
{
	struct reply r = {.type = type};

	start_call(&r, service, method, req);
	await(&r.done);
	if (ret_status)
		*ret_status = r.err.status;
	else if (r.err.code)
		fail_msg("%s: %s", method, r.err.msg);
	return r.msg;
}

static inline enum err_status status_of(const char *service, const char *method, const ProtobufCMessage *req)
{
	enum err_status status;

	call(service, method, req, NULL, &status);
	return status;
}

/* ---- the box -------------------------------------------------------------------------------------- */

static inline struct ctr *make_box(const char *id)
{
	struct proc_io io = {.terminal = false};
	struct ctr *c = calloc(1, sizeof(*c));

	c->agent = &agent;
	c->oom_watch = -1;
	c->mounts = -1;
	c->id = strdup(id);
	c->bundle = strdup("/nowhere");
	assert_int_equal(proc_init(&c->init, &agent, c, "", &io, NULL), 0);
	c->init.state = PROC_RUNNING;
	c->next = agent.containers->list;
	agent.containers->list = c;
	agent.containers->len++;
	return c;
}

/* An exec whose program runs on this machine, as the runtime would have made it. */
static inline struct proc *run_exec(const char *id, const struct proc_io *io, const char *script)
{
	char *argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)script, NULL};
	struct spawn s = {.argv = argv};
	struct err err = ERR_INIT;
	struct proc *p;
	pid_t pid;

	if (ctr_exec_add(box, id, io, "{}", 2, &err) < 0)
		fail_msg("%s", err.msg);
	p = ctr_proc(&agent, box->id, id, NULL);
	memcpy(s.stdio, p->child_stdio, sizeof(s.stdio));
	pid = spawn_run(&s, NULL);
	assert_true(pid > 0);
	proc_close_child_stdio(p);
	proc_born(p, pid, UINT64_MAX, PROC_RUNNING);
	return p;
}

static char tmp_dir[32];

static inline void on_settle(struct agent *a)
{
	(void)a;
}

/* What the release of file systems does: ends with this status, after so long. */
static int release_status;
static int release_ms;

static inline int on_release(struct agent *a)
{
	(void)a;
	usleep((useconds_t)release_ms * 1000);
	return release_status;
}

static inline void on_end(struct agent *a)
{
	(void)a;
	ended++;
}

static const struct agent_ops ops = {
	.settle = on_settle, .shutdown = pod_shutdown, .release = on_release, .end = on_end};

static inline int setup(void **state)
{
	int pair[2];

	snprintf(tmp_dir, sizeof(tmp_dir), "/tmp/crv-guest-XXXXXX");
	(void)state;
	ended = 0;
	release_status = release_ms = 0;
	agent = (struct agent){.ops = &ops,
			       .loop = loop_new(),
			       .events = events_new(),
			       .containers = containers_new(&agent),
			       .in_vm = true,
			       .settled = true};
	agent.paths.share = GUEST_SHARE_DIR;
	agent.paths.crun_root = "/nowhere";
	agent.paths.cgroup_parent = "/crvtest-none";
	agent.server = server_new(&agent, pod_services(&agent));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	sock = pair[0];
	assert_int_equal(server_take(agent.server, pair[1]), 0);
	client = ttrpc_client_new(on_output, NULL);
	assert_non_null(mkdtemp(tmp_dir));
	agent.paths.tmp = tmp_dir;
	box = make_box("box");
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	client = ttrpc_conn_free(client);
	sock = close_fd(sock);
	agent.server = server_free(agent.server);
	for (struct ctr *c = agent.containers->list; c; c = c->next) {
		for (struct proc *p = c->execs; p; p = p->next) {
			if (p->pid > 0 && p->state != PROC_STOPPED)
				kill(p->pid, SIGKILL);
		}
	}
	agent.containers = containers_free(agent.containers);
	events_free(agent.events);
	loop_round(agent.loop, 0);
	loop_free(agent.loop);
	assert_int_equal(remove_tree(tmp_dir), 0);
	return 0;
}

static inline Containerd__Task__V2__WaitResponse *wait_for(const char *exec)
{
	Containerd__Task__V2__WaitRequest req = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;

	req.id = (char *)"box";
	req.exec_id = (char *)exec;
	return call(TASK, "Wait", &req.base, &containerd__task__v2__wait_response__descriptor, NULL);
}

static inline void expect_exit(const char *exec, unsigned int status)
{
	Containerd__Task__V2__WaitResponse *w = wait_for(exec);

	assert_int_equal(w->exit_status, status);
	assert_true(w->exited_at->seconds > 1000000);
	protobuf_c_message_free_unpacked(&w->base, NULL);
}

/* Reads and acknowledges to the end: both streams into one string with their numbers. */
static inline void read_log(const char *exec, bool ack, char *out, size_t out_len)
{
	uint64_t offset = 0;
	size_t n = 0;
	bool eof = false;

	while (!eof) {
		Crivisor__Agent__V1__ReadLogRequest req = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;
		Crivisor__Agent__V1__ReadLogResponse *m;

		req.container_id = (char *)"box";
		req.exec_id = (char *)exec;
		req.offset = offset;
		req.wait_ms = 1000;
		m = call(AGENT, "ReadLog", &req.base, &crivisor__agent__v1__read_log_response__descriptor,
			 NULL);
		assert_int_equal(m->offset, offset);
		for (size_t i = 0; i < m->n_records; i++) {
			n += (size_t)snprintf(out + n, out_len - n, "%d:%.*s", (int)m->records[i]->stream,
					      (int)m->records[i]->data.len, m->records[i]->data.data);
			offset += m->records[i]->data.len;
		}
		eof = m->eof;
		protobuf_c_message_free_unpacked(&m->base, NULL);
		if (ack) {
			Crivisor__Agent__V1__AckRequest a = CRIVISOR__AGENT__V1__ACK_REQUEST__INIT;

			a.container_id = (char *)"box";
			a.exec_id = (char *)exec;
			a.offset = offset;
			assert_int_equal(status_of(AGENT, "Ack", &a.base), ERR_OK);
		}
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif

/*
 * The agent's services from the wire inwards: a ttrpc client on a socket pair, requests, streams, processes
 * of this machine in the place of containers'. Nothing here may touch the machine itself: only harmless
 * methods are called.
 */
#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "api/agent/sandbox.pb-c.h"
#include "api/agent/streaming.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "api/agent/transfer.pb-c.h"
#include "base/util.h"
#include "base/version.h"
#include "google/protobuf/any.pb-c.h"
#include "guest/ctr.h"
#include "guest/gevents.h"
#include "guest/gserver.h"
#include "guest/guest.h"
#include "guest/reap.h"
#include "guest/rpc.h"
#include "guest/services.h"
#include "guest/spawn.h"

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

static struct guest g;
static struct ttrpc_conn *client;
static int sock = -1;
static struct ctr *box; /* stands for a container */

/* ---- the client ---------------------------------------------------------------------------------------- */

static void on_output(void *owner)
{
	(void)owner;
}

/* One turn of both sides. */
static void turn(void)
{
	unsigned char buf[65536];
	ssize_t n;

	while (client && ttrpc_out(client)->len > 0 && buf_write_fd(ttrpc_out(client), sock) > 0)
		;
	reap_collect();
	assert_int_equal(eloop_round(g.loop, 2 * NS_PER_MS), 0);
	while (client && (n = recv(sock, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		assert_int_equal(ttrpc_feed(client, buf, (size_t)n, NULL), 0);
}

struct reply {
	bool done;
	struct err err;
	void *msg;
	const ProtobufCMessageDescriptor *type;
};

static void on_reply(void *arg, const struct err *err, const void *payload, size_t len)
{
	struct reply *r = arg;

	r->done = true;
	if (err)
		r->err = *err;
	else if (r->type)
		r->msg = protobuf_c_message_unpack(r->type, NULL, len, payload);
}

static void start_call(struct reply *r, const char *service, const char *method, const ProtobufCMessage *req)
{
	unsigned char data[8192];
	size_t len = protobuf_c_message_pack(req, data);

	assert_int_equal(ttrpc_call(client, service, method, data, len, 0, on_reply, r, NULL, NULL), 0);
}

static void await(const bool *done)
{
	int64_t end = now_monotonic_ns() + 10 * NS_PER_SEC;

	while (!*done && now_monotonic_ns() < end)
		turn();
	assert_true(*done);
}

/* The reply, or NULL with *ret_status set. */
static void *call(const char *service, const char *method, const ProtobufCMessage *req,
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

static enum err_status status_of(const char *service, const char *method, const ProtobufCMessage *req)
{
	enum err_status status;

	call(service, method, req, NULL, &status);
	return status;
}

/* ---- the box
 * ----------------------------------------------------------------------------------------------- */

static struct ctr *make_box(const char *id)
{
	struct proc_io io = {.terminal = false};
	struct ctr *c = calloc(1, sizeof(*c));

	c->g = &g;
	c->oom_watch = -1;
	c->id = strdup(id);
	c->bundle = strdup("/nowhere");
	assert_int_equal(proc_init(&c->init, &g, c, "", &io, NULL), 0);
	c->init.state = PROC_RUNNING;
	c->next = g.ctrs;
	g.ctrs = c;
	g.ctrs_len++;
	return c;
}

/* An exec whose program runs on this machine, as the runtime would have made it. */
static struct proc *run_exec(const char *id, const struct proc_io *io, const char *script)
{
	char *argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)script, NULL};
	struct spawn s = {.argv = argv};
	struct err err = ERR_INIT;
	struct proc *p;
	pid_t pid;

	if (ctr_exec_add(box, id, io, "{}", 2, &err) < 0)
		fail_msg("%s", err.msg);
	p = ctr_proc(&g, box->id, id, NULL);
	memcpy(s.stdio, p->child_stdio, sizeof(s.stdio));
	pid = spawn_run(&s, NULL);
	assert_true(pid > 0);
	proc_close_child_stdio(p);
	proc_born(p, pid, UINT64_MAX, PROC_RUNNING);
	return p;
}

static char tmp_dir[32];

static int setup(void **state)
{
	int pair[2];

	snprintf(tmp_dir, sizeof(tmp_dir), "/tmp/crv-guest-XXXXXX");
	(void)state;
	g = (struct guest){
		.loop = eloop_new(), .events = gevents_new(), .logs.max = 1 << 20, .settled = true};
	g.server = gserver_new(&g, services_table(&g));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	sock = pair[0];
	assert_int_equal(gserver_take(g.server, pair[1]), 0);
	client = ttrpc_client_new(on_output, NULL);
	assert_non_null(mkdtemp(tmp_dir));
	guest_tmp_dir = tmp_dir;
	box = make_box("box");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	client = ttrpc_conn_free(client);
	sock = close_fd(sock);
	g.server = gserver_free(g.server);
	while (g.ctrs) {
		struct ctr *c = g.ctrs;

		g.ctrs = c->next;
		while (c->execs) {
			struct proc *p = c->execs;

			c->execs = p->next;
			if (p->pid > 0 && p->state != PROC_STOPPED)
				kill(p->pid, SIGKILL);
			proc_done(p);
			free(p);
		}
		proc_done(&c->init);
		free(c->id);
		free(c->bundle);
		free(c);
	}
	gevents_free(g.events);
	eloop_round(g.loop, 0);
	eloop_free(g.loop);
	assert_int_equal(remove_tree(tmp_dir), 0);
	return 0;
}

/* ---- tests
 * ---------------------------------------------------------------------------------------------------- */

static void check_known_services_only(void **state)
{
	Grpc__CheckRequest req = GRPC__CHECK_REQUEST__INIT;

	(void)state;
	assert_int_equal(status_of(SANDBOX, "Check", &req.base), ERR_OK);
	req.service = (char *)TASK;
	assert_int_equal(status_of(SANDBOX, "Check", &req.base), ERR_OK);
	req.service = (char *)"no.such";
	assert_int_equal(status_of(SANDBOX, "Check", &req.base), ERR_NOT_FOUND);
	assert_int_equal(status_of("no.such", "Check", &req.base), ERR_UNIMPLEMENTED);
	assert_int_equal(status_of(SANDBOX, "NoSuch", &req.base), ERR_UNIMPLEMENTED);
}

static void info_says_who_answers(void **state)
{
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
	Crivisor__Agent__V1__InfoResponse *m =
		call(AGENT, "Info", &req.base, &crivisor__agent__v1__info_response__descriptor, NULL);

	(void)state;
	assert_string_equal(m->version, crv_version);
	assert_int_equal(strlen(m->boot_id), 36);
	assert_true(m->rss > 0);
	assert_true(m->n_features > 0);
	protobuf_c_message_free_unpacked(&m->base, NULL);
}

static void task_of_unknown_or_bad_ids_names_them(void **state)
{
	Containerd__Task__V2__StateRequest st = CONTAINERD__TASK__V2__STATE_REQUEST__INIT;
	Containerd__Task__V2__CreateTaskRequest cr = CONTAINERD__TASK__V2__CREATE_TASK_REQUEST__INIT;
	Containerd__Types__Mount mount = CONTAINERD__TYPES__MOUNT__INIT, *mounts[] = {&mount};
	Containerd__Task__V2__KillRequest ki = CONTAINERD__TASK__V2__KILL_REQUEST__INIT;

	(void)state;
	st.id = (char *)"nobody";
	assert_int_equal(status_of(TASK, "State", &st.base), ERR_NOT_FOUND);
	st.id = (char *)"../etc";
	assert_int_equal(status_of(TASK, "State", &st.base), ERR_INVALID_ARGUMENT);
	st.id = (char *)"box";
	assert_int_equal(status_of(TASK, "State", &st.base), ERR_OK);
	st.exec_id = (char *)"none";
	assert_int_equal(status_of(TASK, "State", &st.base), ERR_NOT_FOUND);
	cr.id = (char *)"box";
	assert_int_equal(status_of(TASK, "Create", &cr.base), ERR_ALREADY_EXISTS);
	cr.id = (char *)"new";
	cr.bundle = (char *)"/etc";
	assert_int_equal(status_of(TASK, "Create", &cr.base), ERR_INVALID_ARGUMENT);
	cr.bundle = (char *)GUEST_SHARE_DIR "/new";
	assert_int_equal(status_of(TASK, "Create", &cr.base), ERR_NOT_FOUND);
	cr.rootfs = mounts;
	cr.n_rootfs = 1;
	assert_int_equal(status_of(TASK, "Create", &cr.base), ERR_UNIMPLEMENTED);
	ki.id = (char *)"box";
	ki.signal = 9999;
	assert_int_equal(status_of(TASK, "Kill", &ki.base), ERR_INVALID_ARGUMENT);
	ki.signal = 9;
	assert_int_equal(status_of(TASK, "Kill", &ki.base), ERR_FAILED_PRECONDITION);
}

static Containerd__Task__V2__WaitResponse *wait_for(const char *exec)
{
	Containerd__Task__V2__WaitRequest req = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;

	req.id = (char *)"box";
	req.exec_id = (char *)exec;
	return call(TASK, "Wait", &req.base, &containerd__task__v2__wait_response__descriptor, NULL);
}

static void expect_exit(const char *exec, unsigned int status)
{
	Containerd__Task__V2__WaitResponse *w = wait_for(exec);

	assert_int_equal(w->exit_status, status);
	assert_true(w->exited_at->seconds > 1000000);
	protobuf_c_message_free_unpacked(&w->base, NULL);
}

/* Reads and acknowledges to the end: both streams into one string with their numbers. */
static void read_log(const char *exec, bool ack, char *out, size_t out_len)
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

static void exec_output_exit_and_delete(void **state)
{
	Containerd__Task__V2__DeleteRequest del = CONTAINERD__TASK__V2__DELETE_REQUEST__INIT;
	Crivisor__Agent__V1__ReadLogRequest far = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;
	struct proc_io io = {.terminal = false};
	char out[256] = "";

	(void)state;
	run_exec("e", &io, "echo out; sleep 0.05; echo err >&2; sleep 0.05; exit 5");
	del.id = (char *)"box";
	del.exec_id = (char *)"e";
	assert_int_equal(status_of(TASK, "Delete", &del.base), ERR_FAILED_PRECONDITION);
	read_log("e", false, out, sizeof(out));
	assert_string_equal(out, "1:out\n2:err\n");
	expect_exit("e", 5);
	expect_exit("e", 5);
	/* What is not acknowledged is there again. */
	read_log("e", true, out, sizeof(out));
	assert_string_equal(out, "1:out\n2:err\n");
	assert_int_equal(g.logs.used, 0);
	far.container_id = (char *)"box";
	far.exec_id = (char *)"e";
	far.offset = 1000;
	assert_int_equal(status_of(AGENT, "ReadLog", &far.base), ERR_OUT_OF_RANGE);
	assert_int_equal(status_of(TASK, "Delete", &del.base), ERR_OK);
	assert_int_equal(status_of(TASK, "Delete", &del.base), ERR_NOT_FOUND);
}

static void wait_and_readlog_end_when_the_process_is_deleted(void **state)
{
	Containerd__Task__V2__WaitRequest wa = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;
	Containerd__Task__V2__DeleteRequest del = CONTAINERD__TASK__V2__DELETE_REQUEST__INIT;
	Crivisor__Agent__V1__ReadLogRequest rl = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;
	struct reply waiting = {.done = false}, reading = {.done = false};
	struct proc_io io = {.terminal = false};

	(void)state;
	assert_int_equal(ctr_exec_add(box, "n", &io, "{}", 2, NULL), 0);
	wa.id = rl.container_id = del.id = (char *)"box";
	wa.exec_id = rl.exec_id = del.exec_id = (char *)"n";
	rl.wait_ms = 60000;
	start_call(&waiting, TASK, "Wait", &wa.base);
	start_call(&reading, AGENT, "ReadLog", &rl.base);
	for (int i = 0; i < 5; i++)
		turn();
	assert_false(waiting.done || reading.done);
	assert_int_equal(status_of(TASK, "Delete", &del.base), ERR_OK);
	await(&waiting.done);
	await(&reading.done);
	assert_int_equal(waiting.err.status, ERR_NOT_FOUND);
	assert_int_equal(reading.err.status, ERR_NOT_FOUND);
}

static void calls_of_a_lost_connection_are_forgotten(void **state)
{
	Containerd__Task__V2__WaitRequest wa = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;
	Crivisor__Agent__V1__ReadLogRequest rl = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;
	Google__Protobuf__Empty empty = GOOGLE__PROTOBUF__EMPTY__INIT;
	struct reply r[3] = {{.done = false}};
	struct proc_io io = {.terminal = false};
	struct proc *p;

	(void)state;
	p = run_exec("l", &io, "sleep 0.3; echo late");
	wa.id = rl.container_id = (char *)"box";
	wa.exec_id = rl.exec_id = (char *)"l";
	rl.wait_ms = 60000;
	start_call(&r[0], TASK, "Wait", &wa.base);
	start_call(&r[1], AGENT, "ReadLog", &rl.base);
	start_call(&r[2], SANDBOX, "GetEvents", &empty.base);
	for (int i = 0; i < 5; i++)
		turn();
	client = ttrpc_conn_free(client);
	sock = close_fd(sock);
	while (p->state != PROC_STOPPED || !pio_all_ended(p->pio))
		turn();
	assert_null(p->waiters);
	assert_int_equal(outlog_end(&p->pio->log), 5);
}

/* ---- streams
 * --------------------------------------------------------------------------------------------------- */

struct stream {
	uint32_t id;
	bool acked, over;
	struct err err;
	struct buf data;
	int64_t window;
};

static void on_stream(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct stream *s = arg;
	Google__Protobuf__Any *any =
		payload && len ? google__protobuf__any__unpack(NULL, len, payload) : NULL;

	if (err)
		s->err = *err;
	s->over = s->over || err || eof;
	if (any && rpc_type_is(any->type_url, "google.protobuf.Empty")) {
		s->acked = true;
	} else if (any && rpc_type_is(any->type_url, "containerd.types.transfer.WindowUpdate")) {
		Containerd__Types__Transfer__WindowUpdate *w =
			containerd__types__transfer__window_update__unpack(NULL, any->value.len,
									   any->value.data);

		s->window += w->update;
		protobuf_c_message_free_unpacked(&w->base, NULL);
	} else if (any) {
		Containerd__Types__Transfer__Data *d =
			containerd__types__transfer__data__unpack(NULL, any->value.len, any->value.data);

		assert_int_equal(buf_put(&s->data, d->data.data, d->data.len), 0);
		protobuf_c_message_free_unpacked(&d->base, NULL);
	}
	if (any)
		google__protobuf__any__free_unpacked(any, NULL);
}

static void send_any(struct stream *s, const ProtobufCMessage *inner, bool close)
{
	static unsigned char data[200000], outer[200000];
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	size_t len;

	any.type_url = (char *)inner->descriptor->name;
	any.value.len = protobuf_c_message_pack(inner, data);
	any.value.data = data;
	len = google__protobuf__any__pack(&any, outer);
	assert_int_equal(ttrpc_stream_send(client, s->id, outer, len, close), 0);
}

static void open_stream(struct stream *s, const char *id)
{
	Containerd__Services__Streaming__V1__StreamInit init =
		CONTAINERD__SERVICES__STREAMING__V1__STREAM_INIT__INIT;

	*s = (struct stream){.id = 0};
	init.id = (char *)id;
	assert_int_equal(ttrpc_stream_open(client, STREAMING, "Stream", NULL, 0, on_stream, s, &s->id, NULL),
			 0);
	send_any(s, &init.base, false);
	while (!s->acked && !s->over)
		turn();
}

static void send_data(struct stream *s, const void *data, size_t len, bool close)
{
	Containerd__Types__Transfer__Data msg = CONTAINERD__TYPES__TRANSFER__DATA__INIT;

	msg.data.data = (uint8_t *)data;
	msg.data.len = len;
	send_any(s, &msg.base, close);
}

static void stream_B10_stdin_to_stdout_with_half_close(void **state)
{
	struct proc_io io = {.in = "x", .out = "x", .err = "x"};
	struct stream in, out, err_;

	(void)state;
	run_exec("cat", &io, "cat; echo done >&2");
	open_stream(&in, "box/cat/stdin");
	open_stream(&out, "box/cat/stdout");
	open_stream(&err_, "box/cat/stderr");
	assert_true(in.acked && out.acked && err_.acked);
	send_data(&in, "hello ", 6, false);
	while (out.data.len < 6)
		turn();
	assert_false(out.over);
	send_data(&in, "world", 5, false);
	assert_int_equal(ttrpc_stream_send(client, in.id, NULL, 0, true), 0);
	await(&out.over);
	await(&err_.over);
	await(&in.over);
	assert_int_equal(out.data.len, 11);
	assert_memory_equal(buf_data(&out.data), "hello world", 11);
	assert_memory_equal(buf_data(&err_.data), "done\n", 5);
	assert_int_equal(in.err.code, 0);
	expect_exit("cat", 0);
	assert_int_equal(g.logs.used, 0);
	buf_done(&out.data);
	buf_done(&err_.data);
}

static void stream_large_output_flows_without_acknowledgement(void **state)
{
	struct proc_io io = {.out = "x"};
	struct stream out;

	(void)state;
	run_exec("big", &io, "head -c 3000000 /dev/zero");
	open_stream(&out, "box/big/stdout");
	await(&out.over);
	assert_int_equal(out.data.len, 3000000);
	buf_done(&out.data);
}

static void stream_beside_readlog_only_listens(void **state)
{
	struct proc_io io = {.in = "x"};
	struct proc *p = run_exec("tap", &io, "echo before; read x; echo after");
	struct stream out;
	char text[256] = "";

	(void)state;
	while (outlog_end(&p->pio->log) < 7)
		turn();
	p->pio->log_read = true;
	open_stream(&out, "box/tap/stdout");
	assert_int_equal(pio_write(p->pio, "\n", 1), 0);
	await(&out.over);
	assert_int_equal(out.data.len, 6);
	assert_memory_equal(buf_data(&out.data), "after\n", 6);
	read_log("tap", true, text, sizeof(text));
	assert_string_equal(text, "1:before\nafter\n");
	buf_done(&out.data);
}

static void stream_input_window_is_granted_as_it_is_read(void **state)
{
	static char block[65536];
	struct proc_io io = {.in = "x", .out = "x"};
	struct stream in, out;
	size_t sent = 0;

	(void)state;
	run_exec("w", &io, "cat");
	open_stream(&in, "box/w/stdin");
	open_stream(&out, "box/w/stdout");
	while (sent < 2000000) {
		while (in.window <= 0 && !in.over)
			turn();
		assert_false(in.over);
		send_data(&in, block, sizeof(block) / 4, false);
		in.window -= (int64_t)sizeof(block) / 4;
		sent += sizeof(block) / 4;
		turn();
	}
	assert_int_equal(ttrpc_stream_send(client, in.id, NULL, 0, true), 0);
	await(&out.over);
	assert_int_equal(out.data.len, sent);
	buf_done(&out.data);
}

static void stream_bad_beginnings_fail_clearly(void **state)
{
	static const struct {
		const char *id;
		enum err_status status;
	} bad[] = {{"box", ERR_INVALID_ARGUMENT},
		   {"box//nothing", ERR_INVALID_ARGUMENT},
		   {"box//stdout/x", ERR_INVALID_ARGUMENT},
		   {"nobody//stdout", ERR_NOT_FOUND},
		   {"box/none/stdout", ERR_NOT_FOUND},
		   {"box//stdin", ERR_FAILED_PRECONDITION},
		   {"", ERR_INVALID_ARGUMENT},
		   {"../x//stdout", ERR_INVALID_ARGUMENT}};
	struct stream s;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		open_stream(&s, bad[i].id);
		assert_true(s.over);
		assert_int_equal(s.err.status, bad[i].status);
	}
	s = (struct stream){.id = 0};
	assert_int_equal(ttrpc_stream_open(client, STREAMING, "Stream", NULL, 0, on_stream, &s, &s.id, NULL),
			 0);
	assert_int_equal(ttrpc_stream_send(client, s.id, "\xff\xff\xff", 3, false), 0);
	await(&s.over);
	assert_int_equal(s.err.status, ERR_INVALID_ARGUMENT);
}

/* ---- dial
 * -------------------------------------------------------------------------------------------------------- */

static void on_dial(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct stream *s = arg;

	if (err)
		s->err = *err;
	s->over = s->over || err || eof;
	if (payload && len) {
		Crivisor__Agent__V1__DialData *d = crivisor__agent__v1__dial_data__unpack(NULL, len, payload);

		assert_int_equal(buf_put(&s->data, d->data.data, d->data.len), 0);
		crivisor__agent__v1__dial_data__free_unpacked(d, NULL);
	}
}

static void open_dial(struct stream *s, unsigned int port, const char *text, bool close)
{
	Crivisor__Agent__V1__DialData d = CRIVISOR__AGENT__V1__DIAL_DATA__INIT;
	unsigned char data[256];
	size_t len;

	*s = (struct stream){.id = 0};
	d.port = port;
	d.data.data = (uint8_t *)text;
	d.data.len = strlen(text);
	len = crivisor__agent__v1__dial_data__pack(&d, data);
	assert_int_equal(ttrpc_stream_open(client, AGENT, "Dial", NULL, 0, on_dial, s, &s->id, NULL), 0);
	assert_int_equal(ttrpc_stream_send(client, s->id, data, len, close), 0);
}

static int listen_on_loopback(unsigned int *ret_port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
	assert_int_equal(listen(fd, 1), 0);
	getsockname(fd, (struct sockaddr *)&addr, &len);
	*ret_port = ntohs(addr.sin_port);
	return fd;
}

static void dial_B10_half_close_both_ways(void **state)
{
	unsigned int port;
	int lfd = listen_on_loopback(&port), fd;
	struct stream s;
	char buf[64];
	ssize_t n = 0, got = 0;

	(void)state;
	open_dial(&s, port, "ping", true);
	for (int i = 0; i < 5; i++)
		turn();
	fd = accept(lfd, NULL, NULL);
	assert_true(fd >= 0);
	while ((n = read(fd, buf + got, sizeof(buf) - (size_t)got)) > 0)
		got += n;
	assert_int_equal(n, 0); /* our half is closed, the other one is not */
	assert_memory_equal(buf, "ping", 4);
	assert_int_equal(write(fd, "pong", 4), 4);
	while (s.data.len < 4)
		turn();
	assert_false(s.over);
	close(fd);
	await(&s.over);
	assert_int_equal(s.err.code, 0);
	assert_memory_equal(buf_data(&s.data), "pong", 4);
	buf_done(&s.data);
	close(lfd);
}

static void dial_refused_and_bad_ports_say_so(void **state)
{
	unsigned int port;
	int lfd = listen_on_loopback(&port);
	struct stream s;

	(void)state;
	close(lfd);
	open_dial(&s, port, "x", false);
	await(&s.over);
	assert_int_equal(s.err.status, ERR_UNAVAILABLE);
	open_dial(&s, 70000, "x", false);
	await(&s.over);
	assert_int_equal(s.err.status, ERR_INVALID_ARGUMENT);
	open_dial(&s, 0, "x", true);
	await(&s.over);
	assert_int_equal(s.err.status, ERR_INVALID_ARGUMENT);
}

/* ---- the rest
 * ------------------------------------------------------------------------------------------------------ */

static void execvmprocess_needs_debug_and_is_bounded(void **state)
{
	Grpc__ExecVMProcessRequest req = GRPC__EXEC_VMPROCESS_REQUEST__INIT;
	Grpc__ExecVMProcessResponse *m;
	enum err_status status;

	(void)state;
	req.command = (char *)"cat; echo more";
	req.stdin.data = (uint8_t *)"in ";
	req.stdin.len = 3;
	assert_int_equal(status_of(SANDBOX, "ExecVMProcess", &req.base), ERR_PERMISSION_DENIED);
	g.config.debug = true;
	m = call(SANDBOX, "ExecVMProcess", &req.base, &grpc__exec_vmprocess_response__descriptor, NULL);
	assert_string_equal(m->out, "in more\n");
	protobuf_c_message_free_unpacked(&m->base, NULL);
	req.command = (char *)"exit 3";
	assert_int_equal(status_of(SANDBOX, "ExecVMProcess", &req.base), ERR_UNKNOWN);
	req.command = (char *)"head -c 3000000 /dev/zero | tr '\\0' a";
	call(SANDBOX, "ExecVMProcess", &req.base, NULL, &status);
	assert_int_equal(status, ERR_RESOURCE_EXHAUSTED);
	req.command = (char *)"printf '\\377'";
	assert_int_equal(status_of(SANDBOX, "ExecVMProcess", &req.base), ERR_DATA_LOSS);
	req.command = (char *)"sleep 100 & echo x";
	assert_int_equal(status_of(SANDBOX, "ExecVMProcess", &req.base), ERR_OK);
}

static void getevents_waits_for_one(void **state)
{
	Google__Protobuf__Empty empty = GOOGLE__PROTOBUF__EMPTY__INIT;
	struct reply r = {.done = false};
	struct proc_io io = {.terminal = false};

	(void)state;
	start_call(&r, SANDBOX, "GetEvents", &empty.base);
	for (int i = 0; i < 5; i++)
		turn();
	assert_false(r.done);
	run_exec("ev", &io, "exit 1");
	await(&r.done);
	assert_int_equal(r.err.code, 0);
	/* Nobody fetches: bounded. */
	for (int i = 0; i < 2 * GEVENTS_MAX; i++) {
		Containerd__Task__V2__StateRequest any = CONTAINERD__TASK__V2__STATE_REQUEST__INIT;

		gevents_push(g.events, "/x", &any.base);
	}
}

/* Random bytes and random truths to the methods that cannot harm this machine. */
static void methods_take_garbage_without_harm(void **state)
{
	static const char *const methods[][2] = {
		{TASK, "State"},      {TASK, "Delete"}, {TASK, "Pids"},	    {TASK, "Pause"},
		{TASK, "Resume"},     {TASK, "Kill"},	{TASK, "Exec"},	    {TASK, "ResizePty"},
		{TASK, "CloseIO"},    {TASK, "Wait"},	{TASK, "Stats"},    {TASK, "Connect"},
		{TASK, "Checkpoint"}, {AGENT, "Info"},	{AGENT, "ReadLog"}, {AGENT, "Ack"},
		{SANDBOX, "Check"},
	};
	unsigned int seed = 7;

	(void)state;
	for (int i = 0; i < 3000; i++) {
		unsigned char data[64];
		struct reply r = {.done = false};
		const char *const *m = methods[(seed >> 16) % ARRAY_SIZE(methods)];
		size_t len;
		uint32_t id;

		for (size_t k = 0; k < sizeof(data); k++) {
			seed = seed * 1103515245 + 12345;
			data[k] = (unsigned char)(seed >> 16);
		}
		len = data[63] % 60u;
		if (i % 2) /* half of them name the container */
			memcpy(data,
			       "\x0a\x03"
			       "box",
			       5);
		assert_int_equal(ttrpc_call(client, m[0], m[1], data, len, 0, on_reply, &r, &id, NULL), 0);
		for (int k = 0; k < 3 && !r.done; k++)
			turn();
		ttrpc_cancel(client, id);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(check_known_services_only),
		T(info_says_who_answers),
		T(task_of_unknown_or_bad_ids_names_them),
		T(exec_output_exit_and_delete),
		T(wait_and_readlog_end_when_the_process_is_deleted),
		T(calls_of_a_lost_connection_are_forgotten),
		T(stream_B10_stdin_to_stdout_with_half_close),
		T(stream_large_output_flows_without_acknowledgement),
		T(stream_beside_readlog_only_listens),
		T(stream_input_window_is_granted_as_it_is_read),
		T(stream_bad_beginnings_fail_clearly),
		T(dial_B10_half_close_both_ways),
		T(dial_refused_and_bad_ports_say_so),
		T(execvmprocess_needs_debug_and_is_bounded),
		T(getevents_waits_for_one),
		T(methods_take_garbage_without_harm),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

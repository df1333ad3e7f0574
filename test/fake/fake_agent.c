/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_agent.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "api/agent/sandbox.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "api/ttrpc/ttrpc.h"
#include "base/cond.h"
#include "base/util.h"
#include "fake_streams.h"
#include "spared.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define CONNS_MAX 64
#define TASKS_MAX 64
#define HELD_MAX  1024
#define PARTS_MAX 4096

/* Those that do something; NAME, service. */
#define METHODS(M)                                                                                           \
	M(Check, 0)                                                                                          \
	M(SyncClock, 0)                                                                                      \
	M(SetupSandbox, 0)                                                                                   \
	M(ExecVMProcess, 0)                                                                                  \
	M(Info, 1)                                                                                           \
	M(ReadLog, 1)                                                                                        \
	M(Ack, 1)                                                                                            \
	M(Stats, 1)                                                                                          \
	M(OnlineResources, 1)                                                                                \
	M(AttachDevice, 1)                                                                                   \
	M(UpdateNetwork, 1)                                                                                  \
	M(Shutdown, 1)                                                                                       \
	M(Create, 2)                                                                                         \
	M(Start, 2)                                                                                          \
	M(Kill, 2)                                                                                           \
	M(Wait, 2)                                                                                           \
	M(Delete, 2) M(State, 2) M(Exec, 2) M(ResizePty, 2) M(CloseIO, 2)

enum method {
#define M(name, service) M_##name,
	METHODS(M)
#undef M
		METHOD_COUNT,
};
static const char *const names[] = {
#define M(name, service) #name,
	METHODS(M)
#undef M
};

/* A piece of output. */
struct part {
	uint64_t offset;
	bool is_stderr;
	char *data;
	size_t len;
};

struct task {
	char id[80];
	enum { CREATED, RUNNING, STOPPED } state;
	uint32_t code;
	struct part parts[PARTS_MAX];
	size_t n_parts;
	uint64_t end, acked;
};

struct conn {
	int fd; /* -1: free */
	bool cut;
	struct ttrpc_conn *ttrpc;
};

/* A call that is not answered yet. */
struct held {
	struct fake_agent *agent;
	struct ttrpc_request *req; /* NULL: free, or nobody waits any more */
	enum method method;
	bool hangs;
	char id[80];
	uint64_t offset;
	int64_t until_ns;
	void *payload;
	size_t len;
};

struct fake_agent {
	pthread_t thread;
	int wake_fd;
	bool stop;
	pthread_mutex_t lock; /* all of it; the thread holds it but for poll(2) */
	pthread_cond_t called;
	struct conn conns[CONNS_MAX];
	struct task *tasks[TASKS_MAX];
	struct held held[HELD_MAX];
	int refuse;
	unsigned int dials;
	char boot_id[65], instance[65];
	const char *const *features;
	uint32_t vcpus; /* of a guest, at most */
	uint64_t memory;
	unsigned int calls[METHOD_COUNT];
	bool hang[METHOD_COUNT];
	enum { CUT_NOT, CUT_BEFORE, CUT_AFTER } cut[METHOD_COUNT];
	struct err fail[METHOD_COUNT];
	unsigned char *answer[METHOD_COUNT];
	size_t answer_len[METHOD_COUNT];
	bool asked_for_lost;
	struct fake_streams *streams;
	char last_exec[80];
	uint32_t width, height; /* of the last ResizePty */
	int64_t clock_ns;	/* how far its clock is ahead of the host's */
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static enum method method_of(const char *name)
{
	for (int i = 0; i < METHOD_COUNT; i++) {
		if (str_eq(names[i], name))
			return (enum method)i;
	}
	abort();
}

static void wake(struct fake_agent *a)
{
	must(eventfd_write(a->wake_fd, 1) == 0);
}

static struct task *find(struct fake_agent *a, const char *id)
{
	for (size_t i = 0; i < TASKS_MAX; i++) {
		if (a->tasks[i] && str_eq(a->tasks[i]->id, id))
			return a->tasks[i];
	}
	return NULL;
}

static struct task *add(struct fake_agent *a, const char *id)
{
	for (size_t i = 0; i < TASKS_MAX; i++) {
		if (a->tasks[i])
			continue;
		a->tasks[i] = calloc(1, sizeof(struct task));
		must(a->tasks[i]);
		snprintf(a->tasks[i]->id, sizeof(a->tasks[i]->id), "%s", id);
		return a->tasks[i];
	}
	abort();
}

static void forget_parts(struct task *t, uint64_t below)
{
	size_t n = 0;

	while (n < t->n_parts && t->parts[n].offset + t->parts[n].len <= below)
		free(t->parts[n++].data);
	memmove(t->parts, t->parts + n, (t->n_parts - n) * sizeof(t->parts[0]));
	t->n_parts -= n;
}

/* ---- calls --------------------------------------------------------------------------------------------- */

static void respond(struct ttrpc_request *req, const ProtobufCMessage *msg)
{
	size_t len = protobuf_c_message_get_packed_size(msg);
	unsigned char *data = malloc(len ? len : 1);

	must(data);
	protobuf_c_message_pack(msg, data);
	ttrpc_respond(req, data, len);
	free(data);
}

static void not_found(struct ttrpc_request *req, const char *id)
{
	struct err err = ERR_INIT;

	err_set(&err, -ENOENT, "no container \"%s\"", id);
	ttrpc_fail(req, &err);
}

static void refuse(struct ttrpc_request *req, const char *words)
{
	struct err err = ERR_INIT;

	err_set_status(&err, -EINVAL, ERR_FAILED_PRECONDITION, "%s", words);
	ttrpc_fail(req, &err);
}

static void nobody_waits(void *arg)
{
	struct held *h = arg;

	free(h->payload);
	*h = (struct held){0};
}

static struct held *hold(struct fake_agent *a, struct ttrpc_request *req, enum method m)
{
	for (size_t i = 0; i < HELD_MAX; i++) {
		struct held *h = &a->held[i];

		if (h->req)
			continue;
		*h = (struct held){.agent = a, .req = req, .method = m, .until_ns = INT64_MAX};
		ttrpc_request_on_cancel(req, nobody_waits, h);
		return h;
	}
	abort();
}

static void info(struct fake_agent *a, struct ttrpc_request *req)
{
	Crivisor__Agent__V1__InfoResponse resp = CRIVISOR__AGENT__V1__INFO_RESPONSE__INIT;

	resp.version = (char *)(uintptr_t) "fake";
	resp.boot_id = a->boot_id;
	resp.instance_id = a->instance;
	resp.features = (char **)(uintptr_t)a->features;
	while (a->features && a->features[resp.n_features])
		resp.n_features++;
	respond(req, &resp.base);
}

static void sync_clock(struct fake_agent *a, struct ttrpc_request *req, const void *p, size_t len)
{
	Grpc__SyncClockPacket *r = grpc__sync_clock_packet__unpack(NULL, len, p);
	Grpc__SyncClockPacket resp = GRPC__SYNC_CLOCK_PACKET__INIT;

	must(r);
	a->clock_ns += r->delta;
	resp.clientsendtime = r->clientsendtime;
	resp.clientarrivetime = resp.serversendtime = now_realtime_ns() + a->clock_ns;
	grpc__sync_clock_packet__free_unpacked(r, NULL);
	respond(req, &resp.base);
}

static void online(struct fake_agent *a, struct ttrpc_request *req, const void *p, size_t len)
{
	Crivisor__Agent__V1__OnlineResourcesRequest *r =
		crivisor__agent__v1__online_resources_request__unpack(NULL, len, p);
	Crivisor__Agent__V1__OnlineResourcesResponse resp =
		CRIVISOR__AGENT__V1__ONLINE_RESOURCES_RESPONSE__INIT;

	must(r);
	resp.vcpus = r->vcpus < a->vcpus ? r->vcpus : a->vcpus;
	resp.memory = r->memory ? r->memory : 1 << 30;
	if (resp.memory > a->memory)
		resp.memory = a->memory;
	crivisor__agent__v1__online_resources_request__free_unpacked(r, NULL);
	respond(req, &resp.base);
}

/* True if the read is answered. */
static bool read_log(struct fake_agent *a, struct ttrpc_request *req, const char *id, uint64_t offset,
		     bool now)
{
	Crivisor__Agent__V1__ReadLogResponse resp = CRIVISOR__AGENT__V1__READ_LOG_RESPONSE__INIT;
	Crivisor__Agent__V1__LogRecord rec = CRIVISOR__AGENT__V1__LOG_RECORD__INIT;
	Crivisor__Agent__V1__LogRecord *recs[] = {&rec};
	struct task *t = find(a, id);

	if (!t) {
		not_found(req, id);
		return true;
	}
	if (offset < t->acked) {
		a->asked_for_lost = true;
		offset = t->acked;
	}
	resp.offset = offset;
	for (size_t i = 0; i < t->n_parts && resp.n_records == 0; i++) {
		struct part *p = &t->parts[i];
		size_t skip = offset > p->offset ? (size_t)(offset - p->offset) : 0;

		if (offset < p->offset || skip >= p->len)
			continue;
		rec.stream = p->is_stderr ? CRIVISOR__AGENT__V1__STREAM__STREAM_STDERR
					  : CRIVISOR__AGENT__V1__STREAM__STREAM_STDOUT;
		rec.data.data = (uint8_t *)p->data + skip;
		rec.data.len = p->len - skip < GUEST_READLOG_MAX ? p->len - skip : GUEST_READLOG_MAX;
		resp.records = recs;
		resp.n_records = 1;
	}
	resp.eof = t->state == STOPPED && offset + (resp.n_records ? rec.data.len : 0) >= t->end;
	if (resp.n_records == 0 && !resp.eof && !now)
		return false;
	respond(req, &resp.base);
	return true;
}

/* True if the wait is answered. */
static bool wait_task(struct fake_agent *a, struct ttrpc_request *req, const char *id)
{
	Containerd__Task__V2__WaitResponse resp = CONTAINERD__TASK__V2__WAIT_RESPONSE__INIT;
	struct task *t = find(a, id);

	if (!t) {
		not_found(req, id);
		return true;
	}
	if (t->state != STOPPED)
		return false;
	resp.exit_status = t->code;
	respond(req, &resp.base);
	return true;
}

static void task_call(struct fake_agent *a, enum method m, struct ttrpc_request *req, const char *id,
		      uint32_t signo)
{
	Containerd__Task__V2__StateResponse state = CONTAINERD__TASK__V2__STATE_RESPONSE__INIT;
	struct task *t = find(a, id);

	if (!t) {
		not_found(req, id);
		return;
	}
	if (m == M_Start && t->state != CREATED) {
		refuse(req, "the container is not created");
		return;
	}
	if (m == M_Delete && t->state == RUNNING) {
		refuse(req, "the container is not stopped");
		return;
	}
	if (m == M_State) {
		state.id = t->id;
		state.pid = 42;
		state.status = t->state == CREATED   ? CONTAINERD__V1__TYPES__STATUS__CREATED
			       : t->state == RUNNING ? CONTAINERD__V1__TYPES__STATUS__RUNNING
						     : CONTAINERD__V1__TYPES__STATUS__STOPPED;
		respond(req, &state.base);
		return;
	}
	if (m == M_Start)
		t->state = RUNNING;
	if (m == M_Kill && t->state != STOPPED && (signo == 9 || signo == 15)) {
		t->state = STOPPED;
		t->code = 128 + signo;
	}
	if (m == M_Delete) {
		for (size_t i = 0; i < TASKS_MAX; i++) {
			if (a->tasks[i] == t)
				a->tasks[i] = NULL;
		}
		forget_parts(t, UINT64_MAX);
		free(t);
	}
	ttrpc_respond(req, NULL, 0);
}

/* For methods whose request begins with a container's id, and has an exec's second. */
static void key(char *buf, size_t size, const char *id, const char *exec_id)
{
	snprintf(buf, size, "%.38s%s%.38s", id, str_empty(exec_id) ? "" : "/", exec_id);
}

static void carry_out(struct fake_agent *a, enum method m, struct ttrpc_request *req, const void *p,
		      size_t len)
{
	char id[80] = "";

	if (m == M_OnlineResources) {
		online(a, req, p, len);
	} else if (m == M_ReadLog) {
		Crivisor__Agent__V1__ReadLogRequest *r =
			crivisor__agent__v1__read_log_request__unpack(NULL, len, p);
		struct held *h;

		must(r);
		key(id, sizeof(id), r->container_id, r->exec_id);
		if (!read_log(a, req, id, r->offset, r->wait_ms == 0)) {
			h = hold(a, req, m);
			snprintf(h->id, sizeof(h->id), "%s", id);
			h->offset = r->offset;
			h->until_ns = now_monotonic_ns() + r->wait_ms * NS_PER_MS;
		}
		crivisor__agent__v1__read_log_request__free_unpacked(r, NULL);
	} else if (m == M_Ack) {
		Crivisor__Agent__V1__AckRequest *r = crivisor__agent__v1__ack_request__unpack(NULL, len, p);
		struct task *t;

		must(r);
		key(id, sizeof(id), r->container_id, r->exec_id);
		t = find(a, id);
		if (t && r->offset > t->acked && r->offset <= t->end) {
			t->acked = r->offset;
			forget_parts(t, t->acked);
		}
		crivisor__agent__v1__ack_request__free_unpacked(r, NULL);
		ttrpc_respond(req, NULL, 0);
	} else if (m == M_Kill) {
		Containerd__Task__V2__KillRequest *r =
			containerd__task__v2__kill_request__unpack(NULL, len, p);

		must(r);
		key(id, sizeof(id), r->id, r->exec_id);
		task_call(a, m, req, id, r->signal);
		containerd__task__v2__kill_request__free_unpacked(r, NULL);
	} else if (m == M_Create) {
		Containerd__Task__V2__CreateTaskRequest *r =
			containerd__task__v2__create_task_request__unpack(NULL, len, p);

		must(r);
		if (!find(a, r->id))
			add(a, r->id);
		containerd__task__v2__create_task_request__free_unpacked(r, NULL);
		ttrpc_respond(req, NULL, 0);
	} else if (m == M_Exec) {
		Containerd__Task__V2__ExecProcessRequest *r =
			containerd__task__v2__exec_process_request__unpack(NULL, len, p);

		must(r);
		key(id, sizeof(id), r->id, r->exec_id);
		if (find(a, r->id)) {
			add(a, id);
			snprintf(a->last_exec, sizeof(a->last_exec), "%s", id);
			ttrpc_respond(req, NULL, 0);
		} else {
			not_found(req, r->id);
		}
		containerd__task__v2__exec_process_request__free_unpacked(r, NULL);
	} else if (m == M_ResizePty) {
		Containerd__Task__V2__ResizePtyRequest *r =
			containerd__task__v2__resize_pty_request__unpack(NULL, len, p);

		must(r);
		a->width = r->width;
		a->height = r->height;
		containerd__task__v2__resize_pty_request__free_unpacked(r, NULL);
		ttrpc_respond(req, NULL, 0);
	} else if (m == M_Wait || m == M_Start || m == M_Delete || m == M_State) {
		/* All four requests are {id, exec_id}. */
		Containerd__Task__V2__WaitRequest *r =
			containerd__task__v2__wait_request__unpack(NULL, len, p);

		must(r);
		key(id, sizeof(id), r->id, r->exec_id);
		containerd__task__v2__wait_request__free_unpacked(r, NULL);
		if (m != M_Wait)
			task_call(a, m, req, id, 0);
		else if (!wait_task(a, req, id))
			snprintf(hold(a, req, m)->id, sizeof(id), "%s", id);
	} else if (m == M_Info) {
		info(a, req);
	} else if (m == M_SyncClock) {
		sync_clock(a, req, p, len);
	} else {
		ttrpc_respond(req, NULL, 0);
	}
}

static void cut_conn(struct fake_agent *a, struct ttrpc_request *req)
{
	for (size_t i = 0; i < CONNS_MAX; i++) {
		if (a->conns[i].fd >= 0 && a->conns[i].ttrpc == ttrpc_request_conn(req))
			a->conns[i].cut = true;
	}
}

static void called(struct fake_agent *a, enum method m, struct ttrpc_request *req, const void *p, size_t len)
{
	a->calls[m]++;
	pthread_cond_broadcast(&a->called);
	if (a->cut[m] != CUT_NOT) {
		bool after = a->cut[m] == CUT_AFTER;

		a->cut[m] = CUT_NOT;
		cut_conn(a, req);
		if (!after)
			hold(a, req, m)->hangs = true;
		else
			carry_out(a, m, req, p, len); /* the answer stays in a buffer that is never sent */
	} else if (a->hang[m]) {
		struct held *h = hold(a, req, m);

		h->hangs = true;
		h->payload = malloc(len ? len : 1);
		must(h->payload);
		if (len > 0)
			memcpy(h->payload, p, len);
		h->len = len;
	} else if (a->fail[m].code < 0) {
		ttrpc_fail(req, &a->fail[m]);
		a->fail[m] = ERR_INIT;
	} else if (a->answer[m]) {
		ttrpc_respond(req, a->answer[m], a->answer_len[m]);
		free(a->answer[m]);
		a->answer[m] = NULL;
	} else {
		carry_out(a, m, req, p, len);
	}
}

#define M(name, service)                                                                                     \
	static void on_##name(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)         \
	{                                                                                                    \
		called(ctx, M_##name, req, payload, len);                                                    \
	}
METHODS(M)
#undef M

/* ---- streams ------------------------------------------------------------------------------------------- */

static void print(struct task *t, bool is_stderr, const void *data, size_t len)
{
	struct part *p;

	must(t->n_parts < PARTS_MAX);
	p = &t->parts[t->n_parts++];
	*p = (struct part){
		.offset = t->end, .is_stderr = is_stderr, .data = malloc(len ? len : 1), .len = len};
	must(p->data);
	if (len > 0)
		memcpy(p->data, data, len);
	t->end += len;
}

static bool process_knows(void *arg, const char *process)
{
	return find(arg, process);
}

static void process_print(void *arg, const char *process, const void *data, size_t len)
{
	struct task *t = find(arg, process);

	if (t)
		print(t, false, data, len);
}

static uint64_t process_unread(void *arg, const char *process)
{
	const struct task *t = find(arg, process);

	return t ? t->end - t->acked : 0;
}

static void process_input_over(void *arg, const char *process)
{
	struct task *t = find(arg, process);

	if (t && t->state == RUNNING)
		t->state = STOPPED;
}

static void on_stream(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	const struct fake_agent *a = ctx;

	(void)payload;
	(void)len;
	fake_streams_open_input(a->streams, req);
}

static void on_dial(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	const struct fake_agent *a = ctx;

	(void)payload;
	(void)len;
	fake_streams_open_port(a->streams, req);
}

/* ---- the thread ---------------------------------------------------------------------------------------- */

/* Answers what can be answered now. */
static void look_at_held(struct fake_agent *a)
{
	int64_t now = now_monotonic_ns();

	for (size_t i = 0; i < HELD_MAX; i++) {
		struct held h = a->held[i];
		bool done = false;

		if (!h.req)
			continue;
		ttrpc_request_on_cancel(h.req, NULL, NULL);
		if (h.hangs && !a->hang[h.method] && h.payload) {
			a->held[i] = (struct held){0};
			carry_out(a, h.method, h.req, h.payload, h.len);
			free(h.payload);
			continue;
		}
		if (!h.hangs && h.method == M_ReadLog)
			done = read_log(a, h.req, h.id, h.offset, now >= h.until_ns);
		else if (!h.hangs && h.method == M_Wait)
			done = wait_task(a, h.req, h.id);
		if (done)
			a->held[i] = (struct held){0};
		else
			ttrpc_request_on_cancel(h.req, nobody_waits, &a->held[i]);
	}
}

static void close_conn(struct conn *c)
{
	ttrpc_conn_free(c->ttrpc);
	c->fd = close_fd(c->fd);
	c->ttrpc = NULL;
	c->cut = false;
}

static void serve_conn(struct conn *c, short revents)
{
	struct buf *out = ttrpc_out(c->ttrpc);
	unsigned char data[16384];
	ssize_t n;

	if (revents & (POLLIN | POLLHUP)) {
		n = read(c->fd, data, sizeof(data));
		if (n == 0 || (n < 0 && errno != EAGAIN) ||
		    (n > 0 && ttrpc_feed(c->ttrpc, data, (size_t)n, NULL) < 0))
			c->cut = true;
	}
	while (!c->cut && out->len > 0) {
		n = buf_write_fd(out, c->fd);
		if (n == -EAGAIN)
			break;
		if (n < 0)
			c->cut = true;
	}
}

static void *serve(void *arg)
{
	SPARED;
	struct fake_agent *a = arg;

	pthread_mutex_lock(&a->lock);
	while (!a->stop) {
		struct pollfd p[CONNS_MAX + 1];
		eventfd_t ticks;

		look_at_held(a);
		fake_streams_look(a->streams);
		for (size_t i = 0; i < CONNS_MAX; i++) {
			struct conn *c = &a->conns[i];

			if (c->fd >= 0 && !c->cut)
				serve_conn(c, 0);
			if (c->fd >= 0 && c->cut)
				close_conn(c);
			p[i] = (struct pollfd){.fd = c->fd, .events = POLLIN};
			if (c->fd >= 0 && ttrpc_out(c->ttrpc)->len > 0)
				p[i].events |= POLLOUT;
		}
		p[CONNS_MAX] = (struct pollfd){.fd = a->wake_fd, .events = POLLIN};
		pthread_mutex_unlock(&a->lock);
		poll(p, CONNS_MAX + 1, 20);
		pthread_mutex_lock(&a->lock);
		if (p[CONNS_MAX].revents)
			must(eventfd_read(a->wake_fd, &ticks) == 0);
		for (size_t i = 0; i < CONNS_MAX; i++) {
			if (p[i].fd >= 0 && p[i].fd == a->conns[i].fd && p[i].revents && !a->conns[i].cut)
				serve_conn(&a->conns[i], p[i].revents);
		}
	}
	for (size_t i = 0; i < CONNS_MAX; i++) {
		if (a->conns[i].fd >= 0)
			close_conn(&a->conns[i]);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

struct fake_agent *fake_agent_new(void)
{
	SPARED;
	struct fake_agent *a = calloc(1, sizeof(*a));

	must(a);
	a->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	must(a->wake_fd >= 0);
	pthread_mutex_init(&a->lock, NULL);
	must(cond_init(&a->called) == 0);
	for (size_t i = 0; i < CONNS_MAX; i++)
		a->conns[i].fd = -1;
	a->vcpus = UINT32_MAX;
	a->memory = UINT64_MAX;
	snprintf(a->boot_id, sizeof(a->boot_id), "boot-1");
	a->streams = fake_streams_new(&(struct fake_streams_hooks){process_knows, process_print,
								   process_unread, process_input_over, a});
	must(pthread_create(&a->thread, NULL, serve, a) == 0);
	return a;
}

struct fake_agent *fake_agent_free(struct fake_agent *a)
{
	if (!a)
		return NULL;
	pthread_mutex_lock(&a->lock);
	a->stop = true;
	pthread_mutex_unlock(&a->lock);
	wake(a);
	pthread_join(a->thread, NULL);
	for (size_t i = 0; i < TASKS_MAX; i++) {
		if (a->tasks[i])
			forget_parts(a->tasks[i], UINT64_MAX);
		free(a->tasks[i]);
	}
	for (size_t i = 0; i < METHOD_COUNT; i++)
		free(a->answer[i]);
	fake_streams_free(a->streams);
	close_fd(a->wake_fd);
	pthread_cond_destroy(&a->called);
	pthread_mutex_destroy(&a->lock);
	free(a);
	return NULL;
}

/* ---- connecting ---------------------------------------------------------------------------------------- */

static struct ttrpc_conn *new_server(struct fake_agent *a)
{
	/* A connection keeps the pointer to its services: they live as long as the process. */
	static struct ttrpc_method methods[3][METHOD_COUNT + 2];
	static struct ttrpc_service services[8][5];
	static const struct ttrpc_method streaming[] = {{.name = "Stream", .streaming = on_stream}, {0}};
	static struct fake_agent *owners[8];
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static const char *const service_names[] = {"grpc.SandboxService", "crivisor.agent.v1.Agent",
						    "containerd.task.v2.Task"};
	size_t at = 0, n[3] = {0};

	pthread_mutex_lock(&lock);
#define M(name_, service)                                                                                    \
	methods[service][n[service]++] = (struct ttrpc_method){.name = #name_, .unary = on_##name_};
	METHODS(M)
#undef M
	methods[1][n[1]] = (struct ttrpc_method){.name = "Dial", .streaming = on_dial};
	while (at < ARRAY_SIZE(owners) && owners[at] && owners[at] != a)
		at++;
	if (at == ARRAY_SIZE(owners)) {
		memset(owners, 0, sizeof(owners)); /* those of earlier tests */
		at = 0;
	}
	owners[at] = a;
	for (int i = 0; i < 3; i++)
		services[at][i] =
			(struct ttrpc_service){.name = service_names[i], .methods = methods[i], .ctx = a};
	services[at][3] = (struct ttrpc_service){
		.name = "containerd.services.streaming.v1.Streaming", .methods = streaming, .ctx = a};
	pthread_mutex_unlock(&lock);
	return ttrpc_server_new(services[at], NULL, NULL);
}

/* Lock held. Serves the connection, or refuses. */
static int take(struct fake_agent *a, int fd)
{
	a->dials++;
	pthread_cond_broadcast(&a->called);
	if (a->refuse < 0)
		return a->refuse;
	for (size_t i = 0; i < CONNS_MAX; i++) {
		if (a->conns[i].fd >= 0)
			continue;
		a->conns[i] = (struct conn){.fd = fd, .ttrpc = new_server(a)};
		must(a->conns[i].ttrpc);
		return 0;
	}
	abort();
}

void fake_agent_serve(struct fake_agent *a, int fd)
{
	SPARED;
	int r;

	must(set_nonblock(fd, true) == 0);
	pthread_mutex_lock(&a->lock);
	r = take(a, fd);
	pthread_mutex_unlock(&a->lock);
	if (r < 0)
		close_fd(fd);
	wake(a);
}

int fake_agent_dial(void *arg, uint32_t port, int64_t deadline_ns, struct err *err)
{
	SPARED;
	struct fake_agent *a = arg;
	int fds[2], r;

	(void)deadline_ns;
	must(port == GUEST_PORT_AGENT);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
	pthread_mutex_lock(&a->lock);
	r = take(a, fds[1]);
	pthread_mutex_unlock(&a->lock);
	wake(a);
	if (r == 0)
		return fds[0];
	close_fd(fds[0]);
	close_fd(fds[1]);
	return err_set_errno(err, r, "the fake refuses the connection");
}

/* ---- commands ------------------------------------------------------------------------------------------ */

#define COMMAND(a, what)                                                                                     \
	do {                                                                                                 \
		pthread_mutex_lock(&(a)->lock);                                                              \
		what;                                                                                        \
		pthread_mutex_unlock(&(a)->lock);                                                            \
		wake(a);                                                                                     \
	} while (0)

void fake_agent_refuse(struct fake_agent *a, int code)
{
	COMMAND(a, a->refuse = code);
}

unsigned int fake_agent_dials(struct fake_agent *a)
{
	unsigned int n;

	COMMAND(a, n = a->dials);
	return n;
}

void fake_agent_set_boot(struct fake_agent *a, const char *boot_id)
{
	COMMAND(a, snprintf(a->boot_id, sizeof(a->boot_id), "%s", boot_id));
}

void fake_agent_set_instance(struct fake_agent *a, const char *instance_id)
{
	COMMAND(a, snprintf(a->instance, sizeof(a->instance), "%s", instance_id));
}

void fake_agent_set_clock(struct fake_agent *a, int64_t ahead_ns)
{
	COMMAND(a, a->clock_ns = ahead_ns);
}

int64_t fake_agent_clock(struct fake_agent *a)
{
	int64_t ns;

	COMMAND(a, ns = a->clock_ns);
	return ns;
}

void fake_agent_set_features(struct fake_agent *a, const char *const *features)
{
	COMMAND(a, a->features = features);
}

void fake_agent_set_size(struct fake_agent *a, uint32_t vcpus, uint64_t memory)
{
	COMMAND(a, (a->vcpus = vcpus, a->memory = memory));
}

unsigned int fake_agent_calls(struct fake_agent *a, const char *method)
{
	unsigned int n;

	COMMAND(a, n = a->calls[method_of(method)]);
	return n;
}

void fake_agent_await(struct fake_agent *a, const char *method, unsigned int count)
{
	enum method m = method_of(method);
	int64_t deadline = now_monotonic_ns() + 20 * NS_PER_SEC;

	pthread_mutex_lock(&a->lock);
	while (a->calls[m] < count)
		must(cond_wait_until(&a->called, &a->lock, deadline) == 0);
	pthread_mutex_unlock(&a->lock);
}

void fake_agent_cut_at(struct fake_agent *a, const char *method, bool carried_out)
{
	COMMAND(a, a->cut[method_of(method)] = carried_out ? CUT_AFTER : CUT_BEFORE);
}

void fake_agent_cut(struct fake_agent *a)
{
	pthread_mutex_lock(&a->lock);
	for (size_t i = 0; i < CONNS_MAX; i++)
		a->conns[i].cut = a->conns[i].fd >= 0;
	pthread_mutex_unlock(&a->lock);
	wake(a);
}

void fake_agent_hang(struct fake_agent *a, const char *method, bool on)
{
	COMMAND(a, a->hang[method_of(method)] = on);
}

void fake_agent_fail(struct fake_agent *a, const char *method, int code, const char *words)
{
	COMMAND(a, err_set(&a->fail[method_of(method)], code, "%s", words));
}

void fake_agent_answer(struct fake_agent *a, const char *method, const void *data, size_t len)
{
	SPARED;
	enum method m = method_of(method);
	unsigned char *copy = malloc(len ? len : 1);

	must(copy);
	memcpy(copy, data, len);
	pthread_mutex_lock(&a->lock);
	free(a->answer[m]);
	a->answer[m] = copy;
	a->answer_len[m] = len;
	pthread_mutex_unlock(&a->lock);
}

void fake_agent_put(struct fake_agent *a, const char *id, bool running)
{
	SPARED;
	COMMAND(a, add(a, id)->state = running ? RUNNING : CREATED);
}

void fake_agent_exit(struct fake_agent *a, const char *id, uint32_t code)
{
	struct task *t;

	pthread_mutex_lock(&a->lock);
	t = find(a, id);
	must(t);
	t->state = STOPPED;
	t->code = code;
	pthread_mutex_unlock(&a->lock);
	wake(a);
}

void fake_agent_print(struct fake_agent *a, const char *id, bool is_stderr, const void *data, size_t len)
{
	SPARED;
	struct task *t;

	pthread_mutex_lock(&a->lock);
	t = find(a, id);
	must(t);
	print(t, is_stderr, data, len);
	pthread_mutex_unlock(&a->lock);
	wake(a);
}

uint64_t fake_agent_acked(struct fake_agent *a, const char *id)
{
	struct task *t;
	uint64_t acked;

	pthread_mutex_lock(&a->lock);
	t = find(a, id);
	acked = t ? t->acked : UINT64_MAX;
	pthread_mutex_unlock(&a->lock);
	return acked;
}

bool fake_agent_has(struct fake_agent *a, const char *id)
{
	bool has;

	COMMAND(a, has = find(a, id));
	return has;
}

bool fake_agent_asked_for_lost(struct fake_agent *a)
{
	bool lost;

	COMMAND(a, lost = a->asked_for_lost);
	return lost;
}

void fake_agent_last_exec(struct fake_agent *a, char ret_id[80])
{
	COMMAND(a, memcpy(ret_id, a->last_exec, sizeof(a->last_exec)));
}

void fake_agent_size(struct fake_agent *a, uint32_t *ret_width, uint32_t *ret_height)
{
	pthread_mutex_lock(&a->lock);
	*ret_width = a->width;
	*ret_height = a->height;
	pthread_mutex_unlock(&a->lock);
}

void fake_agent_stop_reading(struct fake_agent *a, bool on)
{
	COMMAND(a, fake_streams_stop_reading(a->streams, on));
}

unsigned int fake_agent_streams(struct fake_agent *a)
{
	unsigned int n;

	COMMAND(a, n = fake_streams_open(a->streams));
	return n;
}

unsigned int fake_agent_streams_begun(struct fake_agent *a)
{
	unsigned int n;

	COMMAND(a, n = fake_streams_begun(a->streams));
	return n;
}

size_t fake_agent_ahead(struct fake_agent *a)
{
	size_t n;

	COMMAND(a, n = fake_streams_ahead(a->streams));
	return n;
}

unsigned int fake_agent_conns(struct fake_agent *a)
{
	unsigned int n = 0;

	pthread_mutex_lock(&a->lock);
	for (size_t i = 0; i < CONNS_MAX; i++)
		n += a->conns[i].fd >= 0;
	pthread_mutex_unlock(&a->lock);
	return n;
}

unsigned int fake_agent_processes(struct fake_agent *a)
{
	unsigned int n = 0;

	pthread_mutex_lock(&a->lock);
	for (size_t i = 0; i < TASKS_MAX; i++)
		n += a->tasks[i] != NULL;
	pthread_mutex_unlock(&a->lock);
	return n;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Agent.ReadLog and Agent.Ack: a process's output by offset, until the host has acknowledged it. */
#include "guest/container/ctr_internal.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "guest/rpc/request.h"

#define RECORDS_MAX 1024 /* in one answer */

/* A ReadLog that waits for output. */
struct readlog {
	struct rpc_slot slot;
	struct stdio *stdio;
	struct stdio_listener listener;
	struct loop_timer timer;
	uint64_t offset;
	size_t max;
};

/* The answer, and the memory it points into. */
struct answer {
	Crivisor__Agent__V1__ReadLogResponse msg;
	Crivisor__Agent__V1__LogRecord records[RECORDS_MAX];
	Crivisor__Agent__V1__LogRecord *list[RECORDS_MAX];
};

static void fill(struct answer *a, struct stdio *stdio, uint64_t offset, size_t max)
{
	struct outlog_record rec;
	size_t n = 0;

	crivisor__agent__v1__read_log_response__init(&a->msg);
	if (offset < stdio->log.start)
		offset = stdio->log.start;
	a->msg.offset = offset;
	while (n < RECORDS_MAX && max > 0 && outlog_next(&stdio->log, &offset, max, &rec)) {
		Crivisor__Agent__V1__LogRecord *r = &a->records[n];

		crivisor__agent__v1__log_record__init(r);
		r->stream = (Crivisor__Agent__V1__Stream)rec.stream;
		r->data.data = (unsigned char *)rec.data;
		r->data.len = rec.len;
		a->list[n++] = r;
		max -= rec.len;
	}
	a->msg.records = a->list;
	a->msg.n_records = n;
	a->msg.eof = stdio_all_ended(stdio) && offset == outlog_end(&stdio->log);
}

static void answer(struct rpc_slot *slot, struct stdio *stdio, uint64_t offset, size_t max)
{
	static struct answer a; /* there is one thread; it is too large for the stack */

	fill(&a, stdio, offset, max);
	rpc_slot_reply(slot, &a.msg.base);
}

static bool ready(const struct stdio *stdio, uint64_t offset)
{
	return offset < outlog_end(&stdio->log) || stdio_all_ended(stdio);
}

static void readlog_free(struct readlog *rl)
{
	stdio_unlisten(rl->stdio, &rl->listener);
	loop_timer_clear(&rl->timer);
	free(rl);
}

static void on_gone(void *arg)
{
	readlog_free(arg);
}

static void on_timeout(void *arg)
{
	struct readlog *rl = arg;

	answer(&rl->slot, rl->stdio, rl->offset, rl->max);
	readlog_free(rl);
}

static void on_change(void *arg)
{
	struct readlog *rl = arg;
	struct err err;

	if (rl->stdio->dead) {
		err_set(&err, -ENOENT, "process was deleted");
		rpc_slot_fail(&rl->slot, &err);
	} else if (ready(rl->stdio, rl->offset)) {
		answer(&rl->slot, rl->stdio, rl->offset, rl->max);
	} else {
		return;
	}
	readlog_free(rl);
}

static int wait_for(struct agent *agent, struct stdio *stdio, const Crivisor__Agent__V1__ReadLogRequest *m,
		    size_t max, struct ttrpc_request *req, struct err *err)
{
	struct readlog *rl = calloc(1, sizeof(*rl));

	if (!rl)
		return err_oom(err);
	rl->stdio = stdio;
	rl->offset = m->offset;
	rl->max = max;
	rpc_slot_take(&rl->slot, req, on_gone, rl);
	stdio_listen(stdio, &rl->listener, on_change, rl);
	loop_timer_set(agent->loop, &rl->timer, now_monotonic_ns() + m->wait_ms * NS_PER_MS, on_timeout, rl);
	return 0;
}

void readlog_get(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len)
{
	Crivisor__Agent__V1__ReadLogRequest *m RPC_MESSAGE =
		rpc_unpack(req, &crivisor__agent__v1__read_log_request__descriptor, payload, len);
	struct rpc_slot now = {.req = req};
	struct err err = ERR_INIT;
	const struct proc *p;
	size_t max;

	if (!m)
		return;
	p = ctr_proc(service_ctx, m->container_id, m->exec_id, &err);
	if (!p) {
		ttrpc_fail(req, &err);
		return;
	}
	p->stdio->log_read = true;
	max = m->max_bytes && m->max_bytes < GUEST_READLOG_MAX ? m->max_bytes : GUEST_READLOG_MAX;
	if (m->offset > outlog_end(&p->stdio->log)) {
		err_set_status(&err, -ERANGE, ERR_OUT_OF_RANGE, "offset %llu is beyond the end %llu",
			       (unsigned long long)m->offset, (unsigned long long)outlog_end(&p->stdio->log));
		ttrpc_fail(req, &err);
		return;
	}
	if (m->wait_ms == 0 || ready(p->stdio, m->offset))
		answer(&now, p->stdio, m->offset, max);
	else if (wait_for(service_ctx, p->stdio, m, max, req, &err) < 0)
		ttrpc_fail(req, &err);
}

void readlog_ack(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len)
{
	Crivisor__Agent__V1__AckRequest *m RPC_MESSAGE =
		rpc_unpack(req, &crivisor__agent__v1__ack_request__descriptor, payload, len);
	struct err err = ERR_INIT;
	struct proc *p;

	if (!m)
		return;
	p = ctr_proc(service_ctx, m->container_id, m->exec_id, &err);
	if (p)
		p->stdio->log_read = true;
	if (!p || stdio_ack(p->stdio, m->offset, &err) < 0)
		ttrpc_fail(req, &err);
	else
		rpc_reply_empty(req);
}

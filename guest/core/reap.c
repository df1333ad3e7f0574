/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/core/reap.h"

#include "base/util.h"

#include <sys/wait.h>

/*
 * Watches are linked, not put into a table that allocates: a watch that could fail would lose the end of a
 * container.
 */
#define BUCKETS 64

struct orphan {
	pid_t pid;
	int status;
	int64_t at_ns;
	uint64_t seq;
};

/* One per process, like the children it is about. */
static struct {
	struct reap_watch *watches[BUCKETS];
	struct orphan *orphans; /* ring of REAP_ORPHANS, allocated while wanted */
	size_t orphans_next;
	unsigned int keep;
	uint64_t seq;
	void (*after)(void *arg);
	void *after_arg;
} reap;

void reap_after(void (*fn)(void *arg), void *arg)
{
	reap.after = fn;
	reap.after_arg = arg;
}

int reap_status(int wstatus)
{
	return WIFSIGNALED(wstatus) ? 128 + WTERMSIG(wstatus) : WEXITSTATUS(wstatus);
}

uint64_t reap_seq(void)
{
	return reap.seq;
}

void reap_keep_orphans(bool on)
{
	if (on) {
		reap.keep++;
		if (!reap.orphans) {
			/* Without memory an early end is lost; proc_born notices that the process is gone. */
			reap.orphans = calloc(REAP_ORPHANS, sizeof(*reap.orphans));
			reap.orphans_next = 0;
		}
		return;
	}
	if (--reap.keep == 0) {
		free(reap.orphans);
		reap.orphans = NULL;
	}
}

static void keep_orphan(pid_t pid, int status, int64_t at_ns)
{
	if (!reap.orphans)
		return;
	reap.orphans[reap.orphans_next++ % REAP_ORPHANS] =
		(struct orphan){.pid = pid, .status = status, .at_ns = at_ns, .seq = reap.seq};
}

static const struct orphan *find_orphan(pid_t pid, uint64_t since)
{
	const struct orphan *best = NULL;

	for (size_t i = 0; reap.orphans && i < REAP_ORPHANS; i++) {
		const struct orphan *o = &reap.orphans[i];

		if (o->pid == pid && o->seq > since && (!best || o->seq > best->seq))
			best = o;
	}
	return best;
}

void reap_watch(struct reap_watch *watch, pid_t pid, uint64_t since, reap_fn *fn, void *arg)
{
	const struct orphan *o = since == UINT64_MAX ? NULL : find_orphan(pid, since);
	struct reap_watch **bucket = &reap.watches[(unsigned int)pid % BUCKETS];

	if (o) {
		*watch = (struct reap_watch){.pid = 0};
		fn(arg, pid, o->status, o->at_ns);
		return;
	}
	*watch = (struct reap_watch){.next = *bucket, .pid = pid, .fn = fn, .arg = arg};
	*bucket = watch;
}

void reap_unwatch(struct reap_watch *watch)
{
	struct reap_watch **p = &reap.watches[(unsigned int)watch->pid % BUCKETS];

	if (watch->pid == 0)
		return;
	while (*p && *p != watch)
		p = &(*p)->next;
	if (*p)
		*p = watch->next;
	watch->pid = 0;
}

void reap_one(pid_t pid, int wstatus, int64_t at_ns)
{
	struct reap_watch *w = reap.watches[(unsigned int)pid % BUCKETS];

	reap.seq++;
	while (w && w->pid != pid)
		w = w->next;
	if (!w) {
		keep_orphan(pid, reap_status(wstatus), at_ns);
		return;
	}
	reap_unwatch(w);
	w->fn(w->arg, pid, reap_status(wstatus), at_ns);
}

unsigned int reap_collect(void)
{
	unsigned int n = 0;
	int wstatus;
	pid_t pid;

	while ((pid = waitpid(-1, &wstatus, WNOHANG)) > 0) {
		reap_one(pid, wstatus, now_realtime_ns());
		n++;
	}
	if (n > 0 && reap.after)
		reap.after(reap.after_arg);
	return n;
}

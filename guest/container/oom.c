/* SPDX-License-Identifier: Apache-2.0 */
/* OOM kills of containers: told by inotify on v2, read when the process ends on v1. */
#include "guest/container/ctr_internal.h"

#include "api/agent/events.pb-c.h"
#include "base/log.h"
#include "guest/container/cgroup.h"
#include "guest/core/loop.h"
#include "guest/rpc/events.h"

#include <sys/inotify.h>

void oom_look(struct ctr *c)
{
	Containerd__Events__TaskOOM ev = CONTAINERD__EVENTS__TASK_OOM__INIT;
	uint64_t n = c->cgroup ? cgroup_oom_kills(c->agent->cgroup2, c->cgroup) : 0;

	if (n <= c->oom_kills)
		return;
	c->oom_kills = n;
	ev.container_id = c->id;
	log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", c->id), "out of memory: a process was killed");
	events_push(c->agent->events, "/tasks/oom", &ev.base);
}

static void on_inotify(void *arg, int fd, uint32_t events)
{
	struct containers *containers = arg;
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n = read(fd, buf, sizeof(buf));

	(void)events;
	for (const char *p = buf; n > 0 && p < buf + n;) {
		struct inotify_event ev;

		memcpy(&ev, p, sizeof(ev));
		for (struct ctr *c = containers->list; c; c = c->next) {
			if (c->oom_watch == ev.wd)
				oom_look(c);
		}
		p += sizeof(ev) + ev.len;
	}
}

int oom_setup(struct containers *containers, struct err *err)
{
	containers->oom_inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (containers->oom_inotify < 0)
		return err_set_errno(err, -errno, "inotify");
	containers->oom_src =
		loop_add(containers->agent->loop, containers->oom_inotify, EPOLLIN, on_inotify, containers);
	return containers->oom_src ? 0 : err_oom(err);
}

void oom_done(struct containers *containers)
{
	containers->oom_src = loop_source_free(containers->oom_src);
	containers->oom_inotify = close_fd(containers->oom_inotify);
}

void oom_watch(struct ctr *c)
{
	char *path CLEANUP_FREE = xasprintf(CGROUP_ROOT "%s/memory.events", c->cgroup);

	/* On v1 the count is read when the process ends. */
	if (path && c->agent->cgroup2)
		c->oom_watch = inotify_add_watch(c->agent->containers->oom_inotify, path, IN_MODIFY);
}

void oom_unwatch(struct ctr *c)
{
	if (c->oom_watch >= 0)
		inotify_rm_watch(c->agent->containers->oom_inotify, c->oom_watch);
	c->oom_watch = -1;
}

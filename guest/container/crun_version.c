/* SPDX-License-Identifier: Apache-2.0 */
/* Which version of the runtime this is, and whether its private FIFO is known. */
#include "guest/container/crun_internal.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/util.h"
#include "guest/container/containers_internal.h"
#include "guest/core/loop.h"
#include "guest/core/spawn.h"

#include <fcntl.h>

#define OUT_MAX	    4096
#define DEADLINE_NS (20 * NS_PER_SEC)

/*
 * Debian 12 and 13. Both: `create` leaves a process that opens <root>/<id>/exec.fifo and waits for a byte;
 * `start` without hooks and without NOTIFY_SOCKET opens the FIFO, unlinks it and writes one byte (crun
 * src/libcrun/status.c, libcrun_status_write_exec_fifo, and container.c, libcrun_container_start).
 */
static const char *const known[] = {"1.8.1", "1.21"};

/* One in a process, while crun --version runs. */
static struct {
	struct agent *agent;
	int fd;
	struct loop_source *src;
	struct loop_timer deadline;
	struct buf out;
} probe = {.fd = -1};

bool crun_fifo_known(const char *text)
{
	static const char prefix[] = "crun version ";
	const char *version = text + strlen(prefix);

	if (!str_starts(text, prefix))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		size_t len = strlen(known[i]);

		if (strncmp(version, known[i], len) == 0 && (version[len] == '\n' || version[len] == 0))
			return true;
	}
	return false;
}

void crun_probe_stop(void)
{
	loop_timer_clear(&probe.deadline);
	probe.src = loop_source_free(probe.src);
	probe.fd = close_fd(probe.fd);
	buf_done(&probe.out);
}

static void finish(void)
{
	const char *text;

	(void)buf_put(&probe.out, "", 1);
	text = probe.out.len > 0 ? (const char *)buf_data(&probe.out) : "";
	probe.agent->containers->fifo_known = crun_fifo_known(text);
	log_debug("%.*s: %s", (int)strcspn(text, "\n"), text,
		  probe.agent->containers->fifo_known ? "containers are started by its FIFO"
						      : "containers are started by the program");
	crun_probe_stop();
}

static void on_late(void *arg)
{
	(void)arg;
	log_warn("%s --version did not answer within %lld s", probe.agent->paths.crun,
		 DEADLINE_NS / NS_PER_SEC);
	crun_probe_stop();
}

static void on_out(void *arg, int fd, uint32_t events)
{
	ssize_t n = buf_read_fd(&probe.out, fd, 512);

	(void)arg;
	(void)events;
	if (n == -EAGAIN || n == -EINTR || (n > 0 && probe.out.len < OUT_MAX))
		return;
	finish();
}

void crun_probe(struct agent *agent)
{
	char *argv[] = {(char *)agent->paths.crun, (char *)"--version", NULL};
	struct spawn s = {.argv = argv, .stdio = {-1, -1, -1}, .idle = true};
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return;
	crun_probe_stop();
	probe.agent = agent;
	probe.fd = fds[0];
	probe.out = (struct buf){.max = OUT_MAX + 1024};
	s.stdio[1] = fds[1];
	if (set_nonblock(probe.fd, true) == 0)
		probe.src = loop_add(agent->loop, probe.fd, EPOLLIN, on_out, NULL);
	/* Its end needs no watch: it is reaped like every child, and its output ends with the pipe. */
	if (!probe.src || spawn_run(&s, NULL) < 0)
		crun_probe_stop();
	else
		loop_timer_set(agent->loop, &probe.deadline, now_monotonic_ns() + DEADLINE_NS, on_late, NULL);
	close_fd(fds[1]);
}

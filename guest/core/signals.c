/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/core/signals.h"

#include "base/util.h"
#include "guest/core/loop.h"
#include "guest/core/reap.h"

#include <signal.h>
#include <sys/signalfd.h>

static struct {
	int fd;
	struct loop_source *src;
} signals = {.fd = -1};

static void on_signal(void *arg, int fd, uint32_t events)
{
	struct agent *agent = arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	switch (info.ssi_signo) {
	case SIGCHLD:
		reap_collect();
		break;
	case SIGTERM:
	case SIGINT:
		agent->ops->shutdown(agent, info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
		break;
	case SIGUSR1:
		if (agent->ops->on_usr1)
			agent->ops->on_usr1(agent);
		break;
	default:
		break;
	}
}

int signals_watch(struct agent *agent, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR1);
	signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return err_set_errno(err, -errno, "block signals");
	signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals.fd >= 0)
		signals.src = loop_add(agent->loop, signals.fd, EPOLLIN, on_signal, agent);
	if (!signals.src) {
		int r = errno ? -errno : -ENOMEM;

		signals_unwatch();
		return err_set_errno(err, r, "watch signals");
	}
	return 0;
}

void signals_unwatch(void)
{
	signals.src = loop_source_free(signals.src);
	signals.fd = close_fd(signals.fd);
}

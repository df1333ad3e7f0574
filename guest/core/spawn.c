/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/core/spawn.h"

#include "base/util.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>

/* Children are ordinary processes: signals as at exec, and the OOM killer may take them. */
static void shed(int oom_score_adj)
{
	sigset_t none;
	char score[16];

	sigemptyset(&none);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	snprintf(score, sizeof(score), "%d", oom_score_adj);
	(void)write_file("/proc/self/oom_score_adj", score, strlen(score), 0);
}

static void child_exec(const struct spawn *s)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int fds[3];

	shed(s->oom_score_adj);
	if (s->idle)
		(void)sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){.sched_priority = 0});
	if (s->before)
		s->before(s->before_arg);
	/* First out of the way of 0 to 2, then onto them. */
	for (int i = 0; i < 3; i++) {
		fds[i] = fcntl(s->stdio[i] >= 0 ? s->stdio[i] : null, F_DUPFD_CLOEXEC, 3);
		if (fds[i] < 0)
			_exit(126);
	}
	for (int i = 0; i < 3; i++) {
		if (dup2(fds[i], i) < 0)
			_exit(126);
	}
	if (s->tty && ioctl(0, TIOCSCTTY, 0) < 0)
		_exit(126);
	close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
	if (chdir(s->cwd ? s->cwd : "/") < 0)
		_exit(126);
	execv(s->argv[0], s->argv);
	_exit(127);
}

pid_t spawn_run(const struct spawn *s, struct err *err)
{
	pid_t pid = fork();

	if (pid < 0)
		return err_set_errno(err, -errno, "fork for %s", s->argv[0]);
	if (pid == 0)
		child_exec(s);
	return pid;
}

pid_t spawn_fn(int (*fn)(void *arg), void *arg, struct err *err)
{
	pid_t pid = fork();

	if (pid < 0)
		return err_set_errno(err, -errno, "fork");
	if (pid == 0) {
		shed(0);
		_exit(fn(arg));
	}
	return pid;
}

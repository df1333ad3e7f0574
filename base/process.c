/* SPDX-License-Identifier: Apache-2.0 */
#include "base/process.h"

#include "base/util.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#define STREAMS 3
#define HIGH_FD (STREAMS + PROCESS_FDS_MAX) /* above every number that a child gets */

static char path_env[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
static char lang_env[] = "LANG=C", home_env[] = "HOME=/";
static char *const plain_env[] = {path_env, lang_env, home_env, NULL};

struct spawn {
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	int high[STREAMS +
		 /* copies above HIGH_FD: no dup2 of the child overwrites another's source */
		 PROCESS_FDS_MAX];
	size_t n_high;
};

static int map_fd(struct spawn *s, int fd, int child_fd)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_FD);

	if (high < 0)
		return -errno;
	s->high[s->n_high++] = high;
	return -posix_spawn_file_actions_adddup2(&s->actions, high, child_fd);
}

static int map_fds(struct spawn *s, const struct process_spec *spec)
{
	int r = 0;

	for (int i = 0; r == 0 && i < STREAMS; i++) {
		if (spec->stdio[i] >= 0)
			r = map_fd(s, spec->stdio[i], i);
		else
			r = -posix_spawn_file_actions_addopen(&s->actions, i, "/dev/null", O_RDWR, 0);
	}
	for (size_t i = 0; r == 0 && i < spec->n_fds; i++)
		r = map_fd(s, spec->fds[i], STREAMS + (int)i);
	if (r == 0)
		r = -posix_spawn_file_actions_addclosefrom_np(&s->actions, STREAMS + (int)spec->n_fds);
	if (r == 0)
		r = -posix_spawn_file_actions_addchdir_np(&s->actions, spec->cwd ? spec->cwd : "/");
	return r;
}

static int set_attr(struct spawn *s, const struct process_spec *spec)
{
	short flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK;
	sigset_t all, none;
	int r;

	sigfillset(&all);
	sigemptyset(&none);
	r = posix_spawnattr_setsigdefault(&s->attr, &all);
	if (r == 0)
		r = posix_spawnattr_setsigmask(&s->attr, &none);
	if (r == 0 && spec->group) {
		flags |= POSIX_SPAWN_SETPGROUP;
		r = posix_spawnattr_setpgroup(&s->attr, 0);
	}
	if (r == 0)
		r = posix_spawnattr_setflags(&s->attr, flags);
	return -r;
}

static int spawn_with(struct spawn *s, const struct process_spec *spec, pid_t *ret_pid)
{
	char *const argv[] = {(char *)(uintptr_t)spec->path, NULL};
	int r = map_fds(s, spec);

	if (r == 0)
		r = set_attr(s, spec);
	if (r == 0)
		r = -posix_spawnp(ret_pid, spec->path, &s->actions, &s->attr, spec->argv ? spec->argv : argv,
				  spec->env ? spec->env : plain_env);
	for (size_t i = 0; i < s->n_high; i++)
		close_fd(s->high[i]);
	return r;
}

/* A child that cannot be watched is of no use. */
static int open_pidfd(pid_t pid, int *ret_pidfd)
{
	int r;

	*ret_pidfd = pidfd_open(pid, 0);
	if (*ret_pidfd >= 0)
		return 0;
	r = -errno;
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return r;
}

int process_spawn(const struct process_spec *spec, pid_t *ret_pid, int *ret_pidfd)
{
	struct spawn s = {.n_high = 0};
	pid_t pid;
	int pidfd = -1;
	int r;

	if (spec->n_fds > PROCESS_FDS_MAX)
		return -E2BIG;
	r = -posix_spawn_file_actions_init(&s.actions);
	if (r < 0)
		return r;
	r = -posix_spawnattr_init(&s.attr);
	if (r == 0) {
		r = spawn_with(&s, spec, &pid);
		posix_spawnattr_destroy(&s.attr);
	}
	posix_spawn_file_actions_destroy(&s.actions);
	if (r == 0 && ret_pidfd)
		r = open_pidfd(pid, &pidfd);
	if (r < 0)
		return r;
	*ret_pid = pid;
	if (ret_pidfd)
		*ret_pidfd = pidfd;
	return 0;
}

#include "vmm/driver_internal.h"

#include "base/util.h"
#include "vmm/wait_internal.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

static int spawn_quiet(pid_t *ret_pid, char *const *argv, int out_fd)
{
	static char path_env[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	static char lang_env[] = "LANG=C";
	char *const env[] = {path_env, lang_env, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t set;
	int r;

	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	sigemptyset(&set);
	posix_spawnattr_setsigmask(&attr, &set);
	sigfillset(&set);
	posix_spawnattr_setsigdefault(&attr, &set);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	r = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDWR, 0);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&actions, out_fd, STDOUT_FILENO);
	if (r == 0)
		r = posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_RDWR, 0);
	if (r == 0)
		r = posix_spawnp(ret_pid, argv[0], &actions, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return -r;
}

/* Reads until EOF or the deadline; what does not fit is dropped. */
static int drain(int fd, char *out, size_t size, int64_t deadline_ns)
{
	size_t len = 0;

	out[0] = 0;
	for (;;) {
		char rest[512];
		bool full = len + 1 >= size;
		int r = wait_fd(fd, POLLIN, deadline_ns);
		ssize_t n;

		if (r < 0)
			return r;
		n = full ? read(fd, rest, sizeof(rest)) : read(fd, out + len, size - 1 - len);
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		if (!full)
			len += (size_t)n;
		out[len] = 0;
	}
}

int vmm_run(const struct vmm_run *run, int64_t deadline_ns)
{
	int read_end CLEANUP_CLOSE = -1, write_end CLEANUP_CLOSE = -1, pid_fd CLEANUP_CLOSE = -1;
	int fds[2], status, r;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	read_end = fds[0];
	write_end = fds[1];
	r = spawn_quiet(&pid, run->argv, write_end);
	if (r < 0)
		return r;
	write_end = close_fd(write_end);
	r = drain(read_end, run->out, run->out_size, deadline_ns);
	/* One that has closed its output need not end by itself. */
	pid_fd = pidfd_open(pid, 0);
	if (r == 0)
		r = pid_fd < 0 ? -errno : wait_fd(pid_fd, POLLIN, deadline_ns);
	if (r < 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	if (r < 0)
		return r;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

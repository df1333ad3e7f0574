/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/driver_internal.h"

#include "base/process.h"
#include "base/util.h"
#include "vmm/wait_internal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

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
	struct process_spec spec = {.path = run->argv[0], .argv = run->argv, .stdio = {-1, -1, -1}};
	int fds[2], status, r;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	read_end = fds[0];
	write_end = fds[1];
	spec.stdio[1] = write_end;
	r = process_spawn(&spec, &pid, &pid_fd);
	if (r < 0)
		return r;
	write_end = close_fd(write_end);
	r = drain(read_end, run->out, run->out_size, deadline_ns);
	/* A program that has closed its output may still run. */
	if (r == 0)
		r = wait_fd(pid_fd, POLLIN, deadline_ns);
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

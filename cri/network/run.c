/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/network/run_internal.h"

#include "base/buf.h"
#include "base/process.h"
#include "base/text.h"
#include "base/util.h"
#include "cri/network/conf_internal.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

struct run {
	int in, out[2], err[2], pidfd;
	pid_t pid;
	struct buf output;
	char err_text[sizeof(((struct cni_output *)0)->err)];
	size_t err_len;
};

void cni_output_done(struct cni_output *output)
{
	free(output->out);
	*output = (struct cni_output){0};
}

static void run_done(struct run *run)
{
	close_fd(run->in);
	for (int i = 0; i < 2; i++) {
		close_fd(run->out[i]);
		close_fd(run->err[i]);
	}
	close_fd(run->pidfd);
	buf_done(&run->output);
}

static int run_fds(struct run *run, const char *input, size_t len, struct err *err)
{
	int r;

	run->in = memfd_create("cni-input", MFD_CLOEXEC);
	if (run->in < 0)
		return err_set_errno(err, -errno, "memfd_create");
	r = write_full(run->in, input, len);
	if (r < 0 || lseek(run->in, 0, SEEK_SET) < 0)
		return err_set_errno(err, r < 0 ? r : -errno, "memfd");
	if (pipe2(run->out, O_CLOEXEC) < 0 || pipe2(run->err, O_CLOEXEC) < 0)
		return err_set_errno(err, -errno, "pipe");
	r = set_nonblock(run->out[0], true);
	if (r == 0)
		r = set_nonblock(run->err[0], true);
	return r < 0 ? err_set_errno(err, r, "pipe") : 0;
}

static int spawn_plugin(struct run *run, const char *path, char *const *env, struct err *err)
{
	const struct process_spec spec = {
		.path = path,
		.env = env,
		.stdio = {run->in, run->out[1], run->err[1]},
		.group = true,
	};
	int r = process_spawn(&spec, &run->pid, &run->pidfd);

	if (r < 0)
		return err_set_status(err, r, ERR_FAILED_PRECONDITION, "cannot run %s: %s", path,
				      strerrordesc_np(-r));
	run->out[1] = close_fd(run->out[1]);
	run->err[1] = close_fd(run->err[1]);
	return 0;
}

/* Reads what stdout has. Positive: may have more later; 0: at its end. */
static int drain_out(struct run *run)
{
	for (;;) {
		ssize_t n = buf_read_fd(&run->output, run->out[0], 64 * 1024);

		if (n == -EAGAIN)
			return 1;
		if (n == -EINTR)
			continue;
		if (n <= 0)
			return (int)n;
		if (run->output.len > CNI_OUTPUT_MAX)
			return -EMSGSIZE;
	}
}

static int drain_err(struct run *run)
{
	char chunk[4096];

	for (;;) {
		ssize_t n = read(run->err[0], chunk, sizeof(chunk));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 1;
		if (n <= 0)
			return 0;
		for (ssize_t i = 0; i < n && run->err_len + 1 < sizeof(run->err_text); i++)
			run->err_text[run->err_len++] = chunk[i];
	}
}

static int poll_ms(int64_t deadline_ns)
{
	int64_t left = deadline_ns - now_monotonic_ns();

	if (left <= 0)
		return 0;
	return left > 3600 * NS_PER_SEC ? 3600 * 1000 : (int)((left + NS_PER_MS - 1) / NS_PER_MS);
}

/* Until the plugin has exited: 0, -ETIMEDOUT, -ECANCELED, -EMSGSIZE or another errno. */
static int pump(struct run *run, int64_t deadline_ns, int cancel_fd)
{
	struct pollfd fds[4] = {
		{.fd = run->pidfd, .events = POLLIN},
		{.fd = run->out[0], .events = POLLIN},
		{.fd = run->err[0], .events = POLLIN},
		{.fd = cancel_fd, .events = POLLIN},
	};

	for (;;) {
		int n = poll(fds, 4, poll_ms(deadline_ns)), r;

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0 && now_monotonic_ns() >= deadline_ns)
			return -ETIMEDOUT;
		if (n <= 0)
			continue;
		if (fds[3].revents && !fds[0].revents)
			return -ECANCELED;
		if (fds[1].revents) {
			r = drain_out(run);
			if (r < 0)
				return r;
			if (r == 0)
				fds[1].fd = -1;
		}
		if (fds[2].revents && drain_err(run) == 0)
			fds[2].fd = -1;
		if (!fds[0].revents)
			continue;
		/* Gone. What it wrote before is in the pipes. */
		r = fds[1].fd >= 0 ? drain_out(run) : 0;
		if (fds[2].fd >= 0)
			drain_err(run);
		return r < 0 ? r : 0;
	}
}

static int reap(struct run *run)
{
	siginfo_t info = {0};

	while (waitid(P_PIDFD, (id_t)run->pidfd, &info, WEXITED) < 0)
		if (errno != EINTR)
			return 255;
	return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

static void kill_group(struct run *run)
{
	struct pollfd fd = {.fd = run->pidfd, .events = POLLIN};

	kill(-run->pid, SIGKILL);
	/* One that is stuck in the kernel is left to itself rather than the caller to it. */
	if (poll(&fd, 1, (int)(CNI_KILL_NS / NS_PER_MS)) == 1)
		reap(run);
}

int cni_run(const char *path, char *const *env, const char *input, size_t input_len, int64_t deadline_ns,
	    int cancel_fd, struct cni_output *ret_output, struct err *err)
{
	struct run run = {.in = -1, .out = {-1, -1}, .err = {-1, -1}, .pidfd = -1};
	char *text;
	int r;

	run.output.max = CNI_OUTPUT_MAX + 128 * 1024;
	r = run_fds(&run, input, input_len, err);
	if (r == 0)
		r = spawn_plugin(&run, path, env, err);
	if (r < 0)
		goto out;
	r = pump(&run, deadline_ns, cancel_fd);
	if (r < 0) {
		kill_group(&run);
		if (r == -ETIMEDOUT)
			err_set(err, r, "killed: it did not end before the deadline");
		else if (r == -ECANCELED)
			err_set_status(err, r, ERR_CANCELLED, "killed: its result is not wanted any more");
		else if (r == -EMSGSIZE || r == -ENOBUFS)
			err_set_status(err, r, ERR_INTERNAL, "killed: it wrote more than %d bytes of output",
				       CNI_OUTPUT_MAX);
		else
			err_set_errno(err, r, "reading its output");
		goto out;
	}
	ret_output->status = reap(&run);
	text = malloc(run.output.len + 1);
	if (!text) {
		r = err_oom(err);
		goto out;
	}
	if (run.output.len)
		memcpy(text, buf_data(&run.output), run.output.len);
	text[run.output.len] = '\0';
	ret_output->out = text;
	ret_output->out_len = run.output.len;
	memcpy(ret_output->err, run.err_text, sizeof(run.err_text));
	text_clean(ret_output->err);
	r = 0;
out:
	run_done(&run);
	return r;
}

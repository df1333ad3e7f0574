/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SandboxService.ExecVMProcess: a shell command in the VM itself, for debugging. Only with task.debug: it
 * runs as root beside every container. Its output and its time are bounded.
 */
#include "guest/pod/methods_internal.h"

#include "api/agent/sandbox.pb-c.h"
#include "base/util.h"
#include "guest/core/loop.h"
#include "guest/core/reap.h"
#include "guest/rpc/request.h"
#include "guest/core/spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>

#define OUT_MAX	    (1u << 20)
#define IN_MAX	    (1u << 20)
#define DEADLINE_NS (30 * NS_PER_SEC)

struct vmexec {
	struct agent *agent;
	struct rpc_slot slot;
	pid_t pid; /* 0: it has ended */
	int status;
	bool late, cut;
	struct reap_watch watch;
	struct loop_timer deadline;
	int fd; /* -1: output is complete */
	struct loop_source *src;
	struct buf out;
};

static void finish(struct vmexec *v)
{
	Grpc__ExecVMProcessResponse resp = GRPC__EXEC_VMPROCESS_RESPONSE__INIT;
	struct err err = ERR_INIT;

	(void)buf_put(&v->out, "", 1);
	resp.out = v->out.len > 0 ? (char *)buf_data(&v->out) : resp.out;
	if (v->late)
		err_set(&err, -ETIMEDOUT, "the command did not finish within %lld s",
			DEADLINE_NS / NS_PER_SEC);
	else if (v->cut)
		err_set_status(&err, -EFBIG, ERR_RESOURCE_EXHAUSTED, "the command wrote more than %u bytes",
			       OUT_MAX);
	else if (v->status != 0)
		err_set_status(&err, -EIO, ERR_UNKNOWN, "status %d: %s", v->status, resp.out);
	else if (!utf8_valid(resp.out, strlen(resp.out)))
		err_set_status(&err, -EILSEQ, ERR_DATA_LOSS, "the output is not valid UTF-8");
	if (err.code)
		rpc_slot_fail(&v->slot, &err);
	else
		rpc_slot_reply(&v->slot, &resp.base);
	loop_timer_clear(&v->deadline);
	reap_unwatch(&v->watch);
	loop_source_free(v->src);
	close_fd(v->fd);
	buf_done(&v->out);
	free(v);
}

static void stop(struct vmexec *v)
{
	if (v->pid > 0)
		kill(-v->pid, SIGKILL);
	v->src = loop_source_free(v->src);
	v->fd = close_fd(v->fd);
}

static void on_late(void *arg)
{
	struct vmexec *v = arg;

	v->late = true;
	stop(v);
	if (v->pid == 0)
		finish(v);
}

static void on_out(void *arg, int fd, uint32_t events)
{
	struct vmexec *v = arg;
	ssize_t n = buf_read_fd(&v->out, fd, 4096);

	(void)events;
	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n > 0 && v->out.len < OUT_MAX)
		return;
	v->cut = n > 0;
	stop(v);
	if (v->pid == 0)
		finish(v);
}

static void on_exit_(void *arg, pid_t pid, int status, int64_t at_ns)
{
	struct vmexec *v = arg;

	(void)at_ns;
	v->pid = 0;
	v->status = status;
	kill(-pid, SIGKILL); /* its background processes would keep the output open */
	if (v->fd < 0)
		finish(v);
}

/* Standard input as an anonymous file, so that it need not be fed. */
static int input(const void *data, size_t len)
{
	int fd = memfd_create("stdin", MFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (write_full(fd, data, len) < 0 || lseek(fd, 0, SEEK_SET) < 0) {
		close_fd(fd);
		return -EIO;
	}
	return fd;
}

static int start(struct vmexec *v, const Grpc__ExecVMProcessRequest *m, struct err *err)
{
	char *argv[] = {(char *)"/bin/sh", (char *)"-c", m->command, NULL};
	int in CLEANUP_CLOSE = input(m->stdin.data, m->stdin.len);
	int fds[2];
	struct spawn s;
	pid_t pid;

	if (in < 0)
		return err_set_errno(err, in, "standard input of the command");
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set_errno(err, -errno, "pipe");
	v->fd = fds[0];
	set_nonblock(v->fd, true);
	v->src = loop_add(v->agent->loop, v->fd, EPOLLIN, on_out, v);
	s = (struct spawn){.argv = argv, .stdio = {in, fds[1], fds[1]}};
	pid = v->src ? spawn_run(&s, err) : err_oom(err);
	close_fd(fds[1]);
	if (pid < 0)
		return (int)pid;
	v->pid = pid;
	reap_watch(&v->watch, pid, UINT64_MAX, on_exit_, v);
	loop_timer_set(v->agent->loop, &v->deadline, now_monotonic_ns() + DEADLINE_NS, on_late, v);
	return 0;
}

void vmexec_run(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len)
{
	Grpc__ExecVMProcessRequest *m RPC_MESSAGE =
		rpc_unpack(req, &grpc__exec_vmprocess_request__descriptor, payload, len);
	struct agent *agent = service_ctx;
	struct err err = ERR_INIT;
	struct vmexec *v = NULL;

	if (!m)
		return;
	if (!agent->debug)
		err_set(&err, -EPERM, "commands in the VM need task.debug on its kernel command line");
	else if (str_empty(m->command) || m->stdin.len > IN_MAX)
		err_set(&err, -EINVAL,
			str_empty(m->command) ? "the command is empty" : "more than 1 MiB of input");
	else if (!(v = calloc(1, sizeof(*v))))
		err_oom(&err);
	if (v) {
		agent_settle(agent);
		*v = (struct vmexec){.agent = agent, .fd = -1, .out.max = OUT_MAX + 8192};
		if (start(v, m, &err) < 0) {
			loop_source_free(v->src);
			close_fd(v->fd);
			free(v);
			v = NULL;
		}
	}
	if (v)
		rpc_slot_take(&v->slot, req, NULL, NULL);
	else
		ttrpc_fail(req, &err);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/container/stdio_internal.h"

#include "api/agent/guest_abi.h"
#include "base/util.h"
#include "guest/container/containers_internal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>

#define READ_CHUNK 16384

static void on_out(void *arg, int fd, uint32_t events);

/* ---- listeners ----------------------------------------------------------------------------------------- */

static void on_tell(void *arg)
{
	struct stdio *stdio = arg;
	struct stdio_listener *l = stdio->listeners;

	while (l) {
		struct stdio_listener *next = l->next;

		l->fn(l->arg);
		l = next;
	}
}

static void tell(struct stdio *stdio)
{
	if (stdio->listeners && !stdio->dead)
		loop_later(stdio->agent->loop, &stdio->tell, on_tell, stdio);
}

void stdio_listen(struct stdio *stdio, struct stdio_listener *l, void (*fn)(void *arg), void *arg)
{
	*l = (struct stdio_listener){.next = stdio->listeners, .fn = fn, .arg = arg, .on = true};
	stdio->listeners = l;
}

void stdio_unlisten(struct stdio *stdio, struct stdio_listener *l)
{
	struct stdio_listener **p = &stdio->listeners;

	if (!l->on)
		return;
	while (*p && *p != l)
		p = &(*p)->next;
	if (*p)
		*p = l->next;
	l->on = false;
}

/* ---- output -------------------------------------------------------------------------------------------- */

static void end_close(struct stdio_end *end)
{
	end->src = loop_source_free(end->src);
	end->fd = close_fd(end->fd);
}

static void out_close(struct stdio *stdio, struct stdio_end *end)
{
	end_close(end);
	if (end == &stdio->out[0])
		stdio->tty = -1;
	tell(stdio);
}

bool stdio_ended(const struct stdio *stdio, enum outlog_stream stream)
{
	if (stdio->dead)
		return true;
	return stdio->out[stream == OUTLOG_STDERR].fd < 0 && stdio->console < 0;
}

/* Reads are on exactly while the log has room. */
static void out_events(struct stdio *stdio)
{
	bool room = outlog_space(&stdio->log) > 0;

	for (int i = 0; i < 2; i++)
		loop_set_events(stdio->out[i].src, room ? EPOLLIN : 0);
}

static void on_out(void *arg, int fd, uint32_t events)
{
	static unsigned char chunk[READ_CHUNK];
	struct stdio *stdio = arg;
	bool second = fd == stdio->out[1].fd;
	size_t room = outlog_space(&stdio->log);
	ssize_t n;

	(void)events;
	if (room > 0) {
		n = read(fd, chunk, room < sizeof(chunk) ? room : sizeof(chunk));
		/* A terminal answers EIO once no process has it open. */
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			out_close(stdio, &stdio->out[second]);
		} else if (n > 0 && outlog_append(&stdio->log, second ? OUTLOG_STDERR : OUTLOG_STDOUT, chunk,
						  (size_t)n) == 0) {
			tell(stdio);
		}
	}
	out_events(stdio);
}

/*
 * The process has been gone for a while. What its pipe holds at this moment is still taken, then the pipe is
 * closed, even if another process has it open. Not while data waits for room in the log: then the host is
 * slow, not a writer forgotten.
 */
static void on_grace(void *arg)
{
	struct stdio *stdio = arg;

	for (int i = 0; i < 2; i++) {
		int pending = 0;

		if (stdio->out[i].fd >= 0 && ioctl(stdio->out[i].fd, FIONREAD, &pending) < 0)
			pending = 0;
		for (; stdio->out[i].fd >= 0 && pending > 0 && outlog_space(&stdio->log) > 0;
		     pending -= READ_CHUNK)
			on_out(stdio, stdio->out[i].fd, EPOLLIN);
		if (stdio->out[i].fd >= 0 && pending > 0) {
			loop_timer_set(stdio->agent->loop, &stdio->grace, now_monotonic_ns() + STDIO_GRACE_NS,
				       on_grace, stdio);
			return;
		}
		if (stdio->out[i].fd >= 0)
			out_close(stdio, &stdio->out[i]);
	}
}

void stdio_exited(struct stdio *stdio)
{
	stdio->exited = true;
	stdio->in_gone = true;
	buf_done(&stdio->in_buf);
	end_close(&stdio->in);
	if (stdio->console >= 0) {
		/* It died before it had a terminal. */
		stdio->console_src = loop_source_free(stdio->console_src);
		stdio->console = close_fd(stdio->console);
		unlink(stdio->console_path);
	}
	if (!stdio_all_ended(stdio) && !stdio->patient)
		loop_timer_set(stdio->agent->loop, &stdio->grace, now_monotonic_ns() + STDIO_GRACE_NS,
			       on_grace, stdio);
	tell(stdio);
}

int stdio_ack(struct stdio *stdio, uint64_t offset, struct err *err)
{
	struct outlog_pool *pool = &stdio->agent->containers->logs;
	bool was_full = pool->used >= pool->max;
	int r = outlog_ack(&stdio->log, offset);

	if (r < 0)
		return err_set_status(err, r, ERR_OUT_OF_RANGE, "offset %llu is beyond the end %llu",
				      (unsigned long long)offset,
				      (unsigned long long)outlog_end(&stdio->log));
	out_events(stdio);
	for (struct stdio *p = stdio->agent->containers->stdios; p && was_full; p = p->next)
		out_events(p);
	return 0;
}

/* ---- input --------------------------------------------------------------------------------------------- */

bool stdio_has_in(const struct stdio *stdio)
{
	return stdio->in.fd >= 0 || stdio->console >= 0;
}

static void in_close(struct stdio *stdio)
{
	stdio->in_gone = true;
	buf_done(&stdio->in_buf);
	end_close(&stdio->in);
	tell(stdio);
}

static void in_pump(struct stdio *stdio)
{
	if (stdio->in.fd < 0)
		return;
	while (stdio->in_buf.len > 0) {
		ssize_t n = write(stdio->in.fd, buf_data(&stdio->in_buf), stdio->in_buf.len);

		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0 && errno != EINTR) {
			in_close(stdio);
			return;
		}
		if (n > 0) {
			buf_consume(&stdio->in_buf, (size_t)n);
			tell(stdio);
		}
	}
	if (stdio->in_buf.len == 0 && stdio->in_eof) {
		in_close(stdio);
		return;
	}
	loop_set_events(stdio->in.src, stdio->in_buf.len > 0 ? EPOLLOUT : 0);
}

static void on_in(void *arg, int fd, uint32_t events)
{
	(void)fd;
	(void)events;
	in_pump(arg);
}

int stdio_write(struct stdio *stdio, const void *data, size_t len)
{
	int r;

	if (stdio->in_gone || stdio->in_eof || !stdio_has_in(stdio))
		return -EPIPE;
	if (len == 0)
		return 0;
	if (stdio->in_buf.len + len > STDIO_IN_MAX)
		return -ENOBUFS;
	r = buf_put(&stdio->in_buf, data, len);
	if (r == 0)
		in_pump(stdio);
	return r;
}

void stdio_close_in(struct stdio *stdio)
{
	stdio->in_eof = true;
	in_pump(stdio);
}

/* ---- terminal ------------------------------------------------------------------------------------------ */

int stdio_resize(struct stdio *stdio, uint32_t cols, uint32_t rows, struct err *err)
{
	struct winsize ws = {.ws_col = (unsigned short)cols, .ws_row = (unsigned short)rows};

	if (cols > UINT16_MAX || rows > UINT16_MAX)
		return err_set(err, -EINVAL, "terminal size %ux%u is too large", cols, rows);
	stdio->cols = cols;
	stdio->rows = rows;
	if (stdio->tty < 0 && stdio->console < 0)
		return err_set_status(err, -ENOTTY, ERR_FAILED_PRECONDITION, "process has no terminal");
	if (stdio->tty >= 0 && ioctl(stdio->tty, TIOCSWINSZ, &ws) < 0)
		return err_set_errno(err, -errno, "resize terminal");
	return 0;
}

static int tty_take(struct stdio *stdio, int master)
{
	int in = fcntl(master, F_DUPFD_CLOEXEC, 3);

	if (in < 0 || set_nonblock(master, true) < 0) {
		close_fd(in);
		close_fd(master);
		return -EIO;
	}
	stdio->tty = master;
	stdio->out[0].fd = master;
	stdio->out[0].src = loop_add(stdio->agent->loop, master, 0, on_out, stdio);
	stdio->in.fd = in;
	stdio->in.src = loop_add(stdio->agent->loop, in, 0, on_in, stdio);
	if (!stdio->out[0].src || !stdio->in.src)
		return -ENOMEM;
	if (stdio->cols && stdio->rows)
		(void)stdio_resize(stdio, stdio->cols, stdio->rows, NULL);
	out_events(stdio);
	in_pump(stdio);
	return 0;
}

/* The runtime connects and sends the master by SCM_RIGHTS, as the OCI runtimes' console socket does. */
static int recv_fd(int sock)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	char name[256];
	struct iovec iov = {.iov_base = name, .iov_len = sizeof(name)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.buf,
			     .msg_controllen = sizeof(control.buf)};
	struct cmsghdr *c;
	int fd;

	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC) < 0)
		return -errno;
	c = CMSG_FIRSTHDR(&msg);
	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
	    c->cmsg_len != CMSG_LEN(sizeof(int)))
		return -EPROTO;
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

static void on_console(void *arg, int fd, uint32_t events)
{
	struct stdio *stdio = arg;
	/* The runtime sends right after it connects; the timeout only bounds a broken one. */
	struct timeval timeout = {.tv_sec = 1};
	int conn CLEANUP_CLOSE = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	int master;

	(void)events;
	if (conn < 0)
		return;
	setsockopt(conn, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	master = recv_fd(conn);
	if (master < 0)
		return;
	stdio->console_src = loop_source_free(stdio->console_src);
	stdio->console = close_fd(stdio->console);
	unlink(stdio->console_path);
	(void)tty_take(stdio, master);
	tell(stdio);
}

static int console_open(struct stdio *stdio, struct err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(stdio->console_path, sizeof(stdio->console_path), "%s/%u.tty", stdio->agent->paths.tmp,
		 agent_serial());
	memcpy(addr.sun_path, stdio->console_path, sizeof(stdio->console_path));
	stdio->console = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (stdio->console < 0)
		return err_set_errno(err, -errno, "console socket");
	if (bind(stdio->console, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(stdio->console, 1) < 0)
		return err_set_errno(err, -errno, "console socket %s", stdio->console_path);
	stdio->console_src = loop_add(stdio->agent->loop, stdio->console, EPOLLIN, on_console, stdio);
	return stdio->console_src ? 0 : err_set(err, -ENOMEM, "watch the console socket");
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static int open_pipe(struct stdio *stdio, struct stdio_end *ours, int our_side, int *ret_theirs,
		     loop_fd_fn *fn, struct err *err)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set_errno(err, -errno, "pipe");
	ours->fd = fds[our_side];
	*ret_theirs = fds[!our_side];
	if (set_nonblock(ours->fd, true) < 0)
		return err_set_errno(err, -errno, "pipe");
	ours->src = loop_add(stdio->agent->loop, ours->fd, our_side == 0 ? EPOLLIN : 0, fn, stdio);
	return ours->src ? 0 : err_set(err, -ENOMEM, "watch a pipe");
}

static int open_pipes(struct stdio *stdio, bool want_stdin, int child_stdio[3], struct err *err)
{
	int r = open_pipe(stdio, &stdio->out[0], 0, &child_stdio[1], on_out, err);

	if (r == 0)
		r = open_pipe(stdio, &stdio->out[1], 0, &child_stdio[2], on_out, err);
	if (r == 0 && want_stdin)
		r = open_pipe(stdio, &stdio->in, 1, &child_stdio[0], on_in, err);
	return r;
}

struct stdio *stdio_new(struct agent *agent, bool terminal, bool want_stdin, int child_stdio[3],
			struct err *err)
{
	struct stdio *stdio = calloc(1, sizeof(*stdio));
	int r;

	child_stdio[0] = child_stdio[1] = child_stdio[2] = -1;
	if (!stdio) {
		err_oom(err);
		return NULL;
	}
	stdio->agent = agent;
	stdio->tty = stdio->console = stdio->in.fd = stdio->out[0].fd = stdio->out[1].fd = -1;
	outlog_init(&stdio->log, &agent->containers->logs, GUEST_LOG_BUFFER_BYTES);
	stdio->next = agent->containers->stdios;
	if (agent->containers->stdios)
		agent->containers->stdios->prev = stdio;
	agent->containers->stdios = stdio;
	r = terminal ? console_open(stdio, err) : open_pipes(stdio, want_stdin, child_stdio, err);
	if (r < 0) {
		for (int i = 0; i < 3; i++)
			child_stdio[i] = close_fd(child_stdio[i]);
		return stdio_free(stdio);
	}
	return stdio;
}

struct stdio *stdio_free(struct stdio *stdio)
{
	if (!stdio)
		return NULL;
	stdio->dead = true;
	loop_task_clear(stdio->agent->loop, &stdio->tell);
	on_tell(stdio);
	loop_timer_clear(&stdio->grace);
	end_close(&stdio->in);
	end_close(&stdio->out[0]);
	end_close(&stdio->out[1]);
	loop_source_free(stdio->console_src);
	if (stdio->console >= 0) {
		close_fd(stdio->console);
		unlink(stdio->console_path);
	}
	outlog_done(&stdio->log);
	buf_done(&stdio->in_buf);
	if (stdio->prev)
		stdio->prev->next = stdio->next;
	else
		stdio->agent->containers->stdios = stdio->next;
	if (stdio->next)
		stdio->next->prev = stdio->prev;
	free(stdio);
	return NULL;
}

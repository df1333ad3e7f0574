#include "guest/container/stdio.h"

#include "api/agent/guest_abi.h"
#include "base/util.h"
#include "guest/core/agent.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>

#define READ_CHUNK 16384

static void on_out(void *arg, int fd, uint32_t events);

/* ---- listeners --------------------------------------------------------------------------------------- */

static void on_tell(void *arg)
{
	struct pio *pio = arg;
	struct pio_listener *l = pio->listeners;

	while (l) {
		struct pio_listener *next = l->next;

		l->fn(l->arg);
		l = next;
	}
}

static void tell(struct pio *pio)
{
	if (pio->listeners && !pio->dead)
		eloop_later(pio->g->loop, &pio->tell, on_tell, pio);
}

void pio_listen(struct pio *pio, struct pio_listener *l, void (*fn)(void *arg), void *arg)
{
	*l = (struct pio_listener){.next = pio->listeners, .fn = fn, .arg = arg, .on = true};
	pio->listeners = l;
}

void pio_unlisten(struct pio *pio, struct pio_listener *l)
{
	struct pio_listener **p = &pio->listeners;

	if (!l->on)
		return;
	while (*p && *p != l)
		p = &(*p)->next;
	if (*p)
		*p = l->next;
	l->on = false;
}

/* ---- output ------------------------------------------------------------------------------------------ */

static void end_close(struct pio_end *end)
{
	end->src = eloop_source_free(end->src);
	end->fd = close_fd(end->fd);
}

static void out_close(struct pio *pio, struct pio_end *end)
{
	end_close(end);
	if (end == &pio->out[0])
		pio->tty = -1;
	tell(pio);
}

bool pio_ended(const struct pio *pio, enum outlog_stream stream)
{
	if (pio->dead)
		return true;
	return pio->out[stream == OUTLOG_STDERR].fd < 0 && pio->console < 0;
}

/* Reads are on exactly while the log has room. */
static void out_events(struct pio *pio)
{
	bool room = outlog_space(&pio->log) > 0;

	for (int i = 0; i < 2; i++)
		eloop_set_events(pio->out[i].src, room ? EPOLLIN : 0);
}

static void on_out(void *arg, int fd, uint32_t events)
{
	static unsigned char chunk[READ_CHUNK];
	struct pio *pio = arg;
	bool second = fd == pio->out[1].fd;
	size_t room = outlog_space(&pio->log);
	ssize_t n;

	(void)events;
	if (room > 0) {
		n = read(fd, chunk, room < sizeof(chunk) ? room : sizeof(chunk));
		/* A terminal says EIO once nobody has it open any more. */
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			out_close(pio, &pio->out[second]);
		} else if (n > 0 && outlog_append(&pio->log, second ? OUTLOG_STDERR : OUTLOG_STDOUT, chunk,
						  (size_t)n) == 0) {
			tell(pio);
		}
	}
	out_events(pio);
}

/*
 * The process has been gone for a while. What its pipe holds at this moment is still taken, then the pipe is
 * closed, whoever else has it open. Not while data waits for room in the log: that is the host's pace, not a
 * forgotten writer.
 */
static void on_grace(void *arg)
{
	struct pio *pio = arg;

	for (int i = 0; i < 2; i++) {
		int pending = 0;

		if (pio->out[i].fd >= 0 && ioctl(pio->out[i].fd, FIONREAD, &pending) < 0)
			pending = 0;
		for (; pio->out[i].fd >= 0 && pending > 0 && outlog_space(&pio->log) > 0;
		     pending -= READ_CHUNK)
			on_out(pio, pio->out[i].fd, EPOLLIN);
		if (pio->out[i].fd >= 0 && pending > 0) {
			eloop_timer_set(pio->g->loop, &pio->grace, now_monotonic_ns() + PIO_GRACE_NS,
					on_grace, pio);
			return;
		}
		if (pio->out[i].fd >= 0)
			out_close(pio, &pio->out[i]);
	}
}

void pio_exited(struct pio *pio)
{
	pio->exited = true;
	pio->in_gone = true;
	buf_done(&pio->in_buf);
	end_close(&pio->in);
	if (pio->console >= 0) {
		/* It died before it had a terminal. */
		pio->console_src = eloop_source_free(pio->console_src);
		pio->console = close_fd(pio->console);
		unlink(pio->console_path);
	}
	if (!pio_all_ended(pio))
		eloop_timer_set(pio->g->loop, &pio->grace, now_monotonic_ns() + PIO_GRACE_NS, on_grace, pio);
	tell(pio);
}

int pio_ack(struct pio *pio, uint64_t offset, struct err *err)
{
	struct outlog_pool *pool = &pio->g->logs;
	bool was_full = pool->used >= pool->max;
	int r = outlog_ack(&pio->log, offset);

	if (r < 0)
		return err_set_status(err, r, ERR_OUT_OF_RANGE, "offset %llu lies beyond the end %llu",
				      (unsigned long long)offset, (unsigned long long)outlog_end(&pio->log));
	out_events(pio);
	for (struct pio *p = pio->g->pios; p && was_full; p = p->next)
		out_events(p);
	return 0;
}

/* ---- input ------------------------------------------------------------------------------------------- */

bool pio_has_in(const struct pio *pio)
{
	return pio->in.fd >= 0 || pio->console >= 0;
}

static void in_close(struct pio *pio)
{
	pio->in_gone = true;
	buf_done(&pio->in_buf);
	end_close(&pio->in);
	tell(pio);
}

static void in_pump(struct pio *pio)
{
	if (pio->in.fd < 0)
		return;
	while (pio->in_buf.len > 0) {
		ssize_t n = write(pio->in.fd, buf_data(&pio->in_buf), pio->in_buf.len);

		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0 && errno != EINTR) {
			in_close(pio);
			return;
		}
		if (n > 0) {
			buf_consume(&pio->in_buf, (size_t)n);
			tell(pio);
		}
	}
	if (pio->in_buf.len == 0 && pio->in_eof) {
		in_close(pio);
		return;
	}
	eloop_set_events(pio->in.src, pio->in_buf.len > 0 ? EPOLLOUT : 0);
}

static void on_in(void *arg, int fd, uint32_t events)
{
	(void)fd;
	(void)events;
	in_pump(arg);
}

int pio_write(struct pio *pio, const void *data, size_t len)
{
	int r;

	if (pio->in_gone || pio->in_eof || !pio_has_in(pio))
		return -EPIPE;
	if (len == 0)
		return 0;
	if (pio->in_buf.len + len > PIO_IN_MAX)
		return -ENOBUFS;
	r = buf_put(&pio->in_buf, data, len);
	if (r == 0)
		in_pump(pio);
	return r;
}

void pio_close_in(struct pio *pio)
{
	pio->in_eof = true;
	in_pump(pio);
}

/* ---- terminal ---------------------------------------------------------------------------------------- */

int pio_resize(struct pio *pio, uint32_t cols, uint32_t rows, struct err *err)
{
	struct winsize ws = {.ws_col = (unsigned short)cols, .ws_row = (unsigned short)rows};

	if (cols > UINT16_MAX || rows > UINT16_MAX)
		return err_set(err, -EINVAL, "terminal size %ux%u is too large", cols, rows);
	pio->cols = cols;
	pio->rows = rows;
	if (pio->tty < 0 && pio->console < 0)
		return err_set_status(err, -ENOTTY, ERR_FAILED_PRECONDITION, "process has no terminal");
	if (pio->tty >= 0 && ioctl(pio->tty, TIOCSWINSZ, &ws) < 0)
		return err_set_errno(err, -errno, "resize terminal");
	return 0;
}

static int tty_take(struct pio *pio, int master)
{
	int in = fcntl(master, F_DUPFD_CLOEXEC, 3);

	if (in < 0 || set_nonblock(master, true) < 0) {
		close_fd(in);
		close_fd(master);
		return -EIO;
	}
	pio->tty = master;
	pio->out[0].fd = master;
	pio->out[0].src = eloop_add(pio->g->loop, master, 0, on_out, pio);
	pio->in.fd = in;
	pio->in.src = eloop_add(pio->g->loop, in, 0, on_in, pio);
	if (!pio->out[0].src || !pio->in.src)
		return -ENOMEM;
	if (pio->cols && pio->rows)
		(void)pio_resize(pio, pio->cols, pio->rows, NULL);
	out_events(pio);
	in_pump(pio);
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
	struct pio *pio = arg;
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
	pio->console_src = eloop_source_free(pio->console_src);
	pio->console = close_fd(pio->console);
	unlink(pio->console_path);
	(void)tty_take(pio, master);
	tell(pio);
}

static int console_open(struct pio *pio, struct err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(pio->console_path, sizeof(pio->console_path), "%s/%u.tty", guest_tmp_dir, guest_serial());
	memcpy(addr.sun_path, pio->console_path, sizeof(pio->console_path));
	pio->console = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (pio->console < 0)
		return err_set_errno(err, -errno, "console socket");
	if (bind(pio->console, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(pio->console, 1) < 0)
		return err_set_errno(err, -errno, "console socket %s", pio->console_path);
	pio->console_src = eloop_add(pio->g->loop, pio->console, EPOLLIN, on_console, pio);
	return pio->console_src ? 0 : err_set(err, -ENOMEM, "watch the console socket");
}

/* ---- life -------------------------------------------------------------------------------------------- */

static int open_pipe(struct pio *pio, struct pio_end *ours, int our_side, int *ret_theirs, eloop_fd_fn *fn,
		     struct err *err)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set_errno(err, -errno, "pipe");
	ours->fd = fds[our_side];
	*ret_theirs = fds[!our_side];
	if (set_nonblock(ours->fd, true) < 0)
		return err_set_errno(err, -errno, "pipe");
	ours->src = eloop_add(pio->g->loop, ours->fd, our_side == 0 ? EPOLLIN : 0, fn, pio);
	return ours->src ? 0 : err_set(err, -ENOMEM, "watch a pipe");
}

static int open_pipes(struct pio *pio, bool want_stdin, int child_stdio[3], struct err *err)
{
	int r = open_pipe(pio, &pio->out[0], 0, &child_stdio[1], on_out, err);

	if (r == 0)
		r = open_pipe(pio, &pio->out[1], 0, &child_stdio[2], on_out, err);
	if (r == 0 && want_stdin)
		r = open_pipe(pio, &pio->in, 1, &child_stdio[0], on_in, err);
	return r;
}

struct pio *pio_new(struct guest *g, bool terminal, bool want_stdin, int child_stdio[3], struct err *err)
{
	struct pio *pio = calloc(1, sizeof(*pio));
	int r;

	child_stdio[0] = child_stdio[1] = child_stdio[2] = -1;
	if (!pio) {
		err_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	pio->g = g;
	pio->tty = pio->console = pio->in.fd = pio->out[0].fd = pio->out[1].fd = -1;
	outlog_init(&pio->log, &g->logs, GUEST_LOG_BUFFER_BYTES);
	pio->next = g->pios;
	if (g->pios)
		g->pios->prev = pio;
	g->pios = pio;
	r = terminal ? console_open(pio, err) : open_pipes(pio, want_stdin, child_stdio, err);
	if (r < 0) {
		for (int i = 0; i < 3; i++)
			child_stdio[i] = close_fd(child_stdio[i]);
		return pio_free(pio);
	}
	return pio;
}

struct pio *pio_free(struct pio *pio)
{
	if (!pio)
		return NULL;
	pio->dead = true;
	eloop_task_clear(pio->g->loop, &pio->tell);
	on_tell(pio);
	eloop_timer_clear(&pio->grace);
	end_close(&pio->in);
	end_close(&pio->out[0]);
	end_close(&pio->out[1]);
	eloop_source_free(pio->console_src);
	if (pio->console >= 0) {
		close_fd(pio->console);
		unlink(pio->console_path);
	}
	outlog_done(&pio->log);
	buf_done(&pio->in_buf);
	if (pio->prev)
		pio->prev->next = pio->next;
	else
		pio->g->pios = pio->next;
	if (pio->next)
		pio->next->prev = pio->prev;
	free(pio);
	return NULL;
}

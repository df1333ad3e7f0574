/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/init/console_internal.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/util.h"
#include "guest/init/vsock_internal.h"
#include "guest/rpc/server.h"
#include "guest/core/loop.h"
#include "guest/core/reap.h"
#include "guest/core/spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>

/* One direction: from one fd to another. */
struct way {
	int from, to;
	bool to_sock;
	struct buf buf;
};

struct console {
	struct agent *agent;
	pid_t pid;
	struct reap_watch watch;
	int sock, tty;
	struct loop_source *sock_src, *tty_src;
	struct way in, out;
	bool over; /* no more comes from the terminal: close once all is sent */
};

static unsigned int consoles;
static const char *shell;

static void console_free(struct console *c)
{
	if (c->pid > 0)
		kill(-c->pid, SIGHUP);
	reap_unwatch(&c->watch);
	loop_source_free(c->sock_src);
	loop_source_free(c->tty_src);
	close_fd(c->sock);
	close_fd(c->tty);
	buf_done(&c->in.buf);
	buf_done(&c->out.buf);
	consoles--;
	free(c);
}

/* Moves what can be moved. 0, or a negative errno (-EPIPE at the end). */
static int way_pump(struct way *w)
{
	ssize_t n = -EAGAIN;

	if (w->buf.len < CONSOLE_BUFFER / 2)
		n = buf_read_fd(&w->buf, w->from, 4096);
	while (w->buf.len > 0) {
		ssize_t m = w->to_sock ? server_send(&w->buf, w->to) : buf_write_fd(&w->buf, w->to);

		if (m == -EAGAIN || m == -EINTR)
			break;
		if (m < 0)
			return (int)m;
	}
	if (n == 0)
		return -EPIPE;
	return n < 0 && n != -EAGAIN && n != -EINTR ? (int)n : 0;
}

static uint32_t events_of(const struct way *from, const struct way *to)
{
	return (from->buf.len < CONSOLE_BUFFER / 2 ? EPOLLIN : 0U) | (to->buf.len > 0 ? EPOLLOUT : 0U);
}

static void on_event(void *arg, int fd, uint32_t events)
{
	struct console *c = arg;

	(void)fd;
	(void)events;
	if (way_pump(&c->in) < 0) {
		console_free(c);
		return;
	}
	if (way_pump(&c->out) < 0)
		c->over = true;
	if (c->over && c->out.buf.len == 0) {
		console_free(c);
		return;
	}
	loop_set_events(c->sock_src, events_of(&c->in, &c->out));
	loop_set_events(c->tty_src, c->over ? 0 : events_of(&c->out, &c->in));
}

static void on_exit_(void *arg, pid_t pid, int status, int64_t at_ns)
{
	struct console *c = arg;

	(void)pid;
	(void)status;
	(void)at_ns;
	c->pid = 0; /* the terminal's end follows */
}

/* A new terminal: the master, and its other side in *ret_slave. */
static int open_tty(int *ret_slave)
{
	int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	int unlock = 0, slave;

	if (master < 0)
		return -errno;
	if (ioctl(master, TIOCSPTLCK, &unlock) < 0 ||
	    (slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0) {
		int r = -errno;

		close_fd(master);
		return r;
	}
	*ret_slave = slave;
	return master;
}

static int console_new(struct agent *agent, int sock)
{
	char *argv[] = {(char *)shell, (char *)"-i", NULL};
	struct console *c = calloc(1, sizeof(*c));
	struct spawn s = {.argv = argv, .tty = true};
	int slave = -1;

	if (!c)
		return -ENOMEM;
	consoles++;
	*c = (struct console){.agent = agent, .sock = sock, .tty = open_tty(&slave)};
	if (c->tty < 0) {
		int r = c->tty;

		c->sock = -1;
		console_free(c);
		return r;
	}
	s.stdio[0] = s.stdio[1] = s.stdio[2] = slave;
	c->in = (struct way){.from = sock, .to = c->tty};
	c->out = (struct way){.from = c->tty, .to = sock, .to_sock = true};
	c->sock_src = loop_add(agent->loop, sock, EPOLLIN, on_event, c);
	c->tty_src = loop_add(agent->loop, c->tty, EPOLLIN, on_event, c);
	c->pid = c->sock_src && c->tty_src ? spawn_run(&s, NULL) : -ENOMEM;
	close_fd(slave);
	if (c->pid < 0) {
		int r = (int)c->pid;

		c->sock = -1;
		console_free(c);
		return r;
	}
	reap_watch(&c->watch, c->pid, UINT64_MAX, on_exit_, c);
	return 0;
}

static void on_listen(void *arg, int fd, uint32_t events)
{
	int sock = vsock_accept(fd);

	(void)events;
	if (sock < 0)
		return;
	if (consoles >= CONSOLE_MAX || console_new(arg, sock) < 0) {
		log_warn("debug console refused: %u are open", consoles);
		close_fd(sock);
	}
}

int console_setup(struct agent *agent, const char *program, unsigned int port, struct err *err)
{
	int fd = vsock_listen(port, err);

	shell = program;
	if (fd < 0)
		return fd;
	if (!loop_add(agent->loop, fd, EPOLLIN, on_listen, agent)) {
		close_fd(fd);
		return err_set(err, -ENOMEM, "watch vsock port %u", port);
	}
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/driver_internal.h"

#include "base/util.h"

#include <fcntl.h>
#include <sys/inotify.h>

/*
 * init/main.c of Linux prints the first right before it runs PID 1; the second begins whatever our agent
 * says.
 */
static const char *const signs[] = {"as init process", "crivisor-agent"};

void console_init(struct console *c, const char *path)
{
	*c = (struct console){.fd = -1, .watch = -1};
	c->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	c->watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (c->watch >= 0 && inotify_add_watch(c->watch, path, IN_MODIFY) < 0)
		c->watch = close_fd(c->watch);
}

void console_done(struct console *c)
{
	c->fd = close_fd(c->fd);
	c->watch = close_fd(c->watch);
}

bool console_sign(struct console *c, const char *text, size_t len)
{
	char both[sizeof(c->window) + 4096];

	while (len > 0 && !c->up) {
		size_t take = len < 4096 ? len : 4096, total;

		memcpy(both, c->window, c->kept);
		memcpy(both + c->kept, text, take);
		total = c->kept + take;
		for (size_t i = 0; i < ARRAY_SIZE(signs); i++)
			c->up = c->up || memmem(both, total, signs[i], strlen(signs[i]));
		c->kept = total < sizeof(c->window) ? total : sizeof(c->window);
		memcpy(c->window, both + total - c->kept, c->kept);
		text += take;
		len -= take;
	}
	return c->up;
}

bool console_read(struct console *c)
{
	char text[4096];
	ssize_t n;
	off_t data;

	while (c->watch >= 0 && read(c->watch, text, sizeof(text)) > 0)
		;
	/* What has been trimmed is a hole. */
	data = c->fd < 0 || c->up ? -1 : lseek(c->fd, c->offset, SEEK_DATA);
	if (data > c->offset)
		c->offset = data;
	while (!c->up && c->fd >= 0 && (n = pread(c->fd, text, sizeof(text), c->offset)) > 0) {
		c->offset += n;
		console_sign(c, text, (size_t)n);
	}
	return c->up;
}

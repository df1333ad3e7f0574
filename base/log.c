/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include "base/util.h"

#include <stdatomic.h>
#include <time.h>

static _Atomic int log_min_level = LOG_LEVEL_INFO;
static log_sink_fn *log_sink;

static const char *const level_names[] = {"trace", "debug", "info", "warn", "error"};

struct line {
	char data[LOG_LINE_MAX];
	size_t len;
};

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&log_min_level, (int)level, memory_order_relaxed);
}

enum log_level log_get_level(void)
{
	return (enum log_level)atomic_load_explicit(&log_min_level, memory_order_relaxed);
}

int log_level_parse(const char *name, enum log_level *ret_level)
{
	for (size_t i = 0; i < ARRAY_SIZE(level_names); i++) {
		if (str_eq(name, level_names[i])) {
			*ret_level = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

void log_set_sink(log_sink_fn *sink)
{
	log_sink = sink;
}

static void put_raw(struct line *l, const char *s, size_t len)
{
	size_t room = sizeof(l->data) - 1 - l->len;

	if (len > room)
		len = room;
	memcpy(l->data + l->len, s, len);
	l->len += len;
}

static bool is_plain(unsigned char c)
{
	return c > ' ' && c != '"' && c != '=' && c != '\\' && c != 0x7f;
}

/* Writes a value, quoted and escaped where it holds anything but plain characters. */
static void put_value(struct line *l, const char *s)
{
	bool quote = *s == 0;

	for (const char *p = s; *p && !quote; p++)
		quote = !is_plain((unsigned char)*p);
	if (!quote) {
		put_raw(l, s, strlen(s));
		return;
	}
	put_raw(l, "\"", 1);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		char esc[5];

		if (c == '"' || c == '\\') {
			put_raw(l, (const char[]){'\\', (char)c}, 2);
		} else if (c == '\n') {
			put_raw(l, "\\n", 2);
		} else if (c < ' ' || c == 0x7f) {
			snprintf(esc, sizeof(esc), "\\x%02x", c);
			put_raw(l, esc, 4);
		} else {
			put_raw(l, (const char *)&c, 1);
		}
	}
	put_raw(l, "\"", 1);
}

static void put_time(struct line *l)
{
	struct timespec ts;
	struct tm tm;
	char buf[48];
	size_t n;

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	n = strftime(buf, sizeof(buf), "time=%Y-%m-%dT%H:%M:%S", &tm);
	n += (size_t)snprintf(buf + n, sizeof(buf) - n, ".%03ldZ ", ts.tv_nsec / 1000000);
	put_raw(l, buf, n);
}

void log_line(enum log_level level, const char *const *fields, const char *fmt, ...)
{
	struct line l = {.len = 0};
	char msg[LOG_LINE_MAX / 2];
	va_list ap;

	if (level < log_get_level())
		return;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	if (!log_sink)
		put_time(&l);
	put_raw(&l, "level=", 6);
	put_raw(&l, level_names[level], strlen(level_names[level]));
	put_raw(&l, " msg=", 5);
	put_value(&l, msg);
	for (; fields && fields[0]; fields += 2) {
		if (!fields[1])
			continue;
		put_raw(&l, " ", 1);
		put_raw(&l, fields[0], strlen(fields[0]));
		put_raw(&l, "=", 1);
		put_value(&l, fields[1]);
	}
	if (log_sink) {
		log_sink(level, l.data, l.len);
		return;
	}
	l.data[l.len++] = '\n';
	(void)!write(STDERR_FILENO, l.data, l.len);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/command/logsink.h"

#include "base/log.h"
#include "base/util.h"

#include <sys/stat.h>
#include <sys/uio.h>
#include <syslog.h>
#include <systemd/sd-journal.h>

/* $JOURNAL_STREAM is inherited by whatever the service starts, so it counts only if stderr still is that very
 * socket. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
	       st.st_dev == (dev_t)dev && st.st_ino == (ino_t)ino;
}

static int priority_of(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_TRACE:
	case LOG_LEVEL_DEBUG:
		return LOG_DEBUG;
	case LOG_LEVEL_INFO:
		return LOG_INFO;
	case LOG_LEVEL_WARN:
		return LOG_WARNING;
	case LOG_LEVEL_ERROR:
		return LOG_ERR;
	}
	return LOG_INFO;
}

static void to_journal(enum log_level level, const char *line, size_t len)
{
	char message[LOG_LINE_MAX + 16], priority[16];
	int n = snprintf(message, sizeof(message), "MESSAGE=%.*s", (int)len, line);
	int p = snprintf(priority, sizeof(priority), "PRIORITY=%d", priority_of(level));
	static char identifier[] = "SYSLOG_IDENTIFIER=crivisor";
	const struct iovec fields[] = {
		{.iov_base = message, .iov_len = (size_t)n},
		{.iov_base = priority, .iov_len = (size_t)p},
		{.iov_base = identifier, .iov_len = sizeof(identifier) - 1},
	};

	if (sd_journal_sendv(fields, ARRAY_SIZE(fields)) < 0)
		dprintf(STDERR_FILENO, "%.*s\n", (int)len, line);
}

bool logsink_init(void)
{
	bool journal = stderr_is_journal();

	log_set_sink(journal ? to_journal : NULL);
	return journal;
}

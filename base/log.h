/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h: structured log lines, one per event, logfmt: `level=info msg="…" key=value …`.
 *
 * Threads:   every function, any thread; one write(2) per line, so lines never mix.
 * Sinks:     stderr by default; log_set_sink lets the host send to the journal and the guest to the console.
 * Limits:    a line is cut at LOG_LINE_MAX bytes; control characters are escaped, so nothing a guest or
 *            registry sends can forge a line.
 * Secrets:   never pass one; there is no redaction here.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

#define LOG_LINE_MAX 4096

enum log_level {
	LOG_LEVEL_TRACE,
	LOG_LEVEL_DEBUG,
	LOG_LEVEL_INFO,
	LOG_LEVEL_WARN,
	LOG_LEVEL_ERROR,
};

/* Receives one finished line without its newline. Called with no lock held. */
typedef void log_sink_fn(enum log_level level, const char *line, size_t len);

/* The least level that is written; default info. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
/* "trace" … "error" to a level; 0 or -EINVAL. */
int log_level_parse(const char *name, enum log_level *ret_level);
/* NULL restores stderr. Call before threads start. */
void log_set_sink(log_sink_fn *sink);

/*
 * Writes one line. `fields` is NULL or a NULL-terminated list of key, value, key, value, …:
 * log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", id), "started in %d ms", ms). Values may be NULL (then left
 * out).
 */
void log_line(enum log_level level, const char *const *fields, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define LOG_FIELDS(...) ((const char *const[]){__VA_ARGS__, NULL, NULL})

#define log_trace(...) log_line(LOG_LEVEL_TRACE, NULL, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, NULL, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, NULL, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, NULL, __VA_ARGS__)
#define log_error(...) log_line(LOG_LEVEL_ERROR, NULL, __VA_ARGS__)

#endif

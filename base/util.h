/* SPDX-License-Identifier: Apache-2.0 */
/*
 * util.h: ownership macros and the few string, time and file helpers that both the host and the guest use.
 *
 * Threads:   every function is safe to call from any thread; none keeps state.
 * Ownership: functions that return an allocated string or buffer return NULL on ENOMEM; the caller frees with
 *            free().
 * Errors:    0 (or a count, where said) or a negative errno.
 */
#ifndef BASE_UTIL_H
#define BASE_UTIL_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* ---- ownership ----------------------------------------------------------------------------------------- */

/*
 * Closes fd if it is >= 0, keeps errno, returns -1: `fd = close_fd(fd);`. EINTR is not retried (Linux closes
 * anyway).
 */
int close_fd(int fd);

static inline void cleanup_free_fn(void *p)
{
	void *v;

	memcpy(&v, p, sizeof(v));
	free(v);
}
static inline void cleanup_close_fn(const int *fd)
{
	close_fd(*fd);
}
static inline void cleanup_fclose_fn(FILE **f)
{
	if (*f)
		fclose(*f);
}

#define CLEANUP(fn)   __attribute__((cleanup(fn)))
#define CLEANUP_FREE  CLEANUP(cleanup_free_fn)	 /* char *s CLEANUP_FREE = NULL; */
#define CLEANUP_CLOSE CLEANUP(cleanup_close_fn)	 /* int fd CLEANUP_CLOSE = -1; */
#define CLEANUP_FILE  CLEANUP(cleanup_fclose_fn) /* FILE *f CLEANUP_FILE = NULL; */

/* Defines `static void <name>_cleanup(type **p)` that calls `fn(*p)`, for CLEANUP(name_cleanup). */
#define DEFINE_CLEANUP(name, type, fn)                                                                       \
	static inline __attribute__((unused)) void name##_cleanup(type **p)                                  \
	{                                                                                                    \
		if (*p)                                                                                      \
			fn(*p);                                                                              \
	}

/* Hands a value over: the variable is left NULL (or -1) and the old value is the result. */
#define move_ptr(p)                                                                                          \
	__extension__({                                                                                      \
		__typeof__(p) moved_ = (p);                                                                  \
		(p) = NULL;                                                                                  \
		moved_;                                                                                      \
	})
static inline int move_fd_(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}
#define move_fd(fd) move_fd_(&(fd))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* ---- strings ------------------------------------------------------------------------------------------- */

/* asprintf that returns the string, or NULL on ENOMEM. */
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline bool str_empty(const char *s)
{
	return !s || !*s;
}
static inline bool str_eq(const char *a, const char *b)
{
	return strcmp(a ? a : "", b ? b : "") == 0;
}
bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);
/* Replaces *dst (freeing it) by a copy of src (NULL gives NULL). 0 or -ENOMEM; *dst is kept on failure. */
int str_set(char **dst, const char *src);
/* Decimal to unsigned, whole string, no sign or blanks: 0, -EINVAL or -ERANGE. */
int parse_u64(const char *s, uint64_t *ret_value);

/* NULL-terminated string vectors. NULL is an empty vector. */
size_t strv_len(char *const *v);
/* Appends a copy of s; on -ENOMEM *v is unchanged. */
int strv_add(char ***v, const char *s);
/* As strv_add, formatted. */
int strv_addf(char ***v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Frees the strings and the vector; returns NULL. */
char **strv_free(char **v);
static inline void strv_cleanup(char ***v)
{
	strv_free(*v);
}
#define CLEANUP_STRV CLEANUP(strv_cleanup)

/* True if the len bytes are valid UTF-8 without NUL (RFC 3629: no surrogates, no overlong forms). */
bool utf8_valid(const void *s, size_t len);
/* The length of the character that the len bytes begin with, 1 to 4; 0 if they begin with none. */
size_t utf8_char(const void *s, size_t len);
/* Lower-case hex of len bytes into out (2*len+1 bytes). */
void hex_encode(const void *data, size_t len, char *out);
/* n random bytes as hex from getrandom(2) into out (2*n+1 bytes); 0 or negative errno. */
int random_hex(size_t n, char *out);

/* ---- time ---------------------------------------------------------------------------------------------- */

int64_t now_monotonic_ns(void);
int64_t now_realtime_ns(void);
#define NS_PER_SEC 1000000000LL
#define NS_PER_MS  1000000LL
/* ns must not be negative. */
static inline struct timespec ns_to_timespec(int64_t ns)
{
	struct timespec ts;

	ts.tv_sec = (time_t)(ns / NS_PER_SEC);
	ts.tv_nsec = (long)(ns % NS_PER_SEC);
	return ts;
}
static inline int64_t timespec_to_ns(const struct timespec *ts)
{
	return (int64_t)ts->tv_sec * NS_PER_SEC + ts->tv_nsec;
}

/* ---- files and fds ------------------------------------------------------------------------------------- */

/* Reads until len bytes or EOF; the count read or a negative errno. Blocking fds. */
ssize_t read_full(int fd, void *buf, size_t len);
/* Writes all len bytes, 0 or a negative errno. Blocking fds; the caller deals with SIGPIPE. */
int write_full(int fd, const void *buf, size_t len);
/*
 * Reads a whole file, NUL-terminated for convenience (*ret_len, which may be NULL, excludes that byte).
 * -EFBIG if it holds more than max bytes. Works for /proc and sysfs files.
 */
int read_file_at(int dirfd, const char *path, size_t max, char **ret_data, size_t *ret_len);
static inline int read_file(const char *path, size_t max, char **ret_data, size_t *ret_len)
{
	return read_file_at(-100 /* AT_FDCWD */, path, max, ret_data, ret_len);
}
/* Writes a file in place (O_TRUNC|O_CREAT if mode != 0, else it must exist: /proc and cgroup files). */
int write_file(const char *path, const void *data, size_t len, mode_t mode);
/*
 * Writes path.tmp.<random>, fsyncs if sync, renames over path. A process that is killed in between leaves
 * that file: the directory's owner calls remove_unfinished at its next start.
 */
int write_file_atomic(const char *path, const void *data, size_t len, mode_t mode, bool sync);
/*
 * Removes the files of a directory that a write_file_atomic has left unfinished, while nobody writes there. A
 * missing directory is success. Goes on after an error and returns the first.
 */
int remove_unfinished(const char *dir);
/* mkdir -p. An existing directory is success. */
int mkdir_p(const char *path, mode_t mode);
/*
 * Removes a file, or a tree however deep it is, without following symlinks and without leaving its file
 * system; a missing path is success. Stops at the first error. -EXDEV where something is mounted at the path
 * or inside, even a bind mount of the same file system.
 */
int remove_tree_at(int dirfd, const char *path);
static inline int remove_tree(const char *path)
{
	return remove_tree_at(-100 /* AT_FDCWD */, path);
}
int set_nonblock(int fd, bool on);
/* A regular file that may be executed. */
bool is_program(const char *path);
/*
 * Finds a program: `name` with a slash as it is, else in PATH, or in the usual places if that is empty. 0,
 * -ENOENT or -ENAMETOOLONG.
 */
int find_program(const char *name, char *out, size_t size);

#endif

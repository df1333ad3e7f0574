/* SPDX-License-Identifier: Apache-2.0 */
/*
 * err.h: the one error object of the project.
 *
 * Purpose:   what went wrong, in words a user can act on, with the code each layer needs.
 * Contract:  a function that can fail returns 0 or a negative errno and takes `struct err *err` last. On
 *            failure it writes err once (err_set) and callers on the way up may add context in front
 *            (err_wrap). Library code never logs an error it returns; only RPC handlers and main do. err may
 *            be NULL: the caller does not care.
 * Ownership: fixed storage inside the caller's struct; nothing to free.
 * Limits:    messages are cut at ERR_MSG_MAX - 1 bytes, on a UTF-8 boundary, ending in "…".
 * Threads:   no shared state.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdarg.h>
#include <stddef.h>

#define ERR_MSG_MAX 1024

/* gRPC status codes, numbered as in grpc's doc/statuscodes.md; ttrpc carries the same numbers. */
enum err_status {
	ERR_OK = 0,
	ERR_CANCELLED = 1,
	ERR_UNKNOWN = 2,
	ERR_INVALID_ARGUMENT = 3,
	ERR_DEADLINE_EXCEEDED = 4,
	ERR_NOT_FOUND = 5,
	ERR_ALREADY_EXISTS = 6,
	ERR_PERMISSION_DENIED = 7,
	ERR_RESOURCE_EXHAUSTED = 8,
	ERR_FAILED_PRECONDITION = 9,
	ERR_ABORTED = 10,
	ERR_OUT_OF_RANGE = 11,
	ERR_UNIMPLEMENTED = 12,
	ERR_INTERNAL = 13,
	ERR_UNAVAILABLE = 14,
	ERR_DATA_LOSS = 15,
	ERR_UNAUTHENTICATED = 16,
};

struct err {
	int code;		/* negative errno, 0 when unset */
	enum err_status status; /* what an RPC answers */
	char msg[ERR_MSG_MAX];
};

/* An initializer that touches no message bytes beyond the first. */
#define ERR_INIT ((struct err){.code = 0, .status = ERR_OK, .msg = {0}})

/*
 * Sets err and returns `code`, so that `return err_set(err, -EINVAL, …)` reads well. The status follows from
 * the errno. code must be negative.
 */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* As err_set, with the gRPC status given instead of derived. */
int err_set_status(struct err *err, int code, enum err_status status, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
int err_vset_status(struct err *err, int code, enum err_status status, const char *fmt, va_list ap)
	__attribute__((format(printf, 4, 0)));
/* As err_set, with ": <strerror(-code)>" appended. */
int err_set_errno(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Sets "out of memory" and returns -ENOMEM. */
int err_oom(struct err *err);
/*
 * Puts "<context>: " in front of the message; keeps code and status; returns err->code (or -EIO if err is
 * NULL).
 */
int err_wrap(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Copies src to dst (either may be NULL) and returns src's code. */
int err_copy(struct err *dst, const struct err *src);
/* "NotFound", "InvalidArgument", …; never NULL. */
const char *err_status_name(enum err_status status);

#endif

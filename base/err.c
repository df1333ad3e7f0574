/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Cuts an overlong message on a UTF-8 boundary and marks the cut. */
static void mark_cut(char *msg)
{
	static const char mark[] = "\xe2\x80\xa6"; /* … */
	size_t at = ERR_MSG_MAX - sizeof(mark);

	while (at > 0 && ((unsigned char)msg[at] & 0xc0) == 0x80)
		at--;
	memcpy(msg + at, mark, sizeof(mark));
}

/* The gRPC status that fits a negative errno. */
static enum err_status err_status_of(int code)
{
	switch (-code) {
	case 0:
		return ERR_OK;
	case EINVAL:
	case ENAMETOOLONG:
	case EBADMSG:
		return ERR_INVALID_ARGUMENT;
	case ENOENT:
	case ESRCH:
		return ERR_NOT_FOUND;
	case EEXIST:
		return ERR_ALREADY_EXISTS;
	case ETIMEDOUT:
	case ETIME:
		return ERR_DEADLINE_EXCEEDED;
	case ECANCELED:
		return ERR_CANCELLED;
	case EACCES:
	case EPERM:
		return ERR_PERMISSION_DENIED;
	case ENOSPC:
	case ENOMEM:
	case EMFILE:
	case ENFILE:
	case EDQUOT:
	case E2BIG:
		return ERR_RESOURCE_EXHAUSTED;
	case ENOSYS:
	case EOPNOTSUPP:
		return ERR_UNIMPLEMENTED;
	case ECONNREFUSED:
	case ECONNRESET:
	case EPIPE:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ENOTCONN:
		return ERR_UNAVAILABLE;
	default:
		return ERR_INTERNAL;
	}
}

const char *err_status_name(enum err_status status)
{
	static const char *const names[] = {
		"OK",	    "Cancelled",       "Unknown",	   "InvalidArgument",	"DeadlineExceeded",
		"NotFound", "AlreadyExists",   "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
		"Aborted",  "OutOfRange",      "Unimplemented",	   "Internal",		"Unavailable",
		"DataLoss", "Unauthenticated",
	};

	if ((size_t)status >= sizeof(names) / sizeof(names[0]))
		return "Unknown";
	return names[status];
}

int err_vset_status(struct err *err, int code, enum err_status status, const char *fmt, va_list ap)
{
	assert(code < 0);
	if (err) {
		int n;

		err->code = code;
		err->status = status;
		n = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
		if (n >= (int)sizeof(err->msg))
			mark_cut(err->msg);
	}
	return code;
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset_status(err, code, err_status_of(code), fmt, ap);
	va_end(ap);
	return code;
}

int err_set_status(struct err *err, int code, enum err_status status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset_status(err, code, status, fmt, ap);
	va_end(ap);
	return code;
}

int err_set_errno(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset_status(err, code, err_status_of(code), fmt, ap);
	va_end(ap);
	if (err) {
		size_t len = strlen(err->msg);
		char buf[128];
		int n = snprintf(err->msg + len, sizeof(err->msg) - len, ": %s",
				 strerror_r(-code, buf, sizeof(buf)));

		if (n >= (int)(sizeof(err->msg) - len))
			mark_cut(err->msg);
	}
	return code;
}

int err_oom(struct err *err)
{
	return err_set(err, -ENOMEM, "out of memory");
}

int err_wrap(struct err *err, const char *fmt, ...)
{
	char old[ERR_MSG_MAX];
	va_list ap;
	size_t len;
	int n;

	if (!err)
		return -EIO;
	memcpy(old, err->msg, sizeof(old));
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	len = strlen(err->msg);
	n = snprintf(err->msg + len, sizeof(err->msg) - len, ": %s", old);
	if (n >= (int)(sizeof(err->msg) - len))
		mark_cut(err->msg);
	return err->code ? err->code : -EIO;
}

int err_copy(struct err *dst, const struct err *src)
{
	if (dst && src)
		*dst = *src;
	return src ? src->code : -EIO;
}

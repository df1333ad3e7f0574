/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stdio_internal.h: the standard input and output of one process: pipes or a terminal, and the log of its
 * output.
 *
 * Purpose:   reads output into the log while there is room and stops reading when there is none; writes input
 *            from a bounded queue; tells listeners (ReadLog calls, streams) when something changed.
 * Threads:   the loop's.
 * Ownership: stdio_new's object belongs to its process; listeners are embedded in their owners, who remove
 *            them. Everything that listens is told of the end by stdio_free (the function is called with the
 *            stdio closed for good).
 * Limits:    GUEST_LOG_BUFFER_BYTES of output not acknowledged, STDIO_IN_MAX bytes of input not yet taken by
 *            the process. Ends: a stream of output ends when every writer has closed it. Of a container's own
 *            process also STDIO_GRACE_NS after it has exited and the pipe is empty: its container is being
 *            killed then. An exec's (`patient`) lasts as long as a writer does: its caller kills the exec's
 *            cgroup when it has waited long enough.
 */
#ifndef GUEST_CONTAINER_STDIO_INTERNAL_H
#define GUEST_CONTAINER_STDIO_INTERNAL_H

#include "guest/core/loop.h"
#include "guest/container/outlog_internal.h"

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define STDIO_IN_HIGH  (256u * 1024) /* senders are held back above this */
#define STDIO_IN_MAX   (8u << 20)
#define STDIO_GRACE_NS (2 * 1000000000LL)

struct agent;
struct stdio;

struct stdio_listener {
	struct stdio_listener *next;
	void (*fn)(void *arg); /* something changed: output, room for input, an end. May remove itself, not
				  others */
	void *arg;
	bool on;
};

struct stdio_end {
	int fd; /* -1: closed */
	struct loop_source *src;
};

struct stdio {
	struct stdio *prev, *next; /* all of the agent */
	struct agent *agent;
	struct outlog log;
	struct stdio_end out[2]; /* stdout, stderr; with a terminal only the first */
	struct stdio_end in;
	struct buf in_buf;
	bool in_eof;	  /* close once the queue is empty */
	bool in_gone;	  /* the process reads no more */
	bool log_read;	  /* ReadLog or Ack was used: streams no longer free what they have sent */
	bool named[2];	  /* the creator named a stream for it: streams may free what they have sent */
	bool streamed[2]; /* a stream was attached to it */
	bool exited;
	bool patient; /* its output ends with its last writer, not with the process */
	bool dead;    /* stdio_free runs */
	int tty;      /* -1, or the terminal's master (out[0].fd) */
	int console;  /* listening socket on which the runtime hands over the terminal, -1 once it has */
	struct loop_source *console_src;
	char console_path[64];
	struct loop_timer grace;
	struct loop_task tell;
	struct stdio_listener *listeners;
	uint32_t rows, cols; /* wanted before the terminal came */
};

/*
 * child_stdio gets the three fds for the child (-1: /dev/null), which the caller closes after the spawn. With
 * a terminal they are all -1 and console_path names the socket for the runtime's --console-socket.
 */
struct stdio *stdio_new(struct agent *agent, bool terminal, bool want_stdin, int child_stdio[3],
			struct err *err);
struct stdio *stdio_free(struct stdio *stdio);

/* The process has exited: what is in the pipes is still read. */
void stdio_exited(struct stdio *stdio);
/* Queues input: 0, -EPIPE (the process or the client closed it), -ENOBUFS, -ENOMEM. */
int stdio_write(struct stdio *stdio, const void *data, size_t len);
/* End of input, after what is queued. */
void stdio_close_in(struct stdio *stdio);
bool stdio_has_in(const struct stdio *stdio);
int stdio_resize(struct stdio *stdio, uint32_t cols, uint32_t rows, struct err *err);

int stdio_ack(struct stdio *stdio, uint64_t offset, struct err *err);
/* No more of this stream will come. */
bool stdio_ended(const struct stdio *stdio, enum outlog_stream stream);
static inline bool stdio_all_ended(const struct stdio *stdio)
{
	return stdio_ended(stdio, OUTLOG_STDOUT) && stdio_ended(stdio, OUTLOG_STDERR);
}

void stdio_listen(struct stdio *stdio, struct stdio_listener *l, void (*fn)(void *arg), void *arg);
void stdio_unlisten(struct stdio *stdio, struct stdio_listener *l);

#endif

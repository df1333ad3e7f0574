/*
 * pio.h: the standard input and output of one process: pipes or a terminal, and the log of its output.
 *
 * Purpose:   reads output into the log while there is room and stops reading when there is none; writes input
 *            from a bounded queue; tells listeners (ReadLog calls, streams) when something changed.
 * Threads:   the loop's.
 * Ownership: pio_new's object belongs to its process; listeners are embedded in their owners, who remove
 *            them. Everything that listens is told of the end by pio_free (the function is called with the
 *            pio closed for good).
 * Limits:    GUEST_LOG_BUFFER_BYTES of output not acknowledged, PIO_IN_MAX bytes of input not yet taken by
 *            the process.
 * Ends:      a stream of output ends when every writer has closed it, or PIO_GRACE_NS after the process has
 *            exited and the pipe is empty: a background child that kept the pipe cannot hold it open for
 *            ever.
 */
#ifndef GUEST_PIO_H
#define GUEST_PIO_H

#include "guest/core/loop.h"
#include "guest/container/outlog.h"

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define PIO_IN_HIGH  (256u * 1024) /* senders are held back above this */
#define PIO_IN_MAX   (8u << 20)
#define PIO_GRACE_NS (2 * 1000000000LL)

struct guest;
struct pio;

struct pio_listener {
	struct pio_listener *next;
	void (*fn)(void *arg); /* something changed: output, room for input, an end. May remove itself, not
				  others */
	void *arg;
	bool on;
};

struct pio_end {
	int fd; /* -1: closed */
	struct eloop_source *src;
};

struct pio {
	struct pio *prev, *next; /* all of the guest */
	struct guest *g;
	struct outlog log;
	struct pio_end out[2]; /* stdout, stderr; with a terminal only the first */
	struct pio_end in;
	struct buf in_buf;
	bool in_eof;	  /* close once the queue is empty */
	bool in_gone;	  /* the process reads no more */
	bool log_read;	  /* ReadLog or Ack was used: streams no longer free what they have sent */
	bool named[2];	  /* the creator named a stream for it: streams may free what they have sent */
	bool streamed[2]; /* a stream was attached to it */
	bool exited;
	bool dead;   /* pio_free runs */
	int tty;     /* -1, or the terminal's master (out[0].fd) */
	int console; /* listening socket on which the runtime hands over the terminal, -1 once it has */
	struct eloop_source *console_src;
	char console_path[64];
	struct eloop_timer grace;
	struct eloop_task tell;
	struct pio_listener *listeners;
	uint32_t rows, cols; /* wanted before the terminal came */
};

/*
 * child_stdio gets the three fds for the child (-1: /dev/null), which the caller closes after the spawn. With
 * a terminal they are all -1 and console_path names the socket for the runtime's --console-socket.
 */
struct pio *pio_new(struct guest *g, bool terminal, bool want_stdin, int child_stdio[3], struct err *err);
struct pio *pio_free(struct pio *pio);

/* The process has exited: what is in the pipes is still read. */
void pio_exited(struct pio *pio);
/* Queues input: 0, -EPIPE (the process or the client closed it), -ENOBUFS, -ENOMEM. */
int pio_write(struct pio *pio, const void *data, size_t len);
/* End of input, after what is queued. */
void pio_close_in(struct pio *pio);
bool pio_has_in(const struct pio *pio);
int pio_resize(struct pio *pio, uint32_t cols, uint32_t rows, struct err *err);

int pio_ack(struct pio *pio, uint64_t offset, struct err *err);
/* No more of this stream will come. */
bool pio_ended(const struct pio *pio, enum outlog_stream stream);
static inline bool pio_all_ended(const struct pio *pio)
{
	return pio_ended(pio, OUTLOG_STDOUT) && pio_ended(pio, OUTLOG_STDERR);
}

void pio_listen(struct pio *pio, struct pio_listener *l, void (*fn)(void *arg), void *arg);
void pio_unlisten(struct pio *pio, struct pio_listener *l);

#endif

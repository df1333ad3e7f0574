/* SPDX-License-Identifier: Apache-2.0 */
/*
 * logs.h: moves a container's output from the guest's agent to its log file.
 *
 * Purpose:   reads records from the agent on a connection of its own, writes them in the CRI log format, and
 *            acknowledges what is safe on disk. No line is lost or repeated: not when the connection breaks,
 *            the disk is full, memory is short, or the server is killed. No thread while nothing comes: a
 *            read waits in the agent, its answer arrives on the loop, a job of LANE_LOG writes.
 * Threads:   all functions from any thread. log_pump_start, log_pump_reopen and log_pump_wait_eof block,
 *            until their call ends at most; the file system is used by LANE_LOG alone, so that one that hangs
 *            holds up neither the loop nor a caller.
 * Ownership: a pump holds a reference to its agent. The caller frees the pump; what is under way ends by
 *            itself.
 * Limits:    one read of GUEST_READLOG_MAX in flight. A log that cannot be written is tried again each
 *            second, and the agent's full buffer stops the process meanwhile. A broken connection is made
 *            anew at once, then after 0.1 s, doubled up to 2 s, for as long as the agent lives.
 * Errors:    an agent that sends what does not continue the log ends it; the reason is logged. Output that
 *            the agent does not have any more, since its log's position was lost, is missing: a line says how
 *            much.
 */
#ifndef CRI_LOGS_LOGS_H
#define CRI_LOGS_LOGS_H

#include "base/err.h"
#include "cri/agent/agent.h"
#include "cri/core/call.h"
#include "cri/core/loop.h"
#include "cri/core/workers.h"

#include <stdbool.h>
#include <stdint.h>

struct log_pump;

struct log_pump_options {
	struct loop *loop;
	struct workers *workers;
	struct agent *agent;
	const char *container_id; /* at most 64 bytes */
	const char *log_path; /* absolute; its directory is made; NULL or "": output is read and dropped */
	const char *pos_path; /* where the position is kept across restarts */
	bool resume;	      /* goes on from the position of before; else from the start */
};
/*
 * Opens the log, so that it exists when this returns, and starts reading. One that is resumed is opened
 * later, and tried again each second if that fails: it does not wait for a disk.
 */
int log_pump_start(const struct log_pump_options *options, struct call *call, struct log_pump **ret_pump,
		   struct err *err);
/*
 * 0 once all output is on file, -ETIMEDOUT at the deadline (CLOCK_MONOTONIC) or the call's, -ECANCELED, or
 * -ECONNRESET: the guest is gone, or the log was given up.
 */
int log_pump_wait_eof(struct log_pump *pump, struct call *call, int64_t deadline_ns);
/* After a rotation by rename: goes on in a new file of that name. On error the old one stays in use. */
int log_pump_reopen(struct log_pump *pump, struct call *call, struct err *err);
/* Stops soon. Returns NULL. NULL-safe. */
struct log_pump *log_pump_free(struct log_pump *pump);

/* ---- taps: who listens in ------------------------------------------------------------------------------ */

/*
 * Loop, all of it. A tap gets the bytes that go to the log, from the next read on, once each. While one is
 * full nothing is read, so that the process waits for it; one that stays full for LOG_TAP_NS is ended.
 * Embedded in its user.
 */
#define LOG_TAP_NS (10 * NS_PER_SEC)
struct log_tap {
	void (*data)(void *arg, bool is_stderr, const void *data, size_t len);
	bool (*full)(void *arg);
	/* The output is over, or the tap was too slow for it; the tap is removed. May free it. */
	void (*end)(void *arg, bool too_slow);
	void *arg;
	struct log_tap *next;
	int64_t full_since_ns; /* 0: it is not */
};
/* False: there is no more output. */
bool log_pump_tap(struct log_pump *pump, struct log_tap *tap);
/* One that is not there: nothing. */
void log_pump_untap(struct log_pump *pump, const struct log_tap *tap);
/* A tap that was full has room again. */
void log_pump_tap_ready(struct log_pump *pump);

#endif

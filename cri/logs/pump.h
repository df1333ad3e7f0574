/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pump.h: moves a container's output from the guest's agent to its log file.
 *
 * Purpose:   reads records from the agent on a connection of its own, writes them by log_file, acknowledges
 *            what is safe. No thread while nothing comes: a read waits in the agent, its answer arrives on
 *            the loop, a job of the workers writes.
 * Threads:   all functions from any thread; none blocks but log_pump_wait_eof and log_pump_reopen.
 * Limits:    one read of GUEST_READLOG_MAX in flight; a log that cannot be written (disk full) is tried again
 *            each second, and the agent's full buffer stops the process meanwhile.
 */
#ifndef CRI_LOGS_PUMP_H
#define CRI_LOGS_PUMP_H

#include "base/err.h"
#include "cri/command/server.h"

#include <stdbool.h>
#include <stdint.h>

struct agent;
struct pod;
struct log_pump;

/*
 * Opens the log (so that it exists when this returns) and starts reading. Holds a reference to the pod, whose
 * agent it asks. A connection that breaks while the VM lives is made anew.
 */
int log_pump_start(struct pod *pod, struct agent *agent, const char *container_id, const char *log_path,
		   const char *pos_path, bool resume, struct log_pump **ret_pump, struct err *err);
/* 0 once all output is on file, -ETIMEDOUT, or -ECONNRESET if the guest is gone. */
int log_pump_wait_eof(struct log_pump *pump, int64_t deadline_ns);
int log_pump_reopen(struct log_pump *pump, struct err *err);
/* Stops soon; frees when nothing uses it any more. NULL-safe. */
struct log_pump *log_pump_free(struct log_pump *pump);

#endif

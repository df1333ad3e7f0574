/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_internal.h: runs one plugin.
 *
 * Threads:   blocks the caller until the plugin has ended, at most until the deadline (and CNI_KILL_NS more
 *            to see it die).
 * Limits:    CNI_OUTPUT_MAX bytes of output; of stderr the first bytes are kept and the rest is thrown away.
 *            Processes: the plugin has a process group of its own, default signals, "/" as its directory and
 *            the descriptors 0, 1 and 2 (base/process.h). If the deadline passes, the caller cancels or the
 *            output is too much, the whole group is killed. A plugin that leaves a daemon behind does not
 *            hold up the call: its own exit ends it.
 */
#ifndef CRI_NETWORK_RUN_INTERNAL_H
#define CRI_NETWORK_RUN_INTERNAL_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define CNI_OUTPUT_MAX (1024 * 1024)
#define CNI_KILL_NS    2000000000LL

struct cni_output {
	char *out; /* malloc'ed, NUL-terminated beyond out_len */
	size_t out_len;
	char err[512]; /* the beginning of stderr, cleaned for messages */
	int status;    /* exit code, or 128 + signal */
};
void cni_output_done(struct cni_output *output);

/*
 * cancel_fd (-1: none) becomes readable when nobody wants the result any more. -ETIMEDOUT after the deadline,
 * -ECANCELED when cancelled, -EMSGSIZE on too much output, else what spawning said. A plugin's failure is
 * status != 0.
 */
int cni_run(const char *path, char *const *env, const char *input, size_t input_len, int64_t deadline_ns,
	    int cancel_fd, struct cni_output *ret_output, struct err *err);

#endif

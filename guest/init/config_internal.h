/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_internal.h: the agent's configuration, read from the kernel command line alone.
 *
 * Purpose:   task.sharefs_type=virtiofs|9p, task.debug, task.log_level=LEVEL, task.enable_tracing,
 *            task.debug_shell. The booleans work bare, as =true and as =false (also 1/0, yes/no, on/off). The
 *            last one of a key wins.
 * Threads:   none of its own.
 * Ownership: fixed storage.
 * Errors:    an unknown task.* key or a bad value is -EINVAL and names it: a typing error must be noticed.
 *            Keys without the prefix are ignored.
 */
#ifndef GUEST_INIT_CONFIG_INTERNAL_H
#define GUEST_INIT_CONFIG_INTERNAL_H

#include "base/err.h"
#include "base/log.h"

#include <stdbool.h>

enum config_share {
	CONFIG_SHARE_VIRTIOFS,
	CONFIG_SHARE_9P,
};

struct config {
	enum config_share share;
	enum log_level log_level; /* task.debug lowers the default to debug, tracing to trace */
	bool debug;
	bool tracing;
	char debug_shell[64]; /* the program of the debug console */
};

/* cmdline as /proc/cmdline holds it: words separated by blanks, double quotes keep blanks. */
int config_parse(const char *cmdline, struct config *ret_config, struct err *err);
int config_load(struct config *ret_config, struct err *err);

#endif

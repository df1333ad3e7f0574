/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config_internal.h: what the agent reads of a container's config.json.
 *
 * Threads: none of its own.
 * Source:  OCI runtime-spec, config.md ("POSIX-platform Hooks").
 */
#ifndef GUEST_CONTAINER_CONFIG_INTERNAL_H
#define GUEST_CONTAINER_CONFIG_INTERNAL_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * Whether the configuration has any hook: *ret_hooks. -EBADMSG if the text is not one JSON object. Memory:
 * about ten times the text, while it is read.
 */
int config_hooks(const char *text, size_t len, bool *ret_hooks, struct err *err);

/*
 * The oomScoreAdj of an OCI process, between -1000 and 1000; 0 if it has none. The runtime applies it to a
 * container's first process alone. Errors and memory as above.
 */
int config_oom_score(const char *text, size_t len, int *ret_score, struct err *err);

#endif

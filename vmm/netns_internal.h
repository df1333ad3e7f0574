/* SPDX-License-Identifier: Apache-2.0 */
/*
 * netns_internal.h: work inside a network namespace, for the files of this room.
 *
 * Threads:   netns_run blocks the caller while a thread of its own does the work; the caller's namespace
 *            never changes.
 */
#ifndef VMM_NETNS_INTERNAL_H
#define VMM_NETNS_INTERNAL_H

#include "base/err.h"

typedef int netns_fn(void *arg, struct err *err);
/* Calls fn inside the namespace (NULL: right here) and returns its result. */
int netns_run(const char *netns_path, netns_fn *fn, void *arg, struct err *err);
/* The same in a new namespace, which nothing holds once fn has returned. */
int netns_run_new(netns_fn *fn, void *arg, struct err *err);

#endif

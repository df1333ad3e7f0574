/* SPDX-License-Identifier: Apache-2.0 */
/*
 * containers_internal.h: what all containers of the agent share.
 *
 * Threads: the loop's.
 */
#ifndef GUEST_CONTAINER_CONTAINERS_INTERNAL_H
#define GUEST_CONTAINER_CONTAINERS_INTERNAL_H

#include "guest/container/container.h"
#include "guest/container/outlog_internal.h"

struct ctr;
struct loop_source;
struct stdio;

struct containers {
	struct agent *agent;
	struct ctr *list;
	unsigned int len;
	struct outlog_pool logs; /* of all processes */
	struct stdio *stdios;	 /* all, for when the pool has room again */
	int oom_inotify;	 /* -1 before containers_settle */
	struct loop_source *oom_src;
	bool fifo_known; /* the runtime is of a version whose exec.fifo is known */
};

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest.h: what the parts of the agent share.
 *
 * Threads:   one.
 * Ownership: main owns the struct and everything in it, for as long as the guest runs.
 */
#ifndef GUEST_CORE_AGENT_H
#define GUEST_CORE_AGENT_H

#include "guest/core/loop.h"
#include "guest/init/config_internal.h"
#include "guest/container/outlog_internal.h"

#include <stdbool.h>
#include <stdint.h>

struct ctr;
struct events;
struct server;
struct stdio;

struct agent {
	struct loop *loop;
	struct config config;
	bool cgroup2;		 /* cgroup v2 at /sys/fs/cgroup, else v1 hierarchies below it */
	int64_t init_ns;	 /* CLOCK_BOOTTIME when main began */
	int64_t first_check_ns;	 /* CLOCK_BOOTTIME of the first answer to Check, 0 before */
	struct outlog_pool logs; /* of all processes */
	struct stdio *stdios;	 /* all, for when the pool has room again */
	struct ctr *ctrs;	 /* all containers */
	unsigned int ctrs_len;
	struct server *server;
	struct events *events;
	bool settled; /* init_settle was here */
	bool shutting_down;
};

/* CLOCK_BOOTTIME. */
int64_t agent_boottime_ns(void);
/* Names of containers and execs: [A-Za-z0-9_.-]{1,128}, not starting with a dot. They become file names. */
#define AGENT_ID_MAX 128
bool agent_id_valid(const char *id);
/* 0, or -EINVAL with `what` named. */
int agent_id_check(const char *what, const char *id, struct err *err);
/* Where short-lived files are: pid files, logs of the runtime, console sockets. Tests have it elsewhere. */
extern const char *agent_tmp_dir;
/* A number never used before in this boot, for names of files. */
unsigned int agent_serial(void);

#endif

/*
 * guest.h: what the parts of the agent share.
 *
 * Threads:   one.
 * Ownership: main owns the struct and everything in it, for as long as the guest runs.
 */
#ifndef GUEST_GUEST_H
#define GUEST_GUEST_H

#include "guest/core/loop.h"
#include "guest/init/config.h"
#include "guest/container/outlog.h"

#include <stdbool.h>
#include <stdint.h>

struct ctr;
struct gevents;
struct gserver;
struct pio;

struct guest {
	struct eloop *loop;
	struct gconfig config;
	bool cgroup2;		 /* cgroup v2 at /sys/fs/cgroup, else v1 hierarchies below it */
	int64_t init_ns;	 /* CLOCK_BOOTTIME when main began */
	int64_t first_check_ns;	 /* CLOCK_BOOTTIME of the first answer to Check, 0 before */
	struct outlog_pool logs; /* of all processes */
	struct pio *pios;	 /* all, for when the pool has room again */
	struct ctr *ctrs;	 /* all containers */
	unsigned int ctrs_len;
	struct gserver *server;
	struct gevents *events;
	bool settled; /* ginit_settle was here */
	bool shutting_down;
};

/* CLOCK_BOOTTIME. */
int64_t guest_boottime_ns(void);
/* Names of containers and execs: [A-Za-z0-9_.-]{1,128}, not starting with a dot. They become file names. */
#define GUEST_ID_MAX 128
bool guest_id_valid(const char *id);
/* 0, or -EINVAL with `what` named. */
int guest_id_check(const char *what, const char *id, struct err *err);
/* Where short-lived files are: pid files, logs of the runtime, console sockets. Tests have it elsewhere. */
extern const char *guest_tmp_dir;
/* A number never used before in this boot, for names of files. */
unsigned int guest_serial(void);

#endif

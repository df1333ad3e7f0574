/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent.h: what the rooms of the agent share, and what differs between its two places: PID 1 of a VM (init/)
 * and a process beside the VMs (host/).
 *
 * Threads:   one.
 * Ownership: main owns the struct and everything in it, for as long as the agent runs. The parts are opaque
 *            here; each belongs to the room that defines it.
 */
#ifndef GUEST_CORE_AGENT_H
#define GUEST_CORE_AGENT_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct agent;
struct containers;
struct events;
struct loop;
struct server;

/* What only the place knows how to do. Rooms below init/ and host/ reach up through these alone. */
struct agent_ops {
	/*
	 * Prepares what containers, devices and interfaces need. Runs once, by agent_settle; it handles its
	 * own errors.
	 */
	void (*settle)(struct agent *agent);
	/* Begins the orderly end; see pod.h. */
	void (*shutdown)(struct agent *agent, const char *why);
	/*
	 * Lets go of file systems at the end: unmounts and syncs. Runs in a child process, since it may
	 * block. An exit status: 0 everything unmounted and synced, AGENT_RELEASE_BUSY synced but something
	 * stays mounted; else failed.
	 */
	int (*release)(struct agent *agent);
	/* The last step: power off, or end the process. May return; the loop ends soon then. */
	void (*end)(struct agent *agent);
	/* SIGUSR1; may be NULL. */
	void (*on_usr1)(struct agent *agent);
};
#define AGENT_RELEASE_BUSY 1

/* Directories and names, absolute, without a slash at the end. They live as long as the agent. */
struct agent_paths {
	const char *share;     /* bundles: <share>/<container id> */
	const char *tmp;       /* short-lived files: pid files, logs of the runtime, console sockets */
	const char *crun;      /* the runtime's program */
	const char *crun_root; /* its state: <crun_root>/<container id>/status, exec.fifo */
	/* Relative to the hierarchy's root; containers live at <cgroup_parent>/<id>. */
	const char *cgroup_parent;
	const char *shm;   /* tmpfs: the pod's shared /dev/shm */
	const char *pidns; /* bind mount of the pod's shared PID namespace */
};

struct agent {
	const struct agent_ops *ops;
	struct agent_paths paths;
	struct loop *loop;
	struct server *server;
	struct events *events;
	struct containers *containers;
	bool in_vm; /* the machine is the pod's: hostname, clock, interfaces and the share are the agent's */
	bool debug; /* commands in the VM are allowed */
	bool cgroup2;		/* cgroup v2 at /sys/fs/cgroup, else v1 hierarchies below it */
	int64_t init_ns;	/* CLOCK_BOOTTIME when main began */
	int64_t first_check_ns; /* CLOCK_BOOTTIME of the first answer to Check, 0 before */
	bool settled;		/* agent_settle was called */
	bool shutting_down;	/* nothing new begins */
};

/*
 * Runs ops->settle once: after the first Check, before the first request that needs it, or when nobody asks.
 */
void agent_settle(struct agent *agent);

/*
 * Names this run of the agent, 32 hex digits: the same on every connection, another one after a reboot or a
 * restart of the agent.
 */
const char *agent_instance_id(void);

/* 0, or -EOPNOTSUPP beside a VM, where `what` would change the host. */
int agent_vm_only(const struct agent *agent, const char *what, struct err *err);

/* CLOCK_BOOTTIME. */
int64_t agent_boottime_ns(void);
/* A number never used before by this agent, for names of files. */
unsigned int agent_serial(void);

/* Names of containers and execs: [A-Za-z0-9_.-]{1,128}, not starting with a dot. They become file names. */
#define AGENT_ID_MAX 128
bool agent_id_valid(const char *id);
/* 0, or -EINVAL with `what` named. */
int agent_id_check(const char *what, const char *id, struct err *err);

#endif

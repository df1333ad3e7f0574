/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.h: what pods and containers use of CPU, memory, disk and network.
 *
 * Purpose:   one sampler for all who ask. stats_sample sees to it that figures are at most STATS_AGE_NS old;
 *            the views below read what the last sample has left.
 * Sources:   a container's figures are its guest's. A pod's own CPU and memory are those of its cgroup on the
 *            host: all that its VM takes, what the containers do not account for included. Interfaces are as
 *            the guest counts them. The writable layer is measured on the host.
 * Threads:   any. stats_sample holds no thread while it waits: the guest is asked asynchronously.
 * Limits:    one question to a guest for each pod and second, whoever asks; STATS_ANSWER_NS for the answer. A
 *            guest that does not answer leaves the figures as they were, with their time. A writable layer is
 *            measured at most once in STATS_LAYER_NS. The figures of a container and of a pod have a fixed
 *            size, whatever a guest says. Trust: figures of a guest are numbers to show, and nothing is
 *            decided by them. Times are the host's.
 * Units:     bytes, nanoseconds; at_ns since the epoch, 0: not known yet.
 */
#ifndef CRI_PODS_STATS_H
#define CRI_PODS_STATS_H

#include "api/agent/agent.pb-c.h"
#include "cri/pods/containers.h"

#define STATS_AGE_NS	     NS_PER_SEC
#define STATS_ANSWER_NS	     (1200 * NS_PER_MS) /* crictl waits for 2 s */
#define STATS_LAYER_NS	     (10 * NS_PER_SEC)
#define STATS_INTERFACES_MAX 16

/* The guest's words, but for interfaces and containers: those are unset. */
struct guest_figures {
	Crivisor__Agent__V1__StatsResponse stats;
	Crivisor__Agent__V1__Pressure cpu, memory, io; /* where `stats` has them, it points here */
};

/* CPU per second over the time between the last two samples. */
struct cpu_rate {
	uint64_t nano_cores;
	bool known;
	uint64_t last_ns; /* the counter, at last_at_ns (CLOCK_MONOTONIC; 0: never) */
	int64_t last_at_ns;
};

struct container_usage {
	int64_t at_ns;
	struct guest_figures guest;
	struct cpu_rate rate;
	uint64_t
		/* of the whole guest: the limit of a container that has none; 0: not known */
		vm_memory_bytes;
	int64_t layer_at_ns;
	uint64_t layer_bytes, layer_inodes;
};

struct usage_interface {
	char name[16];
	uint64_t rx_bytes, rx_packets, rx_errors, rx_dropped;
	uint64_t tx_bytes, tx_packets, tx_errors, tx_dropped;
};
struct pod_usage {
	int64_t at_ns; /* of the host's figures */
	struct vmm_cgroup_stats host;
	struct cpu_rate rate;
	int64_t guest_at_ns; /* of what follows */
	struct guest_figures guest;
	struct usage_interface interfaces[STATS_INTERFACES_MAX];
	size_t n_interfaces;
};

/*
 * Samples the ready pods whose id begins with pod_id and, unless container_id is empty, those with a
 * container whose id begins with that. done(arg, "", err) runs once, on any thread, when all have been
 * sampled or could not be; err has a code only where there is no memory.
 */
void stats_sample(struct pods *pods, const char *pod_id, const char *container_id, struct call *call,
		  pods_done_fn *done, void *arg);

typedef int container_usage_fn(void *arg, const struct container_view *container,
			       const struct container_usage *usage, struct err *err);
/* Of running containers that have figures, as containers_each. */
int stats_each_container(struct pods *pods, const char *id, const char *pod_id, container_usage_fn *fn,
			 void *arg, struct err *err);
/* FailedPrecondition: it is not running. Unavailable: its guest has not answered. */
int stats_look_container(struct pods *pods, const char *id, container_usage_fn *fn, void *arg,
			 struct err *err);

typedef int pod_usage_fn(void *arg, const struct pod_view *pod, const struct pod_usage *usage,
			 struct err *err);
/* Of ready pods that have figures, as pods_each. */
int stats_each_pod(struct pods *pods, const char *id, pod_usage_fn *fn, void *arg, struct err *err);
int stats_look_pod(struct pods *pods, const char *id, pod_usage_fn *fn, void *arg, struct err *err);

#endif

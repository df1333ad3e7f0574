/* SPDX-License-Identifier: Apache-2.0 */
/*
 * container.h: the containers of the agent, for the rooms above.
 *
 * Purpose:   the Task and Streaming services and the logs of the Agent service are served here; what the rest
 *            of the agent needs of containers is their figures and their end.
 * Threads:   the loop's.
 * Ownership: containers_new's object is its caller's and lives in agent->containers; containers_free kills
 *            nothing.
 * Limits:    CONTAINER_LOGS_MAX bytes of output of all processes that the host has not acknowledged.
 */
#ifndef GUEST_CONTAINER_CONTAINER_H
#define GUEST_CONTAINER_CONTAINER_H

#include "api/agent/agent.pb-c.h"
#include "api/ttrpc/ttrpc.h"
#include "guest/core/agent.h"

#define CONTAINER_LOGS_MAX (16u << 20)

/* NULL on ENOMEM. */
struct containers *containers_new(struct agent *agent);
/* Forgets all containers; calls that wait for them end with an error. NULL-safe; returns NULL. */
struct containers *containers_free(struct containers *containers);
/* Watches for OOM kills and asks the runtime for its version: at agent_settle. */
int containers_settle(struct agent *agent, struct err *err);

/* The context of all methods is the struct agent. */
extern const struct ttrpc_method task_methods[];      /* containerd.task.v2.Task */
extern const struct ttrpc_method streaming_methods[]; /* containerd.services.streaming.v1.Streaming */
/* Agent.ReadLog and Agent.Ack. */
void readlog_get(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);
void readlog_ack(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);

/* Figures, with what the message points to. */
struct figures {
	Crivisor__Agent__V1__StatsResponse stats;
	Crivisor__Agent__V1__Pressure cpu, memory, io;
};
/* Of a cgroup (path "": the root). What cannot be read stays 0 or unset. */
void figures_of_cgroup(const struct agent *agent, const char *path, struct figures *ret);
/* Of one container. -ENOENT if there is none. */
int container_stats(struct agent *agent, const char *id, struct figures *ret, struct err *err);
/*
 * Of each container that has a cgroup: a vector for StatsResponse.containers. One allocation, the caller's to
 * free once the message is packed; it points to the containers' ids. NULL with *ret_n 0: none, or -ENOMEM.
 */
Crivisor__Agent__V1__ContainerStats **containers_stats(struct agent *agent, size_t *ret_n);

/* ---- the end ------------------------------------------------------------------------------------------- */

/* SIGKILL to every process of every container. */
void containers_kill(struct agent *agent);
/* How many have a process that has not ended. */
unsigned int containers_running(const struct agent *agent);
/*
 * Removes cgroups and the runtime's state of all containers: for an agent whose machine goes on without it.
 * Blocks.
 */
void containers_remove_left(const struct agent *agent);
/*
 * Gives up every handle of a container's mounts, so that they can be unmounted. Only while the share is idle.
 */
void containers_release_mounts(struct agent *agent);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pod.h: the agent as a whole, for the two programs: its services, what makes its place the pod's, and its
 * end.
 *
 * Threads: the loop's.
 */
#ifndef GUEST_POD_POD_H
#define GUEST_POD_POD_H

#include "api/ttrpc/ttrpc.h"
#include "guest/core/agent.h"

/* The four services for server_new, with agent as context of every method. */
const struct ttrpc_service *pod_services(struct agent *agent);

/* lo up. */
int pod_loopback(struct err *err);
/* In a VM: binds the share's resolv.conf over /etc/resolv.conf if it exists; done once. */
int pod_dns(struct err *err);
/* Ends the pod's PID namespace if this agent made one. What is mounted at paths.shm and paths.pidns stays. */
void pod_end(void);

/*
 * The orderly end, at SIGTERM, Task.Shutdown and Agent.Shutdown. Nothing new begins; every container is
 * killed; once all have ended and virtiofs is idle, ops->release unmounts and syncs in a child process; then
 * Agent.Shutdown is answered, and ops->end comes. All of it takes at most the timeout, and 1 s for the last
 * answers: containers that do not end hold it up for half of the timeout, a release that hangs until its end,
 * and then ops->end comes without it. A second call joins the first; the earlier deadline wins.
 */
#define SHUTDOWN_DEFAULT_NS (10 * 1000000000LL)
#define SHUTDOWN_MAX_NS	    (60 * 1000000000LL)
/* For agent_ops.shutdown: with the default timeout. */
void pod_shutdown(struct agent *agent, const char *why);

#endif

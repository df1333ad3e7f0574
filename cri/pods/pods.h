/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pods.h: pod sandboxes, from RunPodSandbox to RemovePodSandbox. Containers: containers.h.
 *
 * Purpose:   the room's context, calls by id, and views. Nobody outside holds a pod: what leaves is a view
 *            for the length of a callback.
 * Life:      being created (hidden) → ready → not ready (stopped, or its sandbox died) → removed. Whatever a
 *            step leaves on the host is journalled before it is made, and undone on failure, at removal and
 *            in recovery.
 * Threads:   any. Functions with a `done` return soon: the work is a job of its own, which goes on when the
 *            caller leaves. Functions with `blocks` in their comment are for worker threads.
 * Ownership: strings and messages that are handed in are copied. What a callback is given lives until it
 *            returns.
 * Retries:   RunPodSandbox is known by name, namespace, uid and attempt, CreateContainer by pod, name and
 *            attempt. A call with the same names and the same configuration (and runtime handler) is a retry:
 *            it waits for the outcome of the first call's work, and later gets the same id, as long as the
 *            pod is ready or the container has not exited. CRI-O does so while the first call has had no
 *            answer; here it holds afterwards too, for a server cannot know whether its answer arrived. The
 *            name of what has ended is taken until it is removed: AlreadyExists. A call with the same names
 *            and another configuration is refused at any time: AlreadyExists, with the path of the first
 *            field that differs, and never its value, which may be a secret.
 * Unclaimed: what was created while no caller waited any more, and that no retry and no call by its id has
 *            touched since, is removed after 10 minutes. After a restart of the server the time begins anew.
 * Errors:    NotFound names the id; FailedPrecondition where the pod is not in the state that the call needs.
 */
#ifndef CRI_PODS_PODS_H
#define CRI_PODS_PODS_H

#include "api/cri/runtime.pb-c.h"
#include "base/err.h"
#include "cri/config/config.h"
#include "cri/core/call.h"
#include "cri/core/loop.h"
#include "cri/core/workers.h"
#include "cri/health/readiness.h"
#include "cri/image/image.h"
#include "cri/network/cni.h"
#include "cri/rootfs/rootfs.h"
#include "cri/sandbox/sandbox.h"
#include "cri/store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pods;
struct stream_server;
struct pod_view;
struct container_view;

/* ---- the room ------------------------------------------------------------------------------------------ */

struct pods_parts {
	const struct config *config;
	struct loop *loop;
	struct workers *workers;
	struct store *store;
	struct image_store *images;
	struct rootfs *rootfs;
	struct cni *cni;
	struct sandboxes *sandboxes;
	struct health *health;
	struct stream_server *streams; /* NULL: exec, attach and port forwarding are refused */
	int64_t unclaimed_ns;	       /* 0: 10 minutes */
	int64_t adopt_wait_ns;	       /* 0: 20 seconds */
	int64_t layers_ns;	       /* between two looks at writable layers, at least; 0: 10 seconds */
};

enum pods_event {
	POD_IS_READY,
	POD_IS_NOT_READY,
	POD_IS_REMOVED,
	CONTAINER_IS_CREATED,
	CONTAINER_IS_STARTED,
	CONTAINER_HAS_EXITED,
	CONTAINER_IS_REMOVED,
};
/*
 * What other rooms want to be told of. On any thread; quick. A hook may be NULL. The events of one pod and
 * its containers come one after the other, in their order: a hook may ask for views, which then are of the
 * event's moment or later, and begins no work. A new pod or container is told of before it is listed, a
 * removed one when it is listed no more.
 */
struct pods_hooks {
	void (*pod)(void *arg, enum pods_event event, const struct pod_view *pod);
	void (*container)(void *arg, enum pods_event event, const struct container_view *container);
	/*
	 * The last figures of a container that has exited, as its guest gave them; only of those that failed.
	 */
	void (*stats)(void *arg, const struct container_view *container, const ProtobufCMessage *stats);
	void *arg;
};

/* The parts outlive the room. hooks NULL: none. */
int pods_new(const struct pods_parts *parts, const struct pods_hooks *hooks, struct pods **ret_pods,
	     struct err *err);
/*
 * Once no job of the room runs and the loop has ended. What runs in sandboxes runs on. Returns NULL.
 * NULL-safe.
 */
struct pods *pods_free(struct pods *pods);
/*
 * Reads the rows of what a previous server left, then adopts it, and undoes what was left half done: each pod
 * by a job of its own, 45 s and one call to its guest at most. Before anybody may ask. Blocks until all rows
 * are listed, and for the adoptions adopt_wait_ns at most: those that take longer go on beside the service,
 * and calls on their pods, but for views, wait for them. -ENOMEM: nothing that lives was touched.
 */
int pods_recover(struct pods *pods, struct err *err);
/* No creations from now on; those in progress end soon and are undone. */
void pods_close(struct pods *pods);
/* The size of VMs of pods without limits: at first the configuration's. */
void pods_set_size(struct pods *pods, uint32_t vcpus, uint64_t memory_bytes);
uint64_t pods_memory_bytes(struct pods *pods);

/* ---- views --------------------------------------------------------------------------------------------- */

/* One moment of a pod. */
struct pod_view {
	const char *id;
	const Runtime__V1__PodSandboxConfig *config;
	const char *runtime_handler;
	int64_t created_at_ns; /* since the epoch */
	bool ready;
	const char *reason; /* why it is not, "" where it was stopped */
	char *const *ips;
	size_t n_ips;
};
/* A result other than 0 ends the walk and is returned. No lock is held. */
typedef int pod_view_fn(void *arg, const struct pod_view *pod, struct err *err);
/* Those whose id begins with `id` (NULL, "": all), newest first. */
int pods_each(struct pods *pods, const char *id, pod_view_fn *fn, void *arg, struct err *err);
/* The one with that id, or the only one whose id begins with it. NotFound; InvalidArgument if several do. */
int pods_look(struct pods *pods, const char *id, pod_view_fn *fn, void *arg, struct err *err);
/* Facts of its sandbox, for people to read. Blocks while the VMM is asked. */
int pods_info(struct pods *pods, const char *id, struct sandbox_info *ret_info, struct err *err);

/* ---- calls --------------------------------------------------------------------------------------------- */

/*
 * How a call came out: runs exactly once, on any thread, perhaps before the function that was given it
 * returns. err has code 0 where it went well; then `id` is the object's. A call that is cancelled first ends
 * with its own error; the work goes on. Must be quick.
 */
typedef void pods_done_fn(void *arg, const char *id, const struct err *err);

void pods_run(struct pods *pods, const Runtime__V1__PodSandboxConfig *config, const char *handler,
	      struct call *call, pods_done_fn *done, void *arg);
/* Both idempotent; an unknown id is success. One that is stopping or being removed already is joined. */
void pods_stop(struct pods *pods, const char *id, struct call *call, pods_done_fn *done, void *arg);
void pods_remove(struct pods *pods, const char *id, struct call *call, pods_done_fn *done, void *arg);
/*
 * Other limits for the CPUs of the pod's cgroup on the host: those that `resources` sets. Its VM grows with
 * them where it must: all of it, or nothing with the errors of containers_update. NULL: nothing to do.
 */
void pods_update(struct pods *pods, const char *id, const Runtime__V1__LinuxContainerResources *resources,
		 struct call *call, pods_done_fn *done, void *arg);

/* The URL at which a client is connected to ports of the pod, malloc'ed. stream.h: how long, how often. */
int pods_offer_forward(struct pods *pods, const char *id, char **ret_url, struct err *err);

#endif

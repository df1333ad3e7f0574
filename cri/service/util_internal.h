/* SPDX-License-Identifier: Apache-2.0 */
/*
 * util_internal.h: what several CRI handlers need: label maps, and the status of a pod and of a container.
 *
 * Threads:   pure functions.
 * Errors:    -ENOMEM.
 */
#ifndef CRI_SERVICE_UTIL_INTERNAL_H
#define CRI_SERVICE_UTIL_INTERNAL_H

#include "cri/pods/containers.h"
#include "cri/rpc/rpc.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * The generated entry types of all map<string, string> fields have one shape: that of protobuf-c's base, key,
 * value.
 */

/* Copies a map field into an empty one. */
int service_copy_map(void *to_vector, size_t *n_to, const void *from_vector, size_t n_from);
/* True if the labels hold every pair of the selector. */
bool service_labels_match(const void *selector, size_t n_selector, const void *labels, size_t n_labels);
Runtime__V1__ContainerState service_container_state(const struct container_view *view);
int service_container_status_of(Runtime__V1__ContainerStatus *s, const struct container_view *view);
/* pod.c */
int service_pod_status_of(Runtime__V1__PodSandboxStatus *s, const struct pod_view *pod);
bool service_pod_wanted(const Runtime__V1__PodSandboxFilter *filter, const struct pod_view *pod);
/* Appends to a repeated field of PodSandbox. */
int service_add_pod(void *vector, size_t *n, const struct pod_view *pod, struct err *err);
/* container.c */
bool service_container_wanted(const Runtime__V1__ContainerFilter *filter, const struct container_view *view);
int service_add_container(void *vector, size_t *n, const struct container_view *view, struct err *err);
/* image.c */
int service_image_of(Runtime__V1__Image *to, const struct image *from);

/* A pods_done_fn for RPCs whose answer is empty; arg is the struct rpc_reply. */
void service_done(void *arg, const char *id, const struct err *err);

#endif

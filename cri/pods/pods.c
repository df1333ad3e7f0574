/* SPDX-License-Identifier: Apache-2.0 */
/* The room's context. */
#include "cri/pods/pods_internal.h"

#define UNCLAIMED_NS (600 * NS_PER_SEC)

int pods_new(const struct pods_parts *parts, const struct pods_hooks *hooks, struct pods **ret_pods,
	     struct err *err)
{
	struct pods *pods = calloc(1, sizeof(*pods));

	if (!pods)
		return err_oom(err);
	pods->parts = *parts;
	if (hooks)
		pods->hooks = *hooks;
	table_init(&pods->pods, "pod sandbox", pod_free, pod_store_object);
	table_init(&pods->containers, "container", container_free, container_store_object);
	atomic_init(&pods->vcpus, parts->config->hypervisor.vcpus);
	atomic_init(&pods->memory_bytes, parts->config->hypervisor.memory_bytes);
	atomic_init(&pods->closed, false);
	pods->unclaimed_ns = parts->unclaimed_ns > 0 ? parts->unclaimed_ns : UNCLAIMED_NS;
	*ret_pods = pods;
	return 0;
}

static void empty(struct table *table, bool of_pods)
{
	struct object **list CLEANUP_OBJECTS = NULL;

	if (table_list(table, true, &list, NULL) < 0)
		return;
	for (size_t i = 0; list[i]; i++) {
		if (of_pods)
			pod_unhook((struct pod *)(void *)list[i]);
		else
			container_stop_forget(container_of(list[i]));
		object_remove(list[i]);
	}
}

struct pods *pods_free(struct pods *pods)
{
	if (!pods)
		return NULL;
	loop_source_free(pods->unclaimed);
	loop_source_free(pods->layers.timer);
	empty(&pods->containers, false); /* they hold their pods */
	container_stops_forget(pods);
	empty(&pods->pods, true);
	table_done(&pods->containers);
	table_done(&pods->pods);
	free(pods);
	return NULL;
}

static void cancel_creations(struct table *table)
{
	struct object **list CLEANUP_OBJECTS = NULL;

	if (table_list(table, true, &list, NULL) < 0)
		return;
	for (size_t i = 0; list[i]; i++) {
		if (list[i]->made && !outcome_known(list[i]->made))
			call_cancel(list[i]->work, "the server is being stopped");
	}
}

void pods_close(struct pods *pods)
{
	atomic_store(&pods->closed, true);
	cancel_creations(&pods->containers);
	cancel_creations(&pods->pods);
}

void pods_set_size(struct pods *pods, uint32_t vcpus, uint64_t memory_bytes)
{
	atomic_store(&pods->vcpus, vcpus);
	atomic_store(&pods->memory_bytes, memory_bytes);
}

uint64_t pods_memory_bytes(struct pods *pods)
{
	return atomic_load(&pods->memory_bytes);
}

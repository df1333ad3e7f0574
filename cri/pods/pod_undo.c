/* SPDX-License-Identifier: Apache-2.0 */
/* The undo of every journalled step of pods and containers: rollback, removal and recovery all come here. */
#include "cri/pods/pods_internal.h"

#include "api/pb.h"

#define CNI_DEL_NS (60 * NS_PER_SEC)

/* arg: "<netns path>". The pod's own row, if it is still there, tells the rest. */
static int undo_cni(struct pods *pods, const char *owner, const char *netns, struct err *err)
{
	void *data CLEANUP_FREE = NULL;
	PodState *state = NULL;
	struct cni_port ports[POD_PORTS_MAX];
	struct cni_pod view;
	size_t len;
	int r;

	if (store_get(pods->parts.store, "pod", owner, &data, &len, NULL) == 0)
		state = crivisor__state__v1__pod__unpack(NULL, len, data);
	r = pod_cni_view(owner, netns,
			 state && state->config && state->config->metadata ? state->config : NULL, ports,
			 ARRAY_SIZE(ports), &view, NULL);
	if (r < 0) /* DEL runs even with a configuration that ADD would refuse */
		r = pod_cni_view(owner, netns, NULL, ports, 0, &view, err);
	if (r == 0)
		r = cni_del(pods->parts.cni, &view, now_monotonic_ns() + CNI_DEL_NS, err);
	pb_free(state);
	return r;
}

int pod_undo(void *ctx, const char *owner, const char *kind, const char *arg, struct err *err)
{
	struct pods *pods = ctx;
	int r;

	if (str_eq(kind, "cni"))
		return undo_cni(pods, owner, arg, err);
	if (str_eq(kind, "upper"))
		return rootfs_remove(pods->parts.rootfs, arg, err);
	r = sandboxes_undo_step(pods->parts.sandboxes, kind, arg, err);
	if (r == -ENOENT)
		return err_set(err, -EINVAL, "the journal holds an unknown step \"%s\" of %s", kind, owner);
	return r;
}

int pod_undo_all(struct pods *pods, const char *id, const char *sandbox_id, struct err *err)
{
	struct err own = ERR_INIT;
	int r = journal_undo_owner(pods->parts.store, id, pod_undo, pods, &own);
	int s = str_empty(sandbox_id) ||
				str_eq(sandbox_id, id) /* of an old row: those steps were undone above */
			? 0
			: sandboxes_undo(pods->parts.sandboxes, sandbox_id, r < 0 ? NULL : err);

	return r < 0 ? err_copy(err, &own) : s;
}

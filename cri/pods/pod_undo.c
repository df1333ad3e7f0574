/* SPDX-License-Identifier: Apache-2.0 */
/* The undo of every journalled step of pods and containers: rollback, removal and recovery all come here. */
#include "cri/pods/container.h"
#include "cri/pods/pod.h"

#include "base/util.h"
#include "api/pb.h"
#include "cri/sandbox/share.h"
#include "vmm/cgroup.h"
#include "vmm/network.h"

#include <stdio.h>

#define KILL_NS	   (10 * NS_PER_SEC)
#define CNI_DEL_NS (60 * NS_PER_SEC)

/* arg: "<netns path>". The pod's own row, if it is still there, tells the rest. */
static int undo_cni(struct server *server, const char *owner, const char *netns, struct err *err)
{
	void *data CLEANUP_FREE = NULL;
	Crivisor__State__V1__Pod *state = NULL;
	struct cni_port ports[64];
	struct cni_pod view;
	size_t len;
	int r;

	if (store_get(server->store, "pod", owner, &data, &len, NULL) == 0)
		state = crivisor__state__v1__pod__unpack(NULL, len, data);
	r = pod_cni_view(owner, netns, state ? state->config : NULL, ports, ARRAY_SIZE(ports), &view, NULL);
	if (r < 0) /* what ADD would not take does not keep DEL from running */
		r = pod_cni_view(owner, netns, NULL, ports, 0, &view, err);
	if (r == 0)
		r = cni_del(server->cni, &view, now_monotonic_ns() + CNI_DEL_NS, err);
	pb_free(state);
	return r;
}

int pod_undo(void *ctx, const char *owner, const char *kind, const char *arg, struct err *err)
{
	struct server *server = ctx;
	int r;

	if (str_eq(kind, "cgroup"))
		return vmm_cgroup_destroy(arg, now_monotonic_ns() + KILL_NS, err);
	if (str_eq(kind, "cni"))
		return undo_cni(server, owner, arg, err);
	if (str_eq(kind, "netns"))
		return vmm_netns_destroy(arg, err);
	if (str_eq(kind, "share"))
		return share_destroy(arg, err);
	if (str_eq(kind, "rundir")) {
		r = remove_tree(arg);
		return r < 0 ? err_set_errno(err, r, "removing %s", arg) : 0;
	}
	if (str_eq(kind, "cdir"))
		return share_container_destroy(arg, true, err);
	if (str_eq(kind, "upper"))
		return rootfs_remove(server->rootfs, arg, err);
	return err_set(err, -EINVAL, "the journal holds an unknown step \"%s\" of %s", kind, owner);
}

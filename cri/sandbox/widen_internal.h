/* SPDX-License-Identifier: Apache-2.0 */
/*
 * widen_internal.h: makes a mount of the share writable that was read-only.
 *
 * Purpose:   the flags of a mount do not propagate, and virtiofsd has a mount namespace of its own with a
 *            copy of each mount. So the copies are changed where they are: in this namespace and in those of
 *            the processes of the pod's cgroup, which a thread enters for that.
 * Threads:   any; blocks for a thread of its own, which waits for mount(2) alone. Trust: a process of the pod
 *            cannot make mounts: in its namespace only mounts whose path ends in the random name of the
 *            volume are changed, and only their flag.
 */
#ifndef CRI_SANDBOX_WIDEN_INTERNAL_H
#define CRI_SANDBOX_WIDEN_INTERNAL_H

#include "base/err.h"

/* Every mount …/<dir>/<name>. cgroup NULL: in this namespace alone. */
int widen_mount(const char *pod_dir, const char *cgroup, const char *dir, const char *name, struct err *err);

#endif

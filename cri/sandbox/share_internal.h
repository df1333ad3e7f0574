/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share_internal.h: the directory tree that a pod's virtiofsd exports, and the mounts in it.
 *
 * Purpose:   <pod dir>/mounts is where the server makes files and mounts; <pod dir>/shared is a read-only
 *            bind of it, and what virtiofsd exports. `mounts` is a shared mount and `shared` receives from
 *            it, so what is mounted in the one appears in the other and in virtiofsd's own namespace. The
 *            guest can write into single volumes and roots, never into the tree that holds them: it cannot
 *            turn a later mount's target into a symlink. Both are for root alone (mode 0700), and what is
 *            mounted there is nosuid and nodev: no user of the host reaches a pod's files by this way.
 * Threads:   any; the functions block on mount(2) alone.
 * Errors:    name the path; a missing source is -ENOENT with the host path.
 */
#ifndef CRI_SANDBOX_SHARE_INTERNAL_H
#define CRI_SANDBOX_SHARE_INTERNAL_H

#include "base/err.h"

#include <stdbool.h>

int share_create(const char *pod_dir, struct err *err);
/* Detaches everything below and removes the tree. Missing: success. The VM must be dead. */
int share_destroy(const char *pod_dir, struct err *err);
/* Makes mounts/<container id>/rootfs. */
int share_container_create(const char *pod_dir, const char *container_id, struct err *err);
/*
 * Unmounts all of a container, volumes that no other uses too, and removes its directory; `lazy` where the VM
 * is dead. Missing: success.
 */
int share_container_destroy(const char *container_dir, bool lazy, struct err *err);
/*
 * Unmounts what is mounted at `path`, a place of the share whose parents the guest cannot write. What is
 * mounted below it lies in directories that the guest may have replaced by symlinks, so it is not unmounted
 * by its path, but detached with what it is in. Waits up to 2 s for the guest to let go; then, or if `lazy`,
 * detaches. Nothing mounted: success.
 */
int share_umount(const char *path, bool lazy, struct err *err);
/* Writes mounts/<name>. */
int share_write(const char *pod_dir, const char *name, const char *text, struct err *err);

#endif

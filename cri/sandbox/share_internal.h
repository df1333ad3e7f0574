/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share_internal.h: the directory tree that a pod's virtiofsd exports, and the mounts in it.
 *
 * Purpose:   <pod dir>/mounts is where the server makes files and mounts; <pod dir>/shared is a read-only
 *            bind of it, and what virtiofsd exports. `mounts` is a shared mount and `shared` receives from
 *            it, so what is mounted in the one appears in the other and in virtiofsd's own namespace. The
 *            guest can write into single volumes and roots, never into the tree that holds them: it cannot
 *            turn a later mount's target into a symlink.
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
/* Makes mounts/<name>/{rootfs,mounts}. */
int share_container_create(const char *pod_dir, const char *container_id, struct err *err);
/*
 * Binds host path `source` (with what is mounted below it, private) at mounts/<container>/mounts/<index>, a
 * directory or a file as the source is one. recursive_ro applies read_only to the mounts below as well.
 */
int share_bind(const char *pod_dir, const char *container_id, unsigned int index, const char *source,
	       bool read_only, bool recursive_ro, struct err *err);
/* Unmounts all of a container and removes its directory; `lazy` where the VM is dead. Missing: success. */
int share_container_destroy(const char *container_dir, bool lazy, struct err *err);
/* Writes mounts/<name>. */
int share_write(const char *pod_dir, const char *name, const char *text, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rootfs.h: a container's root file system, made of its image's layers and a writable one of its own.
 *
 * Purpose:   one interface to the ways of making one. There is one way today: an overlay mounted on the host.
 * Threads:   every function from any thread; calls for the same container must not overlap.
 * Ownership: struct rootfs does not own the image store, which must outlive it.
 * Layout:    <state_dir>/containers/<id>/, and what the way of making it keeps there.
 * Limits:    a writable layer takes struct rootfs_limit at most. Where state_dir's file system enforces
 *            project quotas (quota_internal.h), it refuses what exceeds that. Elsewhere whoever holds the
 *            containers asks rootfs_exceeds now and then, and ends those that do.
 * Durable:   a container's use of its image is noted before anything is mounted; the caller journals the
 *            container.
 * Errors:    a container id that cannot be a file name is -EINVAL.
 */
#ifndef CRI_ROOTFS_ROOTFS_H
#define CRI_ROOTFS_ROOTFS_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct image_store;
struct rootfs;

/* Of one writable layer; 0: none. */
struct rootfs_limit {
	uint64_t bytes, inodes;
};

/* limit NULL: none. */
int rootfs_open(struct image_store *images, const char *state_dir, const struct rootfs_limit *limit,
		struct rootfs **ret_rootfs, struct err *err);
/* Returns NULL. What is mounted stays. */
struct rootfs *rootfs_close(struct rootfs *rootfs);

/*
 * Mounts a container's root file system at `target`, a directory that exists. container_id NULL: the image
 * alone, read-only. Idempotent: where something is mounted, it stays.
 */
int rootfs_mount(struct rootfs *rootfs, const char *image_id, const char *container_id, const char *target,
		 struct err *err);
/*
 * Unmounts target (lazily if `lazy`), unless sandbox_place_remove does so. Missing or not mounted: success.
 */
int rootfs_umount(struct rootfs *rootfs, const char *target, bool lazy, struct err *err);
/* Removes the writable layer and drops the use of the image. Missing: success. */
int rootfs_remove(struct rootfs *rootfs, const char *container_id, struct err *err);
/*
 * What the container's writable layer takes, as ContainerStats and the limit count it. Where the file system
 * counts by project this is one call; elsewhere the tree is walked, which blocks.
 */
int rootfs_usage(struct rootfs *rootfs, const char *container_id, uint64_t *ret_bytes, uint64_t *ret_inodes,
		 struct err *err);
/* Whether there is a limit at all. NULL: there is none. */
bool rootfs_limits(const struct rootfs *rootfs);
/*
 * Whether the container's writable layer exceeds the limit; ret_why then says by what. It can only where the
 * file system does not enforce the limit, or did not when the layer was made. Blocks as rootfs_usage. What a
 * process has unlinked and holds open is not seen.
 */
bool rootfs_exceeds(struct rootfs *rootfs, const char *container_id, char *ret_why, size_t size);

#endif

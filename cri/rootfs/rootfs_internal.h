/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rootfs_internal.h: what a way of making root file systems implements.
 *
 * Contract:  ids have been checked. Each function does what the one of rootfs.h says; mount is called only
 *            where nothing is mounted, and remove need not drop the use of the image.
 */
#ifndef CRI_ROOTFS_ROOTFS_INTERNAL_H
#define CRI_ROOTFS_ROOTFS_INTERNAL_H

#include "base/tree.h"
#include "cri/image/image.h"
#include "cri/rootfs/rootfs.h"

struct rootfs_driver {
	const char *name;
	int (*mount)(struct rootfs *rootfs, const char *image_id, const char *container_id,
		     const char *target, struct err *err);
	int (*umount)(const char *target, bool lazy, struct err *err);
	/* dir: the container's, an open directory. */
	int (*remove)(struct rootfs *rootfs, const char *container_id, int dir, struct err *err);
	int (*usage)(struct rootfs *rootfs, const char *container_id, struct tree_usage *ret_usage,
		     struct err *err);
};

struct rootfs {
	const struct rootfs_driver *driver;
	struct image_store *images;
	char *dir; /* <state_dir>/containers */
	struct rootfs_limit limit;
	bool enforced; /* by the file system */
};

extern const struct rootfs_driver rootfs_overlay;

#endif

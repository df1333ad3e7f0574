/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h: images: references, pulls, the content store, unpacked layers and container root file systems.
 *
 * Threads:   every function from any thread; pulls of the same image join one another.
 * Ownership: out-parameters are the caller's.
 * Layout:    <state_dir>/images/blobs/sha256/<hex>, <state_dir>/images/layers/<chain id hex>/fs (the layer's
 *            own files, with overlay whiteouts: char 0:0 and trusted.overlay.opaque),
 *            <state_dir>/containers/<id>/{upper,work}.
 * Identity:  an image's id is "sha256:<hex of its config blob>", which is also what PullImage answers.
 * Secrets:   credentials live in memory for the time of a pull and reach no log, file or command line.
 */
#ifndef CRI_IMAGE_IMAGE_H
#define CRI_IMAGE_IMAGE_H

#include "base/err.h"
#include "cri/image/oci/manifest.h"
#include "cri/image/registry/auth.h"
#include "cri/core/workers.h"
#include "cri/store/store.h"

#include <stdbool.h>
#include <stdint.h>

struct image_store;

struct image_store_options {
	struct store *store;
	struct workers *workers; /* LANE_IMAGE for removing files; may be NULL: the caller waits for it */
	const char *state_dir;
	const char *registry_config_dir; /* hosts.toml layout */
};
int image_store_open(const struct image_store_options *options, struct image_store **ret_images,
		     struct err *err);
struct image_store *image_store_close(struct image_store *images);

struct image {
	char *id;	     /* "sha256:…" */
	char **repo_tags;    /* "registry/name:tag" */
	char **repo_digests; /* "registry/name@sha256:…" */
	uint64_t size_bytes; /* of config and compressed layers */
	bool pinned;
	char *config_json; /* the whole config blob, for verbose status */
	char **layers;	   /* chain ids, base first */
	struct image_config config;
};
struct image *image_free(struct image *image);

/*
 * Pulls a reference. Errors start "RegistryUnavailable" where the registry cannot be reached; no such image
 * is ERR_NOT_FOUND naming reference and registry; a bad reference ERR_INVALID_ARGUMENT; a digest mismatch
 * ERR_DATA_LOSS. Nothing is left of a failed pull but whole, verified blobs and parts to resume from.
 * `cancelled` (may be NULL) is polled.
 */
int image_pull(struct image_store *images, const char *ref, const struct image_auth *auth,
	       bool (*cancelled)(void *arg), void *arg, char **ret_id, struct err *err);
/* By reference, id or unique id prefix (as crictl shows: 13 hex digits). -ENOENT if absent. */
int image_get(struct image_store *images, const char *ref, struct image **ret_image, struct err *err);
/* All images, or those `ref` names (NULL: all): a NULL-terminated vector of image_free'able. */
int image_list(struct image_store *images, const char *ref, struct image ***ret_list, struct err *err);
/*
 * Removes the image with all its tags; blobs and layers that nothing else uses go too. Missing: success. Used
 * by a container (image_rootfs_prepare'd): the name goes, the files stay until the container's rootfs is
 * removed.
 */
int image_remove(struct image_store *images, const char *ref, struct err *err);
struct image_fs_info {
	char *mountpoint; /* exists */
	uint64_t used_bytes, inodes_used;
};
int image_fs_info(struct image_store *images, struct image_fs_info *ret_info, struct err *err);

/*
 * Mounts a container's root file system at `target` (exists): overlay of the image's layers and the
 * container's own upper directory, or read-only of the layers alone. Idempotent. The caller journals.
 */
int image_rootfs_mount(struct image_store *images, const char *image_id, const char *container_id,
		       const char *target, struct err *err);
/* Unmounts target (lazily if `lazy`). Missing or not mounted: success. */
int image_rootfs_umount(const char *target, bool lazy, struct err *err);
/* Removes the upper directory and drops the use of the image. Missing: success. */
int image_rootfs_remove(struct image_store *images, const char *container_id, struct err *err);
/* Bytes and inodes of the container's writable layer. */
int image_rootfs_usage(struct image_store *images, const char *container_id, uint64_t *ret_bytes,
		       uint64_t *ret_inodes, struct err *err);
/*
 * Looks a user or group up in the image's /etc/passwd and /etc/group, safely (no symlink leaves the root).
 * user: "name", "uid", "name:group", "uid:gid". Supplementary groups of /etc/group are those that list the
 * user's name.
 */
struct image_user {
	uint32_t uid, gid;
	uint32_t *groups;
	size_t n_groups;
};
int image_user_lookup(const char *rootfs, const char *user, struct image_user *ret_user, struct err *err);

/*
 * `crivisor image import|export|list`: OCI layouts (directories) and archives (tar, also docker-archive on
 * import).
 */
int image_import(struct image_store *images, const char *path, const char *name, char ***ret_ids,
		 struct err *err);
int image_export(struct image_store *images, const char *ref, const char *path, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h: images: references, pulls, the content store and unpacked layers.
 *
 * Threads:   every function from any thread; pulls of the same image join one another.
 * Ownership: out-parameters are the caller's.
 * Layout:    <state_dir>/images/blobs/sha256/<hex>, <state_dir>/images/layers/<chain id hex>/fs.
 * Identity:  an image's id is "sha256:<hex of its config blob>", which is also what PullImage answers.
 * Secrets:   credentials live in memory for the time of a pull and reach no log, file or command line.
 */
#ifndef CRI_IMAGE_IMAGE_H
#define CRI_IMAGE_IMAGE_H

#include "base/err.h"
#include "cri/core/call.h"
#include "cri/image/oci/manifest.h"
#include "cri/image/registry/auth.h"
#include "cri/core/workers.h"
#include "cri/store/store.h"

#include <stdbool.h>
#include <stdint.h>

#define IMAGE_LAYERS_MAX OCI_LAYERS_MAX /* of one image */

struct image_store;

struct image_store_options {
	struct store *store;
	struct workers *workers; /* LANE_IMAGE for removing files; may be NULL: the caller waits for it */
	const char *state_dir;
	const char *registry_config_dir; /* hosts.toml layout */
	long stall_s;			 /* so long a blob may come slower than 1 KiB/s; 0: 60 s */
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
 * Pulls of the same image with the same credentials are one; it ends once the calls of all that want it have
 * ended. A call that ends before takes only its own caller away.
 */
int image_pull(struct image_store *images, const char *ref, const struct image_auth *auth, struct call *call,
	       char **ret_id, struct err *err);
/* By reference, id or unique id prefix (as crictl shows: 13 hex digits). -ENOENT if absent. */
int image_get(struct image_store *images, const char *ref, struct image **ret_image, struct err *err);
/* All images, or those `ref` names (NULL: all): a NULL-terminated vector of image_free'able. */
int image_list(struct image_store *images, const char *ref, struct image ***ret_list, struct err *err);
/*
 * Removes the image with all its tags; blobs and layers that nothing else uses go too. Missing: success. If a
 * container uses it (image_use_take), the name goes and the files stay until the use is dropped.
 */
int image_remove(struct image_store *images, const char *ref, struct err *err);
struct image_fs_info {
	char *mountpoint; /* exists */
	uint64_t used_bytes, inodes_used;
};
int image_fs_info(struct image_store *images, struct image_fs_info *ret_info, struct err *err);

/* ---- users of an image's layers ------------------------------------------------------------------------ */

/*
 * While it is held, no layer is removed, by any process. Returns what image_unhold takes, or a negative
 * errno. Waits for a collection that runs, which takes milliseconds: files are removed after it.
 */
int image_hold(struct image_store *images, struct err *err);
void image_unhold(struct image_store *images, int hold);
/*
 * Notes that `user` (a container's id) uses an image, so that its layers stay until image_use_drop, even when
 * the image is removed. Held by the caller. One user uses one image for good: asked again, it gets the layers
 * that it got first. user NULL: for the time of the hold alone. *ret_layers: the directories of the layers'
 * own files (with overlay whiteouts: char 0:0 and trusted.overlay.opaque), the top one first, at least one;
 * strv_free.
 */
int image_use_take(struct image_store *images, const char *image_id, const char *user, char ***ret_layers,
		   struct err *err);
/* Drops a use and removes what nothing uses any more. Unknown: success. */
int image_use_drop(struct image_store *images, const char *user, struct err *err);
/*
 * Makes a tree disappear now and removes its files later, in LANE_IMAGE, if it is on the image store's file
 * system; else at once. Missing: success. 0 or a negative errno.
 */
int image_discard_tree(struct image_store *images, int dirfd, const char *name);

/* ---- files --------------------------------------------------------------------------------------------- */

/*
 * `crivisor image import|export|list`: OCI layouts (directories) and archives (tar, also docker-archive on
 * import).
 */
int image_import(struct image_store *images, const char *path, const char *name, char ***ret_ids,
		 struct err *err);
int image_export(struct image_store *images, const char *ref, const char *path, struct err *err);

#endif

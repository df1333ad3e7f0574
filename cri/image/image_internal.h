/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_internal.h: what the image store's own files share.
 *
 * Locks:     images->lock guards pulls and unpacking; it is held for list work only. The file <images>/lock,
 *            by flock(2), is shared by every pull, import and mount in any process for its whole time, and
 *            exclusive for a collection, which is skipped when it cannot be had at once and made up for by
 *            whoever ends last.
 */
#ifndef CRI_IMAGE_IMAGE_INTERNAL_H
#define CRI_IMAGE_IMAGE_INTERNAL_H

#include "cri/image/image.h"
#include "cri/image/blob_internal.h"
#include "cri/image/oci/manifest.h"
#include "cri/image/row_internal.h"
#include "cri/image/unpack/unpack.h"

#include <pthread.h>
#include <stdatomic.h>

#define IMAGES_IMPORT_PREFIX "import." /* <images>/import.<random>: an archive being imported */

struct image_pull_job;
struct image_unpacking;

struct image_store {
	struct store *store;
	struct workers *workers;
	char *state_dir, *dir, *registry_config_dir; /* dir: <state_dir>/images */
	long stall_s;				     /* of registry_options */
	struct blob_store *blobs;
	struct unpack_limits limits;
	atomic_bool collect_wanted;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a pull or an unpacking ended */
	struct image_pull_job *pulls;
	struct image_unpacking *unpacking;
};

/* The shared lock: an fd to close. */
int images_lock(struct image_store *images, struct err *err);
/* Closes the shared lock and collects if someone wanted to meanwhile. */
void images_unlock(struct image_store *images, int fd);
/* Removes what nothing refers to, now or (if a pull runs) later. */
int images_collect(struct image_store *images, struct err *err);
/* Gives back the memory that the code of pulls takes, once none runs. */
void images_trim(void);

/* "<dir>/layers/<hex>/fs"; NULL on ENOMEM. */
char *layer_path(const struct image_store *images, const char *chain);
bool layer_have(const struct image_store *images, const char *chain);
/*
 * Unpacks a layer unless it is there; ends with the call. chains: of all layers up to and including this one,
 * base first; n of them.
 */
int layer_unpack(struct image_store *images, const char *blob, const char *diff_id, char *const *chains,
		 size_t n, struct call *call, struct err *err);
/* Counts <layer_dir>/fs and notes it in <layer_dir>/usage, for image_fs_info is asked every few seconds. */
int layer_usage_note(const char *layer_dir, struct err *err);
/* Renames unwanted layers out of the way (under the exclusive lock), then removes them (without it). */
int layers_bury(struct image_store *images, bool (*keep)(void *arg, const char *chain), void *arg,
		struct err *err);
/* In the workers, where there is one; else at once. */
void layers_remove_buried(struct image_store *images);

/*
 * An image whose blobs are all there: unpack every layer and write its row. `tag` and `digest` may be NULL.
 */
struct image_commit {
	const char *manifest_digest;
	const struct oci_manifest *manifest;
	char *const *diff_ids, *const *chains;
	const char *tag, *digest; /* full names */
};
int image_commit(struct image_store *images, const struct image_commit *commit, struct err *err);

#endif

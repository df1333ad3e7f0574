/* SPDX-License-Identifier: Apache-2.0 */
/*
 * row_internal.h: what the store keeps of an image and of a container's use of one.
 *
 * Purpose:   rows of the kinds "image" (id: the image's id) and "rootfs" (id: the container's), as JSON that
 *            is checked when read.
 * Threads:   no shared state.
 * Ownership: rows own what they point to; image_row_free frees.
 */
#ifndef CRI_IMAGE_ROW_INTERNAL_H
#define CRI_IMAGE_ROW_INTERNAL_H

#include "base/err.h"
#include "cri/image/oci/reference.h"
#include "cri/store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMAGE_KIND "image"
#define USE_KIND   "rootfs"

struct image_layer {
	char blob[IMAGE_DIGEST_LEN + 1];  /* compressed */
	char chain[IMAGE_DIGEST_LEN + 1]; /* where it is unpacked */
	uint64_t size_bytes;
};

struct image_row {
	char id[IMAGE_DIGEST_LEN + 1]; /* also the config's digest */
	char manifest[IMAGE_DIGEST_LEN + 1];
	char **tags;	/* "docker.io/library/busybox:1" */
	char **digests; /* "docker.io/library/busybox@sha256:…" */
	uint64_t size_bytes;
	bool pinned;
	struct image_layer *layers; /* base first */
	size_t n_layers;
};

struct image_row *image_row_free(struct image_row *row);
/* Writes it under its id. */
int image_row_put(struct store *store, const struct image_row *row, struct err *err);
/* All rows in the order of creation, NULL-terminated; one that cannot be read is left out. */
int image_rows_load(struct store *store, struct image_row ***ret_rows, struct err *err);
struct image_row **image_rows_free(struct image_row **rows);
/*
 * The row that `text` names: an id, a reference (its digest decides before its tag) or a unique prefix of an
 * id. -ENOENT names it; -EINVAL if a prefix is not unique. The pointer lives in rows.
 */
int image_rows_find(struct image_row *const *rows, const char *text, struct image_row **ret_row,
		    struct err *err);
/* True if a reference names this row. */
bool image_row_named(const struct image_row *row, const struct image_ref *ref);

/* A container's use: chain ids, base first. */
int use_row_put(struct store *store, const char *container_id, const char *image_id, char *const *chains,
		struct err *err);
int use_row_get(struct store *store, const char *container_id, char ***ret_chains, struct err *err);
/* Chain ids that any container uses. */
int use_rows_chains(struct store *store, char ***ret_chains, struct err *err);

#endif

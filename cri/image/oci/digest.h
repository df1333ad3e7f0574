/* SPDX-License-Identifier: Apache-2.0 */
/*
 * digest.h: running SHA-256 by libcrypto, printed as "sha256:<hex>".
 *
 * Threads:   an object belongs to one thread at a time.
 * Errors:    -ENOMEM (libcrypto has no other here).
 */
#ifndef CRI_IMAGE_OCI_DIGEST_H
#define CRI_IMAGE_OCI_DIGEST_H

#include "cri/image/oci/reference.h"

#include <stddef.h>

struct image_digest;

/* NULL on ENOMEM. */
struct image_digest *image_digest_new(void);
struct image_digest *image_digest_free(struct image_digest *digest);
/* Begins anew. */
void image_digest_reset(struct image_digest *digest);
void image_digest_update(struct image_digest *digest, const void *data, size_t len);
/* Writes "sha256:…"; the object then needs a reset. */
void image_digest_final(struct image_digest *digest, char out[IMAGE_DIGEST_LEN + 1]);
/* One shot. */
void image_digest_of(const void *data, size_t len, char out[IMAGE_DIGEST_LEN + 1]);

#endif

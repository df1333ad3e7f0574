/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blob_internal.h: the content store: <images>/blobs/sha256/<hex>, whole and verified, or <hex>.part, to be
 * resumed.
 *
 * Threads:   every function from any thread. A blob that two pulls want at once is fetched once (in one
 *            process; another process that wants it meanwhile fetches a copy of its own).
 * Ownership: out-parameters are the caller's.
 * Limits:    never more bytes than the descriptor tells; the disk's room is checked before.
 * Errors:    ERR_DATA_LOSS for what does not match its digest or size; -ENOSPC for a full disk.
 */
#ifndef CRI_IMAGE_BLOB_INTERNAL_H
#define CRI_IMAGE_BLOB_INTERNAL_H

#include "base/err.h"
#include "cri/core/call.h"
#include "cri/image/registry/registry.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct blob_store;

/* Makes the directories beneath images_dir. */
int blob_store_open(const char *images_dir, struct blob_store **ret_store, struct err *err);
struct blob_store *blob_store_close(struct blob_store *store);

/* True if it is there; *ret_size may be NULL. A blob found is marked as used now. */
bool blob_have(struct blob_store *store, const char *digest, uint64_t *ret_size);
/* An fd to read from, or -ENOENT. */
int blob_open(struct blob_store *store, const char *digest, struct err *err);
/* Reads and verifies a small blob, NUL-terminated beyond its length. */
int blob_read(struct blob_store *store, const char *digest, size_t max_bytes, char **ret_data,
	      size_t *ret_len, struct err *err);
/* Keeps bytes under their digest. */
int blob_put(struct blob_store *store, const void *data, size_t len, char ret_digest[IMAGE_DIGEST_LEN + 1],
	     struct err *err);
/* Copies from fd up to its end; `digest` (NULL: any) must match. */
int blob_put_fd(struct blob_store *store, int fd, const char *digest, char ret_digest[IMAGE_DIGEST_LEN + 1],
		uint64_t *ret_size, struct err *err);
/*
 * Fetches a blob unless it is there. *progress (may be NULL) counts the bytes held, parts from before
 * included. Ends with the call, also while another pull fetches the same blob.
 */
int blob_fetch(struct blob_store *store, struct registry_client *client, const char *digest,
	       uint64_t size_bytes, _Atomic uint64_t *progress, struct call *call, struct err *err);
/* Marks a blob as unused, so that the next collection removes it. */
void blob_release(struct blob_store *store, const char *digest);
/*
 * Removes what `keep` does not want: blobs released or untouched for an hour, parts likewise unless they are
 * being written, and other left-overs. Only while no pull or import runs anywhere (the caller's lock).
 */
int blob_collect(struct blob_store *store, bool (*keep)(void *arg, const char *digest), void *arg,
		 struct err *err);

#endif

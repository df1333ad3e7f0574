/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unpack.h: a layer's tar archive becomes a directory that overlayfs takes as a lower one.
 *
 * Purpose:   unpacks gzip, zstd or plain tar beneath a directory, whatever the archive says: every path is
 *            resolved in that root (openat2), ".." is refused, whiteouts become char 0:0 and
 *            trusted.overlay.opaque.
 * Source:    OCI image-spec 1.1 layer.md ("Whiteouts", "Applying Changesets"),
 *            Documentation/filesystems/overlayfs.rst.
 * Limits:    struct unpack_limits; names 255 bytes, paths 4095, 200 deep.
 * Threads:   blocks; no shared state. The target belongs to this call alone until it returns.
 * Errors:    ERR_DATA_LOSS for an archive that is damaged, truncated, hostile or not the one that diff_id
 *            names; -ENOSPC when the disk is full; -ECANCELED. The target is then incomplete: the caller
 *            removes it.
 */
#ifndef CRI_IMAGE_UNPACK_UNPACK_H
#define CRI_IMAGE_UNPACK_UNPACK_H

#include "base/err.h"
#include "cri/core/call.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct unpack_limits {
	uint64_t bytes;	      /* of the uncompressed archive */
	uint64_t ratio_bytes; /* from here on … */
	uint64_t ratio;	      /* … it may be at most so many times as large as the compressed one */
	uint64_t entries;     /* files made, directories that no entry names included */
};
#define UNPACK_LIMITS_DEFAULT                                                                                \
	((struct unpack_limits){                                                                             \
		.bytes = 64ull << 30, .ratio_bytes = 1ull << 30, .ratio = 200, .entries = 1ull << 20})

struct unpack_options {
	int fd;		    /* the blob, read from its offset 0 */
	const char *target; /* an empty directory */
	char *const
		*parents; /* unpacked layers beneath this one, the top one first; NULL-terminated or NULL */
	const char *diff_id; /* digest of the uncompressed archive; NULL: not checked */
	struct unpack_limits limits;
	struct call *call; /* ends the unpacking between two entries or blocks; may be NULL */
};
int image_unpack(const struct unpack_options *options, struct err *err);

#endif

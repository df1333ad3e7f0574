/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unpack_internal.h: what the parts of an unpacking share: unpack.c (the streams), fs.c
 * (an entry becomes a file), path.c (the directory that it goes into, and the layers beneath),
 * attr.c (owner, mode, attributes, times). One unpacking, one thread.
 */
#ifndef CRI_IMAGE_UNPACK_UNPACK_INTERNAL_H
#define CRI_IMAGE_UNPACK_UNPACK_INTERNAL_H

#include "base/err.h"
#include "cri/image/oci/digest.h"
#include "cri/image/unpack/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

struct unpack_dir {
	char *path;
	struct timespec mtime;
};

struct unpack {
	const struct unpack_options *opt;
	struct archive *outer; /* the blob, decompressed */
	struct archive *inner; /* the tar in it */
	struct image_digest *hash;
	char *block;
	uint64_t compressed, total, made, unchecked_bytes;
	uint64_t copied; /* from layers beneath, for hard links; it counts with `total` */
	int root;
	int *parents; /* O_PATH roots of the layers beneath, the top one first */
	size_t n_parents;
	char cached_path[PATH_MAX]; /* the parent opened last */
	int cached_fd;
	struct unpack_dir *dirs; /* mtimes to set at the end */
	size_t n_dirs, room_dirs;
	struct err *stream_err; /* set by the stream's callbacks */
};

/* Marks a directory that hides what lies beneath it. Source: Documentation/filesystems/overlayfs.rst. */
#define XATTR_OPAQUE "trusted.overlay.opaque"

/* ---- unpack.c: the streams */

/* Data of the entry just made; refuses when the disk runs full. */
int unpack_check_room(struct unpack *u, struct err *err);
/* Before `bytes` are copied from a layer beneath: limits, room, and whether the caller still wants it. */
int unpack_count_copied(struct unpack *u, uint64_t bytes, struct err *err);

/* ---- fs.c: an entry becomes a file */

/* Makes one entry's file. */
int unpack_entry(struct unpack *u, struct archive_entry *entry, struct err *err);
void unpack_fs_done(struct unpack *u);
/* Before anything is made: counts it against the limits. */
int unpack_count_made(struct unpack *u, struct err *err);
/* What failed on the disk (errno), told with the entry's name. */
int unpack_io_error(struct err *err, const char *path);

/* ---- path.c: where it goes. `path` is clean and relative to the root. */

/* The directory that an entry goes into, made if need be. The fd stays u's, until the next call of this. */
int unpack_open_parent(struct unpack *u, const char *parent, struct err *err);
/* After anything was removed that the parent opened last may have lain in. */
void unpack_forget_parent(struct unpack *u);
/* The file that overlayfs would show at path from the layers beneath: an O_PATH fd, or -ENOENT. */
int unpack_lower_find(const struct unpack *u, const char *path);
bool unpack_is_whiteout(const struct stat *st);

/* ---- attr.c: attributes. `base` is one name in dirfd and no link to follow. */

/* All that the entry says. */
int unpack_set_attributes(int dirfd, const char *base, struct archive_entry *entry, const char *path,
			  struct err *err);
/* Those of the file `from`, which may be an O_PATH fd. A negative errno. */
int unpack_copy_attributes(int from, int dirfd, const char *base);
int unpack_set_opaque(int dirfd, const char *base, const char *path, struct err *err);
/* The entry's time, or 1970. */
void unpack_mtime_of(struct archive_entry *entry, struct timespec *ret);
/* A directory whose time is to be set at the end, since what is made in it changes that. */
int unpack_remember_dir(struct unpack *u, const char *parent, const char *base, const struct timespec *mtime,
			struct err *err);
/* Sets the directories' times, last made first. */
int unpack_finish_dirs(struct unpack *u, struct err *err);

/* An archive that is not to be trusted: DataLoss. */
int unpack_bad(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif

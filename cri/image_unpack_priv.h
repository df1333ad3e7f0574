/*
 * image_unpack_priv.h: what image_unpack.c (the streams) and image_unpack_fs.c (the files) share. One
 * unpacking, one thread.
 */
#ifndef CRI_IMAGE_UNPACK_PRIV_H
#define CRI_IMAGE_UNPACK_PRIV_H

#include "base/err.h"
#include "cri/image_digest.h"
#include "cri/image_unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
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
	int root;
	int *parents; /* O_PATH roots of the layers beneath, the top one first */
	size_t n_parents;
	char cached_path[PATH_MAX]; /* the parent opened last */
	int cached_fd;
	struct unpack_dir *dirs; /* mtimes to set at the end */
	size_t n_dirs, room_dirs;
	struct err *stream_err; /* set by the stream's callbacks */
};

/* Makes one entry's file. */
int unpack_entry(struct unpack *u, struct archive_entry *entry, struct err *err);
/* Sets the directories' times, last made first. */
int unpack_finish_dirs(struct unpack *u, struct err *err);
void unpack_fs_done(struct unpack *u);
/* Data of the entry just made; refuses when the disk runs full. */
int unpack_check_room(struct unpack *u, struct err *err);

/* An archive that is not to be trusted: DataLoss. */
int unpack_bad(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/unpack/unpack_internal.h"

#include "base/util.h"

#include <fcntl.h>
#include <locale.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define BLOCK_BYTES	 (128u << 10)
#define ROOM_CHECK_BYTES (32ull << 20)
#define ROOM_MIN_BYTES	 (64ull << 20)
#define ROOM_MIN_INODES	 256

int unpack_bad(struct err *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset_status(err, -EBADMSG, ERR_DATA_LOSS, fmt, ap);
	va_end(ap);
	return -EBADMSG;
}

int unpack_check_room(struct unpack *u, struct err *err)
{
	struct statvfs v;
	uint64_t reserve;

	if (u->unchecked_bytes < ROOM_CHECK_BYTES)
		return 0;
	u->unchecked_bytes = 0;
	if (fstatvfs(u->root, &v) < 0)
		return 0;
	reserve = (uint64_t)v.f_blocks * v.f_frsize / 100;
	if (reserve > ROOM_MIN_BYTES)
		reserve = ROOM_MIN_BYTES;
	if ((uint64_t)v.f_bavail * v.f_frsize < reserve)
		return err_set(err, -ENOSPC, "no space left to unpack the layer: less than %llu MiB free",
			       (unsigned long long)(reserve >> 20));
	if (v.f_files > 0 && v.f_favail < ROOM_MIN_INODES)
		return err_set(err, -ENOSPC, "no inodes left to unpack the layer");
	return 0;
}

/* ---- the decompressed stream --------------------------------------------------------------------------- */

static int check_stream(struct unpack *u, struct err *err)
{
	const struct unpack_limits *lim = &u->opt->limits;

	if (u->total + u->copied > lim->bytes)
		return unpack_bad(err, "the layer unpacks to more than %llu bytes",
				  (unsigned long long)lim->bytes);
	if (u->total > lim->ratio_bytes && u->total / lim->ratio > u->compressed)
		return unpack_bad(err,
				  "the layer is a decompression bomb: %llu bytes unpacked to more than %llu "
				  "(limit: %llu times)",
				  (unsigned long long)u->compressed, (unsigned long long)u->total,
				  (unsigned long long)lim->ratio);
	return call_check(u->opt->call, err);
}

int unpack_count_copied(struct unpack *u, uint64_t bytes, struct err *err)
{
	int r;

	u->copied += bytes;
	u->unchecked_bytes += bytes;
	r = check_stream(u, err);
	return r < 0 ? r : unpack_check_room(u, err);
}

/* Reads, counts and hashes the next block: its length, 0 at the end, or a negative errno. */
static ssize_t next_block(struct unpack *u, struct err *err)
{
	ssize_t n = archive_read_data(u->outer, u->block, BLOCK_BYTES);
	int r;

	if (n < 0) {
		const char *words = archive_error_string(u->outer);

		return unpack_bad(err, "the layer cannot be decompressed: %s",
				  words ? words : "damaged data");
	}
	u->total += (uint64_t)n;
	image_digest_update(u->hash, u->block, (size_t)n);
	r = check_stream(u, err);
	return r < 0 ? r : n;
}

static ssize_t on_read(struct archive *a, void *arg, const void **ret_block)
{
	struct unpack *u = arg;
	ssize_t n = next_block(u, u->stream_err);

	if (n < 0) {
		archive_set_error(a, EIO, "stream");
		return ARCHIVE_FATAL;
	}
	*ret_block = u->block;
	return n;
}

/* 1: opened; 0: an empty stream. */
static int open_outer(struct unpack *u, struct err *err)
{
	struct archive_entry *entry;
	struct stat st;
	int r;

	if (fstat(u->opt->fd, &st) < 0 || lseek(u->opt->fd, 0, SEEK_SET) < 0)
		return err_set_errno(err, -errno, "reading the layer");
	u->compressed = (uint64_t)st.st_size;
	if (st.st_size == 0)
		return unpack_bad(err, "the layer is empty");
	u->outer = archive_read_new();
	if (!u->outer)
		return err_oom(err);
	if (archive_read_support_filter_gzip(u->outer) != ARCHIVE_OK ||
	    archive_read_support_filter_zstd(u->outer) != ARCHIVE_OK ||
	    archive_read_support_format_raw(u->outer) != ARCHIVE_OK ||
	    archive_read_support_format_empty(u->outer) != ARCHIVE_OK)
		return err_set(err, -ENOSYS, "libarchive lacks gzip or zstd");
	if (archive_read_open_fd(u->outer, u->opt->fd, BLOCK_BYTES) != ARCHIVE_OK)
		return unpack_bad(err, "the layer cannot be read: %s", archive_error_string(u->outer));
	r = archive_read_next_header(u->outer, &entry);
	if (r == ARCHIVE_EOF)
		return 0;
	if (r != ARCHIVE_OK)
		return unpack_bad(err, "the layer cannot be decompressed: %s",
				  archive_error_string(u->outer));
	return 1;
}

static int open_inner(struct unpack *u, struct err *err)
{
	u->inner = archive_read_new();
	if (!u->inner || archive_read_support_format_tar(u->inner) != ARCHIVE_OK)
		return err_oom(err);
	if (archive_read_open(u->inner, u, NULL, on_read, NULL) != ARCHIVE_OK)
		return u->stream_err->code < 0 ? err_copy(err, u->stream_err)
					       : unpack_bad(err, "the layer is not a tar archive: %s",
							    archive_error_string(u->inner));
	return 0;
}

static int read_entries(struct unpack *u, struct err *err)
{
	struct archive_entry *entry;

	for (;;) {
		int r = archive_read_next_header(u->inner, &entry);

		if (r == ARCHIVE_EOF)
			return 0;
		/* A warning is a name that the C locale cannot hold: it stays as it is, in bytes. */
		if (r != ARCHIVE_OK && r != ARCHIVE_WARN) {
			if (u->stream_err->code < 0)
				return err_copy(err, u->stream_err);
			return unpack_bad(err, "the layer's tar archive is damaged: %s",
					  archive_error_string(u->inner));
		}
		r = call_check(u->opt->call, err);
		if (r == 0)
			r = unpack_entry(u, entry, err);
		if (r < 0)
			return u->stream_err->code < 0 ? err_copy(err, u->stream_err) : r;
	}
}

/* Padding after the archive's end belongs to the digest. */
static int drain(struct unpack *u, struct err *err)
{
	ssize_t n;

	do
		n = next_block(u, err);
	while (n > 0);
	return (int)n;
}

static int check_diff_id(struct unpack *u, struct err *err)
{
	char found[IMAGE_DIGEST_LEN + 1];

	image_digest_final(u->hash, found);
	if (u->opt->diff_id && !str_eq(found, u->opt->diff_id))
		return unpack_bad(err, "the layer's content has the digest %s, the image's config says %s",
				  found, u->opt->diff_id);
	return 0;
}

static int open_roots(struct unpack *u, struct err *err)
{
	size_t n = strv_len(u->opt->parents);

	u->root = open(u->opt->target, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (u->root < 0)
		return err_set_errno(err, -errno, "%s", u->opt->target);
	u->parents = calloc(n ? n : 1, sizeof(*u->parents));
	if (!u->parents)
		return err_oom(err);
	for (; u->n_parents < n; u->n_parents++) {
		const char *path = u->opt->parents[u->n_parents];

		u->parents[u->n_parents] = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (u->parents[u->n_parents] < 0)
			return err_set_errno(err, -errno, "%s", path);
	}
	return 0;
}

static int run(struct unpack *u, struct err *err)
{
	int r = open_roots(u, err);

	if (r == 0)
		r = open_outer(u, err);
	if (r > 0) {
		r = open_inner(u, err);
		if (r == 0)
			r = read_entries(u, err);
		if (r == 0)
			r = drain(u, err);
	}
	if (r == 0)
		r = check_diff_id(u, err);
	return r < 0 ? r : unpack_finish_dirs(u, err);
}

static void done(struct unpack *u)
{
	if (u->inner)
		archive_read_free(u->inner);
	if (u->outer)
		archive_read_free(u->outer);
	unpack_fs_done(u);
	for (size_t i = 0; i < u->n_parents; i++)
		close_fd(u->parents[i]);
	free(u->parents);
	close_fd(u->root);
	image_digest_free(u->hash);
	free(u->block);
	free(u);
}

int image_unpack(const struct unpack_options *options, struct err *err)
{
	/*
	 * In the C locale libarchive leaves names alone, byte for byte; in a UTF-8 one it would normalise
	 * them to NFC. The locale is this thread's alone.
	 */
	locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	struct unpack *u = calloc(1, sizeof(*u));
	struct err stream = ERR_INIT;
	locale_t before;
	int r;

	if (u) {
		u->opt = options;
		u->root = u->cached_fd = -1;
		u->stream_err = &stream;
		u->hash = image_digest_new();
		u->block = malloc(BLOCK_BYTES);
	}
	if (!u || !u->hash || !u->block || plain == (locale_t)0) {
		if (u)
			done(u);
		if (plain != (locale_t)0)
			freelocale(plain);
		return err_oom(err);
	}
	before = uselocale(plain);
	r = run(u, err);
	done(u);
	uselocale(before);
	freelocale(plain);
	return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/image_internal.h"

#include "base/util.h"
#include "cri/image/oci/digest.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <sys/stat.h>

#define BLOCK_BYTES (128u << 10)

/* Where an export goes: a directory (fd) or a tar archive. Either holds an OCI layout. */
struct export
{
	struct image_store *images;
	const struct image_row *row;
	const char *only_tag; /* the name it was asked for by; NULL: all it has */
	int dir;
	struct archive *tar;
	char *block;
};

/* ---- members ------------------------------------------------------------------------------------------- */

static int tar_error(struct export *ex, const char *name, struct err *err)
{
	int code = archive_errno(ex->tar);

	return err_set(err, code > 0 ? -code : -EIO, "writing %s: %s", name, archive_error_string(ex->tar));
}

static int tar_begin(struct export *ex, const char *name, uint64_t size, struct err *err)
{
	struct archive_entry *e = archive_entry_new();
	int r;

	if (!e)
		return err_oom(err);
	archive_entry_set_pathname(e, name);
	archive_entry_set_filetype(e, AE_IFREG);
	archive_entry_set_perm(e, 0644);
	archive_entry_set_size(e, (int64_t)size);
	archive_entry_set_mtime(e, 0, 0);
	r = archive_write_header(ex->tar, e);
	archive_entry_free(e);
	return r == ARCHIVE_OK ? 0 : tar_error(ex, name, err);
}

/* Opens a member to write to; -2 for a tar archive, whose member it has begun. */
#define MEMBER_IN_TAR -2
static int member_begin(struct export *ex, const char *name, uint64_t size, int *ret_fd, struct err *err)
{
	*ret_fd = MEMBER_IN_TAR;
	if (ex->tar)
		return tar_begin(ex, name, size, err);
	*ret_fd = openat(ex->dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	return *ret_fd < 0 ? err_set_errno(err, -errno, "%s", name) : 0;
}

static int member_write(struct export *ex, int fd, const char *name, const void *data, size_t len,
			struct err *err)
{
	int r;

	if (fd == MEMBER_IN_TAR)
		return archive_write_data(ex->tar, data, len) == (ssize_t)len ? 0 : tar_error(ex, name, err);
	r = write_full(fd, data, len);
	return r < 0 ? err_set_errno(err, r, "writing %s", name) : 0;
}

static int put_text(struct export *ex, const char *name, json_object *o, struct err *err)
{
	const char *text =
		json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	int fd = -1;
	int r = text ? member_begin(ex, name, strlen(text), &fd, err) : err_oom(err);

	if (r == 0)
		r = member_write(ex, fd, name, text, strlen(text), err);
	close_fd(fd);
	json_object_put(o);
	return r;
}

static int copy_blob(struct export *ex, int from, int to, const char *name, const char *digest,
		     struct err *err)
{
	struct image_digest *hash = image_digest_new();
	char found[IMAGE_DIGEST_LEN + 1];
	int r = hash ? 0 : err_oom(err);

	while (r == 0) {
		ssize_t n = read_full(from, ex->block, BLOCK_BYTES);

		if (n == 0)
			break;
		if (n < 0) {
			r = err_set_errno(err, (int)n, "reading blob %s", digest);
			break;
		}
		image_digest_update(hash, ex->block, (size_t)n);
		r = member_write(ex, to, name, ex->block, (size_t)n, err);
	}
	if (r == 0) {
		image_digest_final(hash, found);
		if (!str_eq(found, digest))
			r = err_set_status(err, -EBADMSG, ERR_DATA_LOSS, "blob %s is damaged on disk",
					   digest);
	}
	image_digest_free(hash);
	return r;
}

static int put_blob(struct export *ex, const char *digest, struct err *err)
{
	int from CLEANUP_CLOSE = blob_open(ex->images->blobs, digest, err);
	char name[IMAGE_DIGEST_LEN + 16];
	struct stat st;
	int to = -1, r;

	if (from < 0)
		return from;
	if (fstat(from, &st) < 0)
		return err_set_errno(err, -errno, "blob %s", digest);
	snprintf(name, sizeof(name), "blobs/sha256/%s", digest + 7);
	r = member_begin(ex, name, (uint64_t)st.st_size, &to, err);
	if (r == 0)
		r = copy_blob(ex, from, to, name, digest, err);
	close_fd(to);
	return r;
}

static int put_blobs(struct export *ex, struct err *err)
{
	int r = put_blob(ex, ex->row->manifest, err);

	if (r == 0)
		r = put_blob(ex, ex->row->id, err);
	for (size_t i = 0; r == 0 && i < ex->row->n_layers; i++) {
		bool again = false;

		for (size_t j = 0; j < i; j++)
			again = again || str_eq(ex->row->layers[j].blob, ex->row->layers[i].blob);
		if (!again)
			r = put_blob(ex, ex->row->layers[i].blob, err);
	}
	return r;
}

/* ---- indexes ------------------------------------------------------------------------------------------- */

static void add_names(json_object *descriptor, const char *tag)
{
	json_object *a = json_object_new_object();

	json_object_object_add(a, "io.containerd.image.name", json_object_new_string(tag));
	json_object_object_add(a, "org.opencontainers.image.ref.name",
			       json_object_new_string(strrchr(tag, ':') + 1));
	json_object_object_add(descriptor, "annotations", a);
}

static int add_manifest(struct export *ex, json_object *list, const char *tag, struct err *err)
{
	struct oci_manifest m = {0};
	char *data CLEANUP_FREE = NULL;
	json_object *d;
	size_t len;
	int r = blob_read(ex->images->blobs, ex->row->manifest, OCI_MANIFEST_MAX, &data, &len, err);

	if (r == 0)
		r = oci_manifest_parse(data, len, NULL, &m, err);
	if (r < 0)
		return r;
	d = json_object_new_object();
	json_object_object_add(d, "mediaType", json_object_new_string(m.media_type));
	json_object_object_add(d, "digest", json_object_new_string(ex->row->manifest));
	json_object_object_add(d, "size", json_object_new_int64((int64_t)len));
	if (tag)
		add_names(d, tag);
	json_object_array_add(list, d);
	oci_manifest_done(&m);
	return 0;
}

static bool wanted(const struct export *ex, const char *tag)
{
	return !ex->only_tag || str_eq(ex->only_tag, tag);
}

static int put_index(struct export *ex, struct err *err)
{
	json_object *o = json_object_new_object(), *list = json_object_new_array();
	int r = 0;

	json_object_object_add(o, "schemaVersion", json_object_new_int(2));
	json_object_object_add(o, "mediaType", json_object_new_string(OCI_TYPE_INDEX));
	json_object_object_add(o, "manifests", list);
	for (char **tag = ex->row->tags; r == 0 && tag && *tag; tag++) {
		if (wanted(ex, *tag))
			r = add_manifest(ex, list, *tag, err);
	}
	if (r == 0 && json_object_array_length(list) == 0)
		r = add_manifest(ex, list, NULL, err);
	if (r < 0) {
		json_object_put(o);
		return r;
	}
	return put_text(ex, "index.json", o, err);
}

/* What `docker load` reads where it knows no OCI layouts. */
static int put_docker_manifest(struct export *ex, struct err *err)
{
	json_object *list = json_object_new_array(), *o = json_object_new_object();
	json_object *tags = json_object_new_array(), *layers = json_object_new_array();
	char name[IMAGE_DIGEST_LEN + 16];

	snprintf(name, sizeof(name), "blobs/sha256/%s", ex->row->id + 7);
	json_object_object_add(o, "Config", json_object_new_string(name));
	for (char **tag = ex->row->tags; tag && *tag; tag++) {
		if (wanted(ex, *tag))
			json_object_array_add(tags, json_object_new_string(*tag));
	}
	json_object_object_add(o, "RepoTags", tags);
	for (size_t i = 0; i < ex->row->n_layers; i++) {
		snprintf(name, sizeof(name), "blobs/sha256/%s", ex->row->layers[i].blob + 7);
		json_object_array_add(layers, json_object_new_string(name));
	}
	json_object_object_add(o, "Layers", layers);
	json_object_array_add(list, o);
	return put_text(ex, "manifest.json", list, err);
}

static int put_all(struct export *ex, struct err *err)
{
	json_object *layout = json_object_new_object();
	int r;

	json_object_object_add(layout, "imageLayoutVersion", json_object_new_string("1.0.0"));
	r = put_text(ex, "oci-layout", layout, err);
	if (r == 0)
		r = put_blobs(ex, err);
	if (r == 0 && ex->tar)
		r = put_docker_manifest(ex, err);
	/* Last: a layout without it is none, should the export fail half-way. */
	return r == 0 ? put_index(ex, err) : r;
}

/* ---- targets ------------------------------------------------------------------------------------------- */

static int to_directory(struct export *ex, const char *path, struct err *err)
{
	char *blobs CLEANUP_FREE = xasprintf("%s/blobs/sha256", path);
	int dir CLEANUP_CLOSE = -1;
	int r = blobs ? mkdir_p(blobs, 0755) : -ENOMEM;

	if (r < 0)
		return err_set_errno(err, r, "%s", path);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_set_errno(err, -errno, "%s", path);
	if (faccessat(dir, "index.json", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return err_set(err, -EEXIST, "%s already holds an OCI layout", path);
	ex->dir = dir;
	return put_all(ex, err);
}

static int add_filter(struct archive *tar, const char *path)
{
	if (str_ends(path, ".gz") || str_ends(path, ".tgz"))
		return archive_write_add_filter_gzip(tar);
	if (str_ends(path, ".zst"))
		return archive_write_add_filter_zstd(tar);
	return archive_write_add_filter_none(tar);
}

static int write_tar(struct export *ex, const char *path, const char *tmp, struct err *err)
{
	int fd CLEANUP_CLOSE = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	int r;

	if (fd < 0)
		return err_set_errno(err, -errno, "%s", tmp);
	if (add_filter(ex->tar, path) != ARCHIVE_OK ||
	    archive_write_set_format_pax_restricted(ex->tar) != ARCHIVE_OK ||
	    archive_write_open_fd(ex->tar, fd) != ARCHIVE_OK)
		return tar_error(ex, path, err);
	r = put_all(ex, err);
	if (r == 0 && archive_write_close(ex->tar) != ARCHIVE_OK)
		r = tar_error(ex, path, err);
	if (r == 0 && rename(tmp, path) < 0)
		r = err_set_errno(err, -errno, "%s", path);
	return r;
}

static int to_archive(struct export *ex, const char *path, struct err *err)
{
	char suffix[17];
	char *tmp CLEANUP_FREE = NULL;
	int r = random_hex(8, suffix);

	if (r < 0)
		return err_set_errno(err, r, "random bytes");
	tmp = xasprintf("%s.tmp.%s", path, suffix);
	ex->tar = archive_write_new();
	if (!tmp || !ex->tar)
		r = err_oom(err);
	else
		r = write_tar(ex, path, tmp, err);
	if (r < 0 && tmp)
		unlink(tmp);
	if (ex->tar)
		archive_write_free(ex->tar);
	return r;
}

static bool is_directory(const char *path)
{
	struct stat st;

	return str_ends(path, "/") || (stat(path, &st) == 0 && S_ISDIR(st.st_mode));
}

/* The tag that `ref` is, if it is one. */
static char *tag_of(const struct image_row *row, const char *ref)
{
	struct image_ref parsed = {0};
	char *tag = NULL;

	if (image_ref_parse(ref, &parsed, NULL) < 0)
		return NULL;
	if (!parsed.digest && image_row_named(row, &parsed))
		tag = xasprintf("%s:%s", parsed.name, parsed.tag);
	image_ref_done(&parsed);
	return tag;
}

static int export_locked(struct image_store *images, const char *ref, const char *path, struct err *err)
{
	struct export ex = {.images = images, .dir = -1};
	struct image_row **rows = NULL;
	struct image_row *row;
	char *tag = NULL;
	int r = image_rows_load(images->store, &rows, err);

	if (r == 0)
		r = image_rows_find(rows, ref, &row, err);
	if (r == 0) {
		tag = tag_of(row, ref);
		ex.row = row;
		ex.only_tag = tag;
		ex.block = malloc(BLOCK_BYTES);
		if (!ex.block)
			r = err_oom(err);
		else
			r = is_directory(path) ? to_directory(&ex, path, err) : to_archive(&ex, path, err);
	}
	free(ex.block);
	free(tag);
	image_rows_free(rows);
	return r < 0 ? err_wrap(err, "exporting %s", ref) : 0;
}

int image_export(struct image_store *images, const char *ref, const char *path, struct err *err)
{
	int lock = images_lock(images, err);
	int r;

	if (lock < 0)
		return lock;
	r = export_locked(images, ref, path, err);
	images_unlock(images, lock);
	return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/image_internal.h"

#include "base/log.h"
#include "base/util.h"
#include "cri/image/oci/digest.h"
#include "base/tree.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <sys/stat.h>

#define INDEX_DEPTH_MAX 3
#define IMAGES_MAX	256

/* One import: a tree that holds an OCI layout or what `docker save` wrote. Nothing in it is trusted. */
struct import {
	struct image_store *images;
	const char *path; /* for messages */
	const char *name; /* given by the user; NULL: what the tree says */
	int tree;
	char **ids;
};

static int bad(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int bad(struct err *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	err_vset_status(err, -EBADMSG, ERR_DATA_LOSS, fmt, ap);
	va_end(ap);
	return -EBADMSG;
}

static int open_file(const struct import *im, const char *name, struct err *err)
{
	int fd = path_open_in(im->tree, name, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0)
		return err_set_errno(err, fd, "%.200s", name);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close_fd(fd);
		return bad(err, "%.200s is not a regular file", name);
	}
	return fd;
}

static int read_small(const struct import *im, const char *name, size_t max, char **ret, size_t *ret_len,
		      struct err *err)
{
	int fd CLEANUP_CLOSE = open_file(im, name, err);
	char at[40];
	int r;

	if (fd < 0)
		return fd;
	snprintf(at, sizeof(at), "/proc/self/fd/%d", fd);
	r = read_file(at, max, ret, ret_len);
	return r < 0 ? err_set_errno(err, r, "%.200s", name) : 0;
}

static void blob_name(const char *digest, char out[IMAGE_DIGEST_LEN + 16])
{
	snprintf(out, IMAGE_DIGEST_LEN + 16, "blobs/sha256/%s", digest + 7);
}

/* A manifest or config out of the tree, verified. */
static int read_blob(const struct import *im, const char *digest, size_t max, char **ret, size_t *ret_len,
		     struct err *err)
{
	char name[IMAGE_DIGEST_LEN + 16], found[IMAGE_DIGEST_LEN + 1];
	int r;

	blob_name(digest, name);
	r = read_small(im, name, max, ret, ret_len, err);
	if (r < 0)
		return r;
	image_digest_of(*ret, *ret_len, found);
	return str_eq(found, digest)
		       ? 0
		       : bad(err, "digest mismatch: blob %s has the content of %s", digest, found);
}

/* ---- an image whose manifest is known ------------------------------------------------------------------ */

struct found_image {
	struct oci_manifest manifest;
	char manifest_digest[IMAGE_DIGEST_LEN + 1];
	char top[IMAGE_DIGEST_LEN + 1]; /* "" : no digest that a registry would know */
};

static int take_layers(struct import *im, const struct oci_manifest *m, struct err *err)
{
	for (size_t i = 0; i < m->n_items; i++) {
		const struct oci_descriptor *d = &m->items[i];
		char name[IMAGE_DIGEST_LEN + 16], digest[IMAGE_DIGEST_LEN + 1];
		int fd CLEANUP_CLOSE = -1;
		uint64_t size;
		int r;

		if (blob_have(im->images->blobs, d->digest, &size) && size == d->size_bytes)
			continue;
		blob_name(d->digest, name);
		fd = open_file(im, name, err);
		if (fd < 0)
			return fd;
		r = blob_put_fd(im->images->blobs, fd, d->digest, digest, &size, err);
		if (r < 0)
			return r;
		if (size != d->size_bytes)
			return bad(err, "blob %s has %llu bytes, the manifest says %llu", d->digest,
				   (unsigned long long)size, (unsigned long long)d->size_bytes);
	}
	return 0;
}

static int commit_as(struct import *im, const struct found_image *f, char *const *diff_ids,
		     char *const *chains, const char *name, struct err *err)
{
	struct image_ref ref = {0};
	char *tag = NULL, *digest = NULL;
	struct image_commit c = {.manifest_digest = f->manifest_digest,
				 .manifest = &f->manifest,
				 .diff_ids = diff_ids,
				 .chains = chains};
	int r = 0;

	if (name) {
		r = image_ref_parse(name, &ref, err);
		if (r < 0)
			return r;
		tag = ref.tag && !ref.digest ? xasprintf("%s:%s", ref.name, ref.tag) : NULL;
		digest = f->top[0] ? xasprintf("%s@%s", ref.name, f->top) : NULL;
		if ((!tag && ref.tag && !ref.digest) || (!digest && f->top[0]))
			r = err_oom(err);
		c.tag = tag;
		c.digest = digest;
	}
	if (r == 0)
		r = image_commit(im->images, &c, err);
	image_ref_done(&ref);
	free(tag);
	free(digest);
	return r;
}

/* Blobs are in the store: unpack, and write the row under every name. */
static int finish_image(struct import *im, const struct found_image *f, char *const *names, struct err *err)
{
	struct image_config config = {0};
	char **diff_ids CLEANUP_STRV = NULL;
	char **chains CLEANUP_STRV = NULL;
	char *data CLEANUP_FREE = NULL;
	size_t len, n = f->manifest.n_items;
	int r = blob_read(im->images->blobs, f->manifest.config.digest, OCI_CONFIG_MAX, &data, &len, err);

	if (r == 0)
		r = oci_config_parse(data, len, &config, &diff_ids, err);
	if (r < 0)
		return r;
	image_config_done(&config);
	if (strv_len(diff_ids) != n)
		return bad(err, "the manifest has %zu layers, the config %zu", n, strv_len(diff_ids));
	chains = oci_chain_ids(diff_ids);
	if (!chains)
		return err_oom(err);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = layer_unpack(im->images, f->manifest.items[i].digest, diff_ids[i], chains, i + 1, NULL,
				 err);
	if (r == 0 && strv_len(names) == 0)
		r = commit_as(im, f, diff_ids, chains, NULL, err);
	for (; r == 0 && names && *names; names++)
		r = commit_as(im, f, diff_ids, chains, *names, err);
	if (r == 0 && strv_add(&im->ids, f->manifest.config.digest) < 0)
		r = err_oom(err);
	return r;
}

/* ---- OCI layout ---------------------------------------------------------------------------------------- */

/* From an entry of index.json through nested indexes to this platform's manifest. */
static int find_manifest(struct import *im, const char *digest, struct found_image *f, struct err *err)
{
	char what[IMAGE_DIGEST_LEN + 1];

	memcpy(what, digest, sizeof(what));
	memcpy(f->top, digest, sizeof(f->top));
	for (int depth = 0; depth < INDEX_DEPTH_MAX; depth++) {
		const struct oci_descriptor *entry;
		char *data CLEANUP_FREE = NULL;
		size_t len = 0;
		int r = read_blob(im, what, OCI_MANIFEST_MAX, &data, &len, err);

		if (r == 0)
			r = oci_manifest_parse(data, len, NULL, &f->manifest, err);
		if (r < 0)
			return r;
		if (f->manifest.kind == OCI_KIND_MANIFEST) {
			r = oci_manifest_check_types(&f->manifest, err);
			return r < 0 ? r : blob_put(im->images->blobs, data, len, f->manifest_digest, err);
		}
		r = oci_index_select(&f->manifest, &entry, err);
		if (r < 0)
			return r;
		memcpy(what, entry->digest, sizeof(what));
		oci_manifest_done(&f->manifest);
	}
	return bad(err, "image indexes nested more than %d deep", INDEX_DEPTH_MAX);
}

/*
 * A layout's name of an image may be a whole reference or (skopeo, buildah) a tag alone, which needs a name
 * from the user. An image may stay without a name.
 */
static int layout_names(const struct import *im, const char *said, char ***ret, struct err *err)
{
	bool whole = said && strpbrk(said, "/:@");
	struct image_ref ref = {0};
	const char *slash;
	int r = 0;

	if (!im->name)
		return whole && strv_add(ret, said) < 0 ? err_oom(err) : 0;
	if (said && !whole) {
		r = image_ref_parse(im->name, &ref, err);
		if (r < 0)
			return r;
		/* "name" takes the layout's tag, "name:tag" its own. */
		slash = strrchr(im->name, '/');
		whole = ref.digest || strchr(slash ? slash : im->name, ':');
		r = whole ? strv_add(ret, im->name) : strv_addf(ret, "%s:%s", im->name, said);
		image_ref_done(&ref);
	} else {
		r = strv_add(ret, im->name);
	}
	return r < 0 ? err_oom(err) : 0;
}

static int import_entry(struct import *im, const struct oci_descriptor *entry, struct err *err)
{
	struct found_image f = {0};
	char **names CLEANUP_STRV = NULL;
	char *config CLEANUP_FREE = NULL;
	char digest[IMAGE_DIGEST_LEN + 1];
	size_t len;
	int r = layout_names(im, entry->ref_name, &names, err);

	if (r == 0)
		r = find_manifest(im, entry->digest, &f, err);
	if (r == 0)
		r = read_blob(im, f.manifest.config.digest, OCI_CONFIG_MAX, &config, &len, err);
	if (r == 0)
		r = blob_put(im->images->blobs, config, len, digest, err);
	if (r == 0)
		r = take_layers(im, &f.manifest, err);
	if (r == 0)
		r = finish_image(im, &f, names, err);
	oci_manifest_done(&f.manifest);
	return r;
}

/* Entries for other platforms are passed over where one for ours stands beside them. */
static bool foreign(const struct oci_descriptor *d)
{
	const struct oci_manifest one = {
		.kind = OCI_KIND_INDEX, .items = (struct oci_descriptor *)d, .n_items = 1};
	const struct oci_descriptor *entry;

	return oci_index_select(&one, &entry, NULL) < 0;
}

static int import_index(struct import *im, const struct oci_manifest *index, struct err *err)
{
	size_t ours = 0;
	int r = 0;

	for (size_t i = 0; i < index->n_items; i++)
		ours += !foreign(&index->items[i]);
	if (ours == 0) {
		const struct oci_descriptor *entry;

		return oci_index_select(index, &entry, err);
	}
	if (ours > IMAGES_MAX)
		return bad(err, "%zu images; the limit is %d", ours, IMAGES_MAX);
	if (im->name && ours > 1)
		return err_set(err, -EINVAL, "%zu images cannot all be named \"%s\"", ours, im->name);
	for (size_t i = 0; r == 0 && i < index->n_items; i++) {
		if (!foreign(&index->items[i]))
			r = import_entry(im, &index->items[i], err);
	}
	return r;
}

static int import_layout(struct import *im, struct err *err)
{
	struct oci_manifest index = {0};
	char *data CLEANUP_FREE = NULL;
	size_t len;
	int r = read_small(im, "index.json", OCI_MANIFEST_MAX, &data, &len, err);

	if (r == 0)
		r = oci_manifest_parse(data, len, OCI_TYPE_INDEX, &index, err);
	if (r < 0)
		return err_wrap(err, "index.json");
	r = index.kind == OCI_KIND_INDEX ? import_index(im, &index, err)
					 : bad(err, "index.json is not an image index");
	oci_manifest_done(&index);
	return r;
}

/* ---- docker save --------------------------------------------------------------------------------------- */

static const char *layer_type(int fd)
{
	unsigned char magic[4] = {0};
	ssize_t n = pread(fd, magic, sizeof(magic), 0);

	if (n >= 2 && magic[0] == 0x1f && magic[1] == 0x8b)
		return OCI_TYPE_LAYER_GZIP;
	if (n == 4 && memcmp(magic, "\x28\xb5\x2f\xfd", 4) == 0)
		return OCI_TYPE_LAYER_ZSTD;
	return OCI_TYPE_LAYER;
}

static json_object *descriptor_json(const char *type, const char *digest, uint64_t size)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "mediaType", json_object_new_string(type));
	json_object_object_add(o, "digest", json_object_new_string(digest));
	json_object_object_add(o, "size", json_object_new_int64((int64_t)size));
	return o;
}

static const char *string_at(json_object *list, size_t i)
{
	json_object *v = json_object_array_get_idx(list, i);

	return json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
}

static int add_docker_layer(struct import *im, const char *name, json_object *layers, struct err *err)
{
	char digest[IMAGE_DIGEST_LEN + 1];
	uint64_t size;
	int fd CLEANUP_CLOSE = name ? open_file(im, name, err)
				    : bad(err, "manifest.json: the name of a layer is not a string");
	int r;

	if (fd < 0)
		return fd;
	r = blob_put_fd(im->images->blobs, fd, NULL, digest, &size, err);
	if (r == 0)
		json_object_array_add(layers, descriptor_json(layer_type(fd), digest, size));
	return r;
}

/* Docker's archive has no manifest in the registry's sense: one is made. */
static int make_manifest(struct import *im, json_object *entry, json_object *root, struct err *err)
{
	json_object *config, *list, *layers;
	char digest[IMAGE_DIGEST_LEN + 1];
	char *data CLEANUP_FREE = NULL;
	size_t len;
	int r;

	if (!json_object_object_get_ex(entry, "Config", &config) ||
	    !json_object_is_type(config, json_type_string) ||
	    !json_object_object_get_ex(entry, "Layers", &list) ||
	    !json_object_is_type(list, json_type_array) || json_object_array_length(list) > OCI_LAYERS_MAX)
		return bad(err, "manifest.json has an image without Config and Layers");
	r = read_small(im, json_object_get_string(config), OCI_CONFIG_MAX, &data, &len, err);
	if (r == 0)
		r = blob_put(im->images->blobs, data, len, digest, err);
	if (r < 0)
		return r;
	layers = json_object_new_array();
	json_object_object_add(root, "schemaVersion", json_object_new_int(2));
	json_object_object_add(root, "mediaType", json_object_new_string(OCI_TYPE_MANIFEST));
	json_object_object_add(root, "config", descriptor_json(OCI_TYPE_CONFIG, digest, len));
	json_object_object_add(root, "layers", layers);
	for (size_t i = 0; r == 0 && i < json_object_array_length(list); i++)
		r = add_docker_layer(im, string_at(list, i), layers, err);
	return r;
}

static int docker_names(const struct import *im, json_object *entry, char ***ret, struct err *err)
{
	json_object *tags;

	if (im->name)
		return strv_add(ret, im->name) < 0 ? err_oom(err) : 0;
	if (!json_object_object_get_ex(entry, "RepoTags", &tags) ||
	    !json_object_is_type(tags, json_type_array))
		return 0;
	for (size_t i = 0; i < json_object_array_length(tags) && i < IMAGES_MAX; i++) {
		if (string_at(tags, i) && strv_add(ret, string_at(tags, i)) < 0)
			return err_oom(err);
	}
	return 0;
}

static int import_docker_entry(struct import *im, json_object *entry, struct err *err)
{
	json_object *root = json_object_new_object();
	char **names CLEANUP_STRV = NULL;
	struct found_image f = {0};
	const char *text;
	int r;

	if (!json_object_is_type(entry, json_type_object))
		r = bad(err, "manifest.json holds an entry that is not an image");
	else
		r = docker_names(im, entry, &names, err);
	if (r == 0)
		r = make_manifest(im, entry, root, err);
	if (r == 0) {
		text = json_object_to_json_string_ext(root, JSON_C_TO_STRING_PLAIN |
								    JSON_C_TO_STRING_NOSLASHESCAPE);
		r = oci_manifest_parse(text, strlen(text), NULL, &f.manifest, err);
		if (r == 0)
			r = blob_put(im->images->blobs, text, strlen(text), f.manifest_digest, err);
	}
	if (r == 0)
		r = finish_image(im, &f, names, err);
	oci_manifest_done(&f.manifest);
	json_object_put(root);
	return r;
}

static int import_docker(struct import *im, struct err *err)
{
	json_tokener *tok;
	json_object *list = NULL;
	char *data CLEANUP_FREE = NULL;
	size_t len, n = 0;
	int r = read_small(im, "manifest.json", OCI_MANIFEST_MAX, &data, &len, err);

	if (r < 0)
		return r == -ENOENT ? bad(err, "neither an OCI layout (index.json) nor a Docker archive "
					       "(manifest.json)")
				    : r;
	tok = json_tokener_new_ex(8);
	if (!tok)
		return err_oom(err);
	list = json_tokener_parse_ex(tok, data, (int)len);
	json_tokener_free(tok);
	if (json_object_is_type(list, json_type_array))
		n = json_object_array_length(list);
	if (n == 0 || n > IMAGES_MAX)
		r = bad(err, "manifest.json lists no images");
	else if (im->name && n > 1)
		r = err_set(err, -EINVAL, "%zu images cannot all be named \"%s\"", n, im->name);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = import_docker_entry(im, json_object_array_get_idx(list, i), err);
	json_object_put(list);
	return r;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

static int import_tree(struct import *im, const char *dir, struct err *err)
{
	int index;

	im->tree = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (im->tree < 0)
		return err_set_errno(err, -errno, "%s", dir);
	index = path_open_in(im->tree, "index.json", O_PATH);
	if (index == -ENOENT)
		return import_docker(im, err);
	close_fd(index);
	return import_layout(im, err);
}

/* Unpacked like a layer, with all of a layer's precautions. */
static int unpack_archive(struct import *im, int fd, const char *dir, struct err *err)
{
	struct unpack_options opt = {.fd = fd, .target = dir, .limits = im->images->limits};
	int r;

	if (mkdir(dir, 0700) < 0)
		return err_set_errno(err, -errno, "%s", dir);
	r = image_unpack(&opt, err);
	return r;
}

static int import_archive(struct import *im, int fd, struct err *err)
{
	char suffix[17];
	char *dir CLEANUP_FREE = NULL;
	int r = random_hex(8, suffix);

	if (r < 0)
		return err_set_errno(err, r, "random bytes");
	dir = xasprintf("%s/" IMAGES_IMPORT_PREFIX "%s", im->images->dir, suffix);
	if (!dir)
		return err_oom(err);
	r = unpack_archive(im, fd, dir, err);
	if (r == 0)
		r = import_tree(im, dir, err);
	im->tree = close_fd(im->tree);
	if (remove_tree(dir) < 0)
		log_warn("image: %s could not be removed", dir);
	return r;
}

static int import_path(struct import *im, struct err *err)
{
	int fd CLEANUP_CLOSE = open(im->path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct image_ref ref = {0};
	struct stat st;
	int r;

	if (im->name) {
		r = image_ref_parse(im->name, &ref, err);
		if (r < 0)
			return r;
		image_ref_done(&ref);
	}
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set_errno(err, -errno, "opening the archive");
	if (S_ISDIR(st.st_mode))
		return import_tree(im, im->path, err);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "neither a file nor a directory");
	return import_archive(im, fd, err);
}

int image_import(struct image_store *images, const char *path, const char *name, char ***ret_ids,
		 struct err *err)
{
	struct import im = {
		.images = images, .path = path, .name = str_empty(name) ? NULL : name, .tree = -1};
	int lock = images_lock(images, err);
	int r;

	if (lock < 0)
		return lock;
	r = import_path(&im, err);
	close_fd(im.tree);
	if (r < 0)
		err_wrap(err, "importing %s", path);
	images_unlock(images, lock);
	if (r < 0) {
		strv_free(im.ids);
		return r;
	}
	*ret_ids = im.ids;
	return 0;
}

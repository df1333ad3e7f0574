/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/image_internal.h"

#include "base/cond.h"
#include "base/log.h"
#include "base/util.h"
#include "base/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

/* ---- open and close ------------------------------------------------------------------------------------ */

static int make_dirs(struct image_store *images, struct err *err)
{
	static const char *const names[] = {"images/layers", "images/empty"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char *path CLEANUP_FREE = xasprintf("%s/%s", images->state_dir, names[i]);
		int r = path ? mkdir_p(path, 0700) : -ENOMEM;

		if (r < 0)
			return err_set_errno(err, r, "%s/%s", images->state_dir, names[i]);
	}
	return 0;
}

static int init(struct image_store *images, const struct image_store_options *options, struct err *err)
{
	int r;

	images->store = options->store;
	images->workers = options->workers;
	images->stall_s = options->stall_s;
	images->limits = UNPACK_LIMITS_DEFAULT;
	images->state_dir = strdup(options->state_dir);
	images->dir = xasprintf("%s/images", options->state_dir);
	if (!images->state_dir || !images->dir ||
	    str_set(&images->registry_config_dir, options->registry_config_dir) < 0)
		return err_oom(err);
	r = make_dirs(images, err);
	if (r < 0)
		return r;
	r = blob_store_open(images->dir, &images->blobs, err);
	return r < 0 ? r : images_collect(images, err);
}

int image_store_open(const struct image_store_options *options, struct image_store **ret_images,
		     struct err *err)
{
	struct image_store *images = calloc(1, sizeof(*images));
	int r;

	if (!images)
		return err_oom(err);
	r = cond_init(&images->changed);
	if (r < 0) {
		free(images);
		return err_set_errno(err, r, "the image store");
	}
	pthread_mutex_init(&images->lock, NULL);
	r = init(images, options, err);
	if (r < 0) {
		image_store_close(images);
		return r;
	}
	*ret_images = images;
	return 0;
}

struct image_store *image_store_close(struct image_store *images)
{
	if (!images)
		return NULL;
	blob_store_close(images->blobs);
	free(images->state_dir);
	free(images->dir);
	free(images->registry_config_dir);
	pthread_cond_destroy(&images->changed);
	pthread_mutex_destroy(&images->lock);
	free(images);
	return NULL;
}

/* ---- the lock between processes, and collection -------------------------------------------------------- */

static int open_lock(const struct image_store *images, struct err *err)
{
	char *path CLEANUP_FREE = xasprintf("%s/lock", images->dir);
	int fd;

	if (!path)
		return err_oom(err);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? err_set_errno(err, -errno, "%s", path) : fd;
}

int images_lock(struct image_store *images, struct err *err)
{
	int fd = open_lock(images, err);

	if (fd < 0)
		return fd;
	while (flock(fd, LOCK_SH) < 0) {
		if (errno != EINTR) {
			int r = err_set_errno(err, -errno, "%s/lock", images->dir);

			close_fd(fd);
			return r;
		}
	}
	return fd;
}

void images_unlock(struct image_store *images, int fd)
{
	struct err err = ERR_INIT;

	close_fd(fd);
	if (atomic_exchange(&images->collect_wanted, false) && images_collect(images, &err) < 0)
		log_warn("image: collecting what is not used: %s", err.msg);
}

struct wanted {
	struct image_row **rows;
	char **chains; /* used by containers */
};

static bool keep_blob(void *arg, const char *digest)
{
	const struct wanted *w = arg;

	for (struct image_row **row = w->rows; *row; row++) {
		if (str_eq((*row)->id, digest) || str_eq((*row)->manifest, digest))
			return true;
		for (size_t i = 0; i < (*row)->n_layers; i++) {
			if (str_eq((*row)->layers[i].blob, digest))
				return true;
		}
	}
	return false;
}

static bool keep_layer(void *arg, const char *chain)
{
	const struct wanted *w = arg;

	for (char **c = w->chains; c && *c; c++) {
		if (str_eq(*c, chain))
			return true;
	}
	for (struct image_row **row = w->rows; *row; row++) {
		for (size_t i = 0; i < (*row)->n_layers; i++) {
			if (str_eq((*row)->layers[i].chain, chain))
				return true;
		}
	}
	return false;
}

/* Archives that an import was reading when it died. */
static void remove_imports(const struct image_store *images)
{
	DIR *dir = opendir(images->dir);
	const struct dirent *de;

	while (dir && (de = readdir(dir))) {
		if (str_starts(de->d_name, IMAGES_IMPORT_PREFIX) &&
		    remove_tree_at(dirfd(dir), de->d_name) < 0)
			log_warn("image: %s/%s could not be removed", images->dir, de->d_name);
	}
	if (dir)
		closedir(dir);
}

static int collect_locked(struct image_store *images, struct err *err)
{
	struct wanted w = {0};
	int r = image_rows_load(images->store, &w.rows, err);

	if (r == 0)
		r = use_rows_chains(images->store, &w.chains, err);
	if (r == 0)
		r = layers_bury(images, keep_layer, &w, err);
	if (r == 0)
		r = blob_collect(images->blobs, keep_blob, &w, err);
	remove_imports(images);
	image_rows_free(w.rows);
	strv_free(w.chains);
	return r;
}

int images_collect(struct image_store *images, struct err *err)
{
	int fd = open_lock(images, err);
	int r;

	if (fd < 0)
		return fd;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		/*
		 * A pull or mount runs: the last one in this process does it then, else the next removal
		 * or start.
		 */
		images->collect_wanted = true;
		close_fd(fd);
		layers_remove_buried(images);
		return 0;
	}
	r = collect_locked(images, err);
	close_fd(fd);
	layers_remove_buried(images);
	return r;
}

/* ---- what there is ------------------------------------------------------------------------------------- */

struct image *image_free(struct image *image)
{
	if (!image)
		return NULL;
	free(image->id);
	strv_free(image->repo_tags);
	strv_free(image->repo_digests);
	free(image->config_json);
	strv_free(image->layers);
	image_config_done(&image->config);
	free(image);
	return NULL;
}

static int copy_strings(char *const *from, char ***to)
{
	for (; from && *from; from++) {
		if (strv_add(to, *from) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int fill(struct image_store *images, const struct image_row *row, struct image *image, struct err *err)
{
	size_t len = 0;
	int r;

	image->size_bytes = row->size_bytes;
	image->pinned = row->pinned;
	if (str_set(&image->id, row->id) < 0 || copy_strings(row->tags, &image->repo_tags) < 0 ||
	    copy_strings(row->digests, &image->repo_digests) < 0)
		return err_oom(err);
	for (size_t i = 0; i < row->n_layers; i++) {
		if (strv_add(&image->layers, row->layers[i].chain) < 0)
			return err_oom(err);
	}
	r = blob_read(images->blobs, row->id, OCI_CONFIG_MAX, &image->config_json, &len, err);
	if (r == 0)
		r = oci_config_parse(image->config_json, len, &image->config, NULL, err);
	return r < 0 ? err_wrap(err, "image %s", row->id) : 0;
}

static int make_image(struct image_store *images, const struct image_row *row, struct image **ret,
		      struct err *err)
{
	struct image *image = calloc(1, sizeof(*image));
	int r;

	if (!image)
		return err_oom(err);
	r = fill(images, row, image, err);
	if (r < 0) {
		image_free(image);
		return r;
	}
	*ret = image;
	return 0;
}

int image_get(struct image_store *images, const char *ref, struct image **ret_image, struct err *err)
{
	struct image_row **rows = NULL;
	struct image_row *row;
	int r = image_rows_load(images->store, &rows, err);

	if (r == 0)
		r = image_rows_find(rows, ref, &row, err);
	if (r == 0)
		r = make_image(images, row, ret_image, err);
	image_rows_free(rows);
	return r;
}

static int list_rows(struct image_store *images, struct image_row *const *rows, const struct image_row *only,
		     struct image **list, struct err *err)
{
	size_t n = 0;

	for (; *rows; rows++) {
		struct err one = ERR_INIT;

		if (only && *rows != only)
			continue;
		if (make_image(images, *rows, &list[n], &one) == 0) {
			n++;
		} else if (one.code == -ENOMEM) {
			return err_copy(err, &one);
		} else {
			log_warn("image: left out of the list: %s", one.msg);
		}
	}
	return 0;
}

static void free_list(struct image **list)
{
	for (struct image **p = list; p && *p; p++)
		image_free(*p);
	free(list);
}

int image_list(struct image_store *images, const char *ref, struct image ***ret_list, struct err *err)
{
	struct image_row **rows = NULL;
	struct image_row *only = NULL;
	struct image **list = NULL;
	size_t n = 0;
	int r = image_rows_load(images->store, &rows, err);

	if (r < 0)
		return r;
	while (rows[n])
		n++;
	list = calloc(n + 1, sizeof(struct image *));
	if (!list)
		r = err_oom(err);
	else if (!str_empty(ref))
		r = image_rows_find(rows, ref, &only, err);
	if (r == 0)
		r = list_rows(images, rows, only, list, err);
	else if (r == -ENOENT) /* a filter that matches nothing is not an error */
		r = 0;
	image_rows_free(rows);
	if (r < 0) {
		free_list(list);
		return r;
	}
	*ret_list = list;
	return 0;
}

int image_remove(struct image_store *images, const char *ref, struct err *err)
{
	struct image_row **rows = NULL;
	struct image_row *row;
	int r = image_rows_load(images->store, &rows, err);

	if (r < 0)
		return r;
	r = image_rows_find(rows, ref, &row, err);
	if (r == 0) {
		log_info("image %s removed", row->id);
		r = store_delete(images->store, IMAGE_KIND, row->id, err);
	}
	if (r == 0) {
		blob_release(images->blobs, row->id);
		blob_release(images->blobs, row->manifest);
		for (size_t i = 0; i < row->n_layers; i++)
			blob_release(images->blobs, row->layers[i].blob);
		r = images_collect(images, err);
	} else if (r == -ENOENT) {
		r = 0;
	}
	image_rows_free(rows);
	return r;
}

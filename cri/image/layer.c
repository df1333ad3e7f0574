/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/image_internal.h"

#include "base/log.h"
#include "base/util.h"
#include "base/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#define BURIED "dead."
#define MAKING "tmp."

struct image_unpacking {
	const char *chain;
	struct image_unpacking *next;
};

char *layer_path(const struct image_store *images, const char *chain)
{
	return xasprintf("%s/layers/%s/fs", images->dir, chain + 7);
}

bool layer_have(const struct image_store *images, const char *chain)
{
	char *path CLEANUP_FREE = layer_path(images, chain);
	struct stat st;

	return path && lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* The paths of the layers beneath the last of n chains, the top one first. */
static int parent_paths(const struct image_store *images, char *const *chains, size_t n, char ***ret)
{
	for (size_t i = n - 1; i > 0; i--) {
		char *path CLEANUP_FREE = layer_path(images, chains[i - 1]);

		if (!path || strv_add(ret, path) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int unpack_to(struct image_store *images, const char *tmp, const char *blob, const char *diff_id,
		     char *const *chains, size_t n, struct call *call, struct err *err)
{
	char *target CLEANUP_FREE = xasprintf("%s/fs", tmp);
	char *final CLEANUP_FREE = xasprintf("%s/layers/%s", images->dir, chains[n - 1] + 7);
	char **parents CLEANUP_STRV = NULL;
	struct unpack_options opt = {.diff_id = diff_id, .limits = images->limits, .call = call};
	int fd CLEANUP_CLOSE = -1;
	int r;

	if (!target || !final || parent_paths(images, chains, n, &parents) < 0)
		return err_oom(err);
	if (mkdir(tmp, 0700) < 0 || mkdir(target, 0755) < 0 || chmod(target, 0755) < 0)
		return err_set_errno(err, -errno, "%s", tmp);
	fd = blob_open(images->blobs, blob, err);
	if (fd < 0)
		return fd;
	opt.fd = fd;
	opt.target = target;
	opt.parents = parents;
	r = image_unpack(&opt, err);
	if (r < 0) {
		err_wrap(err, "layer %s", blob);
		return r;
	}
	r = layer_usage_note(tmp, err);
	if (r < 0)
		return r;
	if (rename(tmp, final) < 0 && errno != ENOTEMPTY && errno != EEXIST)
		return err_set_errno(err, -errno, "%s", final);
	return 0;
}

static int unpack_new(struct image_store *images, const char *blob, const char *diff_id, char *const *chains,
		      size_t n, struct call *call, struct err *err)
{
	char *tmp CLEANUP_FREE = NULL;
	char suffix[17];
	int r = random_hex(8, suffix);

	if (r < 0)
		return err_set_errno(err, r, "random bytes");
	tmp = xasprintf("%s/layers/" MAKING "%s", images->dir, suffix);
	if (!tmp)
		return err_oom(err);
	r = unpack_to(images, tmp, blob, diff_id, chains, n, call, err);
	/* Gone if it was renamed; there if it failed or another process was quicker. */
	if (remove_tree(tmp) < 0)
		log_warn("image: %s could not be removed", tmp);
	return r;
}

static bool is_unpacking(const struct image_store *images, const char *chain)
{
	for (const struct image_unpacking *u = images->unpacking; u; u = u->next) {
		if (str_eq(u->chain, chain))
			return true;
	}
	return false;
}

static void forget_unpacking(struct image_store *images, const struct image_unpacking *mine)
{
	struct image_unpacking **u = &images->unpacking;

	pthread_mutex_lock(&images->lock);
	while (*u != mine)
		u = &(*u)->next;
	*u = mine->next;
	pthread_cond_broadcast(&images->changed);
	pthread_mutex_unlock(&images->lock);
}

int layer_unpack(struct image_store *images, const char *blob, const char *diff_id, char *const *chains,
		 size_t n, struct call *call, struct err *err)
{
	struct image_unpacking mine = {.chain = chains[n - 1]};
	int r = 0;

	pthread_mutex_lock(&images->lock);
	while (is_unpacking(images, mine.chain) && r == 0) {
		(void)call_wait(call, &images->changed, &images->lock, INT64_MAX);
		r = call_check(call, err);
	}
	if (r == 0) {
		mine.next = images->unpacking;
		images->unpacking = &mine;
	}
	pthread_mutex_unlock(&images->lock);
	if (r < 0)
		return r;
	if (!layer_have(images, mine.chain))
		r = unpack_new(images, blob, diff_id, chains, n, call, err);
	forget_unpacking(images, &mine);
	return r;
}

/* ---- removal ------------------------------------------------------------------------------------------- */

typedef int each_fn(struct image_store *images, int dirfd, const char *name, void *arg, struct err *err);

static int each_layer(struct image_store *images, each_fn *fn, void *arg, struct err *err)
{
	char *path CLEANUP_FREE = xasprintf("%s/layers", images->dir);
	DIR *dir = path ? opendir(path) : NULL;
	const struct dirent *de;
	int r = 0;

	if (!dir)
		return err_set_errno(err, -errno, "%s/layers", images->dir);
	while (r == 0 && (de = readdir(dir))) {
		if (de->d_name[0] != '.')
			r = fn(images, dirfd(dir), de->d_name, arg, err);
	}
	closedir(dir);
	return r;
}

struct burial {
	bool (*keep)(void *arg, const char *chain);
	void *arg;
};

static int bury_name(char out[40])
{
	char suffix[17];
	int r = random_hex(8, suffix);

	if (r == 0)
		snprintf(out, 40, BURIED "%s", suffix);
	return r;
}

static int bury(struct image_store *images, int dirfd, const char *name, void *arg, struct err *err)
{
	const struct burial *b = arg;
	char chain[IMAGE_DIGEST_LEN + 1], to[40];
	int r;

	(void)images;
	if (str_starts(name, BURIED))
		return 0;
	if (strlen(name) == 64) {
		snprintf(chain, sizeof(chain), "sha256:%.64s", name);
		if (b->keep(b->arg, chain))
			return 0;
	} else if (!str_starts(name, MAKING)) {
		return 0; /* not ours */
	}
	r = bury_name(to);
	if (r < 0)
		return err_set_errno(err, r, "random bytes");
	if (renameat(dirfd, name, dirfd, to) < 0 && errno != ENOENT)
		return err_set_errno(err, -errno, "removing layer %s", name);
	return 0;
}

int layers_bury(struct image_store *images, bool (*keep)(void *arg, const char *chain), void *arg,
		struct err *err)
{
	struct burial b = {.keep = keep, .arg = arg};

	return each_layer(images, bury, &b, err);
}

int image_discard_tree(struct image_store *images, int dirfd, const char *name)
{
	char *layers CLEANUP_FREE = xasprintf("%s/layers", images->dir);
	int fd CLEANUP_CLOSE = layers ? open(layers, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	char to[40];

	if (fd >= 0 && bury_name(to) == 0 && (renameat(dirfd, name, fd, to) == 0 || errno == ENOENT))
		return 0;
	return remove_tree_at(dirfd, name); /* another file system, say */
}

static void remove_buried(const char *layers)
{
	DIR *dir = opendir(layers);
	const struct dirent *de;

	while (dir && (de = readdir(dir))) {
		int r = str_starts(de->d_name, BURIED) ? remove_tree_at(dirfd(dir), de->d_name) : 0;

		if (r < 0)
			log_warn("image: %s/%s could not be removed: %s", layers, de->d_name, strerror(-r));
	}
	if (dir)
		closedir(dir);
}

static void remove_buried_job(void *arg)
{
	remove_buried(arg);
	free(arg);
}

void layers_remove_buried(struct image_store *images)
{
	char *layers = xasprintf("%s/layers", images->dir);

	if (!layers)
		return;
	/*
	 * A job of its own, which needs nothing but the path: an RPC should not wait for thousands of files
	 * to go.
	 */
	if (!images->workers || workers_submit(images->workers, LANE_IMAGE, remove_buried_job, layers) < 0)
		remove_buried_job(layers);
}

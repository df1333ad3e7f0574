/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/image_internal.h"

#include "base/util.h"

int image_hold(struct image_store *images, struct err *err)
{
	return images_lock(images, err);
}

void image_unhold(struct image_store *images, int hold)
{
	images_unlock(images, hold);
}

static int image_chains(struct image_store *images, const char *image_id, char ***ret_chains, struct err *err)
{
	struct image_row **rows = NULL;
	struct image_row *row;
	int r = image_rows_load(images->store, &rows, err);

	if (r == 0)
		r = image_rows_find(rows, image_id, &row, err);
	for (size_t i = 0; r == 0 && i < row->n_layers; i++) {
		if (strv_add(ret_chains, row->layers[i].chain) < 0)
			r = err_oom(err);
	}
	image_rows_free(rows);
	return r;
}

/* What the user has used so far, else what the image has now; noted before anybody relies on it. */
static int take_chains(struct image_store *images, const char *image_id, const char *user, char ***ret_chains,
		       struct err *err)
{
	int r;

	if (user) {
		r = use_row_get(images->store, user, ret_chains, err);
		if (r != -ENOENT)
			return r;
	}
	r = image_chains(images, image_id, ret_chains, err);
	if (r < 0 || !user)
		return r;
	return use_row_put(images->store, user, image_id, *ret_chains, err);
}

static int layer_paths(const struct image_store *images, char *const *chains, char ***ret_layers)
{
	int r = 0;

	for (size_t i = strv_len(chains); r == 0 && i > 0; i--) {
		char *path CLEANUP_FREE = layer_path(images, chains[i - 1]);

		r = path ? strv_add(ret_layers, path) : -ENOMEM;
	}
	/* An image without layers has one empty layer. */
	return r == 0 && !*ret_layers ? strv_addf(ret_layers, "%s/empty", images->dir) : r;
}

int image_use_take(struct image_store *images, const char *image_id, const char *user, char ***ret_layers,
		   struct err *err)
{
	char **chains CLEANUP_STRV = NULL, **layers CLEANUP_STRV = NULL;
	int r = take_chains(images, image_id, user, &chains, err);

	if (r < 0)
		return r;
	if (layer_paths(images, chains, &layers) < 0)
		return err_oom(err);
	*ret_layers = move_ptr(layers);
	return 0;
}

int image_use_drop(struct image_store *images, const char *user, struct err *err)
{
	int r = store_delete(images->store, USE_KIND, user, err);

	return r < 0 && r != -ENOENT ? r : images_collect(images, err);
}

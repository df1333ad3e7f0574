/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/image_internal.h"

#include "base/util.h"

#include <fcntl.h>

static bool drop(char **v, const char *s)
{
	char **to = v;
	bool dropped = false;

	for (char **from = v; from && *from; from++) {
		if (s && str_eq(*from, s)) {
			free(*from);
			dropped = true;
		} else {
			*to++ = *from;
		}
	}
	if (to)
		*to = NULL;
	return dropped;
}

static int add_once(char ***v, const char *s)
{
	for (char **p = *v; p && *p; p++) {
		if (str_eq(*p, s))
			return 0;
	}
	return strv_add(v, s);
}

static struct image_row *row_of(const struct image_commit *c)
{
	struct image_row *row = calloc(1, sizeof(*row));
	size_t n = c->manifest->n_items;

	if (!row)
		return NULL;
	row->layers = calloc(n ? n : 1, sizeof(*row->layers));
	if (!row->layers)
		return image_row_free(row);
	row->n_layers = n;
	memcpy(row->id, c->manifest->config.digest, sizeof(row->id));
	memcpy(row->manifest, c->manifest_digest, sizeof(row->manifest));
	row->size_bytes = c->manifest->config.size_bytes;
	for (size_t i = 0; i < n; i++) {
		memcpy(row->layers[i].blob, c->manifest->items[i].digest, sizeof(row->layers[i].blob));
		memcpy(row->layers[i].chain, c->chains[i], sizeof(row->layers[i].chain));
		row->layers[i].size_bytes = c->manifest->items[i].size_bytes;
		row->size_bytes += row->layers[i].size_bytes;
	}
	return row;
}

/* Takes over what the image was known by before. */
static int inherit(struct image_row *row, const struct image_row *old)
{
	row->pinned = old->pinned;
	for (char **p = old->tags; p && *p; p++) {
		if (add_once(&row->tags, *p) < 0)
			return -ENOMEM;
	}
	for (char **p = old->digests; p && *p; p++) {
		if (add_once(&row->digests, *p) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int put_row(struct store *store, void *arg, struct err *err)
{
	const struct image_commit *c = arg;
	struct image_row **rows = NULL;
	struct image_row *row = row_of(c);
	int r = row ? image_rows_load(store, &rows, err) : err_oom(err);

	for (struct image_row **p = rows; r == 0 && p && *p; p++) {
		if (str_eq((*p)->id, row->id))
			r = inherit(row, *p) < 0 ? err_oom(err) : 0;
		else if (drop((*p)->tags, c->tag)) /* the tag has moved here */
			r = image_row_put(store, *p, err);
	}
	if (r == 0 && ((c->tag && add_once(&row->tags, c->tag) < 0) ||
		       (c->digest && add_once(&row->digests, c->digest) < 0)))
		r = err_oom(err);
	if (r == 0)
		r = image_row_put(store, row, err);
	image_rows_free(rows);
	image_row_free(row);
	return r;
}

/* After a loss of power a row must not name files that were never written. */
static int sync_files(const struct image_store *images, struct err *err)
{
	int fd CLEANUP_CLOSE = open(images->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || syncfs(fd) < 0)
		return err_set_errno(err, -errno, "%s", images->dir);
	return 0;
}

int image_commit(struct image_store *images, const struct image_commit *commit, struct err *err)
{
	struct image_commit c = *commit;
	int r = sync_files(images, err);

	return r < 0 ? r : store_transaction(images->store, put_row, &c, err);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/row_internal.h"

#include "base/log.h"
#include "base/util.h"
#include "cri/image/oci/manifest.h"

#include <json-c/json.h>

struct image_row *image_row_free(struct image_row *row)
{
	if (row) {
		strv_free(row->tags);
		strv_free(row->digests);
		free(row->layers);
		free(row);
	}
	return NULL;
}

struct image_row **image_rows_free(struct image_row **rows)
{
	for (struct image_row **p = rows; p && *p; p++)
		image_row_free(*p);
	free(rows);
	return NULL;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static json_object *strings_json(char *const *v)
{
	json_object *list = json_object_new_array();

	for (; v && *v; v++)
		json_object_array_add(list, json_object_new_string(*v));
	return list;
}

static json_object *row_json(const struct image_row *row)
{
	json_object *o = json_object_new_object(), *layers = json_object_new_array();

	json_object_object_add(o, "manifest", json_object_new_string(row->manifest));
	json_object_object_add(o, "tags", strings_json(row->tags));
	json_object_object_add(o, "digests", strings_json(row->digests));
	json_object_object_add(o, "size", json_object_new_int64((int64_t)row->size_bytes));
	json_object_object_add(o, "pinned", json_object_new_boolean(row->pinned));
	for (size_t i = 0; i < row->n_layers; i++) {
		json_object *l = json_object_new_object();

		json_object_object_add(l, "blob", json_object_new_string(row->layers[i].blob));
		json_object_object_add(l, "chain", json_object_new_string(row->layers[i].chain));
		json_object_object_add(l, "size", json_object_new_int64((int64_t)row->layers[i].size_bytes));
		json_object_array_add(layers, l);
	}
	json_object_object_add(o, "layers", layers);
	return o;
}

static int put_json(struct store *store, const char *kind, const char *id, json_object *o, struct err *err)
{
	size_t len = 0;
	const char *text = json_object_to_json_string_length(
		o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
	int r = text ? store_put(store, kind, id, NULL, text, len, err) : err_oom(err);

	json_object_put(o);
	return r;
}

int image_row_put(struct store *store, const struct image_row *row, struct err *err)
{
	return put_json(store, IMAGE_KIND, row->id, row_json(row), err);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static json_object *parse(const void *value, size_t len)
{
	json_tokener *tok = json_tokener_new_ex(8);
	json_object *o = NULL;

	if (tok && len <= OCI_MANIFEST_MAX)
		o = json_tokener_parse_ex(tok, value, (int)len);
	if (tok)
		json_tokener_free(tok);
	if (!json_object_is_type(o, json_type_object)) {
		json_object_put(o);
		return NULL;
	}
	return o;
}

static int read_strings(json_object *o, const char *key, char ***ret)
{
	json_object *list;

	if (!json_object_object_get_ex(o, key, &list) || !json_object_is_type(list, json_type_array))
		return -EBADMSG;
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		json_object *v = json_object_array_get_idx(list, i);

		if (!json_object_is_type(v, json_type_string))
			return -EBADMSG;
		if (strv_add(ret, json_object_get_string(v)) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int read_digest(json_object *o, const char *key, char out[IMAGE_DIGEST_LEN + 1])
{
	json_object *v;

	if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string) ||
	    !image_digest_valid(json_object_get_string(v)))
		return -EBADMSG;
	memcpy(out, json_object_get_string(v), IMAGE_DIGEST_LEN + 1);
	return 0;
}

static int read_size(json_object *o, uint64_t *ret)
{
	json_object *v;

	if (!json_object_object_get_ex(o, "size", &v) || !json_object_is_type(v, json_type_int) ||
	    json_object_get_int64(v) < 0)
		return -EBADMSG;
	*ret = (uint64_t)json_object_get_int64(v);
	return 0;
}

static int read_layers(json_object *o, struct image_row *row)
{
	json_object *list;
	size_t n;

	if (!json_object_object_get_ex(o, "layers", &list) || !json_object_is_type(list, json_type_array))
		return -EBADMSG;
	n = json_object_array_length(list);
	row->layers = calloc(n ? n : 1, sizeof(*row->layers));
	if (!row->layers || n > OCI_LAYERS_MAX)
		return -EBADMSG;
	for (size_t i = 0; i < n; i++) {
		json_object *l = json_object_array_get_idx(list, i);

		if (!json_object_is_type(l, json_type_object) ||
		    read_digest(l, "blob", row->layers[i].blob) < 0 ||
		    read_digest(l, "chain", row->layers[i].chain) < 0 ||
		    read_size(l, &row->layers[i].size_bytes) < 0)
			return -EBADMSG;
	}
	row->n_layers = n;
	return 0;
}

static struct image_row *decode(const char *id, const void *value, size_t len)
{
	json_object *o = parse(value, len), *pinned;
	struct image_row *row = calloc(1, sizeof(*row));
	bool good = o && row && image_digest_valid(id);

	if (good) {
		memcpy(row->id, id, sizeof(row->id));
		good = read_digest(o, "manifest", row->manifest) == 0 &&
		       read_strings(o, "tags", &row->tags) == 0 &&
		       read_strings(o, "digests", &row->digests) == 0 &&
		       read_size(o, &row->size_bytes) == 0 && read_layers(o, row) == 0;
		row->pinned =
			json_object_object_get_ex(o, "pinned", &pinned) && json_object_get_boolean(pinned);
	}
	json_object_put(o);
	return good ? row : image_row_free(row);
}

struct loading {
	struct image_row **rows;
	size_t n;
};

static int load_one(void *arg, const char *id, const char *name, const void *value, size_t len)
{
	struct loading *l = arg;
	struct image_row *row = decode(id, value, len);
	struct image_row **grown;

	(void)name;
	if (!row) {
		log_warn("image %s: its row in the store cannot be read; the image is ignored", id);
		return 0;
	}
	grown = realloc(l->rows, (l->n + 2) * sizeof(*grown));
	if (!grown) {
		image_row_free(row);
		return -ENOMEM;
	}
	l->rows = grown;
	l->rows[l->n++] = row;
	l->rows[l->n] = NULL;
	return 0;
}

int image_rows_load(struct store *store, struct image_row ***ret_rows, struct err *err)
{
	struct loading l = {.rows = calloc(1, sizeof(*l.rows))};
	int r;

	if (!l.rows)
		return err_oom(err);
	r = store_each(store, IMAGE_KIND, load_one, &l, err);
	if (r < 0) {
		image_rows_free(l.rows);
		return r == -ENOMEM ? err_oom(err) : r;
	}
	*ret_rows = l.rows;
	return 0;
}

/* ---- finding ------------------------------------------------------------------------------------------- */

static bool strv_has(char *const *v, const char *s)
{
	for (; v && *v; v++) {
		if (str_eq(*v, s))
			return true;
	}
	return false;
}

bool image_row_named(const struct image_row *row, const struct image_ref *ref)
{
	char *full CLEANUP_FREE = ref->digest ? xasprintf("%s@%s", ref->name, ref->digest)
					      : xasprintf("%s:%s", ref->name, ref->tag);

	return full && strv_has(ref->digest ? row->digests : row->tags, full);
}

static int find_prefix(struct image_row *const *rows, const char *text, struct image_row **ret_row,
		       struct err *err)
{
	const char *hex = str_starts(text, "sha256:") ? text + 7 : text;
	size_t len = strlen(hex);
	struct image_row *found = NULL;

	if (len >= 3 && len <= 64 && strspn(hex, "0123456789abcdef") == len) {
		for (; *rows; rows++) {
			if (strncmp((*rows)->id + 7, hex, len) != 0)
				continue;
			if (found)
				return err_set(err, -EINVAL, "image id \"%s\" is not unique", text);
			found = *rows;
		}
	}
	if (!found)
		return err_set(err, -ENOENT, "image \"%.300s\" not found", text);
	*ret_row = found;
	return 0;
}

int image_rows_find(struct image_row *const *rows, const char *text, struct image_row **ret_row,
		    struct err *err)
{
	struct image_ref ref = {0};

	if (str_empty(text))
		return err_set(err, -EINVAL, "image reference is empty");
	if (!image_digest_valid(text) && image_ref_parse(text, &ref, NULL) == 0) {
		for (struct image_row *const *p = rows; *p; p++) {
			if (image_row_named(*p, &ref)) {
				*ret_row = *p;
				image_ref_done(&ref);
				return 0;
			}
		}
		image_ref_done(&ref);
	}
	return find_prefix(rows, text, ret_row, err);
}

/* ---- uses ---------------------------------------------------------------------------------------------- */

int use_row_put(struct store *store, const char *container_id, const char *image_id, char *const *chains,
		struct err *err)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "image", json_object_new_string(image_id));
	json_object_object_add(o, "layers", strings_json(chains));
	return put_json(store, USE_KIND, container_id, o, err);
}

static int read_chains(const void *value, size_t len, char ***ret)
{
	json_object *o = parse(value, len);
	int r = o ? read_strings(o, "layers", ret) : -EBADMSG;

	json_object_put(o);
	return r;
}

int use_row_get(struct store *store, const char *container_id, char ***ret_chains, struct err *err)
{
	char **chains CLEANUP_STRV = NULL;
	void *value CLEANUP_FREE = NULL;
	size_t len;
	int r = store_get(store, USE_KIND, container_id, &value, &len, err);

	if (r < 0)
		return r;
	if (read_chains(value, len, &chains) < 0)
		return err_set_status(err, -EBADMSG, ERR_DATA_LOSS,
				      "container %s: its root file system's row is damaged", container_id);
	for (char **p = chains; p && *p; p++) {
		if (!image_digest_valid(*p))
			return err_set_status(err, -EBADMSG, ERR_DATA_LOSS,
					      "container %s: its root file system's row is damaged",
					      container_id);
	}
	*ret_chains = chains ? move_ptr(chains) : calloc(1, sizeof(*chains));
	return *ret_chains ? 0 : err_oom(err);
}

static int collect_chains(void *arg, const char *id, const char *name, const void *value, size_t len)
{
	(void)id;
	(void)name;
	return read_chains(value, len, arg) == -ENOMEM ? -ENOMEM : 0;
}

int use_rows_chains(struct store *store, char ***ret_chains, struct err *err)
{
	char **chains CLEANUP_STRV = NULL;
	int r = store_each(store, USE_KIND, collect_chains, &chains, err);

	if (r < 0)
		return r == -ENOMEM ? err_oom(err) : r;
	*ret_chains = move_ptr(chains);
	return 0;
}

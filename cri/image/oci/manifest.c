/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/oci/manifest.h"

#include "base/log.h"
#include "base/util.h"
#include "cri/image/oci/digest.h"

#include <json-c/json.h>
#include <limits.h>

#define JSON_DEPTH  32
#define STRINGS_MAX 8192
#define INDEX_MAX   1024

#if defined(__x86_64__)
#define OUR_ARCH    "amd64"
#define OUR_VARIANT "v1"
#elif defined(__aarch64__)
#define OUR_ARCH    "arm64"
#define OUR_VARIANT "v8"
#else
#error "name this architecture as GOARCH does"
#endif

static void json_cleanup(json_object **o)
{
	json_object_put(*o);
}
#define CLEANUP_JSON CLEANUP(json_cleanup)

static int damaged(struct err *err, const char *what, const char *why)
{
	return err_set_status(err, -EBADMSG, ERR_DATA_LOSS, "%s: %s", what, why);
}

static int parse_json(const char *what, const char *data, size_t len, size_t max, json_object **ret,
		      struct err *err)
{
	json_tokener *tok;
	json_object *o;
	enum json_tokener_error e;
	size_t end;

	if (len > max || len > INT_MAX)
		return err_set_status(err, -EFBIG, ERR_DATA_LOSS, "%s has %zu bytes; the limit is %zu", what,
				      len, max);
	tok = json_tokener_new_ex(JSON_DEPTH);
	if (!tok)
		return err_oom(err);
	json_tokener_set_flags(tok, JSON_TOKENER_VALIDATE_UTF8);
	o = json_tokener_parse_ex(tok, data, (int)len);
	e = json_tokener_get_error(tok);
	end = json_tokener_get_parse_end(tok);
	json_tokener_free(tok);
	while (end < len && strchr(" \t\r\n", data[end]) && data[end])
		end++;
	if (e != json_tokener_success || end != len || !json_object_is_type(o, json_type_object)) {
		json_object_put(o);
		return damaged(err, what,
			       e != json_tokener_success ? json_tokener_error_desc(e)
							 : "not one JSON object");
	}
	*ret = o;
	return 0;
}

static const char *get_string(json_object *o, const char *key)
{
	json_object *v;

	if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string))
		return NULL;
	/* A string with a NUL inside is not one that C can carry. */
	if (strlen(json_object_get_string(v)) != (size_t)json_object_get_string_len(v))
		return NULL;
	return json_object_get_string(v);
}

static void descriptor_done(struct oci_descriptor *d)
{
	free(d->media_type);
	free(d->os);
	free(d->architecture);
	free(d->variant);
	free(d->ref_name);
	memset(d, 0, sizeof(*d));
}

static int parse_platform(json_object *o, struct oci_descriptor *d)
{
	json_object *p;

	if (!json_object_object_get_ex(o, "platform", &p) || !json_object_is_type(p, json_type_object))
		return 0;
	if (str_set(&d->os, get_string(p, "os")) < 0 ||
	    str_set(&d->architecture, get_string(p, "architecture")) < 0 ||
	    str_set(&d->variant, get_string(p, "variant")) < 0)
		return -ENOMEM;
	return 0;
}

static int parse_names(json_object *o, struct oci_descriptor *d)
{
	json_object *a;
	const char *name;

	if (!json_object_object_get_ex(o, "annotations", &a) || !json_object_is_type(a, json_type_object))
		return 0;
	name = get_string(a, "io.containerd.image.name");
	if (!name)
		name = get_string(a, "org.opencontainers.image.ref.name");
	return str_set(&d->ref_name, name);
}

static int parse_descriptor(json_object *o, const char *what, struct oci_descriptor *d, struct err *err)
{
	json_object *size;
	const char *digest, *type;
	int64_t n;

	if (!json_object_is_type(o, json_type_object))
		return damaged(err, what, "a descriptor is not an object");
	digest = get_string(o, "digest");
	if (!image_digest_valid(digest))
		return damaged(err, what, "a descriptor has no sha256 digest");
	if (!json_object_object_get_ex(o, "size", &size) || !json_object_is_type(size, json_type_int))
		return damaged(err, what, "a descriptor has no size");
	n = json_object_get_int64(size);
	if (n < 0 || (uint64_t)n > OCI_BLOB_MAX)
		return damaged(err, what, "a descriptor's size is out of range");
	type = get_string(o, "mediaType");
	if (!type || strlen(type) > 255)
		return damaged(err, what, "a descriptor has no media type");
	memcpy(d->digest, digest, sizeof(d->digest));
	d->size_bytes = (uint64_t)n;
	if (str_set(&d->media_type, type) < 0 || parse_platform(o, d) < 0 || parse_names(o, d) < 0)
		return err_oom(err);
	return 0;
}

static int parse_items(json_object *root, const char *key, size_t max, struct oci_manifest *m,
		       struct err *err)
{
	json_object *list;
	size_t n;

	if (!json_object_object_get_ex(root, key, &list) || !json_object_is_type(list, json_type_array))
		return damaged(err, "image manifest", "it has neither layers nor manifests");
	n = json_object_array_length(list);
	if (n > max)
		return err_set_status(err, -E2BIG, ERR_DATA_LOSS, "image manifest: %zu %s; the limit is %zu",
				      n, key, max);
	m->items = calloc(n ? n : 1, sizeof(*m->items));
	if (!m->items)
		return err_oom(err);
	for (size_t i = 0; i < n; i++) {
		int r;

		m->n_items = i + 1;
		r = parse_descriptor(json_object_array_get_idx(list, i), "image manifest", &m->items[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool type_is_index(const char *type)
{
	return str_eq(type, OCI_TYPE_INDEX) || str_eq(type, DOCKER_TYPE_LIST);
}

static bool type_is_manifest(const char *type)
{
	return str_eq(type, OCI_TYPE_MANIFEST) || str_eq(type, DOCKER_TYPE_MANIFEST);
}

static int refuse_schema1(struct err *err)
{
	return err_set_status(err, -EOPNOTSUPP, ERR_UNIMPLEMENTED,
			      "the image is in Docker's schema 1 format, which was withdrawn; push it again "
			      "with a current client");
}

/* Decides between index and manifest by the document's own type, then the registry's, then its shape. */
static int find_kind(json_object *root, const char *content_type, struct oci_manifest *m, struct err *err)
{
	bool manifests = json_object_object_get_ex(root, "manifests", NULL);
	bool layers = json_object_object_get_ex(root, "layers", NULL) ||
		      json_object_object_get_ex(root, "config", NULL);
	const char *own = get_string(root, "mediaType");
	char said[256] = "";
	const char *type;
	json_object *version;

	if (content_type)
		snprintf(said, sizeof(said), "%.*s", (int)strcspn(content_type, "; \t"), content_type);
	if (json_object_object_get_ex(root, "schemaVersion", &version) && json_object_get_int(version) == 1)
		return refuse_schema1(err);
	if (!version || json_object_get_int(version) != 2)
		return damaged(err, "image manifest", "schemaVersion is not 2");
	if (manifests && layers)
		return damaged(err, "image manifest", "it is both an index and a manifest");
	if (json_object_object_get_ex(root, "fsLayers", NULL))
		return refuse_schema1(err);
	type = own					       ? own
	       : type_is_index(said) || type_is_manifest(said) ? said
	       : manifests				       ? OCI_TYPE_INDEX
							       : OCI_TYPE_MANIFEST;
	if (!type_is_index(type) && !type_is_manifest(type))
		return err_set(err, -EOPNOTSUPP, "manifest of media type \"%.200s\" is not an image", type);
	if (own && (type_is_index(said) || type_is_manifest(said)) &&
	    type_is_index(own) != type_is_index(said))
		return damaged(err, "image manifest", "its media type contradicts the registry's");
	if (type_is_index(type) != manifests)
		return damaged(err, "image manifest", "its content contradicts its media type");
	m->kind = manifests ? OCI_KIND_INDEX : OCI_KIND_MANIFEST;
	return str_set(&m->media_type, type) < 0 ? err_oom(err) : 0;
}

void oci_manifest_done(struct oci_manifest *m)
{
	free(m->media_type);
	descriptor_done(&m->config);
	for (size_t i = 0; i < m->n_items; i++)
		descriptor_done(&m->items[i]);
	free(m->items);
	memset(m, 0, sizeof(*m));
}

static int parse_manifest(json_object *root, const char *content_type, struct oci_manifest *m,
			  struct err *err)
{
	json_object *config;
	int r = find_kind(root, content_type, m, err);

	if (r < 0)
		return r;
	if (m->kind == OCI_KIND_INDEX)
		return parse_items(root, "manifests", INDEX_MAX, m, err);
	if (!json_object_object_get_ex(root, "config", &config))
		return damaged(err, "image manifest", "it has no config");
	r = parse_descriptor(config, "image manifest", &m->config, err);
	return r < 0 ? r : parse_items(root, "layers", OCI_LAYERS_MAX, m, err);
}

int oci_manifest_parse(const char *data, size_t len, const char *content_type,
		       struct oci_manifest *ret_manifest, struct err *err)
{
	json_object *root CLEANUP_JSON = NULL;
	struct oci_manifest m = {0};
	int r = parse_json("image manifest", data, len, OCI_MANIFEST_MAX, &root, err);

	if (r < 0)
		return r;
	r = parse_manifest(root, content_type, &m, err);
	if (r < 0) {
		oci_manifest_done(&m);
		return r;
	}
	*ret_manifest = m;
	return 0;
}

/* Smaller is better, 0 is exact; -1 does not run here. */
static int platform_rank(const struct oci_descriptor *d)
{
	if (!type_is_manifest(d->media_type) && !type_is_index(d->media_type))
		return -1;
	if (!d->os && !d->architecture)
		return 100;
	if (!str_eq(d->os, "linux") || !str_eq(d->architecture, OUR_ARCH))
		return -1;
	if (str_empty(d->variant) || str_eq(d->variant, OUR_VARIANT))
		return 0;
	if (d->variant[0] == 'v' && d->variant[1] >= '1' && d->variant[1] <= '9' && !d->variant[2])
		return d->variant[1] - '0';
	return -1;
}

static void list_platforms(const struct oci_manifest *index, char *out, size_t room)
{
	size_t at = 0;

	out[0] = 0;
	for (size_t i = 0; i < index->n_items && at + 64 < room; i++) {
		const struct oci_descriptor *d = &index->items[i];

		if (!d->os || !d->architecture || str_eq(d->os, "unknown"))
			continue;
		at += (size_t)snprintf(out + at, room - at, "%s%.15s/%.15s%s%.7s", at ? ", " : "", d->os,
				       d->architecture, str_empty(d->variant) ? "" : "/",
				       d->variant ? d->variant : "");
	}
}

int oci_index_select(const struct oci_manifest *index, const struct oci_descriptor **ret_entry,
		     struct err *err)
{
	const struct oci_descriptor *best = NULL;
	int best_rank = 0;
	char have[512];

	for (size_t i = 0; i < index->n_items; i++) {
		int rank = platform_rank(&index->items[i]);

		if (rank < 0 || (best && rank >= best_rank))
			continue;
		best = &index->items[i];
		best_rank = rank;
	}
	if (best) {
		*ret_entry = best;
		return 0;
	}
	list_platforms(index, have, sizeof(have));
	return err_set(err, -ENOENT, "the image has no variant for linux/%s; it has: %s", OUR_ARCH,
		       have[0] ? have : "none at all");
}

static bool layer_type_known(const char *type)
{
	static const char *const known[] = {
		OCI_TYPE_LAYER,
		OCI_TYPE_LAYER_GZIP,
		OCI_TYPE_LAYER_ZSTD,
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.diff.tar.zstd",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (str_eq(type, known[i]))
			return true;
	}
	return false;
}

int oci_manifest_check_types(const struct oci_manifest *m, struct err *err)
{
	const char *type = m->config.media_type;

	if (!str_eq(type, OCI_TYPE_CONFIG) && !str_eq(type, DOCKER_TYPE_CONFIG) &&
	    !str_eq(type, "application/octet-stream"))
		return err_set(err, -EOPNOTSUPP,
			       "not a container image: its config has the media type \"%.200s\"", type);
	for (size_t i = 0; i < m->n_items; i++) {
		if (!layer_type_known(m->items[i].media_type))
			return err_set(err, -EOPNOTSUPP, "layer %s has the unknown media type \"%.200s\"",
				       m->items[i].digest, m->items[i].media_type);
	}
	if (m->config.size_bytes > OCI_CONFIG_MAX)
		return err_set_status(err, -EFBIG, ERR_DATA_LOSS,
				      "image config has %llu bytes; the limit is %u",
				      (unsigned long long)m->config.size_bytes, OCI_CONFIG_MAX);
	return 0;
}

/* ---- config -------------------------------------------------------------------------------------------- */

void image_config_done(struct image_config *c)
{
	strv_free(c->env);
	strv_free(c->entrypoint);
	strv_free(c->cmd);
	free(c->user);
	free(c->working_dir);
	free(c->stop_signal);
	strv_free(c->volumes);
	strv_free(c->labels);
	free(c->architecture);
	free(c->os);
	memset(c, 0, sizeof(*c));
}

/* An array of strings; absent and null are empty; Docker's old single string counts as one. */
static int get_strings(json_object *o, const char *key, char ***ret, struct err *err)
{
	json_object *list;
	size_t n;

	if (!json_object_object_get_ex(o, key, &list) || !list)
		return 0;
	if (!json_object_is_type(list, json_type_array))
		return err_set_status(err, -EBADMSG, ERR_DATA_LOSS, "image config: %s is not a list", key);
	n = json_object_array_length(list);
	if (n > STRINGS_MAX)
		return err_set_status(err, -E2BIG, ERR_DATA_LOSS, "image config: %s has %zu entries", key, n);
	for (size_t i = 0; i < n; i++) {
		json_object *v = json_object_array_get_idx(list, i);

		if (!json_object_is_type(v, json_type_string) ||
		    strlen(json_object_get_string(v)) != (size_t)json_object_get_string_len(v))
			return err_set_status(err, -EBADMSG, ERR_DATA_LOSS,
					      "image config: %s holds a value that is not a string", key);
		if (strv_add(ret, json_object_get_string(v)) < 0)
			return err_oom(err);
	}
	return 0;
}

static int get_keys(json_object *o, const char *key, bool values, char ***ret, struct err *err)
{
	json_object *map;
	int n = 0;

	if (!json_object_object_get_ex(o, key, &map) || !json_object_is_type(map, json_type_object))
		return 0;
	json_object_object_foreach(map, name, value)
	{
		if (++n > STRINGS_MAX)
			return err_set_status(err, -E2BIG, ERR_DATA_LOSS,
					      "image config: %s has too many entries", key);
		if (strv_add(ret, name) < 0)
			return err_oom(err);
		if (!values)
			continue;
		if (strv_add(ret, json_object_is_type(value, json_type_string) ? json_object_get_string(value)
									       : "") < 0)
			return err_oom(err);
	}
	return 0;
}

static int parse_run_part(json_object *o, struct image_config *c, struct err *err)
{
	int r = get_strings(o, "Env", &c->env, err);

	if (r == 0)
		r = get_strings(o, "Entrypoint", &c->entrypoint, err);
	if (r == 0)
		r = get_strings(o, "Cmd", &c->cmd, err);
	if (r == 0)
		r = get_keys(o, "Volumes", false, &c->volumes, err);
	if (r == 0)
		r = get_keys(o, "Labels", true, &c->labels, err);
	if (r < 0)
		return r;
	if (str_set(&c->user, get_string(o, "User")) < 0 ||
	    str_set(&c->working_dir, get_string(o, "WorkingDir")) < 0 ||
	    str_set(&c->stop_signal, get_string(o, "StopSignal")) < 0)
		return err_oom(err);
	return 0;
}

static int parse_diff_ids(json_object *root, char ***ret, struct err *err)
{
	json_object *rootfs;
	int r;

	if (!json_object_object_get_ex(root, "rootfs", &rootfs) ||
	    !json_object_is_type(rootfs, json_type_object))
		return damaged(err, "image config", "it has no rootfs");
	r = get_strings(rootfs, "diff_ids", ret, err);
	if (r < 0)
		return r;
	for (char **p = *ret; p && *p; p++) {
		if (!image_digest_valid(*p))
			return damaged(err, "image config", "a diff id is not a sha256 digest");
	}
	return 0;
}

static int parse_config(json_object *root, struct image_config *c, char ***diff_ids, struct err *err)
{
	json_object *run;
	int r = parse_diff_ids(root, diff_ids, err);

	if (r < 0)
		return r;
	if (str_set(&c->os, get_string(root, "os")) < 0 ||
	    str_set(&c->architecture, get_string(root, "architecture")) < 0)
		return err_oom(err);
	if (!str_empty(c->os) && !str_eq(c->os, "linux"))
		return err_set(err, -EOPNOTSUPP, "the image is for the operating system \"%.64s\", not linux",
			       c->os);
	if (json_object_object_get_ex(root, "config", &run) && json_object_is_type(run, json_type_object))
		return parse_run_part(run, c, err);
	return 0;
}

int oci_config_parse(const char *data, size_t len, struct image_config *ret_config, char ***ret_diff_ids,
		     struct err *err)
{
	json_object *root CLEANUP_JSON = NULL;
	struct image_config config = {0};
	char **diff_ids CLEANUP_STRV = NULL;
	int r = parse_json("image config", data, len, OCI_CONFIG_MAX, &root, err);

	if (r < 0)
		return r;
	r = parse_config(root, &config, &diff_ids, err);
	if (r < 0) {
		image_config_done(&config);
		return r;
	}
	*ret_config = config;
	if (ret_diff_ids)
		*ret_diff_ids = move_ptr(diff_ids);
	return 0;
}

char **oci_chain_ids(char *const *diff_ids)
{
	char **chain = NULL;
	const char *last = NULL;

	for (char *const *d = diff_ids; d && *d; d++) {
		char text[2 * IMAGE_DIGEST_LEN + 2], digest[IMAGE_DIGEST_LEN + 1];

		if (!last) {
			snprintf(digest, sizeof(digest), "%s", *d);
		} else {
			snprintf(text, sizeof(text), "%s %s", last, *d);
			image_digest_of(text, strlen(text), digest);
		}
		if (strv_add(&chain, digest) < 0) {
			strv_free(chain);
			return NULL;
		}
		last = chain[strv_len(chain) - 1];
	}
	if (!chain)
		chain = calloc(1, sizeof(*chain));
	return chain;
}

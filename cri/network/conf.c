/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/network/conf_internal.h"

#include "base/util.h"

#include <ctype.h>
#include <dirent.h>
#include <json-c/json.h>
#include <strings.h>
#include <sys/stat.h>

int cni_json_parse(const char *text, size_t len, const char *what, struct json_object **ret_json,
		   struct err *err)
{
	struct json_tokener *tok;
	struct json_object *json;
	enum json_tokener_error code;
	size_t end;

	if (len > INT32_MAX)
		return err_set(err, -EFBIG, "%s: too large", what);
	tok = json_tokener_new_ex(CNI_JSON_DEPTH);
	if (!tok)
		return err_oom(err);
	json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8 |
					    JSON_TOKENER_ALLOW_TRAILING_CHARS);
	json = json_tokener_parse_ex(tok, text, (int)len);
	code = json_tokener_get_error(tok);
	end = json_tokener_get_parse_end(tok);
	json_tokener_free(tok);
	while (code == json_tokener_success && end < len && isspace((unsigned char)text[end]))
		end++;
	if (code != json_tokener_success || !json || end < len) {
		json_object_put(json);
		return err_set(err, -EINVAL, "%s: not valid JSON near byte %zu: %s", what, end,
			       code == json_tokener_success    ? "unexpected data"
			       : code == json_tokener_continue ? "unexpected end"
							       : json_tokener_error_desc(code));
	}
	*ret_json = json;
	return 0;
}

int cni_json_put(struct json_object *object, const char *key, struct json_object *value)
{
	if (value && json_object_object_add(object, key, value) == 0)
		return 0;
	json_object_put(value);
	return -ENOMEM;
}

bool cni_name_valid(const char *name)
{
	size_t i;

	if (!name || !isalnum((unsigned char)name[0]))
		return false;
	for (i = 1; name[i]; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("_.-", name[i]))
			return false;
	return i <= 128;
}

int cni_version_num(const char *version)
{
	static const struct {
		const char *text;
		int num;
	} known[] = {{"0.3.0", 300}, {"0.3.1", 301}, {"0.4.0", 400}, {"1.0.0", 10000}, {"1.1.0", 10100}};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (str_eq(version, known[i].text))
			return known[i].num;
	return -EINVAL;
}

/* ---- files --------------------------------------------------------------------------------------------- */

static bool is_conf_name(const char *name)
{
	return name[0] != '.' &&
	       (str_ends(name, ".conflist") || str_ends(name, ".conf") || str_ends(name, ".json"));
}

int cni_conf_find(const char *dir, char **ret_path, struct err *err)
{
	char *best CLEANUP_FREE = NULL;
	struct dirent *ent;
	DIR *d = opendir(dir);

	if (!d)
		return err_set_errno(err, -errno, "no CNI configuration: directory %s", dir);
	while ((ent = readdir(d))) {
		char *path CLEANUP_FREE = NULL;
		struct stat st;

		if (!is_conf_name(ent->d_name))
			continue;
		path = xasprintf("%s/%s", dir, ent->d_name);
		if (!path) {
			closedir(d);
			return err_oom(err);
		}
		if (best && strcmp(path, best) >= 0)
			continue;
		if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
			continue;
		free(best);
		best = move_ptr(path);
	}
	closedir(d);
	if (!best)
		return err_set(err, -ENOENT,
			       "no CNI configuration: %s holds no *.conflist, *.conf or *.json file", dir);
	*ret_path = move_ptr(best);
	return 0;
}

/* ---- parsing ------------------------------------------------------------------------------------------- */

/* The string `key` of object; *ret NULL if it is missing. */
static int get_string(struct json_object *object, const char *key, const char *where, const char **ret,
		      struct err *err)
{
	struct json_object *value;

	*ret = NULL;
	if (!json_object_object_get_ex(object, key, &value))
		return 0;
	if (!json_object_is_type(value, json_type_string))
		return err_set(err, -EINVAL, "%s: \"%s\" must be a string", where, key);
	if (strlen(json_object_get_string(value)) != (size_t)json_object_get_string_len(value))
		return err_set(err, -EINVAL, "%s: \"%s\" holds a NUL byte", where, key);
	*ret = json_object_get_string(value);
	return 0;
}

static int get_bool(struct json_object *object, const char *key, const char *where, bool *ret,
		    struct err *err)
{
	struct json_object *value;

	if (!json_object_object_get_ex(object, key, &value))
		return 0;
	/* The spec's own text has had it as a string, and libcni takes both. */
	if (json_object_is_type(value, json_type_string)) {
		const char *s = json_object_get_string(value);

		if (strcasecmp(s, "true") != 0 && strcasecmp(s, "false") != 0)
			return err_set(err, -EINVAL, "%s: \"%s\" must be true or false", where, key);
		*ret = strcasecmp(s, "true") == 0;
		return 0;
	}
	if (!json_object_is_type(value, json_type_boolean))
		return err_set(err, -EINVAL, "%s: \"%s\" must be true or false", where, key);
	*ret = json_object_get_boolean(value);
	return 0;
}

static int parse_plugin(struct json_object *json, const char *where, struct cni_plugin *ret, struct err *err)
{
	struct json_object *ipam, *caps;
	struct json_object_iterator it, end;
	int r;

	if (!json_object_is_type(json, json_type_object))
		return err_set(err, -EINVAL, "%s must be an object", where);
	r = get_string(json, "type", where, &ret->type, err);
	if (r < 0)
		return r;
	if (str_empty(ret->type))
		return err_set(err, -EINVAL, "%s: \"type\" (the plugin's name) is missing", where);
	if (strchr(ret->type, '/') || str_eq(ret->type, ".") || str_eq(ret->type, "..") ||
	    strlen(ret->type) > 128)
		return err_set(err, -EINVAL, "%s: \"type\" must be the name of a plugin, not \"%s\"", where,
			       ret->type);
	if (json_object_object_get_ex(json, "ipam", &ipam) && json_object_is_type(ipam, json_type_object)) {
		r = get_string(ipam, "type", where, &ret->ipam, err);
		if (r < 0)
			return r;
		if (ret->ipam && (!*ret->ipam || strchr(ret->ipam, '/') || str_starts(ret->ipam, "..")))
			return err_set(err, -EINVAL,
				       "%s: \"ipam.type\" must be the name of a plugin, not \"%s\"", where,
				       ret->ipam);
	}
	ret->conf = json;
	if (!json_object_object_get_ex(json, "capabilities", &caps))
		return 0;
	if (!json_object_is_type(caps, json_type_object))
		return err_set(err, -EINVAL, "%s: \"capabilities\" must be an object", where);
	it = json_object_iter_begin(caps);
	end = json_object_iter_end(caps);
	for (; !json_object_iter_equal(&it, &end); json_object_iter_next(&it))
		if (!json_object_is_type(json_object_iter_peek_value(&it), json_type_boolean))
			return err_set(err, -EINVAL, "%s: \"capabilities.%s\" must be true or false", where,
				       json_object_iter_peek_name(&it));
	return 0;
}

static int parse_plugins(struct cni_conf *conf, const char *file, struct err *err)
{
	struct json_object *plugins;

	if (!json_object_object_get_ex(conf->tree, "plugins", &plugins) ||
	    !json_object_is_type(plugins, json_type_array))
		return err_set(err, -EINVAL, "%s: \"plugins\" (an array) is missing", file);
	conf->n_plugins = json_object_array_length(plugins);
	if (conf->n_plugins == 0)
		return err_set(err, -EINVAL, "%s: \"plugins\" is empty", file);
	if (conf->n_plugins > CNI_CONF_PLUGINS)
		return err_set(err, -EINVAL, "%s: \"plugins\" has more than %d entries", file,
			       CNI_CONF_PLUGINS);
	for (size_t i = 0; i < conf->n_plugins; i++) {
		char *where CLEANUP_FREE = xasprintf("%s: plugins[%zu]", file, i);
		int r;

		if (!where)
			return err_oom(err);
		r = parse_plugin(json_object_array_get_idx(plugins, i), where, &conf->plugins[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* "cniVersions" (1.1.0) names several: the highest one spoken here is taken. */
static int parse_version(struct cni_conf *conf, const char *file, struct err *err)
{
	struct json_object *versions;
	const char *version;
	int r;

	r = get_string(conf->tree, "cniVersion", file, &version, err);
	if (r < 0)
		return r;
	conf->version_num = version ? cni_version_num(version) : -EINVAL;
	if (json_object_object_get_ex(conf->tree, "cniVersions", &versions)) {
		if (!json_object_is_type(versions, json_type_array) ||
		    json_object_array_length(versions) > 64)
			return err_set(err, -EINVAL, "%s: \"cniVersions\" must be an array of versions",
				       file);
		for (size_t i = 0; i < json_object_array_length(versions); i++) {
			struct json_object *item = json_object_array_get_idx(versions, i);
			const char *text = json_object_is_type(item, json_type_string)
						   ? json_object_get_string(item)
						   : NULL;

			if (!text)
				return err_set(err, -EINVAL, "%s: \"cniVersions[%zu]\" must be a string",
					       file, i);
			if (cni_version_num(text) > conf->version_num) {
				conf->version_num = cni_version_num(text);
				version = text;
			}
		}
	}
	if (!version)
		return err_set(err, -EINVAL, "%s: \"cniVersion\" is missing", file);
	if (conf->version_num < 0)
		return err_set(err, -EINVAL,
			       "%s: \"cniVersion\" \"%.32s\" is not supported (0.3.0, 0.3.1, 0.4.0, 1.0.0 "
			       "and 1.1.0 are)",
			       file, version);
	snprintf(conf->version, sizeof(conf->version), "%s", version);
	return 0;
}

/* A single plugin's configuration, as a list of one. */
static struct json_object *wrap_single(struct json_object *plugin)
{
	static const char *const moved[] = {"cniVersion", "cniVersions", "name", "disableCheck"};
	struct json_object *list = json_object_new_object(), *plugins = json_object_new_array(), *value;

	if (!list || !plugins || json_object_array_add(plugins, json_object_get(plugin)) < 0) {
		json_object_put(list);
		json_object_put(plugins);
		return NULL;
	}
	json_object_object_add(list, "plugins", plugins);
	for (size_t i = 0; i < ARRAY_SIZE(moved); i++)
		if (json_object_object_get_ex(plugin, moved[i], &value))
			json_object_object_add(list, moved[i], json_object_get(value));
	return list;
}

/* Checks a tree; takes a reference of its own. */
static int cni_conf_from_json(struct json_object *tree, const char *file, struct cni_conf **ret_conf,
			      struct err *err)
{
	struct cni_conf *conf;
	int r;

	if (!json_object_is_type(tree, json_type_object))
		return err_set(err, -EINVAL, "%s: must be a JSON object", file);
	conf = calloc(1, sizeof(*conf));
	if (!conf)
		return err_oom(err);
	if (str_ends(file, ".conflist") || json_object_object_get_ex(tree, "plugins", NULL))
		conf->tree = json_object_get(tree);
	else
		conf->tree = wrap_single(tree);
	if (!conf->tree) {
		r = err_oom(err);
		goto fail;
	}
	r = parse_version(conf, file, err);
	if (r == 0)
		r = get_string(conf->tree, "name", file, &conf->name, err);
	if (r == 0 && str_empty(conf->name))
		r = err_set(err, -EINVAL, "%s: \"name\" (of the network) is missing", file);
	if (r == 0 && !cni_name_valid(conf->name))
		r = err_set(err, -EINVAL, "%s: \"name\" must match [A-Za-z0-9][A-Za-z0-9_.-]*", file);
	if (r == 0)
		r = get_bool(conf->tree, "disableCheck", file, &conf->disable_check, err);
	if (r == 0)
		r = get_bool(conf->tree, "disableGC", file, &conf->disable_gc, err);
	if (r == 0)
		r = parse_plugins(conf, file, err);
	if (r < 0)
		goto fail;
	*ret_conf = conf;
	return 0;
fail:
	cni_conf_free(conf);
	return r;
}

int cni_conf_parse(const char *text, size_t len, const char *file, struct cni_conf **ret_conf,
		   struct err *err)
{
	struct json_object *tree = NULL;
	int r = cni_json_parse(text, len, file, &tree, err);

	if (r < 0)
		return r;
	r = cni_conf_from_json(tree, file, ret_conf, err);
	json_object_put(tree);
	return r;
}

struct cni_conf *cni_conf_free(struct cni_conf *conf)
{
	if (conf) {
		json_object_put(conf->tree);
		free(conf);
	}
	return NULL;
}

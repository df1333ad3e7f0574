/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/network/chain_internal.h"

#include "base/text.h"
#include "base/util.h"
#include "cri/network/result_internal.h"
#include "cri/network/run_internal.h"

#include <json-c/json.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Codes of the spec's "Error": 11 is "try again later". */
#define CNI_CODE_TRY_AGAIN 11

/* One command to the plugins of a chain. */
struct order {
	const struct cni_attachment *att;
	const struct cni_conf *conf;
	const char *command;
	const char *netns;
	char *const *bin_dirs;
	const char *prev;	   /* result handed on, NULL none */
	struct json_object *valid; /* GC only */
};

/* ---- what a plugin is told ----------------------------------------------------------------------------- */

static struct json_object *runtime_config(const struct cni_attachment *att, struct json_object *declared)
{
	struct json_object *ret = json_object_new_object(), *value;
	struct json_object_iterator it = json_object_iter_begin(declared),
				    end = json_object_iter_end(declared);

	for (; ret && !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
		const char *name = json_object_iter_peek_name(&it);

		if (!json_object_get_boolean(json_object_iter_peek_value(&it)) ||
		    !json_object_object_get_ex(att->caps, name, &value))
			continue;
		if (cni_json_put(ret, name, json_object_get(value)) < 0) {
			json_object_put(ret);
			return NULL;
		}
	}
	return ret;
}

/* The plugin's own object, with what section 4 of the spec adds and takes away. */
static int make_request(const struct order *order, const struct cni_plugin *plugin, struct json_object **ret,
			struct err *err)
{
	struct json_object *request = NULL, *declared = NULL, *prev = NULL;
	int r;

	if (json_object_deep_copy(plugin->conf, &request, NULL) < 0)
		return err_oom(err);
	r = cni_json_put(request, "cniVersion", json_object_new_string(order->conf->version));
	r = r ? r : cni_json_put(request, "name", json_object_new_string(order->conf->name));
	if (r == 0 && order->att && json_object_object_get_ex(plugin->conf, "capabilities", &declared)) {
		struct json_object *config = runtime_config(order->att, declared);

		if (config && json_object_object_length(config) == 0)
			json_object_put(config);
		else
			r = cni_json_put(request, "runtimeConfig", config);
	}
	json_object_object_del(request, "capabilities");
	if (r == 0 && order->prev) {
		r = cni_json_parse(order->prev, strlen(order->prev), "the previous result", &prev, err);
		if (r < 0) {
			json_object_put(request);
			return r;
		}
		r = cni_json_put(request, "prevResult", prev);
	}
	if (r == 0 && order->valid)
		r = cni_json_put(request, "cni.dev/valid-attachments", json_object_get(order->valid));
	if (r < 0) {
		json_object_put(request);
		return err_oom(err);
	}
	*ret = request;
	return 0;
}

static int make_env(const struct order *order, char ***ret)
{
	char **env CLEANUP_STRV = NULL;
	char *dirs CLEANUP_FREE = NULL;
	const char *path = getenv("PATH");
	int r = 0;

	for (size_t i = 0; order->bin_dirs && order->bin_dirs[i]; i++) {
		char *more = dirs ? xasprintf("%s:%s", dirs, order->bin_dirs[i]) : strdup(order->bin_dirs[i]);

		if (!more)
			return -ENOMEM;
		free(dirs);
		dirs = more;
	}
	r = strv_addf(&env, "PATH=%s", str_empty(path) ? DEFAULT_PATH : path);
	r = r ? r : strv_addf(&env, "CNI_COMMAND=%s", order->command);
	r = r ? r : strv_addf(&env, "CNI_PATH=%s", dirs ? dirs : "");
	if (order->att) {
		r = r ? r : strv_addf(&env, "CNI_CONTAINERID=%s", order->att->id);
		r = r ? r : strv_addf(&env, "CNI_NETNS=%s", order->netns);
		r = r ? r : strv_addf(&env, "CNI_IFNAME=%s", order->att->ifname);
		r = r ? r : strv_addf(&env, "CNI_ARGS=%s", order->att->args);
	}
	if (r == 0)
		*ret = move_ptr(env);
	return r;
}

/* ---- running one --------------------------------------------------------------------------------------- */

int cni_program_find(char *const *bin_dirs, const char *type, char **ret_path, struct err *err)
{
	char dirs[256];
	size_t at = 0;

	dirs[0] = '\0';
	for (size_t i = 0; bin_dirs && bin_dirs[i]; i++) {
		char *path CLEANUP_FREE = xasprintf("%s/%s", bin_dirs[i], type);
		struct stat st;

		if (!path)
			return err_oom(err);
		if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0) {
			*ret_path = move_ptr(path);
			return 0;
		}
		if (at < sizeof(dirs))
			at += (size_t)snprintf(dirs + at, sizeof(dirs) - at, "%s%s", i ? ", " : "",
					       bin_dirs[i]);
	}
	return err_set_status(err, -ENOENT, ERR_FAILED_PRECONDITION,
			      "CNI plugin \"%s\" is not installed in %s", type,
			      *dirs ? dirs : "any directory: bin_dirs is empty");
}

/* A plugin that ended with a failure, in its own words. */
static int plugin_failed(const struct cni_output *out, struct err *err)
{
	char words[512];
	unsigned int code = 0;

	if (cni_error_parse(out->out, out->out_len, words, sizeof(words), &code)) {
		if (code == CNI_CODE_TRY_AGAIN)
			return err_set_status(err, -EAGAIN, ERR_UNAVAILABLE, "%s (CNI code %u)", words, code);
		return err_set(err, -EIO, "%s (CNI code %u)", words, code);
	}
	if (out->status > 128)
		return err_set(err, -EIO, "it was killed by signal %d%s%s", out->status - 128,
			       *out->err ? ": " : "", out->err);
	snprintf(words, sizeof(words), "%.200s", out->out);
	text_clean(words);
	return err_set(err, -EIO, "it exited with %d without a CNI error; its output: \"%s\"%s%s",
		       out->status, words, *out->err ? "; on stderr: " : "", out->err);
}

/* Runs one plugin to its success. *ret_out (malloc'ed) is what it printed. */
static int run_plugin(const struct order *order, const struct cni_plugin *plugin, int64_t deadline_ns,
		      int cancel_fd, char **ret_out, size_t *ret_len, struct err *err)
{
	struct cni_output out = {0};
	struct json_object *request = NULL;
	char **env CLEANUP_STRV = NULL;
	char *path CLEANUP_FREE = NULL;
	const char *text;
	size_t len = 0;
	int r;

	r = cni_program_find(order->bin_dirs, plugin->type, &path, err);
	if (r == 0)
		r = make_request(order, plugin, &request, err);
	if (r == 0 && make_env(order, &env) < 0)
		r = err_oom(err);
	if (r < 0)
		goto out;
	text = json_object_to_json_string_length(request, JSON_C_TO_STRING_PLAIN, &len);
	if (!text)
		r = err_oom(err);
	else
		r = cni_run(path, env, text, len, deadline_ns, cancel_fd, &out, err);
	if (r == 0 && out.status != 0)
		r = plugin_failed(&out, err);
	if (r == 0) {
		*ret_out = move_ptr(out.out);
		*ret_len = out.out_len;
	}
out:
	json_object_put(request);
	cni_output_done(&out);
	if (r < 0)
		err_wrap(err, "network \"%s\": plugin \"%s\": %s failed", order->conf->name, plugin->type,
			 order->command);
	return r;
}

/* ---- the commands -------------------------------------------------------------------------------------- */

int cni_chain_add(struct cni_attachment *att, char *const *bin_dirs, int64_t deadline_ns, int cancel_fd,
		  struct err *err)
{
	struct order order = {
		.att = att, .conf = att->conf, .command = "ADD", .netns = att->netns, .bin_dirs = bin_dirs};
	char *prev CLEANUP_FREE = NULL;

	for (size_t i = 0; i < att->conf->n_plugins; i++) {
		const struct cni_plugin *plugin = &att->conf->plugins[i];
		struct cni_result result = {0};
		char *out = NULL;
		size_t len = 0;
		int r;

		order.prev = prev;
		r = run_plugin(&order, plugin, deadline_ns, cancel_fd, &out, &len, err);
		if (r < 0)
			return r;
		r = cni_result_parse(out, len, att->ifname, &result, err);
		if (r < 0) {
			free(out);
			if (err)
				err->status = ERR_INTERNAL;
			err_wrap(err, "network \"%s\": plugin \"%s\": ADD gave a malformed result",
				 att->conf->name, plugin->type);
			return r;
		}
		free(prev);
		prev = out;
	}
	free(att->result);
	att->result = move_ptr(prev);
	return 0;
}

int cni_chain_check(struct cni_attachment *att, char *const *bin_dirs, int64_t deadline_ns, struct err *err)
{
	const struct order order = {.att = att,
				    .conf = att->conf,
				    .command = "CHECK",
				    .netns = att->netns,
				    .bin_dirs = bin_dirs,
				    .prev = att->result};

	for (size_t i = 0; i < att->conf->n_plugins; i++) {
		char *out CLEANUP_FREE = NULL;
		size_t len;
		int r = run_plugin(&order, &att->conf->plugins[i], deadline_ns, -1, &out, &len, err);

		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * A netns that is gone is said by an empty name; plugins free what they hold outside of it. A file that is
 * left at its path (the mount was undone, or never came to be) is no namespace: plugins fail on it, and would
 * keep the address.
 */
static const char *living_netns(const struct cni_attachment *att)
{
	struct statfs fs;

	return *att->netns && statfs(att->netns, &fs) == 0 && fs.f_type == NSFS_MAGIC ? att->netns : "";
}

int cni_chain_del(struct cni_attachment *att, char *const *bin_dirs, int64_t deadline_ns, struct err *err)
{
	const struct order order = {.att = att,
				    .conf = att->conf,
				    .command = "DEL",
				    .netns = living_netns(att),
				    .bin_dirs = bin_dirs,
				    .prev = att->conf->version_num >= 400 ? att->result : NULL};
	int first = 0;

	for (size_t i = att->conf->n_plugins; i-- > 0;) {
		char *out CLEANUP_FREE = NULL;
		int64_t now = now_monotonic_ns(), left = deadline_ns > now ? deadline_ns - now : 0;
		struct err mine = ERR_INIT;
		size_t len;
		int r = run_plugin(&order, &att->conf->plugins[i], now + left / (int64_t)(i + 1), -1, &out,
				   &len, &mine);

		if (r < 0 && first == 0) {
			first = r;
			err_copy(err, &mine);
		}
	}
	return first;
}

int cni_chain_status(const char *file, const char *config, char *const *bin_dirs, int64_t deadline_ns,
		     struct err *err)
{
	struct order order = {.command = "STATUS", .netns = "", .bin_dirs = bin_dirs};
	struct cni_conf *conf = NULL;
	int r = cni_conf_parse(config, strlen(config), file, &conf, err);

	order.conf = conf;
	for (size_t i = 0; r == 0 && conf->version_num >= 10100 && i < conf->n_plugins; i++) {
		char *out CLEANUP_FREE = NULL;
		size_t len;

		r = run_plugin(&order, &conf->plugins[i], deadline_ns, -1, &out, &len, err);
	}
	cni_conf_free(conf);
	return r;
}

int cni_chain_gc(const char *file, const char *config, char *const *bin_dirs, struct json_object *valid,
		 int64_t deadline_ns, struct err *err)
{
	struct order order = {.command = "GC", .netns = "", .bin_dirs = bin_dirs, .valid = valid};
	struct cni_conf *conf = NULL;
	int first = cni_conf_parse(config, strlen(config), file, &conf, err);

	if (first == 0 && (conf->version_num < 10100 || conf->disable_gc))
		goto out;
	order.conf = conf;
	for (size_t i = 0; first == 0 && i < conf->n_plugins; i++) {
		char *out CLEANUP_FREE = NULL;
		size_t len;

		first = run_plugin(&order, &conf->plugins[i], deadline_ns, -1, &out, &len, err);
	}
out:
	cni_conf_free(conf);
	json_object_put(valid);
	return first;
}

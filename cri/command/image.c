/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "cri/command/command.h"
#include "cri/config/config.h"
#include "cri/image/image.h"
#include "cri/store/store.h"

#include <inttypes.h>
#include <json-c/json.h>

/* What every image command opens: the store itself, beside a server that may be running. */
struct opened {
	struct config config;
	struct store *store;
	struct image_store *images;
};

static int open_images(const char *config_path, struct opened *o, struct err *err)
{
	struct image_store_options options = {0};
	int r = config_load(config_path, &o->config, err);

	if (r < 0)
		return r;
	r = store_open(o->config.server.state_dir, &o->store, err);
	if (r < 0)
		return r;
	options.store = o->store;
	options.state_dir = o->config.server.state_dir;
	options.registry_config_dir = o->config.image.registry_config_dir;
	return image_store_open(&options, &o->images, err);
}

static void close_images(struct opened *o)
{
	image_store_close(o->images);
	store_close(o->store);
	config_done(&o->config);
}

/* ---- list ---------------------------------------------------------------------------------------------- */

static void print_json(struct image *const *list)
{
	struct json_object *array = json_object_new_array();

	for (size_t i = 0; list[i]; i++) {
		struct json_object *o = json_object_new_object();
		struct json_object *tags = json_object_new_array(), *digests = json_object_new_array();

		for (size_t k = 0; list[i]->repo_tags && list[i]->repo_tags[k]; k++)
			json_object_array_add(tags, json_object_new_string(list[i]->repo_tags[k]));
		for (size_t k = 0; list[i]->repo_digests && list[i]->repo_digests[k]; k++)
			json_object_array_add(digests, json_object_new_string(list[i]->repo_digests[k]));
		json_object_object_add(o, "id", json_object_new_string(list[i]->id));
		json_object_object_add(o, "repoTags", tags);
		json_object_object_add(o, "repoDigests", digests);
		json_object_object_add(o, "size", json_object_new_uint64(list[i]->size_bytes));
		json_object_object_add(o, "pinned", json_object_new_boolean(list[i]->pinned));
		json_object_array_add(array, o);
	}
	puts(json_object_to_json_string_ext(array, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(array);
}

static void print_row(const char *name, const struct image *image)
{
	const char *hex = strchr(image->id, ':');

	printf("%-60s %-13.13s %10.1f MB\n", name, hex ? hex + 1 : image->id,
	       (double)image->size_bytes / 1e6);
}

static void print_table(struct image *const *list)
{
	printf("%-60s %-13s %13s\n", "IMAGE", "ID", "SIZE");
	for (size_t i = 0; list[i]; i++) {
		char **names = strv_len(list[i]->repo_tags) ? list[i]->repo_tags : list[i]->repo_digests;

		for (size_t k = 0; names && names[k]; k++)
			print_row(names[k], list[i]);
		if (!strv_len(names))
			print_row("<none>", list[i]);
	}
}

static int list_images(struct opened *o, const char *ref, bool json, struct err *err)
{
	struct image **list;
	int r = image_list(o->images, ref, &list, err);

	if (r < 0)
		return r;
	if (json)
		print_json(list);
	else
		print_table(list);
	for (size_t i = 0; list[i]; i++)
		image_free(list[i]);
	free(list);
	return 0;
}

/* ---- import and export --------------------------------------------------------------------------------- */

static int import_images(struct opened *o, const char *path, const char *name, struct err *err)
{
	char **ids CLEANUP_STRV = NULL;
	int r = image_import(o->images, path, name, &ids, err);

	for (size_t i = 0; r == 0 && ids && ids[i]; i++)
		puts(ids[i]);
	return r;
}

static int run(int argc, char **argv)
{
	const char *config_path = NULL, *verb;
	bool json = false;
	const struct cmd_option options[] = {
		CMD_CONFIG_OPTION(&config_path), {"json", NULL, &json, NULL, "list: print JSON"}, {0}};
	struct err err = ERR_INIT;
	struct opened o = {0};
	int status = 0, n = cmd_options(&cmd_image, argc, argv, options, &status), r;
	bool list, import, export;

	if (n < 0)
		return status;
	verb = n > 0 ? argv[1] : "";
	list = str_eq(verb, "list") && n <= 2;
	import = str_eq(verb, "import") && (n == 2 || n == 3) && !json;
	export = str_eq(verb, "export") && n == 3 && !json;
	if (!list && !import && !export)
		return cmd_usage(&cmd_image,
				 "expected 'list [REF]', 'import PATH [NAME]' or 'export REF PATH'");
	r = open_images(config_path, &o, &err);
	if (r == 0 && list)
		r = list_images(&o, n > 1 ? argv[2] : NULL, json, &err);
	else if (r == 0 && import)
		r = import_images(&o, argv[2], n > 2 ? argv[3] : NULL, &err);
	else if (r == 0)
		r = image_export(o.images, argv[2], argv[3], &err);
	close_images(&o);
	return r < 0 ? cmd_fail("%s", err.msg) : 0;
}

const struct cmd cmd_image = {"image", "list [REF] | import PATH [NAME] | export REF PATH",
			      "List the images of the local store; read and write OCI layouts and archives",
			      run};

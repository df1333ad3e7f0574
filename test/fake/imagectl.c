/* SPDX-License-Identifier: Apache-2.0 */
/*
 * imagectl.c: the image store from the command line, for tests: imagectl STATE_DIR HOSTS_DIR COMMAND
 * ARGUMENT…
 *
 * Answers one line of JSON. A failure prints {"error": status, "message": …} and exits 1. Credentials come
 * from the environment: IMAGECTL_USER, _PASSWORD, _IDENTITY_TOKEN, _REGISTRY_TOKEN, _AUTH, _SERVER,
 * _STALL_S.
 * While pulling, SIGTERM ends the calls of all references and SIGUSR1 that of the first.
 */
#include "base/util.h"
#include "cri/image/image.h"
#include "cri/rootfs/rootfs.h"
#include "cri/spec/spec.h"
#include "cri/store/store.h"

#include <json-c/json.h>
#include <pthread.h>
#include <signal.h>

#define PULLS_MAX 64

static struct call *calls[PULLS_MAX]; /* of the pulls, in the order of their references */

/* SIGUSR1 ends the first pull's call, SIGTERM all of them. */
static void *watch_signals(void *arg)
{
	const sigset_t *set = arg;
	int sig;

	while (sigwait(set, &sig) == 0)
		for (size_t i = 0; i < (sig == SIGTERM ? PULLS_MAX : 1); i++)
			call_cancel(calls[i], "interrupted");
	return NULL;
}

/* Every thread has them blocked but for the one that waits for them. */
static void take_signals(void)
{
	static sigset_t set;
	pthread_t thread;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (size_t i = 0; i < PULLS_MAX; i++)
		if (call_new(INT64_MAX, &calls[i], NULL) < 0)
			abort();
	if (pthread_create(&thread, NULL, watch_signals, &set) != 0)
		abort();
	pthread_detach(thread);
}

static json_object *strings(char *const *v)
{
	json_object *list = json_object_new_array();

	for (; v && *v; v++)
		json_object_array_add(list, json_object_new_string(*v));
	return list;
}

static int say(json_object *o)
{
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	return 0;
}

static int fail(const struct err *err)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "error", json_object_new_string(err_status_name(err->status)));
	json_object_object_add(o, "message", json_object_new_string(err->msg));
	say(o);
	return 1;
}

static json_object *image_json(const struct image *im)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "id", json_object_new_string(im->id));
	json_object_object_add(o, "tags", strings(im->repo_tags));
	json_object_object_add(o, "digests", strings(im->repo_digests));
	json_object_object_add(o, "size", json_object_new_int64((int64_t)im->size_bytes));
	json_object_object_add(o, "layers", strings(im->layers));
	json_object_object_add(o, "env", strings(im->config.env));
	json_object_object_add(o, "cmd", strings(im->config.cmd));
	json_object_object_add(o, "entrypoint", strings(im->config.entrypoint));
	json_object_object_add(o, "labels", strings(im->config.labels));
	json_object_object_add(o, "volumes", strings(im->config.volumes));
	json_object_object_add(o, "user", json_object_new_string(im->config.user ? im->config.user : ""));
	json_object_object_add(o, "cwd",
			       json_object_new_string(im->config.working_dir ? im->config.working_dir : ""));
	return o;
}

struct pulling {
	struct image_store *images;
	struct call *call;
	const char *ref;
	char *id;
	struct err err;
	pthread_t thread;
};

static void *pull_thread(void *arg)
{
	struct pulling *p = arg;
	struct image_auth auth = {
		.username = getenv("IMAGECTL_USER"),
		.password = getenv("IMAGECTL_PASSWORD"),
		.auth = getenv("IMAGECTL_AUTH"),
		.identity_token = getenv("IMAGECTL_IDENTITY_TOKEN"),
		.registry_token = getenv("IMAGECTL_REGISTRY_TOKEN"),
		.server_address = getenv("IMAGECTL_SERVER"),
	};

	image_pull(p->images, p->ref, &auth, p->call, &p->id, &p->err);
	return NULL;
}

/* All references at once, each in a thread. */
static int cmd_pull(struct image_store *images, char **refs)
{
	size_t n = strv_len(refs);
	struct pulling *p = calloc(n + 1, sizeof(*p));
	json_object *ids = json_object_new_array();
	int failed = 0;

	if (!p || n > PULLS_MAX)
		return 1;
	for (size_t i = 0; i < n; i++) {
		p[i].images = images;
		p[i].call = calls[i];
		p[i].ref = refs[i];
		pthread_create(&p[i].thread, NULL, pull_thread, &p[i]);
	}
	for (size_t i = 0; i < n; i++) {
		pthread_join(p[i].thread, NULL);
		if (!p[i].id && !failed++)
			fail(&p[i].err);
		if (p[i].id)
			json_object_array_add(ids, json_object_new_string(p[i].id));
		free(p[i].id);
	}
	free(p);
	if (!failed)
		return say(ids);
	json_object_put(ids);
	return 1;
}

static int cmd_list(struct image_store *images, const char *ref)
{
	struct image **list = NULL;
	json_object *o = json_object_new_array();
	struct err err = ERR_INIT;

	if (image_list(images, ref, &list, &err) < 0)
		return fail(&err);
	for (struct image **p = list; *p; p++) {
		json_object_array_add(o, image_json(*p));
		image_free(*p);
	}
	free(list);
	return say(o);
}

static int cmd_get(struct image_store *images, const char *ref)
{
	struct image *im = NULL;
	struct err err = ERR_INIT;

	if (image_get(images, ref, &im, &err) < 0)
		return fail(&err);
	say(image_json(im));
	image_free(im);
	return 0;
}

static int cmd_user(const char *rootfs, const char *name)
{
	struct spec_user user = {0};
	struct err err = ERR_INIT;
	json_object *o, *groups = json_object_new_array();

	if (spec_user_lookup(rootfs, name, &user, &err) < 0) {
		json_object_put(groups);
		return fail(&err);
	}
	for (size_t i = 0; i < user.n_groups; i++)
		json_object_array_add(groups, json_object_new_int64(user.groups[i]));
	free(user.groups);
	o = json_object_new_object();
	json_object_object_add(o, "uid", json_object_new_int64(user.uid));
	json_object_object_add(o, "gid", json_object_new_int64(user.gid));
	json_object_object_add(o, "groups", groups);
	return say(o);
}

static int cmd_usage(struct image_store *images, struct rootfs *rootfs, const char *container)
{
	struct image_fs_info info = {0};
	uint64_t bytes = 0, inodes = 0;
	struct err err = ERR_INIT;
	json_object *o;

	if (image_fs_info(images, &info, &err) < 0 ||
	    (container && rootfs_usage(rootfs, container, &bytes, &inodes, &err) < 0))
		return fail(&err);
	o = json_object_new_object();
	json_object_object_add(o, "mountpoint", json_object_new_string(info.mountpoint));
	json_object_object_add(o, "used", json_object_new_int64((int64_t)info.used_bytes));
	json_object_object_add(o, "inodes", json_object_new_int64((int64_t)info.inodes_used));
	json_object_object_add(o, "container_bytes", json_object_new_int64((int64_t)bytes));
	json_object_object_add(o, "container_inodes", json_object_new_int64((int64_t)inodes));
	free(info.mountpoint);
	return say(o);
}

static int cmd_import(struct image_store *images, const char *path, const char *name)
{
	char **ids CLEANUP_STRV = NULL;
	struct err err = ERR_INIT;

	return image_import(images, path, name, &ids, &err) < 0 ? fail(&err) : say(strings(ids));
}

static int result(int r, const struct err *err)
{
	return r < 0 ? fail(err) : say(json_object_new_object());
}

static int run(struct image_store *images, struct rootfs *rootfs, int argc, char **argv)
{
	const char *cmd = argv[0], *a = argc > 1 ? argv[1] : NULL, *b = argc > 2 ? argv[2] : NULL,
		   *c = argc > 3 ? argv[3] : NULL;
	char why[256];
	struct err err = ERR_INIT;

	if (str_eq(cmd, "pull"))
		return cmd_pull(images, argv + 1);
	if (str_eq(cmd, "list"))
		return cmd_list(images, a);
	if (str_eq(cmd, "get") && a)
		return cmd_get(images, a);
	if (str_eq(cmd, "remove") && a)
		return result(image_remove(images, a, &err), &err);
	if (str_eq(cmd, "mount") && c)
		return result(rootfs_mount(rootfs, a, str_eq(b, "-") ? NULL : b, c, &err), &err);
	if (str_eq(cmd, "umount") && a)
		return result(rootfs_umount(rootfs, a, false, &err), &err);
	if (str_eq(cmd, "rmrootfs") && a)
		return result(rootfs_remove(rootfs, a, &err), &err);
	if (str_eq(cmd, "user") && b)
		return cmd_user(a, b);
	if (str_eq(cmd, "exceeds") && a)
		return rootfs_exceeds(rootfs, a, why, sizeof(why)) ? (puts(why), 0) : 1;
	if (str_eq(cmd, "usage"))
		return cmd_usage(images, rootfs, a);
	if (str_eq(cmd, "import") && a)
		return cmd_import(images, a, b);
	if (str_eq(cmd, "export") && b)
		return result(image_export(images, a, b, &err), &err);
	fprintf(stderr, "imagectl: no such command: %s\n", cmd);
	return 2;
}

/* Of the environment; 0 where it is not set. */
static uint64_t number(const char *name)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 10) : 0;
}

int main(int argc, char **argv)
{
	struct image_store_options options = {0};
	struct rootfs_limit limit = {0};
	struct image_store *images = NULL;
	struct rootfs *rootfs = NULL;
	struct store *store = NULL;
	struct err err = ERR_INIT;
	int r;

	if (argc < 4) {
		fprintf(stderr, "usage: imagectl STATE_DIR HOSTS_DIR COMMAND [ARGUMENT…]\n");
		return 2;
	}
	take_signals();
	if (mkdir_p(argv[1], 0700) < 0 || store_open(argv[1], &store, &err) < 0)
		return fail(&err);
	limit.bytes = number("IMAGECTL_LAYER_BYTES");
	limit.inodes = number("IMAGECTL_LAYER_FILES");
	options.store = store;
	options.state_dir = argv[1];
	options.registry_config_dir = argv[2];
	options.stall_s = (long)number("IMAGECTL_STALL_S");
	r = image_store_open(&options, &images, &err);
	if (r == 0)
		r = rootfs_open(images, argv[1], &limit, &rootfs, &err);
	r = r < 0 ? fail(&err) : run(images, rootfs, argc - 3, argv + 3);
	rootfs_close(rootfs);
	image_store_close(images);
	store_close(store);
	return r;
}

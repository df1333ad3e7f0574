/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The n-th allocation fails, for every n, in what the lower rooms do for a pod: each call fails with words or
 * does without; nothing leaks, and the next call succeeds. Only in builds with fault points.
 */
#include "../unit/cni_fixture.h"
#include "../unit/oci_spec_fixture.h"

#include "api/pbcheck.h"
#include "base/fault.h"
#include "base/procfs.h"
#include "cri/config/config.h"
#include "cri/image/image.h"
#include "cri/image/oci/manifest.h"
#include "cri/rootfs/rootfs.h"
#include "cri/store/store.h"

#define HITS_MAX 20000

typedef int attempt_fn(void *arg, struct err *err);

/* Calls fn until it makes fewer allocations than the one that is to fail. */
static void each_allocation(const char *what, attempt_fn *fn, void *arg)
{
	unsigned long n = 1, failed = 0;

	for (;; n++) {
		struct err err = ERR_INIT;
		char spec[32];
		unsigned long hits;
		int r;

		assert_true(n < HITS_MAX);
		snprintf(spec, sizeof(spec), "alloc:%lu", n);
		fault_set(spec);
		r = fn(arg, &err);
		hits = fault_hits();
		fault_set(NULL);
		if (hits < n) {
			if (r < 0)
				fail_msg("%s: without a fault: %s", what, err.msg);
			break;
		}
		failed += r < 0;
		if (r < 0 &&
		    (r != -ENOMEM || err.code != r || err.status != ERR_RESOURCE_EXHAUSTED || !err.msg[0]))
			fail_msg("%s: allocation %lu: %d, \"%s\" (%s)", what, n, r, err.msg,
				 err_status_name(err.status));
	}
	print_message("%s: %lu allocations, %lu of them needed\n", what, n - 1, failed);
	assert_true(n > 1);
}

/* ---- the configuration --------------------------------------------------------------------------------- */

static int attempt_config(void *arg, struct err *err)
{
	struct config config = {0};
	int r = config_load(arg, &config, err);

	if (r == 0)
		config_done(&config);
	return r;
}

static void config_load_every_allocation(void **state)
{
	char path[] = "/tmp/fault-config-XXXXXX";
	static const char text[] = "[server]\nlog_level = \"debug\"\n[cni]\nbin_dirs = [\"/a\", \"/b\"]\n";
	int fd = mkstemp(path);

	(void)state;
	assert_int_equal(write_full(fd, text, strlen(text)), 0);
	close_fd(fd);
	each_allocation("config_load", attempt_config, path);
	assert_int_equal(unlink(path), 0);
}

/* ---- the runtime spec ---------------------------------------------------------------------------------- */

static int attempt_spec(void *arg, struct err *err)
{
	struct req *q = arg;
	char *json = NULL;
	int r = oci_spec_build(&q->in, &json, err);

	free(json);
	return r;
}

static void oci_spec_build_every_allocation(void **state)
{
	struct req q;

	(void)state;
	init(&q);
	q.config.env = V("PATH=/image", "A=1", "A=2");
	each_allocation("oci_spec_build", attempt_spec, &q);
}

static int attempt_user(void *arg, struct err *err)
{
	struct spec_user user = {0};
	int r = spec_user_lookup(arg, "app:wheel", &user, err);

	if (r == 0) {
		assert_int_equal(user.uid, 7);
		assert_int_equal(user.n_groups, 2);
		free(user.groups);
	}
	return r;
}

static void spec_user_lookup_every_allocation(void **state)
{
	char root[] = "/tmp/fault-user-XXXXXX", etc[64];

	(void)state;
	assert_non_null(mkdtemp(root));
	snprintf(etc, sizeof(etc), "%s/etc", root);
	assert_int_equal(mkdir(etc, 0700), 0);
	put_file(etc, "passwd", "app:x:7:8:::\n", 0600);
	put_file(etc, "group", "wheel:x:9:app\nmore:x:10:app\n", 0600);
	each_allocation("spec_user_lookup", attempt_user, root);
	assert_int_equal(remove_tree(root), 0);
}

/* ---- the pod network ----------------------------------------------------------------------------------- */

static int attempt_network(void *arg, struct err *err)
{
	struct fixture *f = arg;
	struct cni_result result = {0};
	int r = cni_add(f->cni, &pod, NULL, 0, &result, err);

	if (r < 0)
		return r;
	cni_result_done(&result);
	r = cni_check(f->cni, pod.id, 0, err);
	return r < 0 ? r : cni_del(f->cni, &pod, 0, err);
}

static void cni_life_every_allocation(void **state)
{
	struct fixture *f = *state;

	put_plugin(f, "first", GOOD);
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"}"), 0600);
	each_allocation("cni_add, cni_check, cni_del", attempt_network, f);
	assert_false(is_cached(f));
}

static int attempt_look(void *arg, struct err *err)
{
	struct fixture *f = arg;
	struct cni_look look;
	int r = cni_look(f->conf, &look, err);

	cni_look_done(&look);
	return r;
}

static void cni_look_every_allocation(void **state)
{
	struct fixture *f = *state;

	put_file(f->conf, "10-a.conflist",
		 LIST("1.0.0",
		      "{\"type\":\"bridge\",\"ipam\":{\"type\":\"host-local\"}},{\"type\":\"portmap\"}"),
		 0600);
	each_allocation("cni_look", attempt_look, f);
}

/* ---- rows and images ----------------------------------------------------------------------------------- */

static int attempt_store(void *arg, struct err *err)
{
	struct store *store = arg;
	void *value = NULL;
	size_t len;
	int64_t step;
	int r = store_put(store, "pod", "p", "name", "value", 5, err);

	if (r == 0)
		r = store_get(store, "pod", "p", &value, &len, err);
	free(value);
	if (r == 0)
		r = journal_begin(store, "p", "netns", "x", &step, err);
	if (r == 0)
		r = journal_end(store, step, err);
	return r < 0 ? r : store_delete(store, "pod", "p", err);
}

static int attempt_images(void *arg, struct err *err)
{
	const struct image_store_options *options = arg;
	struct image_store *images = NULL;
	struct rootfs *rootfs = NULL;
	struct image **list = NULL;
	int r = image_store_open(options, &images, err);

	if (r == 0)
		r = image_list(images, NULL, &list, err);
	free(list);
	if (r == 0)
		r = rootfs_open(images, options->state_dir, NULL, &rootfs, err);
	if (r == 0)
		r = rootfs_remove(rootfs, "container", err);
	rootfs_close(rootfs);
	image_store_close(images);
	return r;
}

static void store_and_images_every_allocation(void **state)
{
	char dir[] = "/tmp/fault-store-XXXXXX";
	struct image_store_options options = {.state_dir = dir};
	struct err err = ERR_INIT;

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(store_open(dir, &options.store, &err), 0);
	each_allocation("store and journal", attempt_store, options.store);
	each_allocation("image store and rootfs", attempt_images, &options);
	store_close(options.store);
	assert_int_equal(remove_tree(dir), 0);
}

static int attempt_manifest(void *arg, struct err *err)
{
	struct oci_manifest manifest = {0};
	int r = oci_manifest_parse(arg, strlen(arg), NULL, &manifest, err);

	if (r == 0)
		oci_manifest_done(&manifest);
	return r;
}

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void oci_manifest_parse_every_allocation(void **state)
{
	char text[] = "{\"schemaVersion\":2,\"mediaType\":\"application/"
		      "vnd.oci.image.manifest.v1+json\",\"config\":"
		      "{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"sha256:" HEX
		      "\",\"size\":1},\"layers\":[{\"mediaType\":\"application/"
		      "vnd.oci.image.layer.v1.tar\",\"digest\":"
		      "\"sha256:" HEX "\",\"size\":1}]}";

	(void)state;
	each_allocation("oci_manifest_parse", attempt_manifest, text);
}

/* ---- base ---------------------------------------------------------------------------------------------- */

static int attempt_mounts(void *arg, struct err *err)
{
	char **points = NULL;
	int r = procfs_mounts_below(arg, &points);

	strv_free(points);
	return r < 0 ? err_set_errno(err, r, "mounts") : 0;
}

static void procfs_mounts_below_every_allocation(void **state)
{
	char root[] = "/";

	(void)state;
	each_allocation("procfs_mounts_below", attempt_mounts, root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(config_load_every_allocation),
		cmocka_unit_test(oci_spec_build_every_allocation),
		cmocka_unit_test(spec_user_lookup_every_allocation),
		T(cni_life_every_allocation),
		T(cni_look_every_allocation),
		cmocka_unit_test(store_and_images_every_allocation),
		cmocka_unit_test(oci_manifest_parse_every_allocation),
		cmocka_unit_test(procfs_mounts_below_every_allocation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cni_fixture.h: plugins that are shell scripts, and what they were called with, for test_cni*.c.
 */
#ifndef TEST_UNIT_CNI_FIXTURE_H
#define TEST_UNIT_CNI_FIXTURE_H

#include "cri/network/cni.h"

#include "base/util.h"
#include "cri/network/conf_internal.h"
#include "cri/network/result_internal.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <json-c/json.h>
#include <pthread.h>
#include <sys/stat.h>

struct fixture {
	char dir[64], bin[80], conf[80], cache[80];
	struct cni *cni;
};

static inline void put_file(const char *dir, const char *name, const char *text, mode_t mode)
{
	char *path CLEANUP_FREE = xasprintf("%s/%s", dir, name);

	assert_int_equal(write_file_atomic(path, text, strlen(text), mode, false), 0);
}

static inline char *get_file(const char *dir, const char *name)
{
	char *path CLEANUP_FREE = xasprintf("%s/%s", dir, name), *text = NULL;

	return read_file(path, 1 << 20, &text, NULL) < 0 ? NULL : text;
}

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;
	char *bins[2] = {NULL, NULL};

	snprintf(f->dir, sizeof(f->dir), "/tmp/test-cni-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->bin, sizeof(f->bin), "%s/bin", f->dir);
	snprintf(f->conf, sizeof(f->conf), "%s/conf", f->dir);
	snprintf(f->cache, sizeof(f->cache), "%s/cache", f->dir);
	assert_int_equal(mkdir(f->bin, 0700), 0);
	assert_int_equal(mkdir(f->conf, 0700), 0);
	bins[0] = f->bin;
	assert_int_equal(cni_new(bins, f->conf, f->cache, &f->cni, &err), 0);
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	cni_free(f->cni);
	assert_int_equal(remove_tree(f->dir), 0);
	free(f);
	return 0;
}

/* A plugin that notes each call with its environment and input in <dir>/log.<name>.<n> and then runs `body`.
 */
static inline void put_plugin(struct fixture *f, const char *name, const char *body)
{
	char *text CLEANUP_FREE = xasprintf("#!/bin/sh\n"
					    "echo \"$CNI_COMMAND %s\" >> %s/calls\n"
					    "env > %s/env.%s.$CNI_COMMAND\n"
					    "cat > %s/in.%s.$CNI_COMMAND\n"
					    "%s\n",
					    name, f->dir, f->dir, name, f->dir, name, body);

	put_file(f->bin, name, text, 0755);
}

#define RESULT                                                                                               \
	"{\"cniVersion\":\"1.0.0\",\"interfaces\":[{\"name\":\"br0\",\"mac\":\"02:00:00:00:00:01\"},"        \
	"{\"name\":\"eth0\",\"mac\":\"02:00:00:00:00:02\",\"sandbox\":\"/run/netns/x\"}],"                   \
	"\"ips\":[{\"interface\":1,\"address\":\"10.1.2.3/24\",\"gateway\":\"10.1.2.1\"}],"                  \
	"\"routes\":[{\"dst\":\"0.0.0.0/0\"}]}"
#define GOOD		 "[ $CNI_COMMAND = ADD ] && echo '" RESULT "'; exit 0"
#define LIST(v, plugins) "{\"cniVersion\":\"" v "\",\"name\":\"net1\",\"plugins\":[" plugins "]}"

static const struct cni_pod pod = {.id = "pod1",
				   .ns = "default",
				   .name = "web",
				   .uid = "u-1",
				   .netns = "/proc/self/ns/net",
				   .ifname = "eth0"};

static inline int64_t in_ms(int64_t ms)
{
	return now_monotonic_ns() + ms * NS_PER_MS;
}

static inline void assert_contains(const char *text, const char *part)
{
	if (!text || !strstr(text, part))
		fail_msg("\"%s\" does not contain \"%s\"", text ? text : "(null)", part);
}

static inline void assert_calls(struct fixture *f, const char *expected)
{
	char *calls CLEANUP_FREE = get_file(f->dir, "calls");

	assert_string_equal(calls ? calls : "", expected);
}

static inline bool is_cached(struct fixture *f)
{
	char *path CLEANUP_FREE = xasprintf("%s/pod1.json", f->cache);

	return access(path, F_OK) == 0;
}

static inline struct json_object *input_of(struct fixture *f, const char *file)
{
	char *text CLEANUP_FREE = get_file(f->dir, file);
	struct json_object *json = text ? json_tokener_parse(text) : NULL;

	assert_non_null(json);
	return json;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif

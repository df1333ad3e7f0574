/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oci_spec_fixture.h: requests, and looks into the specification that comes of them, for test_oci_spec*.c.
 */
#ifndef TEST_UNIT_OCI_SPEC_FIXTURE_H
#define TEST_UNIT_OCI_SPEC_FIXTURE_H

#include "cri/spec/spec.h"

#include "api/agent/guest_abi.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <json-c/json.h>

/* A request with everything that most tests need; each test changes what it is about. */
struct req {
	Runtime__V1__PodSandboxConfig pod;
	Runtime__V1__PodSandboxMetadata pod_meta;
	Runtime__V1__LinuxPodSandboxConfig pod_linux;
	Runtime__V1__LinuxSandboxSecurityContext pod_sc;
	Runtime__V1__ContainerConfig c;
	Runtime__V1__ContainerMetadata meta;
	Runtime__V1__ImageSpec image;
	Runtime__V1__LinuxContainerConfig lin;
	Runtime__V1__LinuxContainerResources res;
	Runtime__V1__LinuxContainerSecurityContext sc;
	Runtime__V1__NamespaceOption ns;
	Runtime__V1__Capability caps;
	Runtime__V1__SecurityProfile seccomp, apparmor;
	Runtime__V1__Int64Value uid, gid;
	struct image_config config;
	struct oci_spec_input in;
};

static inline char *strs(const char *s)
{
	return (char *)(uintptr_t)s;
}

#define V(...) ((char *[]){__VA_ARGS__, NULL})

static inline void init(struct req *q)
{
	static char *sh[] = {(char *)(uintptr_t) "/bin/sh", NULL};

	memset(q, 0, sizeof(*q));
	runtime__v1__pod_sandbox_config__init(&q->pod);
	runtime__v1__pod_sandbox_metadata__init(&q->pod_meta);
	runtime__v1__linux_pod_sandbox_config__init(&q->pod_linux);
	runtime__v1__linux_sandbox_security_context__init(&q->pod_sc);
	runtime__v1__container_config__init(&q->c);
	runtime__v1__container_metadata__init(&q->meta);
	runtime__v1__image_spec__init(&q->image);
	runtime__v1__linux_container_config__init(&q->lin);
	runtime__v1__linux_container_resources__init(&q->res);
	runtime__v1__linux_container_security_context__init(&q->sc);
	runtime__v1__namespace_option__init(&q->ns);
	runtime__v1__capability__init(&q->caps);
	runtime__v1__security_profile__init(&q->seccomp);
	runtime__v1__security_profile__init(&q->apparmor);
	runtime__v1__int64_value__init(&q->uid);
	runtime__v1__int64_value__init(&q->gid);
	q->pod_meta.name = strs("web");
	q->pod_meta.namespace_ = strs("default");
	q->pod_meta.uid = strs("u-1");
	q->pod.metadata = &q->pod_meta;
	q->pod_linux.security_context = &q->pod_sc;
	q->pod.linux = &q->pod_linux;
	q->meta.name = strs("app");
	q->image.image = strs("example/app:1");
	q->c.metadata = &q->meta;
	q->c.image = &q->image;
	q->sc.namespace_options = &q->ns;
	q->lin.resources = &q->res;
	q->lin.security_context = &q->sc;
	q->c.linux = &q->lin;
	q->config.entrypoint = sh;
	q->in = (struct oci_spec_input){.pod = &q->pod,
					.container = &q->c,
					.image = &q->config,
					.container_id = "c1",
					.sandbox_id = "s1",
					.hostname = "web-host"};
}

static inline struct json_object *build(struct req *q)
{
	struct err err = ERR_INIT;
	struct json_object *spec;
	char *json = NULL;

	if (oci_spec_build(&q->in, &json, &err) < 0)
		fail_msg("%s", err.msg);
	spec = json_tokener_parse(json);
	assert_non_null(spec);
	free(json);
	return spec;
}

static inline void refused_with(struct req *q, enum err_status status, const char *words)
{
	struct err err = ERR_INIT;
	char *json = NULL;

	assert_true(oci_spec_build(&q->in, &json, &err) < 0);
	assert_null(json);
	if (!strstr(err.msg, words))
		fail_msg("\"%s\" does not contain \"%s\"", err.msg, words);
	assert_int_equal(err.status, status);
}

static inline void refused(struct req *q, const char *words)
{
	refused_with(q, ERR_INVALID_ARGUMENT, words);
}

/* A value by path ("process.user.uid"), NULL if missing. */
static inline struct json_object *at(struct json_object *json, const char *path)
{
	char *copy CLEANUP_FREE = strdup(path), *save = NULL;

	for (char *key = strtok_r(copy, ".", &save); key && json; key = strtok_r(NULL, ".", &save)) {
		struct json_object *next = NULL;

		if (json_object_is_type(json, json_type_array))
			next = json_object_array_get_idx(json, (size_t)atoi(key));
		else
			json_object_object_get_ex(json, key, &next);
		json = next;
	}
	return json;
}

static inline const char *text_at(struct json_object *json, const char *path)
{
	struct json_object *value = at(json, path);

	return value ? json_object_to_json_string_ext(value,
						      JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
		     : "(missing)";
}

/* Builds, compares one value's JSON, forgets. */
static inline void gives(struct req *q, const char *path, const char *expected)
{
	struct json_object *spec = build(q);

	assert_string_equal(text_at(spec, path), expected);
	json_object_put(spec);
}

static inline struct json_object *mount_at(struct json_object *spec, const char *destination,
					   size_t *ret_index)
{
	struct json_object *mounts = at(spec, "mounts");

	for (size_t i = 0; i < json_object_array_length(mounts); i++) {
		struct json_object *m = json_object_array_get_idx(mounts, i);

		if (str_eq(json_object_get_string(at(m, "destination")), destination)) {
			if (ret_index)
				*ret_index = i;
			return m;
		}
	}
	return NULL;
}

#endif

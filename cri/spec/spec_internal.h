/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec_internal.h: what the room's files share.
 *
 * Errors:    json-c fails only for lack of memory: the helpers that build JSON note that in `oom` and go on
 *            with NULLs, and the caller looks once at the end.
 * Threads:   no shared state.
 */
#ifndef CRI_SPEC_SPEC_INTERNAL_H
#define CRI_SPEC_SPEC_INTERNAL_H

#include "cri/spec/spec.h"

#include <json-c/json.h>
#include <stdint.h>

#define OCI_LIST_MAX	65536
#define OCI_PROFILE_MAX (1024 * 1024)

struct oci_build {
	const struct oci_spec_input *in;
	const Runtime__V1__ContainerConfig *container;
	const Runtime__V1__LinuxContainerSecurityContext *sc; /* an empty one where the request has none */
	const Runtime__V1__NamespaceOption *ns;		      /* likewise */
	uint64_t caps;					      /* bounding set, one bit per capability */
	uint64_t ambient;				      /* subset of caps */
	bool oom;
};

/* ---- JSON ---------------------------------------------------------------------------------------------- */

/* Adds value (taken over) to an object, or to an array where key is NULL; returns it, NULL on -ENOMEM. */
struct json_object *oci_add(bool *oom, struct json_object *parent, const char *key,
			    struct json_object *value);
static inline struct json_object *oci_object(bool *oom, struct json_object *parent, const char *key)
{
	return oci_add(oom, parent, key, json_object_new_object());
}
static inline struct json_object *oci_array(bool *oom, struct json_object *parent, const char *key)
{
	return oci_add(oom, parent, key, json_object_new_array());
}
static inline void oci_string(bool *oom, struct json_object *parent, const char *key, const char *value)
{
	oci_add(oom, parent, key, json_object_new_string(value ? value : ""));
}
static inline void oci_int(bool *oom, struct json_object *parent, const char *key, int64_t value)
{
	oci_add(oom, parent, key, json_object_new_int64(value));
}
static inline void oci_bool(bool *oom, struct json_object *parent, const char *key, bool value)
{
	oci_add(oom, parent, key, json_object_new_boolean(value));
}

/* ---- parts --------------------------------------------------------------------------------------------- */

int oci_caps(struct oci_build *b, struct err *err);
void oci_put_caps(struct oci_build *b, struct json_object *process);

int oci_check_namespaces(struct oci_build *b, struct err *err);
void oci_put_namespaces(struct oci_build *b, struct json_object *spec_linux);
/* linux.devices and the allow-list in resources. Also checks them (spec_linux and resources may be NULL). */
int oci_put_devices(struct oci_build *b, struct json_object *spec_linux, struct json_object *resources,
		    struct err *err);
int oci_fill_resources(const Runtime__V1__LinuxContainerResources *res, const char *guest_cpus,
		       struct json_object *resources, bool *oom, struct err *err);

int oci_check_mounts(struct oci_build *b, struct err *err);
int oci_put_mounts(struct oci_build *b, struct json_object *spec, struct json_object *spec_linux,
		   struct err *err);

/* RuntimeDefault, Unconfined, Localhost. Without spec_linux it only checks. */
int oci_put_seccomp(struct oci_build *b, struct json_object *spec_linux, struct err *err);
/* The default profile for a bounding set (seccomp_default.c). */
struct json_object *seccomp_default(uint64_t caps, bool *oom);

#endif

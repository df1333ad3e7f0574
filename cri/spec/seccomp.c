/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/spec/spec_internal.h"

#include "base/util.h"

#define PROFILE_DEPTH 16
#define SYSCALLS_MAX  4096
#define NAMES_MAX     8192

/* ---- which profile ------------------------------------------------------------------------------------- */

/* The deprecated field, "" where it is unset. */
static const char *old_profile(const Runtime__V1__LinuxContainerSecurityContext *sc)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
	return sc->seccomp_profile_path ? sc->seccomp_profile_path : "";
#pragma GCC diagnostic pop
}

static const char *skip_prefix(const char *ref)
{
	return str_starts(ref, "localhost/") ? ref + strlen("localhost/") : ref;
}

const char *oci_spec_seccomp_path(const Runtime__V1__ContainerConfig *container)
{
	const Runtime__V1__LinuxContainerSecurityContext *sc =
		container->linux ? container->linux->security_context : NULL;

	if (!sc || sc->privileged)
		return NULL;
	if (sc->seccomp)
		return sc->seccomp->profile_type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost
			       ? skip_prefix(sc->seccomp->localhost_ref)
			       : NULL;
	return str_starts(old_profile(sc), "localhost/") ? skip_prefix(old_profile(sc)) : NULL;
}

/* ---- localhost profiles -------------------------------------------------------------------------------- */

static const char *const actions[] = {
	"SCMP_ACT_ALLOW",	 "SCMP_ACT_ERRNO",	 "SCMP_ACT_KILL",
	"SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG",
	"SCMP_ACT_TRAP",	 "SCMP_ACT_TRACE",	 NULL,
};
static const char *const operators[] = {
	"SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE",	    "SCMP_CMP_EQ",
	"SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ", NULL,
};

/* A string member that must be one of `allowed`. */
static int check_word(struct json_object *object, const char *key, const char *const *allowed,
		      const char **ret, struct err *err)
{
	struct json_object *value;
	const char *text;

	if (!json_object_object_get_ex(object, key, &value) || !json_object_is_type(value, json_type_string))
		return err_set(err, -EINVAL, "\"%s\" (a string) is missing", key);
	text = json_object_get_string(value);
	for (size_t i = 0; allowed[i]; i++)
		if (str_eq(allowed[i], text)) {
			*ret = allowed[i];
			return 0;
		}
	return err_set(err, -EINVAL, "\"%s\" \"%.64s\" is unknown", key, text);
}

static int take_number(struct json_object *object, const char *key, int64_t min, int64_t max, int64_t *ret,
		       bool *ret_set, struct err *err)
{
	struct json_object *value;

	*ret_set = json_object_object_get_ex(object, key, &value) && value;
	if (!*ret_set)
		return 0;
	if (!json_object_is_type(value, json_type_int) || json_object_get_int64(value) < min ||
	    json_object_get_int64(value) > max)
		return err_set(err, -EINVAL, "\"%s\" is not a number within %lld and %lld", key,
			       (long long)min, (long long)max);
	*ret = json_object_get_int64(value);
	return 0;
}

static int copy_errno(struct oci_build *b, struct json_object *from, const char *key, const char *action,
		      struct json_object *to, struct err *err)
{
	int64_t number = 0;
	bool set;
	int r = take_number(from, key, 0, 4095, &number, &set, err);

	if (r < 0 || !set)
		return r;
	if (!str_eq(action, "SCMP_ACT_ERRNO") && !str_eq(action, "SCMP_ACT_TRACE"))
		return err_set(err, -EINVAL, "\"%s\" is allowed with SCMP_ACT_ERRNO and SCMP_ACT_TRACE only",
			       key);
	oci_int(&b->oom, to, key, number);
	return 0;
}

static int copy_names(struct oci_build *b, struct json_object *from, struct json_object *to, struct err *err)
{
	struct json_object *array = NULL, *value, *names = oci_array(&b->oom, to, "names");

	/* "name" is Docker's old form of it. */
	if (json_object_object_get_ex(from, "name", &value) && json_object_is_type(value, json_type_string))
		oci_string(&b->oom, names, NULL, json_object_get_string(value));
	if (json_object_object_get_ex(from, "names", &array) && !json_object_is_type(array, json_type_array))
		return err_set(err, -EINVAL, "\"names\" is not an array");
	for (size_t i = 0; array && i < json_object_array_length(array); i++) {
		value = json_object_array_get_idx(array, i);
		if (!json_object_is_type(value, json_type_string) || i == NAMES_MAX)
			return err_set(err, -EINVAL, "\"names[%zu]\" is not a system call's name", i);
		oci_string(&b->oom, names, NULL, json_object_get_string(value));
	}
	if (names && json_object_array_length(names) == 0)
		return err_set(err, -EINVAL, "\"names\" is missing");
	return 0;
}

static int copy_args(struct oci_build *b, struct json_object *from, struct json_object *to, struct err *err)
{
	struct json_object *array = NULL, *args;

	if (!json_object_object_get_ex(from, "args", &array) || !array)
		return 0;
	if (!json_object_is_type(array, json_type_array) || json_object_array_length(array) > 6)
		return err_set(err, -EINVAL, "\"args\" is not an array of at most 6");
	if (json_object_array_length(array) == 0)
		return 0;
	args = oci_array(&b->oom, to, "args");
	for (size_t i = 0; i < json_object_array_length(array); i++) {
		struct json_object *arg = json_object_array_get_idx(array, i),
				   *out = oci_object(&b->oom, args, NULL);
		int64_t index = 0, value = 0, two = 0;
		const char *op = NULL;
		bool set;
		int r;

		if (!json_object_is_type(arg, json_type_object))
			return err_set(err, -EINVAL, "\"args[%zu]\" is not an object", i);
		r = take_number(arg, "index", 0, 5, &index, &set, err);
		if (r == 0)
			r = take_number(arg, "value", 0, INT64_MAX, &value, &set, err);
		if (r == 0)
			r = take_number(arg, "valueTwo", 0, INT64_MAX, &two, &set, err);
		if (r == 0)
			r = check_word(arg, "op", operators, &op, err);
		if (r < 0)
			return err_wrap(err, "args[%zu]", i);
		oci_int(&b->oom, out, "index", index);
		oci_int(&b->oom, out, "value", value);
		oci_int(&b->oom, out, "valueTwo", two);
		oci_string(&b->oom, out, "op", op);
	}
	return 0;
}

static int copy_syscalls(struct oci_build *b, struct json_object *from, struct json_object *to,
			 struct err *err)
{
	struct json_object *array = NULL, *list;

	if (!json_object_object_get_ex(from, "syscalls", &array) || !array)
		return 0;
	if (!json_object_is_type(array, json_type_array) || json_object_array_length(array) > SYSCALLS_MAX)
		return err_set(err, -EINVAL, "\"syscalls\" is not an array of at most %d", SYSCALLS_MAX);
	list = oci_array(&b->oom, to, "syscalls");
	for (size_t i = 0; i < json_object_array_length(array); i++) {
		struct json_object *rule = json_object_array_get_idx(array, i),
				   *out = oci_object(&b->oom, list, NULL);
		const char *action = NULL;
		int r;

		if (!json_object_is_type(rule, json_type_object))
			return err_set(err, -EINVAL, "syscalls[%zu] is not an object", i);
		/* Docker's conditions on capabilities and kernels are not part of the format that runtimes
		 * read. */
		if (json_object_object_get_ex(rule, "includes", NULL) ||
		    json_object_object_get_ex(rule, "excludes", NULL))
			r = err_set(err, -EINVAL,
				    "\"includes\" and \"excludes\" are not part of the OCI format");
		else
			r = check_word(rule, "action", actions, &action, err);
		if (r == 0) {
			r = copy_names(b, rule, out, err);
			oci_string(&b->oom, out, "action", action);
		}
		if (r == 0)
			r = copy_errno(b, rule, "errnoRet", action, out, err);
		if (r == 0)
			r = copy_args(b, rule, out, err);
		if (r < 0)
			return err_wrap(err, "syscalls[%zu]", i);
	}
	return 0;
}

static int copy_architectures(struct oci_build *b, struct json_object *from, struct json_object *to,
			      struct err *err)
{
	struct json_object *array = NULL, *list;

	if (!json_object_object_get_ex(from, "architectures", &array) || !array)
		return 0;
	if (!json_object_is_type(array, json_type_array) || json_object_array_length(array) > 64)
		return err_set(err, -EINVAL, "\"architectures\" is not an array");
	list = oci_array(&b->oom, to, "architectures");
	for (size_t i = 0; i < json_object_array_length(array); i++) {
		struct json_object *value = json_object_array_get_idx(array, i);
		const char *text =
			json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";

		if (!str_starts(text, "SCMP_ARCH_") || strlen(text) > 30)
			return err_set(err, -EINVAL, "\"architectures[%zu]\" is unknown", i);
		oci_string(&b->oom, list, NULL, text);
	}
	return 0;
}

/* Takes over what the OCI format knows and nothing else. */
static int copy_profile(struct oci_build *b, struct json_object *from, struct json_object *to,
			struct err *err)
{
	const char *action = NULL;
	int r;

	if (!json_object_is_type(from, json_type_object))
		return err_set(err, -EINVAL, "it is not an object");
	if (json_object_object_get_ex(from, "listenerPath", NULL))
		return err_set(err, -EINVAL,
			       "\"listenerPath\" is not possible: the listener would be on the host");
	if (json_object_object_get_ex(from, "archMap", NULL))
		return err_set(err, -EINVAL, "\"archMap\" is not part of the OCI format");
	r = check_word(from, "defaultAction", actions, &action, err);
	if (r == 0) {
		oci_string(&b->oom, to, "defaultAction", action);
		r = copy_errno(b, from, "defaultErrnoRet", action, to, err);
	}
	if (r == 0)
		r = copy_architectures(b, from, to, err);
	return r ? r : copy_syscalls(b, from, to, err);
}

static int put_localhost(struct oci_build *b, struct json_object *spec_linux, const char *path,
			 struct err *err)
{
	const char *text = b->in->seccomp_profile_json;
	struct json_tokener *tok;
	struct json_object *from, *to;
	size_t len = text ? strlen(text) : 0, end;
	int r;

	if (path[0] != '/')
		return err_set(err, -EINVAL, "seccomp.localhost_ref \"%.128s\" is not an absolute path",
			       path);
	if (!spec_linux)
		return 0;
	if (!text)
		return err_set(err, -EINVAL, "seccomp profile %.128s was not read", path);
	if (len > OCI_PROFILE_MAX)
		return err_set(err, -EFBIG, "seccomp profile %.128s is larger than %d bytes", path,
			       OCI_PROFILE_MAX);
	tok = json_tokener_new_ex(PROFILE_DEPTH);
	if (!tok)
		return err_oom(err);
	from = json_tokener_parse_ex(tok, text, (int)len);
	end = json_tokener_get_parse_end(tok);
	json_tokener_free(tok);
	if (!from || text[end + strspn(text + end, " \t\r\n")]) {
		json_object_put(from);
		return err_set(err, -EINVAL, "seccomp profile %.128s: not valid JSON near byte %zu", path,
			       end);
	}
	to = json_object_new_object();
	r = copy_profile(b, from, to, err);
	json_object_put(from);
	if (r < 0) {
		json_object_put(to);
		return err_wrap(err, "seccomp profile %.128s", path);
	}
	oci_add(&b->oom, spec_linux, "seccomp", to);
	return 0;
}

/* Unset means unconfined, as with containerd; kubelet sets it. */
int oci_put_seccomp(struct oci_build *b, struct json_object *spec_linux, struct err *err)
{
	const char *path = oci_spec_seccomp_path(b->container), *old = old_profile(b->sc);
	bool unconfined = true;

	if (b->sc->privileged)
		return 0;
	if (path)
		return put_localhost(b, spec_linux, path, err);
	if (b->sc->seccomp)
		unconfined = b->sc->seccomp->profile_type ==
			     RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined;
	else if (str_eq(old, "runtime/default") || str_eq(old, "docker/default"))
		unconfined = false;
	else if (*old && !str_eq(old, "unconfined"))
		return err_set(err, -EINVAL, "seccomp_profile_path \"%.128s\" is unknown", old);
	if (!unconfined && spec_linux)
		oci_add(&b->oom, spec_linux, "seccomp", seccomp_default(b->caps, &b->oom));
	return 0;
}

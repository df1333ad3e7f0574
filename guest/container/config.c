/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/container/config_internal.h"

#include "base/util.h"

#include <json-c/json.h>

static bool any_hook(struct json_object *config)
{
	struct json_object *hooks;

	if (!json_object_object_get_ex(config, "hooks", &hooks) ||
	    !json_object_is_type(hooks, json_type_object))
		return false;
	json_object_object_foreach(hooks, name, list)
	{
		(void)name;
		if (json_object_is_type(list, json_type_array) && json_object_array_length(list) > 0)
			return true;
	}
	return false;
}

/* *ret is the caller's to put. */
static int parse(const char *text, size_t len, struct json_object **ret, struct err *err)
{
	struct json_tokener *tok = json_tokener_new();
	struct json_object *object;
	enum json_tokener_error why;

	if (!tok)
		return err_oom(err);
	object = json_tokener_parse_ex(tok, text, (int)len);
	why = json_tokener_get_error(tok);
	json_tokener_free(tok);
	if (!json_object_is_type(object, json_type_object)) {
		json_object_put(object);
		return err_set(err, -EBADMSG, "not a JSON object%s%s", why ? ": " : "",
			       why ? json_tokener_error_desc(why) : "");
	}
	*ret = object;
	return 0;
}

int config_hooks(const char *text, size_t len, bool *ret_hooks, struct err *err)
{
	struct json_object *config = NULL;
	int r = parse(text, len, &config, err);

	if (r < 0)
		return r;
	*ret_hooks = any_hook(config);
	json_object_put(config);
	return 0;
}

int config_oom_score(const char *text, size_t len, int *ret_score, struct err *err)
{
	struct json_object *process = NULL, *score = NULL;
	int64_t value = 0;
	int r = parse(text, len, &process, err);

	if (r < 0)
		return r;
	if (json_object_object_get_ex(process, "oomScoreAdj", &score)) {
		if (!json_object_is_type(score, json_type_int))
			r = err_set(err, -EINVAL, "oomScoreAdj is not a number");
		value = json_object_get_int64(score);
	}
	json_object_put(process);
	if (r == 0 && (value < -1000 || value > 1000))
		r = err_set(err, -EINVAL, "oomScoreAdj %lld is not within -1000 and 1000", (long long)value);
	if (r == 0)
		*ret_score = (int)value;
	return r;
}

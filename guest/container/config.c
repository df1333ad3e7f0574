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

int config_hooks(const char *text, size_t len, bool *ret_hooks, struct err *err)
{
	struct json_tokener *tok = json_tokener_new();
	struct json_object *config;
	enum json_tokener_error why;

	if (!tok)
		return err_oom(err);
	config = json_tokener_parse_ex(tok, text, (int)len);
	why = json_tokener_get_error(tok);
	json_tokener_free(tok);
	if (!json_object_is_type(config, json_type_object)) {
		json_object_put(config);
		return err_set(err, -EBADMSG, "not a JSON object%s%s", why ? ": " : "",
			       why ? json_tokener_error_desc(why) : "");
	}
	*ret_hooks = any_hook(config);
	json_object_put(config);
	return 0;
}

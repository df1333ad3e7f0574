/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/network/cni.h"

#include "base/util.h"
#include "cri/network/conf_internal.h"

#include <json-c/json.h>

static bool flag(struct json_object *conf, const char *key, bool otherwise)
{
	struct json_object *value;

	return json_object_object_get_ex(conf, key, &value) ? json_object_get_boolean(value) : otherwise;
}

static bool has_text(struct json_object *conf, const char *key, const char *text)
{
	struct json_object *value;

	return json_object_object_get_ex(conf, key, &value) && json_object_is_type(value, json_type_string) &&
	       str_eq(json_object_get_string(value), text);
}

static void look_at_plugin(const struct cni_plugin *plugin, struct cni_look *look)
{
	struct json_object *caps;

	if (flag(plugin->conf, "ipMasq", false))
		look->iptables |= !has_text(plugin->conf, "ipMasqBackend", "nftables");
	look->forwards |= str_eq(plugin->type, "bridge") && (flag(plugin->conf, "isGateway", false) ||
							     flag(plugin->conf, "isDefaultGateway", false));
	look->iptables |= str_eq(plugin->type, "firewall") && !has_text(plugin->conf, "backend", "firewalld");
	if (!json_object_object_get_ex(plugin->conf, "capabilities", &caps) ||
	    !flag(caps, "portMappings", false))
		return;
	look->ports = true;
	if (!str_eq(plugin->type, "portmap"))
		return;
	look->iptables |= !has_text(plugin->conf, "backend", "nftables");
	look->local_ports |= flag(plugin->conf, "snat", true);
}

static int add_program(struct cni_look *look, const char *name)
{
	for (char **p = look->programs; p && *p; p++)
		if (str_eq(*p, name))
			return 0;
	return strv_add(&look->programs, name);
}

static int look_at(const struct cni_conf *conf, struct cni_look *look, struct err *err)
{
	int r = str_set(&look->network, conf->name);

	for (size_t i = 0; r == 0 && i < conf->n_plugins; i++) {
		const struct cni_plugin *plugin = &conf->plugins[i];

		r = add_program(look, plugin->type);
		if (r == 0 && plugin->ipam)
			r = add_program(look, plugin->ipam);
		look_at_plugin(plugin, look);
	}
	return r < 0 ? err_oom(err) : 0;
}

int cni_look(const char *conf_dir, struct cni_look *ret_look, struct err *err)
{
	struct cni_conf *conf = NULL;
	char *text CLEANUP_FREE = NULL;
	size_t len = 0;
	int r;

	*ret_look = (struct cni_look){0};
	r = cni_conf_find(conf_dir, &ret_look->file, err);
	if (r < 0)
		return r;
	r = read_file(ret_look->file, CNI_CONF_MAX, &text, &len);
	if (r < 0)
		return err_set_errno(err, r, "cannot read CNI configuration %s", ret_look->file);
	r = cni_conf_parse(text, len, ret_look->file, &conf, err);
	if (r == 0)
		r = look_at(conf, ret_look, err);
	cni_conf_free(conf);
	return r;
}

void cni_look_done(struct cni_look *look)
{
	free(look->file);
	free(look->network);
	strv_free(look->programs);
	*look = (struct cni_look){0};
}

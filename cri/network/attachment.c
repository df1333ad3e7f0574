/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/network/chain_internal.h"

#include "base/util.h"
#include "cri/network/result_internal.h"

#include <json-c/json.h>

#define ATTACHMENT_VERSION 1
#define ATTACHMENT_MAX	   (8 * 1024 * 1024)

static int put_string(struct json_object *object, const char *key, const char *value)
{
	return cni_json_put(object, key, json_object_new_string(value ? value : ""));
}

static int push(struct json_object *array, struct json_object *value)
{
	if (!value)
		return -ENOMEM;
	if (json_object_array_add(array, value) < 0) {
		json_object_put(value);
		return -ENOMEM;
	}
	return 0;
}

/* ---- capabilities -------------------------------------------------------------------------------------- */

static struct json_object *strings(char *const *v, size_t n)
{
	struct json_object *array = json_object_new_array();

	for (size_t i = 0; array && i < n; i++)
		if (push(array, json_object_new_string(v[i])) < 0) {
			json_object_put(array);
			return NULL;
		}
	return array;
}

static int put_ports(struct json_object *caps, const struct cni_pod *pod, struct err *err)
{
	struct json_object *array;
	int r = 0;

	if (!pod->n_ports)
		return 0;
	array = json_object_new_array();
	for (size_t i = 0; array && i < pod->n_ports && r == 0; i++) {
		const struct cni_port *port = &pod->ports[i];
		const char *protocol = str_empty(port->protocol) ? "tcp" : port->protocol;
		struct json_object *item;

		if (!port->host_port)
			continue;
		if (!port->container_port)
			r = err_set(err, -EINVAL, "port_mappings[%zu]: container_port is missing", i);
		else if (!str_eq(protocol, "tcp") && !str_eq(protocol, "udp") && !str_eq(protocol, "sctp"))
			r = err_set(err, -EINVAL, "port_mappings[%zu]: protocol is none of tcp, udp and sctp",
				    i);
		else if (!str_empty(port->host_ip) && !cni_address_valid(port->host_ip))
			r = err_set(err, -EINVAL, "port_mappings[%zu]: host_ip is not an address", i);
		if (r < 0)
			break;
		item = json_object_new_object();
		r = push(array, item);
		r = r ? r : cni_json_put(item, "hostPort", json_object_new_int(port->host_port));
		r = r ? r : cni_json_put(item, "containerPort", json_object_new_int(port->container_port));
		r = r ? r : put_string(item, "protocol", protocol);
		if (r == 0 && !str_empty(port->host_ip))
			r = put_string(item, "hostIP", port->host_ip);
	}
	if (r == 0 && array && !json_object_array_length(array))
		json_object_put(array);
	else if (r == 0)
		r = cni_json_put(caps, "portMappings", array);
	else
		json_object_put(array);
	return r;
}

static int put_bandwidth(struct json_object *caps, const struct cni_pod *pod)
{
	struct json_object *item;
	int r;

	if (!pod->ingress_bps && !pod->egress_bps)
		return 0;
	item = json_object_new_object();
	r = cni_json_put(caps, "bandwidth", item);
	/* The burst, in bits, is as large as plugins take it. */
	if (r == 0 && pod->ingress_bps) {
		r = cni_json_put(item, "ingressRate", json_object_new_uint64(pod->ingress_bps));
		r = r ? r : cni_json_put(item, "ingressBurst", json_object_new_int(INT32_MAX));
	}
	if (r == 0 && pod->egress_bps) {
		r = cni_json_put(item, "egressRate", json_object_new_uint64(pod->egress_bps));
		r = r ? r : cni_json_put(item, "egressBurst", json_object_new_int(INT32_MAX));
	}
	return r;
}

static int put_dns(struct json_object *caps, const struct cni_pod *pod)
{
	struct json_object *item;
	int r;

	if (!pod->n_dns_servers && !pod->n_dns_searches && !pod->n_dns_options)
		return 0;
	item = json_object_new_object();
	r = cni_json_put(caps, "dns", item);
	r = r ? r : cni_json_put(item, "servers", strings(pod->dns_servers, pod->n_dns_servers));
	r = r ? r : cni_json_put(item, "searches", strings(pod->dns_searches, pod->n_dns_searches));
	return r ? r : cni_json_put(item, "options", strings(pod->dns_options, pod->n_dns_options));
}

static int put_annotations(struct json_object *caps, const struct cni_pod *pod)
{
	struct json_object *item;
	int r;

	if (!pod->n_annotations)
		return 0;
	item = json_object_new_object();
	r = cni_json_put(caps, "io.kubernetes.cri.pod-annotations", item);
	for (size_t i = 0; r == 0 && i < pod->n_annotations; i++) {
		const char *key, *value;

		pod->annotation(pod->annotation_arg, i, &key, &value);
		r = put_string(item, key, value);
	}
	return r;
}

/* One set of ranges for each prefix: [[{"subnet": …}], …]. */
static int put_ranges(struct json_object *caps, const char *cidrs)
{
	char *text CLEANUP_FREE = NULL, *save = NULL;
	struct json_object *sets;
	int r;

	if (str_empty(cidrs))
		return 0;
	text = strdup(cidrs);
	sets = json_object_new_array();
	r = cni_json_put(caps, "ipRanges", sets);
	for (char *cidr = text ? strtok_r(text, ",", &save) : NULL; r == 0 && cidr;
	     cidr = strtok_r(NULL, ",", &save)) {
		struct json_object *set = json_object_new_array(), *range = json_object_new_object();

		r = push(sets, set);
		if (r < 0) {
			json_object_put(range);
			break;
		}
		r = push(set, range);
		r = r ? r : put_string(range, "subnet", cidr);
	}
	return text ? r : -ENOMEM;
}

static int make_caps(struct cni_attachment *att, const struct cni_pod *pod, const char *pod_cidrs,
		     struct err *err)
{
	int r;

	att->caps = json_object_new_object();
	if (!att->caps)
		return -ENOMEM;
	r = put_ports(att->caps, pod, err);
	r = r ? r : put_bandwidth(att->caps, pod);
	r = r ? r : put_dns(att->caps, pod);
	r = r ? r : put_ranges(att->caps, pod_cidrs);
	r = r ? r : put_annotations(att->caps, pod);
	if (r == 0 && !str_empty(pod->cgroup))
		r = put_string(att->caps, "cgroupPath", pod->cgroup);
	return r;
}

/* ---- making one ---------------------------------------------------------------------------------------- */

/* CNI_ARGS has no way to quote its separators. */
static int check_arg(const char *field, const char *value, struct err *err)
{
	if (value && strpbrk(value, ";="))
		return err_set(err, -EINVAL, "%s \"%.64s\" holds \";\" or \"=\", which CNI_ARGS cannot carry",
			       field, value);
	return 0;
}

static int check_pod(const struct cni_pod *pod, struct err *err)
{
	int r;

	if (!cni_name_valid(pod->id))
		return err_set(err, -EINVAL, "\"%.64s\" cannot be a CNI container id",
			       pod->id ? pod->id : "");
	if (!cni_ifname_valid(pod->ifname))
		return err_set(err, -EINVAL, "\"%.32s\" cannot be an interface's name",
			       pod->ifname ? pod->ifname : "");
	r = check_arg("the pod's namespace", pod->ns, err);
	r = r ? r : check_arg("the pod's name", pod->name, err);
	return r ? r : check_arg("the pod's uid", pod->uid, err);
}

int cni_pod_check(const struct cni_pod *pod, struct err *err)
{
	struct cni_attachment scratch = {0};
	int r = check_pod(pod, err);

	if (r == 0)
		r = make_caps(&scratch, pod, NULL, err);
	json_object_put(scratch.caps);
	return r == -ENOMEM ? err_oom(err) : r;
}

int cni_attachment_new(const struct cni_pod *pod, const char *file, const char *config, const char *pod_cidrs,
		       struct cni_attachment **ret_att, struct err *err)
{
	struct cni_attachment *att;
	int r = check_pod(pod, err);

	if (r < 0)
		return r;
	att = calloc(1, sizeof(*att));
	if (!att)
		return err_oom(err);
	r = cni_conf_parse(config, strlen(config), file, &att->conf, err);
	if (r < 0)
		goto fail;
	r = make_caps(att, pod, pod_cidrs, err);
	if (r < 0)
		goto fail_memory;
	att->args = xasprintf(
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;"
		"K8S_POD_UID=%s",
		pod->ns ? pod->ns : "", pod->name ? pod->name : "", pod->id, pod->uid ? pod->uid : "");
	if (!att->args || str_set(&att->id, pod->id) < 0 || str_set(&att->ifname, pod->ifname) < 0 ||
	    str_set(&att->netns, pod->netns ? pod->netns : "") < 0 || str_set(&att->file, file) < 0 ||
	    str_set(&att->config, config) < 0) {
		r = -ENOMEM;
		goto fail_memory;
	}
	*ret_att = att;
	return 0;
fail_memory:
	if (r == -ENOMEM)
		err_oom(err);
fail:
	cni_attachment_free(att);
	return r;
}

struct cni_attachment *cni_attachment_free(struct cni_attachment *att)
{
	if (att) {
		free(att->id);
		free(att->ifname);
		free(att->netns);
		free(att->args);
		free(att->file);
		free(att->config);
		free(att->result);
		json_object_put(att->caps);
		cni_conf_free(att->conf);
		free(att);
	}
	return NULL;
}

/* ---- keeping it ---------------------------------------------------------------------------------------- */

int cni_attachment_save(const struct cni_attachment *att, const char *path, struct err *err)
{
	struct json_object *json = json_object_new_object();
	size_t len = 0;
	int r = json ? 0 : -ENOMEM;

	r = r ? r : cni_json_put(json, "version", json_object_new_int(ATTACHMENT_VERSION));
	r = r ? r : put_string(json, "id", att->id);
	r = r ? r : put_string(json, "ifname", att->ifname);
	r = r ? r : put_string(json, "netns", att->netns);
	r = r ? r : put_string(json, "args", att->args);
	r = r ? r : put_string(json, "file", att->file);
	r = r ? r : put_string(json, "config", att->config);
	r = r ? r : cni_json_put(json, "capabilities", json_object_get(att->caps));
	if (r == 0 && att->result)
		r = put_string(json, "result", att->result);
	if (r == 0) {
		const char *text = json_object_to_json_string_length(json, JSON_C_TO_STRING_PLAIN, &len);

		r = text ? write_file_atomic(path, text, len, 0600, false) : -ENOMEM;
	}
	json_object_put(json);
	return r < 0 ? err_set_errno(err, r, "cannot write %s", path) : 0;
}

static int take_string(struct json_object *json, const char *key, char **ret)
{
	struct json_object *value;

	if (!json_object_object_get_ex(json, key, &value) || !json_object_is_type(value, json_type_string))
		return -EBADMSG;
	return str_set(ret, json_object_get_string(value));
}

static int take_attachment(struct json_object *json, const char *path, struct cni_attachment *att,
			   struct err *err)
{
	struct json_object *value;
	int r;

	if (!json_object_object_get_ex(json, "version", &value) ||
	    json_object_get_int(value) != ATTACHMENT_VERSION)
		return err_set(err, -EBADMSG, "%s has an unknown version", path);
	r = take_string(json, "id", &att->id);
	r = r ? r : take_string(json, "ifname", &att->ifname);
	r = r ? r : take_string(json, "netns", &att->netns);
	r = r ? r : take_string(json, "args", &att->args);
	r = r ? r : take_string(json, "file", &att->file);
	r = r ? r : take_string(json, "config", &att->config);
	if (r == 0 && json_object_object_get_ex(json, "result", &value))
		r = take_string(json, "result", &att->result);
	if (r < 0)
		return err_set(err, r, "%s is damaged", path);
	if (json_object_object_get_ex(json, "capabilities", &value) &&
	    json_object_is_type(value, json_type_object))
		att->caps = json_object_get(value);
	else
		return err_set(err, -EBADMSG, "%s is damaged", path);
	return cni_conf_parse(att->config, strlen(att->config), att->file, &att->conf, err);
}

int cni_attachment_load(const char *path, struct cni_attachment **ret_att, struct err *err)
{
	struct cni_attachment *att;
	struct json_object *json = NULL;
	char *text CLEANUP_FREE = NULL;
	size_t len = 0;
	int r = read_file(path, ATTACHMENT_MAX, &text, &len);

	if (r < 0)
		return err_set_errno(err, r, "cannot read %s", path);
	r = cni_json_parse(text, len, path, &json, err);
	if (r < 0)
		return r == -ENOMEM ? r : -EBADMSG;
	att = calloc(1, sizeof(*att));
	r = att ? take_attachment(json, path, att, err) : err_oom(err);
	json_object_put(json);
	if (r < 0) {
		cni_attachment_free(att);
		return r == -ENOMEM ? r : -EBADMSG;
	}
	*ret_att = att;
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/network/result_internal.h"

#include "base/text.h"
#include "base/util.h"
#include "cri/network/conf_internal.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <json-c/json.h>
#include <net/if.h>

#define INTERFACES_MAX 64

bool cni_address_valid(const char *address)
{
	unsigned char bin[16];

	return inet_pton(AF_INET, address, bin) == 1 || inet_pton(AF_INET6, address, bin) == 1;
}

bool cni_cidr_valid(const char *cidr)
{
	const char *slash = strchr(cidr, '/');
	char address[INET6_ADDRSTRLEN];
	uint64_t bits;

	if (!slash || (size_t)(slash - cidr) >= sizeof(address))
		return false;
	memcpy(address, cidr, (size_t)(slash - cidr));
	address[slash - cidr] = '\0';
	if (!cni_address_valid(address) || parse_u64(slash + 1, &bits) < 0)
		return false;
	return bits <= (strchr(address, ':') ? 128 : 32);
}

bool cni_ifname_valid(const char *name)
{
	size_t len = name ? strlen(name) : 0;

	if (len == 0 || len >= IF_NAMESIZE || str_eq(name, ".") || str_eq(name, ".."))
		return false;
	for (size_t i = 0; i < len; i++)
		if (name[i] == '/' || name[i] == ':' || !isgraph((unsigned char)name[i]))
			return false;
	return true;
}

/* ---- typed members ------------------------------------------------------------------------------------- */

/* A string member into a fixed array; "" if it is missing or null. */
static int take_string(struct json_object *object, const char *key, char *ret, size_t size, struct err *err)
{
	struct json_object *value;

	ret[0] = '\0';
	if (!json_object_object_get_ex(object, key, &value) || !value)
		return 0;
	if (!json_object_is_type(value, json_type_string))
		return err_set(err, -EBADMSG, "\"%s\" is not a string", key);
	if (strlen(json_object_get_string(value)) >= size ||
	    strlen(json_object_get_string(value)) != (size_t)json_object_get_string_len(value))
		return err_set(err, -EBADMSG, "\"%s\" is too long", key);
	memcpy(ret, json_object_get_string(value), strlen(json_object_get_string(value)) + 1);
	return 0;
}

static int take_u32(struct json_object *object, const char *key, uint32_t *ret, struct err *err)
{
	struct json_object *value;
	int64_t number;

	*ret = 0;
	if (!json_object_object_get_ex(object, key, &value) || !value)
		return 0;
	number = json_object_is_type(value, json_type_int) ? json_object_get_int64(value) : -1;
	if (number < 0 || number > UINT32_MAX)
		return err_set(err, -EBADMSG, "\"%s\" is not a number of 32 bits", key);
	*ret = (uint32_t)number;
	return 0;
}

/* An array member of at most max objects; *ret NULL if it is missing or null. */
static int take_array(struct json_object *object, const char *key, size_t max, struct json_object **ret,
		      struct err *err)
{
	*ret = NULL;
	if (!json_object_object_get_ex(object, key, ret) || !*ret)
		return 0;
	if (!json_object_is_type(*ret, json_type_array))
		return err_set(err, -EBADMSG, "\"%s\" is not an array", key);
	if (json_object_array_length(*ret) > max)
		return err_set(err, -EBADMSG, "\"%s\" has more than %zu entries", key, max);
	for (size_t i = 0; i < json_object_array_length(*ret); i++)
		if (!json_object_is_type(json_object_array_get_idx(*ret, i), json_type_object))
			return err_set(err, -EBADMSG, "\"%s[%zu]\" is not an object", key, i);
	return 0;
}

static size_t array_len(struct json_object *array)
{
	return array ? json_object_array_length(array) : 0;
}

/* ---- the parts of a result ----------------------------------------------------------------------------- */

struct iface {
	char name[IF_NAMESIZE];
	char mac[24];
	bool in_pod;
};

static bool mac_valid(const char *mac)
{
	if (strlen(mac) != 17)
		return false;
	for (int i = 0; i < 17; i++)
		if (i % 3 == 2 ? mac[i] != ':' : !isxdigit((unsigned char)mac[i]))
			return false;
	return true;
}

static int parse_interfaces(struct json_object *array, const char *ifname, struct iface *ifaces,
			    struct cni_result *ret, struct err *err)
{
	for (size_t i = 0; i < array_len(array); i++) {
		struct json_object *json = json_object_array_get_idx(array, i);
		struct iface *iface = &ifaces[i];
		char sandbox[512];
		uint32_t mtu = 0;
		int r;

		r = take_string(json, "name", iface->name, sizeof(iface->name), err);
		if (r == 0)
			r = take_string(json, "mac", iface->mac, sizeof(iface->mac), err);
		if (r == 0)
			r = take_string(json, "sandbox", sandbox, sizeof(sandbox), err);
		if (r == 0)
			r = take_u32(json, "mtu", &mtu, err);
		if (r == 0 && !cni_ifname_valid(iface->name))
			r = err_set(err, -EBADMSG, "\"name\" is not an interface's name");
		if (r == 0 && *iface->mac && !mac_valid(iface->mac))
			r = err_set(err, -EBADMSG, "\"mac\" is not a MAC address");
		if (r < 0)
			return err_wrap(err, "interfaces[%zu]", i);
		iface->in_pod = *sandbox && str_eq(iface->name, ifname);
		if (iface->in_pod) {
			memcpy(ret->mac, iface->mac, sizeof(ret->mac));
			ret->mtu = mtu;
		}
	}
	return 0;
}

static int parse_ips(struct json_object *array, const struct iface *ifaces, size_t n_ifaces,
		     struct cni_result *ret, struct err *err)
{
	for (size_t i = 0; i < array_len(array); i++) {
		struct json_object *json = json_object_array_get_idx(array, i), *index;
		struct cni_ip ip;
		int r;

		r = take_string(json, "address", ip.address, sizeof(ip.address), err);
		if (r == 0)
			r = take_string(json, "gateway", ip.gateway, sizeof(ip.gateway), err);
		if (r == 0 && !cni_cidr_valid(ip.address))
			r = err_set(err, -EBADMSG, "\"address\" is not an address with its prefix length");
		if (r == 0 && *ip.gateway && !cni_address_valid(ip.gateway))
			r = err_set(err, -EBADMSG, "\"gateway\" is not an address");
		if (r < 0)
			return err_wrap(err, "ips[%zu]", i);
		if (json_object_object_get_ex(json, "interface", &index) && index) {
			int64_t at =
				json_object_is_type(index, json_type_int) ? json_object_get_int64(index) : -2;

			if (at < 0 || (uint64_t)at >= n_ifaces)
				return err_set(err, -EBADMSG,
					       "ips[%zu]: \"interface\" is not an index into \"interfaces\"",
					       i);
			if (!ifaces[at].in_pod)
				continue;
		}
		if (ret->n_ips == ARRAY_SIZE(ret->ips))
			return err_set(err, -EBADMSG, "more than %zu addresses", ARRAY_SIZE(ret->ips));
		ret->ips[ret->n_ips++] = ip;
	}
	return 0;
}

/* Is `dst` the gateway itself? */
static bool is_host_route(const char *dst, const char *gateway)
{
	size_t len = strlen(gateway);

	return strncmp(dst, gateway, len) == 0 && str_eq(dst + len, strchr(gateway, ':') ? "/128" : "/32");
}

/*
 * A route without a next hop takes the gateway of the first address of its family, as plugins themselves do.
 * A route to that gateway itself is on the link.
 */
static void default_gateway(struct cni_route *route, const struct cni_result *result)
{
	bool v6 = strchr(route->dst, ':');

	for (size_t i = 0; i < result->n_ips && !*route->gw; i++) {
		if (*result->ips[i].gateway && is_host_route(route->dst, result->ips[i].gateway))
			return;
		if (*result->ips[i].gateway && !strchr(result->ips[i].gateway, ':') == !v6)
			memcpy(route->gw, result->ips[i].gateway, sizeof(route->gw));
	}
}

static int parse_routes(struct json_object *array, struct cni_result *ret, struct err *err)
{
	for (size_t i = 0; i < array_len(array); i++) {
		struct json_object *json = json_object_array_get_idx(array, i);
		struct cni_route route;
		int r;

		r = take_string(json, "dst", route.dst, sizeof(route.dst), err);
		if (r == 0)
			r = take_string(json, "gw", route.gw, sizeof(route.gw), err);
		if (r == 0)
			r = take_u32(json, "mtu", &route.mtu, err);
		if (r == 0)
			r = take_u32(json, "advmss", &route.advmss, err);
		if (r == 0)
			r = take_u32(json, "table", &route.table, err);
		if (r == 0)
			r = take_u32(json, "priority", &route.priority, err);
		if (r == 0)
			r = take_u32(json, "scope", &route.scope, err);
		if (r == 0 && route.scope > 255)
			r = err_set(err, -EBADMSG, "\"scope\" is not a scope");
		if (r == 0 && !cni_cidr_valid(route.dst))
			r = err_set(err, -EBADMSG, "\"dst\" is not a prefix");
		if (r == 0 && *route.gw && !cni_address_valid(route.gw))
			r = err_set(err, -EBADMSG, "\"gw\" is not an address");
		if (r < 0)
			return err_wrap(err, "routes[%zu]", i);
		default_gateway(&route, ret);
		ret->routes[ret->n_routes++] = route;
	}
	return 0;
}

static int parse_tree(struct json_object *tree, const char *ifname, struct cni_result *ret, struct err *err)
{
	struct json_object *interfaces, *ips, *routes;
	struct iface ifaces[INTERFACES_MAX];
	char version[16];
	int r;

	if (!json_object_is_type(tree, json_type_object))
		return err_set(err, -EBADMSG, "it is not an object");
	r = take_string(tree, "cniVersion", version, sizeof(version), err);
	if (r < 0)
		return r;
	if (*version && cni_version_num(version) < 0)
		return err_set(err, -EBADMSG, "\"cniVersion\" \"%s\" is not supported", version);
	r = take_array(tree, "interfaces", ARRAY_SIZE(ifaces), &interfaces, err);
	if (r == 0)
		r = take_array(tree, "ips", 64, &ips, err);
	if (r == 0)
		r = take_array(tree, "routes", ARRAY_SIZE(ret->routes), &routes, err);
	if (r == 0)
		r = parse_interfaces(interfaces, ifname, ifaces, ret, err);
	if (r == 0)
		r = parse_ips(ips, ifaces, array_len(interfaces), ret, err);
	if (r == 0)
		r = parse_routes(routes, ret, err);
	return r;
}

int cni_result_parse(const char *text, size_t len, const char *ifname, struct cni_result *ret,
		     struct err *err)
{
	struct cni_result result = {.json = ret->json};
	struct json_object *tree = NULL;
	int r;

	r = cni_json_parse(text, len, "its result", &tree, err);
	if (r < 0)
		return r;
	r = parse_tree(tree, ifname, &result, err);
	json_object_put(tree);
	if (r < 0)
		return err_wrap(err, "its result");
	*ret = result;
	return 0;
}

bool cni_error_parse(const char *text, size_t len, char *ret_words, size_t words_size, unsigned int *ret_code)
{
	struct json_object *tree = NULL, *value;
	const char *msg = NULL, *details = NULL;
	bool known = false;

	if (cni_json_parse(text, len, "error", &tree, NULL) < 0)
		return false;
	*ret_code = 0;
	if (json_object_is_type(tree, json_type_object)) {
		if (json_object_object_get_ex(tree, "code", &value) &&
		    json_object_is_type(value, json_type_int))
			*ret_code = (unsigned int)json_object_get_int(value);
		if (json_object_object_get_ex(tree, "msg", &value) &&
		    json_object_is_type(value, json_type_string))
			msg = json_object_get_string(value);
		if (json_object_object_get_ex(tree, "details", &value) &&
		    json_object_is_type(value, json_type_string))
			details = json_object_get_string(value);
		known = msg || *ret_code;
	}
	if (known) {
		snprintf(ret_words, words_size, "%s%s%s", str_empty(msg) ? "no message" : msg,
			 str_empty(details) ? "" : ": ", str_empty(details) ? "" : details);
		text_clean(ret_words);
	}
	json_object_put(tree);
	return known;
}

void cni_result_done(struct cni_result *result)
{
	free(result->json);
	*result = (struct cni_result){0};
}

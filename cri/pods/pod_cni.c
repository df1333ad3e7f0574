/* SPDX-License-Identifier: Apache-2.0 */
/* What CNI is told of a pod. */
#include "cri/pods/pods_internal.h"

#include <string.h>

static int cni_bandwidth(const Runtime__V1__PodSandboxConfig *config, struct cni_pod *ret, struct err *err)
{
	for (size_t i = 0; i < config->n_annotations; i++) {
		const char *key = config->annotations[i]->key;
		uint64_t *bps = str_eq(key, "kubernetes.io/ingress-bandwidth")	? &ret->ingress_bps
				: str_eq(key, "kubernetes.io/egress-bandwidth") ? &ret->egress_bps
										: NULL;

		if (bps && cni_bandwidth_parse(config->annotations[i]->value, bps, err) < 0)
			return err_wrap(err, "annotation %s", key);
	}
	return 0;
}

static void annotation_at(const void *arg, size_t i, const char **ret_key, const char **ret_value)
{
	const Runtime__V1__PodSandboxConfig *config = arg;

	*ret_key = config->annotations[i]->key;
	*ret_value = config->annotations[i]->value;
}

int pod_cni_view(const char *id, const char *netns, const Runtime__V1__PodSandboxConfig *config,
		 struct cni_port *ports, size_t n_ports, struct cni_pod *ret, struct err *err)
{
	static const char *const protocols[] = {"tcp", "udp", "sctp"};
	size_t n = 0;

	memset(ret, 0, sizeof(*ret));
	ret->id = id;
	ret->netns = netns;
	ret->ifname = POD_IFNAME;
	ret->ports = ports;
	if (!config)
		return 0;
	ret->ns = config->metadata->namespace_;
	ret->name = config->metadata->name;
	ret->uid = config->metadata->uid;
	ret->annotation = annotation_at;
	ret->annotation_arg = config;
	ret->n_annotations = config->n_annotations;
	ret->cgroup = config->linux ? config->linux->cgroup_parent : NULL;
	for (size_t i = 0; i < config->n_port_mappings; i++) {
		const Runtime__V1__PortMapping *p = config->port_mappings[i];

		if (p->host_port == 0)
			continue; /* informational only, as with containerd */
		if (p->host_port < 0 || p->host_port > 65535 || p->container_port < 1 ||
		    p->container_port > 65535)
			return err_set(
				err, -EINVAL,
				"port_mappings[%zu]: host_port %d and container_port %d must be 1 to 65535",
				i, p->host_port, p->container_port);
		if (p->protocol < 0 || (size_t)p->protocol >= ARRAY_SIZE(protocols))
			return err_set(err, -EINVAL, "port_mappings[%zu]: unknown protocol %d", i,
				       (int)p->protocol);
		if (n == n_ports)
			return err_set(err, -E2BIG, "more than %zu port mappings", n_ports);
		ports[n++] = (struct cni_port){
			.host_port = (uint16_t)p->host_port,
			.container_port = (uint16_t)p->container_port,
			.protocol = protocols[p->protocol],
			.host_ip = p->host_ip,
		};
	}
	ret->n_ports = n;
	if (config->dns_config) {
		ret->dns_servers = config->dns_config->servers;
		ret->n_dns_servers = config->dns_config->n_servers;
		ret->dns_searches = config->dns_config->searches;
		ret->n_dns_searches = config->dns_config->n_searches;
		ret->dns_options = config->dns_config->options;
		ret->n_dns_options = config->dns_config->n_options;
	}
	return cni_bandwidth(config, ret, err);
}

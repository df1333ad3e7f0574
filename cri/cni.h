/*
 * cni.h: pod networks by CNI plugins (spec 1.0.0: https://www.cni.dev/docs/spec/).
 *
 * Purpose:   finds the network configuration (first *.conflist, *.conf or *.json of conf_dir by name, as containerd and CRI-O do), runs its
 *            plugins in the pod's netns, returns what they gave. Rereads conf_dir when it changes, so a mended configuration needs no restart.
 * Threads:   every function from any thread; each call spawns plugins and waits with a deadline.
 * Limits:    a plugin's output at most 1 MiB; a plugin that outlives the deadline is killed with its process group.
 * Errors:    name plugin and network, and carry the plugin's own error message and code.
 */
#ifndef CRI_CNI_H
#define CRI_CNI_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct cni;

int cni_new(char *const *bin_dirs, const char *conf_dir, const char *cache_dir, struct cni **ret_cni, struct err *err);
struct cni *cni_free(struct cni *cni);
/* 0 if there is a valid configuration whose plugins all exist; else why not, for NetworkReady's message. Cheap. */
int cni_status(struct cni *cni, struct err *err);
/* The pod CIDR from UpdateRuntimeConfig; NULL none. */
int cni_set_pod_cidr(struct cni *cni, const char *cidr, struct err *err);

struct cni_port {
	uint16_t host_port, container_port;
	const char *protocol; /* "tcp", "udp", "sctp" */
	const char *host_ip;  /* NULL or "": any */
};
struct cni_pod {
	const char *id, *ns, *name, *uid;
	const char *netns;  /* path */
	const char *ifname; /* "eth0" */
	const struct cni_port *ports;
	size_t n_ports;
	uint64_t ingress_bps, egress_bps; /* 0: none; bits per second, from the kubernetes.io/{ingress,egress}-bandwidth annotations */
	const char *const *dns_servers, *const *dns_searches, *const *dns_options;
	const char *cgroup; /* passed as capability cgroupPath; NULL none */
};

struct cni_ip {
	char address[64]; /* "10.1.2.3/24" */
	char gateway[48]; /* "" none */
};
struct cni_route {
	char dst[64];  /* "0.0.0.0/0" */
	char gw[48];   /* "" none */
	uint32_t mtu;  /* 0 none */
};
struct cni_result {
	struct cni_ip ips[8];
	size_t n_ips;
	struct cni_route routes[32];
	size_t n_routes;
	char mac[24];   /* of ifname in the netns */
	uint32_t mtu;   /* 0: not told */
	char *json;     /* the whole result (malloc'ed), needed again for CHECK and DEL */
};
void cni_result_done(struct cni_result *result);

/* ADD through the chain; if a plugin fails, DEL has been run for the chain before this returns. */
int cni_add(struct cni *cni, const struct cni_pod *pod, int64_t deadline_ns, struct cni_result *ret_result,
	    struct err *err);
/* DEL, in reverse, with the cached result (also after a restart); missing netns or cache: still run, success expected. */
int cni_del(struct cni *cni, const struct cni_pod *pod, int64_t deadline_ns, struct err *err);
int cni_check(struct cni *cni, const struct cni_pod *pod, int64_t deadline_ns, struct err *err);

#endif

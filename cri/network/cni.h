/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cni.h: pod networks by CNI plugins (spec 1.0.0: https://www.cni.dev/docs/spec/; configurations of 0.3.0,
 * 0.3.1, 0.4.0 and 1.1.0 too).
 *
 * Purpose:   finds the network configuration (first *.conflist, *.conf or *.json of conf_dir by name, as
 *            containerd and CRI-O do), runs its plugins in the pod's netns, returns what they gave. Rereads
 *            conf_dir when it changes, so a corrected configuration needs no restart. A first file that is
 *            wrong is an error, not a reason to take the next one: a pod never lands on another network in
 *            silence.
 * Threads:   every function from any thread; each call spawns plugins and waits with a deadline. Calls for
 *            the same pod come one after another (the pod's turn). No lock is held while a plugin runs.
 * State:     <cache_dir>/<pod id>.json, written before ADD runs and removed once DEL has succeeded: what ADD
 *            was told and answered, so that CHECK and DEL say the same after a restart or a change of the
 *            configuration.
 * Limits:    a plugin's output at most 1 MiB; a plugin that outlives the deadline is killed with its process
 *            group.
 * Errors:    name plugin and network, and carry the plugin's own error message and code. FailedPrecondition:
 *            the configuration or a plugin is missing or wrong; Unavailable: a plugin says try again later
 *            (code 11); DeadlineExceeded; else Internal.
 * Not here:  what a plugin makes in the netns and leaves out of its result: vmm/netview.h.
 */
#ifndef CRI_NETWORK_CNI_H
#define CRI_NETWORK_CNI_H

#include "base/err.h"
#include "cri/core/call.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cni;

/* Makes cache_dir. conf_dir and bin_dirs need not exist yet. */
int cni_new(char *const *bin_dirs, const char *conf_dir, const char *cache_dir, struct cni **ret_cni,
	    struct err *err);
struct cni *cni_free(struct cni *cni);
/*
 * 0 if there is a valid configuration whose plugins all exist and, from 1.1.0 on, answer the command STATUS
 * with success; else why not, for NetworkReady's message. A few stat calls; STATUS runs at most every 5 s,
 * for 5 s at most, for one caller: others get what it said last, or Unavailable where it has said nothing
 * yet.
 */
int cni_status(struct cni *cni, struct err *err);
/*
 * The pod CIDR from UpdateRuntimeConfig ("10.1.0.0/24", or two with a comma between them); NULL or "" none.
 * Plugins that declare the capability ipRanges get it. Kept across restarts.
 */
int cni_set_pod_cidr(struct cni *cni, const char *cidr, struct err *err);

struct cni_port {
	uint16_t host_port, container_port; /* host_port 0: the entry is left out */
	const char *protocol;		    /* "tcp" (also NULL), "udp", "sctp" */
	const char *host_ip;		    /* NULL or "": any */
};
struct cni_pod {
	const char *id, *ns, *name, *uid;
	const char *netns;  /* path; for DEL NULL or gone is fine */
	const char *ifname; /* "eth0" */
	const struct cni_port *ports;
	size_t n_ports;
	/*
	 * Bits per second, 0 none: annotations kubernetes.io/{ingress,egress}-bandwidth, cni_bandwidth_parse.
	 */
	uint64_t ingress_bps, egress_bps;
	char *const *dns_servers, *const *dns_searches, *const *dns_options;
	size_t n_dns_servers, n_dns_searches, n_dns_options;
	const char *cgroup; /* passed as capability cgroupPath; NULL none */
	/* Passed as capability io.kubernetes.cri.pod-annotations, as containerd and CRI-O do. */
	void (*annotation)(const void *arg, size_t i, const char **ret_key, const char **ret_value);
	const void *annotation_arg;
	size_t n_annotations;
};

struct cni_ip {
	char address[64]; /* "10.1.2.3/24" */
	char gateway[48]; /* "" none */
};
struct cni_route {
	char dst[64];			       /* "0.0.0.0/0" */
	char gw[48];			       /* "" none: on the link */
	uint32_t mtu, advmss, table, priority; /* 0 none */
	uint32_t scope;			       /* RT_SCOPE_…; 0: universe, or not told */
};
struct cni_result {
	struct cni_ip ips[8];
	size_t n_ips; /* at least 1 */
	struct cni_route routes[32];
	size_t n_routes;
	char mac[24]; /* of ifname in the netns, "" not told */
	uint32_t mtu; /* 0: not told */
	char *json; /* the whole result (malloc'ed), for verbose status; CHECK and DEL have their own copy */
};
void cni_result_done(struct cni_result *result);

/* What cni_add would refuse of the pod itself (InvalidArgument): ports, ids, names. `netns` may be NULL. */
int cni_pod_check(const struct cni_pod *pod, struct err *err);
/* A Kubernetes quantity of bits per second ("10M", "1.5Gi", "2e6"), from 1k to 1P. */
int cni_bandwidth_parse(const char *quantity, uint64_t *ret_bps, struct err *err);

#define CNI_DEADLINE_NS 60000000000LL /* from now, where deadline_ns is 0 */
#define CNI_UNDO_NS	20000000000LL /* at least so long DEL has after an ADD that failed */

/*
 * ADD through the chain; if a plugin fails, DEL has been run for the chain before this returns. If that DEL
 * failed too, the message says so and the state is kept for cni_del to try again. A pod that is attached
 * already gets DEL first. When the call (may be NULL) ends, the plugin that runs is killed, as at the
 * deadline.
 */
int cni_add(struct cni *cni, const struct cni_pod *pod, struct call *call, int64_t deadline_ns,
	    struct cni_result *ret_result, struct err *err);
/*
 * DEL, in reverse, with the cached result (also after a restart); missing netns or cache: still run, success
 * expected. A plugin that fails does not keep the others from running.
 */
int cni_del(struct cni *cni, const struct cni_pod *pod, int64_t deadline_ns, struct err *err);
/*
 * CHECK, with what ADD was told and answered. 0 where the configuration cannot or does not want it (before
 * 0.4.0, disableCheck). -ENOENT if the pod is not attached.
 */
int cni_check(struct cni *cni, const char *pod_id, int64_t deadline_ns, struct err *err);
/*
 * DEL for every attachment on record whose pod is not in `ids` (NULL-terminated: the pods there are), and the
 * GC command where the configuration is of 1.1.0. All are tried; the first error is returned. Only while no
 * ADD can run, at the start: a plugin would take an attachment that is being made for a dead one.
 */
int cni_gc(struct cni *cni, char *const *ids, int64_t deadline_ns, struct err *err);

/*
 * Kills the plugins that a server which was killed left running on namespaces below netns_dir, and waits for
 * their ends: one that is in the middle of ADD would go on after the DEL that undoes it. Known by their
 * environment (CNI spec, section 2: CNI_NETNS). At the start only, when no plugin of this server runs. How
 * many there were, or a negative errno. Blocks.
 */
int cni_end_orphans(const char *netns_dir, struct err *err);

/* ---- for `crivisor check` ------------------------------------------------------------------------------ */

/* The network configuration that pods get, and what it asks of the host. */
struct cni_look {
	char *file;	  /* NULL: there is none */
	char *network;	  /* its name */
	char **programs;  /* plugins and IPAM plugins, each once, in the order of their use */
	bool iptables;	  /* some plugin runs it */
	bool ports;	  /* some plugin takes the capability portMappings */
	bool local_ports; /* hostPorts answer on 127.0.0.1 too */
	bool forwards;	  /* some plugin switches forwarding on */
};
/*
 * Reads the configuration in force. On failure look->file tells which file is wrong. cni_look_done in any
 * case.
 */
int cni_look(const char *conf_dir, struct cni_look *ret_look, struct err *err);
void cni_look_done(struct cni_look *look);
/* The path of a plugin (malloc'ed). -ENOENT with words that name the directories searched. */
int cni_program_find(char *const *bin_dirs, const char *type, char **ret_path, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/pod/stats_internal.h"

#include "base/meminfo.h"
#include "base/util.h"
#include "guest/container/cgroup.h"
#include "guest/container/container.h"
#include "guest/pod/methods_internal.h"
#include "guest/rpc/request.h"

#include <inttypes.h>
#include <net/if.h>

#define INTERFACES_MAX 64

uint64_t stats_own_rss(void)
{
	char *text CLEANUP_FREE = NULL;
	const char *p;
	unsigned long long size, resident;

	/*
	 * statm is counted in batches of a few dozen pages, which matters for a process of this size;
	 * smaps_rollup is exact.
	 */
	if (read_file("/proc/self/smaps_rollup", 16384, &text, NULL) == 0 && (p = strstr(text, "\nRss:")))
		return strtoull(p + strlen("\nRss:"), NULL, 10) * 1024;
	free(move_ptr(text));
	if (read_file("/proc/self/statm", 4096, &text, NULL) < 0 ||
	    sscanf(text, "%llu %llu", &size, &resident) != 2)
		return 0;
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

bool stats_parse_netdev(const char *line, char *name, uint64_t counters[8])
{
	const char *colon = strchr(line, ':');
	const char *start = line + strspn(line, " ");
	size_t len = colon ? (size_t)(colon - start) : 0;

	if (!colon || colon < start || len == 0 || len >= IF_NAMESIZE)
		return false;
	/*
	 * Receive: bytes packets errs drop fifo frame compressed multicast; then transmit: bytes packets errs
	 * …
	 */
	if (sscanf(colon + 1,
		   "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %*u %*u %*u %*u %" SCNu64 " %" SCNu64
		   " %" SCNu64 " %" SCNu64,
		   &counters[0], &counters[1], &counters[2], &counters[3], &counters[4], &counters[5],
		   &counters[6], &counters[7]) != 8)
		return false;
	memcpy(name, start, len);
	name[len] = 0;
	return true;
}

struct netdev {
	Crivisor__Agent__V1__InterfaceStats stats[INTERFACES_MAX];
	Crivisor__Agent__V1__InterfaceStats *list[INTERFACES_MAX];
	char names[INTERFACES_MAX][IF_NAMESIZE];
	size_t len;
};

static void read_netdev(struct netdev *nd)
{
	char *text CLEANUP_FREE = NULL;
	char *save = NULL;

	if (read_file("/proc/net/dev", 65536, &text, NULL) < 0)
		return;
	for (char *line = strtok_r(text, "\n", &save); line && nd->len < INTERFACES_MAX;
	     line = strtok_r(NULL, "\n", &save)) {
		Crivisor__Agent__V1__InterfaceStats *s = &nd->stats[nd->len];
		uint64_t n[8];

		if (!stats_parse_netdev(line, nd->names[nd->len], n))
			continue;
		crivisor__agent__v1__interface_stats__init(s);
		s->name = nd->names[nd->len];
		s->rx_bytes = n[0];
		s->rx_packets = n[1];
		s->rx_errors = n[2];
		s->rx_dropped = n[3];
		s->tx_bytes = n[4];
		s->tx_packets = n[5];
		s->tx_errors = n[6];
		s->tx_dropped = n[7];
		nd->list[nd->len++] = s;
	}
}

static void vm_figures(struct agent *agent, Crivisor__Agent__V1__StatsResponse *ret)
{
	char *mem CLEANUP_FREE = NULL;
	char *vm CLEANUP_FREE = NULL;
	char *load CLEANUP_FREE = NULL;
	struct cgroup_stats s;
	unsigned long long threads = 0;

	cgroup_stats(agent->cgroup2, "", &s);
	(void)read_file("/proc/meminfo", 65536, &mem, NULL);
	(void)read_file("/proc/vmstat", 65536, &vm, NULL);
	if (read_file("/proc/loadavg", 4096, &load, NULL) == 0)
		(void)sscanf(load, "%*s %*s %*s %*u/%llu", &threads);
	ret->timestamp_ns = (uint64_t)now_realtime_ns();
	ret->cpu_usage_ns = s.cpu_usage_ns;
	ret->memory_limit = meminfo_bytes(mem, "MemTotal");
	ret->memory_usage = ret->memory_limit - meminfo_bytes(mem, "MemFree");
	ret->memory_working_set = ret->memory_limit - meminfo_bytes(mem, "MemAvailable");
	ret->memory_rss = meminfo_bytes(mem, "AnonPages");
	ret->swap_usage = meminfo_bytes(mem, "SwapTotal") - meminfo_bytes(mem, "SwapFree");
	ret->memory_page_faults = cgroup_keyed(vm, "pgfault");
	ret->memory_major_page_faults = cgroup_keyed(vm, "pgmajfault");
	ret->oom_kills = cgroup_keyed(vm, "oom_kill");
	ret->pids = threads;
}

void stats_get(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len)
{
	Crivisor__Agent__V1__StatsRequest *m RPC_MESSAGE =
		rpc_unpack(req, &crivisor__agent__v1__stats_request__descriptor, payload, len);
	Crivisor__Agent__V1__ContainerStats **all CLEANUP_FREE = NULL;
	struct netdev *nd CLEANUP_FREE = NULL;
	struct agent *agent = service_ctx;
	struct figures f;
	struct err err = ERR_INIT;

	if (!m)
		return;
	if (!str_empty(m->container_id)) {
		if (container_stats(agent, m->container_id, &f, &err) < 0)
			ttrpc_fail(req, &err);
		else
			rpc_reply(req, &f.stats.base);
		return;
	}
	/* Beside a VM the pod is a cgroup. */
	figures_of_cgroup(agent, agent->in_vm ? "" : agent->paths.cgroup_parent, &f);
	if (agent->in_vm)
		vm_figures(agent, &f.stats);
	nd = calloc(1, sizeof(*nd));
	if (nd) {
		read_netdev(nd);
		f.stats.interfaces = nd->list;
		f.stats.n_interfaces = nd->len;
	}
	if (m->all)
		f.stats.containers = all = containers_stats(agent, &f.stats.n_containers);
	rpc_reply(req, &f.stats.base);
}

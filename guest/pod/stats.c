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

bool stats_parse_netdev(const char *line, char *name, uint64_t counters[4])
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
	if (sscanf(colon + 1, "%" SCNu64 " %*u %" SCNu64 " %*u %*u %*u %*u %*u %" SCNu64 " %*u %" SCNu64,
		   &counters[0], &counters[1], &counters[2], &counters[3]) != 4)
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
		uint64_t n[4];

		if (!stats_parse_netdev(line, nd->names[nd->len], n))
			continue;
		crivisor__agent__v1__interface_stats__init(s);
		s->name = nd->names[nd->len];
		s->rx_bytes = n[0];
		s->rx_errors = n[1];
		s->tx_bytes = n[2];
		s->tx_errors = n[3];
		nd->list[nd->len++] = s;
	}
}

/* Beside a VM: of the pod's cgroup. */
static void cgroup_figures(struct agent *agent, Crivisor__Agent__V1__StatsResponse *ret)
{
	struct cgroup_stats s;

	cgroup_stats(agent->cgroup2, agent->paths.cgroup_parent, &s);
	ret->timestamp_ns = (uint64_t)now_realtime_ns();
	ret->cpu_usage_ns = s.cpu_usage_ns;
	ret->memory_usage = s.memory_usage;
	ret->memory_working_set = s.memory_working_set;
	ret->memory_rss = s.memory_rss;
	ret->memory_limit = s.memory_limit;
	ret->memory_page_faults = s.memory_page_faults;
	ret->memory_major_page_faults = s.memory_major_page_faults;
	ret->swap_usage = s.swap_usage;
	ret->oom_kills = s.oom_kills;
	ret->pids = s.pids;
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
	Crivisor__Agent__V1__StatsResponse resp = CRIVISOR__AGENT__V1__STATS_RESPONSE__INIT;
	struct netdev *nd CLEANUP_FREE = NULL;
	struct err err = ERR_INIT;

	if (!m)
		return;
	if (!str_empty(m->container_id)) {
		if (container_stats(service_ctx, m->container_id, &resp, &err) < 0)
			ttrpc_fail(req, &err);
		else
			rpc_reply(req, &resp.base);
		return;
	}
	if (((struct agent *)service_ctx)->in_vm)
		vm_figures(service_ctx, &resp);
	else
		cgroup_figures(service_ctx, &resp);
	nd = calloc(1, sizeof(*nd));
	if (nd) {
		read_netdev(nd);
		resp.interfaces = nd->list;
		resp.n_interfaces = nd->len;
	}
	rpc_reply(req, &resp.base);
}

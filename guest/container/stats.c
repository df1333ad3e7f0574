/* SPDX-License-Identifier: Apache-2.0 */
/* A container's use of resources. */
#include "guest/container/ctr_internal.h"

#include "guest/container/cgroup.h"

int container_stats(struct agent *agent, const char *id, Crivisor__Agent__V1__StatsResponse *ret,
		    struct err *err)
{
	struct ctr *c = ctr_find(agent, id, err);
	struct cgroup_stats s = {0};

	if (!c)
		return -ENOENT;
	crivisor__agent__v1__stats_response__init(ret);
	if (c->cgroup)
		cgroup_stats(c->agent->cgroup2, c->cgroup, &s);
	if (s.oom_kills > c->oom_kills)
		c->oom_kills = s.oom_kills;
	ret->timestamp_ns = (uint64_t)now_realtime_ns();
	ret->cpu_usage_ns = s.cpu_usage_ns;
	ret->memory_usage = s.memory_usage;
	ret->memory_working_set = s.memory_working_set;
	ret->memory_rss = s.memory_rss;
	ret->memory_page_faults = s.memory_page_faults;
	ret->memory_major_page_faults = s.memory_major_page_faults;
	ret->memory_limit = s.memory_limit;
	ret->swap_usage = s.swap_usage;
	ret->pids = s.pids;
	ret->oom_kills = c->oom_kills;
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Use of resources: of a cgroup, and of containers. */
#include "guest/container/ctr_internal.h"

#include "base/util.h"
#include "guest/container/cgroup.h"
#include "guest/container/figures_internal.h"

/* ---- parsers ------------------------------------------------------------------------------------------- */

static bool pressure_line(const char *text, const char *word, double avg[3], uint64_t *ret_total_ns)
{
	const char *p = text ? strstr(text, word) : NULL;
	unsigned long long us;

	if (!p || sscanf(p + strlen(word), " avg10=%lf avg60=%lf avg300=%lf total=%llu", &avg[0], &avg[1],
			 &avg[2], &us) != 4)
		return false;
	*ret_total_ns = us * 1000;
	return true;
}

bool figures_parse_pressure(const char *text, Crivisor__Agent__V1__Pressure *ret)
{
	double some[3] = {0}, full[3] = {0};

	crivisor__agent__v1__pressure__init(ret);
	if (!pressure_line(text, "some", some, &ret->some_total_ns))
		return false;
	(void)pressure_line(text, "full", full, &ret->full_total_ns);
	ret->some_avg10 = some[0];
	ret->some_avg60 = some[1];
	ret->some_avg300 = some[2];
	ret->full_avg10 = full[0];
	ret->full_avg60 = full[1];
	ret->full_avg300 = full[2];
	return true;
}

uint64_t figures_io_sum(const char *text, const char *key)
{
	size_t len = strlen(key);
	uint64_t sum = 0;

	for (const char *p = text; p && (p = strstr(p, key)); p += len) {
		if (p > text && p[-1] == ' ' && p[len] == '=')
			sum += strtoull(p + len + 1, NULL, 10);
	}
	return sum;
}

uint64_t figures_count_lines(const char *text)
{
	uint64_t n = 0;

	for (const char *p = text; p && (p = strchr(p, '\n')); p++)
		n++;
	return n;
}

/* ---- of a cgroup --------------------------------------------------------------------------------------- */

static void pressure(const char *path, const char *file, Crivisor__Agent__V1__Pressure *figure,
		     Crivisor__Agent__V1__Pressure **ret)
{
	char *text CLEANUP_FREE = cgroup_read(path, file);

	if (figures_parse_pressure(text, figure))
		*ret = figure;
}

static void cpu_v2(const char *path, Crivisor__Agent__V1__StatsResponse *s)
{
	char *text CLEANUP_FREE = cgroup_read(path, "cpu.stat");

	s->cpu_user_ns = cgroup_keyed(text, "user_usec") * 1000;
	s->cpu_system_ns = cgroup_keyed(text, "system_usec") * 1000;
	s->cpu_periods = cgroup_keyed(text, "nr_periods");
	s->cpu_throttled_periods = cgroup_keyed(text, "nr_throttled");
	s->cpu_throttled_ns = cgroup_keyed(text, "throttled_usec") * 1000;
}

static void memory_v2(const char *path, Crivisor__Agent__V1__StatsResponse *s)
{
	char *text CLEANUP_FREE = cgroup_read(path, "memory.stat");
	char *events CLEANUP_FREE = cgroup_read(path, "memory.events");

	s->memory_cache = cgroup_keyed(text, "file");
	s->memory_mapped_file = cgroup_keyed(text, "file_mapped");
	s->memory_kernel = cgroup_keyed(text, "kernel");
	s->memory_active_file = cgroup_keyed(text, "active_file");
	s->memory_inactive_file = cgroup_keyed(text, "inactive_file");
	s->memory_limit_hits = cgroup_keyed(events, "max");
	s->memory_peak = cgroup_number(path, "memory.peak");
	s->swap_limit = cgroup_number(path, "memory.swap.max");
}

static void rest_v2(const char *path, struct figures *f)
{
	char *io CLEANUP_FREE = cgroup_read(path, "io.stat");
	char *procs CLEANUP_FREE = cgroup_read(path, "cgroup.procs");
	Crivisor__Agent__V1__StatsResponse *s = &f->stats;

	s->io_read_bytes = figures_io_sum(io, "rbytes");
	s->io_write_bytes = figures_io_sum(io, "wbytes");
	s->io_reads = figures_io_sum(io, "rios");
	s->io_writes = figures_io_sum(io, "wios");
	s->processes = figures_count_lines(procs);
	pressure(path, "cpu.pressure", &f->cpu, &s->cpu_pressure);
	pressure(path, "memory.pressure", &f->memory, &s->memory_pressure);
	pressure(path, "io.pressure", &f->io, &s->io_pressure);
}

void figures_of_cgroup(const struct agent *agent, const char *path, struct figures *ret)
{
	Crivisor__Agent__V1__StatsResponse *s = &ret->stats;
	struct cgroup_stats c;

	crivisor__agent__v1__stats_response__init(s);
	cgroup_stats(agent->cgroup2, path, &c);
	s->timestamp_ns = (uint64_t)now_realtime_ns();
	s->cpu_usage_ns = c.cpu_usage_ns;
	s->memory_usage = c.memory_usage;
	s->memory_working_set = c.memory_working_set;
	s->memory_rss = c.memory_rss;
	s->memory_page_faults = c.memory_page_faults;
	s->memory_major_page_faults = c.memory_major_page_faults;
	s->memory_limit = c.memory_limit;
	s->swap_usage = c.swap_usage;
	s->pids = c.pids;
	s->oom_kills = c.oom_kills;
	if (!agent->cgroup2)
		return;
	cpu_v2(path, s);
	memory_v2(path, s);
	rest_v2(path, ret);
}

/* ---- of containers ------------------------------------------------------------------------------------- */

static void figures_of(struct ctr *c, struct figures *ret)
{
	if (c->cgroup) {
		figures_of_cgroup(c->agent, c->cgroup, ret);
	} else {
		crivisor__agent__v1__stats_response__init(&ret->stats);
		ret->stats.timestamp_ns = (uint64_t)now_realtime_ns();
	}
	/* The cgroup, and its count, goes with the container's processes. */
	if (ret->stats.oom_kills > c->oom_kills)
		c->oom_kills = ret->stats.oom_kills;
	ret->stats.oom_kills = c->oom_kills;
}

int container_stats(struct agent *agent, const char *id, struct figures *ret, struct err *err)
{
	struct ctr *c = ctr_find(agent, id, err);

	if (!c)
		return -ENOENT;
	figures_of(c, ret);
	return 0;
}

Crivisor__Agent__V1__ContainerStats **containers_stats(struct agent *agent, size_t *ret_n)
{
	struct all {
		Crivisor__Agent__V1__ContainerStats *list[CTR_MAX];
		struct one {
			Crivisor__Agent__V1__ContainerStats message;
			struct figures figures;
		} each[];
	} *all = NULL;
	size_t n = 0;

	*ret_n = 0;
	if (agent->containers && agent->containers->len > 0)
		all = calloc(1, sizeof(*all) + agent->containers->len * sizeof(all->each[0]));
	for (struct ctr *c = all ? agent->containers->list : NULL; c && n < CTR_MAX; c = c->next) {
		struct one *one = &all->each[n];

		if (!c->cgroup)
			continue;
		crivisor__agent__v1__container_stats__init(&one->message);
		figures_of(c, &one->figures);
		one->message.container_id = c->id;
		one->message.stats = &one->figures.stats;
		all->list[n++] = &one->message;
	}
	*ret_n = n;
	return all ? all->list : NULL;
}

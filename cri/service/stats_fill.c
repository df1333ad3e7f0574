/* SPDX-License-Identifier: Apache-2.0 */
/* From figures to the messages of CRI. */
#include "cri/service/stats_internal.h"

#include "api/pb.h"
#include "base/util.h"
#include "cri/service/util_internal.h"

/* ---- parts of a message -------------------------------------------------------------------------------- */

static int set(Runtime__V1__UInt64Value **field, uint64_t value)
{
	*field = pb_new(&runtime__v1__uint64_value__descriptor);
	if (!*field)
		return -ENOMEM;
	(*field)->value = value;
	return 0;
}

static int set_if(Runtime__V1__UInt64Value **field, bool known, uint64_t value)
{
	return known ? set(field, value) : 0;
}

static Runtime__V1__PsiData *psi_data(uint64_t total_ns, double avg10, double avg60, double avg300)
{
	Runtime__V1__PsiData *d = pb_new(&runtime__v1__psi_data__descriptor);

	if (d) {
		d->total = total_ns;
		d->avg10 = avg10;
		d->avg60 = avg60;
		d->avg300 = avg300;
	}
	return d;
}

static int set_psi(Runtime__V1__PsiStats **field, const Crivisor__Agent__V1__Pressure *p)
{
	if (!p)
		return 0;
	*field = pb_new(&runtime__v1__psi_stats__descriptor);
	if (!*field)
		return -ENOMEM;
	(*field)->some = psi_data(p->some_total_ns, p->some_avg10, p->some_avg60, p->some_avg300);
	(*field)->full = psi_data(p->full_total_ns, p->full_avg10, p->full_avg60, p->full_avg300);
	return (*field)->some && (*field)->full ? 0 : -ENOMEM;
}

static int set_cpu(Runtime__V1__CpuUsage **field, int64_t at_ns, uint64_t usage_ns,
		   const struct cpu_rate *rate, const Crivisor__Agent__V1__Pressure *psi)
{
	Runtime__V1__CpuUsage *u = *field = pb_new(&runtime__v1__cpu_usage__descriptor);

	if (!u)
		return -ENOMEM;
	u->timestamp = at_ns;
	if (set(&u->usage_core_nano_seconds, usage_ns) < 0 ||
	    set_if(&u->usage_nano_cores, rate->known, rate->nano_cores) < 0)
		return -ENOMEM;
	return set_psi(&u->psi, psi);
}

static int set_io(Runtime__V1__IoUsage **field, int64_t at_ns, const Crivisor__Agent__V1__Pressure *psi)
{
	Runtime__V1__IoUsage *u;

	if (!psi)
		return 0;
	u = *field = pb_new(&runtime__v1__io_usage__descriptor);
	if (!u)
		return -ENOMEM;
	u->timestamp = at_ns;
	return set_psi(&u->psi, psi);
}

/* A limit of 0 is none. What is above the limit leaves nothing. */
static uint64_t left_of(uint64_t limit, uint64_t used)
{
	return limit > used ? limit - used : 0;
}

/* ---- a container --------------------------------------------------------------------------------------- */

static int set_memory(Runtime__V1__ContainerStats *s, const struct container_usage *u)
{
	const Crivisor__Agent__V1__StatsResponse *g = &u->guest.stats;
	uint64_t limit = g->memory_limit ? g->memory_limit : u->vm_memory_bytes;
	Runtime__V1__MemoryUsage *m = s->memory = pb_new(&runtime__v1__memory_usage__descriptor);

	if (!m)
		return -ENOMEM;
	m->timestamp = u->at_ns;
	if (set(&m->working_set_bytes, g->memory_working_set) < 0 ||
	    set_if(&m->available_bytes, limit > 0, left_of(limit, g->memory_working_set)) < 0 ||
	    set(&m->usage_bytes, g->memory_usage) < 0 || set(&m->rss_bytes, g->memory_rss) < 0 ||
	    set(&m->page_faults, g->memory_page_faults) < 0 ||
	    set(&m->major_page_faults, g->memory_major_page_faults) < 0)
		return -ENOMEM;
	return set_psi(&m->psi, g->memory_pressure);
}

static int set_swap(Runtime__V1__ContainerStats *s, const struct container_usage *u)
{
	const Crivisor__Agent__V1__StatsResponse *g = &u->guest.stats;
	Runtime__V1__SwapUsage *w = s->swap = pb_new(&runtime__v1__swap_usage__descriptor);

	if (!w)
		return -ENOMEM;
	w->timestamp = u->at_ns;
	return set(&w->swap_usage_bytes, g->swap_usage) < 0 ||
			       set_if(&w->swap_available_bytes, g->swap_limit > 0,
				      left_of(g->swap_limit, g->swap_usage)) < 0
		       ? -ENOMEM
		       : 0;
}

/* On the file system that ImageFsInfo names. */
static int set_layer(Runtime__V1__ContainerStats *s, const struct service *service,
		     const struct container_usage *u)
{
	char *mountpoint CLEANUP_FREE = NULL;
	Runtime__V1__FilesystemUsage *f;

	if (u->layer_at_ns == 0)
		return 0;
	mountpoint = xasprintf("%s/images", service->config->server.state_dir);
	f = s->writable_layer = pb_new(&runtime__v1__filesystem_usage__descriptor);
	if (!f || !mountpoint)
		return -ENOMEM;
	f->timestamp = u->layer_at_ns;
	f->fs_id = pb_new(&runtime__v1__filesystem_identifier__descriptor);
	if (!f->fs_id || pb_set_str(&f->fs_id->mountpoint, mountpoint) < 0 ||
	    set(&f->used_bytes, u->layer_bytes) < 0 || set(&f->inodes_used, u->layer_inodes) < 0)
		return -ENOMEM;
	return 0;
}

int service_container_stats_of(Runtime__V1__ContainerStats *s, const struct service *service,
			       const struct container_view *view, const struct container_usage *u)
{
	const Runtime__V1__ContainerConfig *config = view->config;
	const Crivisor__Agent__V1__StatsResponse *g = &u->guest.stats;
	Runtime__V1__ContainerAttributes *a = s->attributes =
		pb_new(&runtime__v1__container_attributes__descriptor);

	if (!a)
		return -ENOMEM;
	a->metadata = PB_CLONE(config->metadata);
	if (!a->metadata || pb_set_str(&a->id, view->id) < 0 ||
	    service_copy_map(&a->labels, &a->n_labels, config->labels, config->n_labels) < 0 ||
	    service_copy_map(&a->annotations, &a->n_annotations, config->annotations, config->n_annotations) <
		    0)
		return -ENOMEM;
	if (set_cpu(&s->cpu, u->at_ns, g->cpu_usage_ns, &u->rate, g->cpu_pressure) < 0 ||
	    set_memory(s, u) < 0 || set_swap(s, u) < 0 || set_io(&s->io, u->at_ns, g->io_pressure) < 0)
		return -ENOMEM;
	return set_layer(s, service, u);
}

/* ---- a pod --------------------------------------------------------------------------------------------- */

static int fill_interface(Runtime__V1__NetworkInterfaceUsage *n, const struct usage_interface *i)
{
	return pb_set_text(&n->name, i->name) < 0 || set(&n->rx_bytes, i->rx_bytes) < 0 ||
			       set(&n->rx_errors, i->rx_errors) < 0 || set(&n->tx_bytes, i->tx_bytes) < 0 ||
			       set(&n->tx_errors, i->tx_errors) < 0
		       ? -ENOMEM
		       : 0;
}

/* The default one is eth0, as CNI makes it; the others stand beside it. */
static int set_network(Runtime__V1__LinuxPodSandboxStats *s, const struct pod_usage *u)
{
	Runtime__V1__NetworkUsage *n;

	if (u->n_interfaces == 0)
		return 0;
	n = s->network = pb_new(&runtime__v1__network_usage__descriptor);
	if (!n)
		return -ENOMEM;
	n->timestamp = u->guest_at_ns;
	for (size_t i = 0; i < u->n_interfaces; i++) {
		Runtime__V1__NetworkInterfaceUsage *one;

		if (!n->default_interface && str_eq(u->interfaces[i].name, "eth0"))
			one = n->default_interface =
				pb_new(&runtime__v1__network_interface_usage__descriptor);
		else
			one = pb_append(&n->interfaces, &n->n_interfaces,
					&runtime__v1__network_interface_usage__descriptor);
		if (!one || fill_interface(one, &u->interfaces[i]) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int set_pod_memory(Runtime__V1__LinuxPodSandboxStats *s, const struct pod_usage *u)
{
	Runtime__V1__MemoryUsage *m = s->memory = pb_new(&runtime__v1__memory_usage__descriptor);

	if (!m)
		return -ENOMEM;
	m->timestamp = u->at_ns;
	if (set(&m->working_set_bytes, u->host.memory_working_set_bytes) < 0 ||
	    set(&m->usage_bytes, u->host.memory_usage_bytes) < 0 ||
	    set(&m->rss_bytes, u->host.memory_rss_bytes) < 0 ||
	    set(&m->page_faults, u->host.page_faults) < 0 ||
	    set(&m->major_page_faults, u->host.major_page_faults) < 0)
		return -ENOMEM;
	return set_psi(&m->psi, u->guest.stats.memory_pressure);
}

struct pod_containers {
	const struct service *service;
	Runtime__V1__LinuxPodSandboxStats *stats;
	uint64_t processes;
};

static int add_pod_container(void *arg, const struct container_view *view, const struct container_usage *u,
			     struct err *err)
{
	struct pod_containers *p = arg;
	Runtime__V1__ContainerStats *s = pb_append(&p->stats->containers, &p->stats->n_containers,
						   &runtime__v1__container_stats__descriptor);

	p->processes += u->guest.stats.processes ? u->guest.stats.processes : u->guest.stats.pids;
	return s && service_container_stats_of(s, p->service, view, u) == 0 ? 0 : err_oom(err);
}

static int set_pod_attributes(Runtime__V1__PodSandboxStats *s, const struct pod_view *pod)
{
	const Runtime__V1__PodSandboxConfig *config = pod->config;
	Runtime__V1__PodSandboxAttributes *a = s->attributes =
		pb_new(&runtime__v1__pod_sandbox_attributes__descriptor);

	if (!a)
		return -ENOMEM;
	a->metadata = PB_CLONE(config->metadata);
	if (!a->metadata || pb_set_str(&a->id, pod->id) < 0 ||
	    service_copy_map(&a->labels, &a->n_labels, config->labels, config->n_labels) < 0)
		return -ENOMEM;
	return service_copy_map(&a->annotations, &a->n_annotations, config->annotations,
				config->n_annotations);
}

int service_pod_stats_of(Runtime__V1__PodSandboxStats *s, const struct service *service,
			 const struct pod_view *pod, const struct pod_usage *u, struct err *err)
{
	const Crivisor__Agent__V1__StatsResponse *g = &u->guest.stats;
	Runtime__V1__LinuxPodSandboxStats *lx = s->linux =
		pb_new(&runtime__v1__linux_pod_sandbox_stats__descriptor);
	struct pod_containers p = {.service = service, .stats = lx};
	int r;

	if (!lx || set_pod_attributes(s, pod) < 0 ||
	    set_cpu(&lx->cpu, u->at_ns, u->host.cpu_usage_ns, &u->rate, g->cpu_pressure) < 0 ||
	    set_pod_memory(lx, u) < 0 || set_network(lx, u) < 0 ||
	    set_io(&lx->io, u->guest_at_ns, g->io_pressure) < 0)
		return err_oom(err);
	r = stats_each_container(service->pods, NULL, pod->id, add_pod_container, &p, err);
	if (r < 0)
		return r;
	lx->process = pb_new(&runtime__v1__process_usage__descriptor);
	if (!lx->process || set(&lx->process->process_count, p.processes) < 0)
		return err_oom(err);
	lx->process->timestamp = u->at_ns;
	return 0;
}

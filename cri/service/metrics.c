/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RuntimeService: metrics by the names that cAdvisor gives them. One table holds the descriptors and where
 * each value comes from. README.md says what is missing and why.
 */
#include "cri/service/stats_internal.h"

#include "api/pb.h"
#include "base/util.h"

#define LABELS_MAX 8

/* Of every metric, in this order; then the metric's own. */
static const char *const base_labels[] = {"container", "id", "image", "name", "namespace", "pod"};

struct subject {
	const struct pod_view *pod;
	const struct container_view *container; /* NULL: the pod's own */
	const struct container_usage *usage;
	const Runtime__V1__LinuxContainerResources *limits; /* never NULL with a container */
	const struct usage_interface *interface;
};

struct metric {
	const char *name, *help;
	Runtime__V1__MetricType type;
	const char *labels[3]; /* of its own, with their values; a value NULL: the interface's name */
	const char *values[3];
	bool (*value)(const struct subject *s, uint64_t *ret); /* false: it is not known */
};

#define COUNTER RUNTIME__V1__METRIC_TYPE__COUNTER
#define GAUGE	RUNTIME__V1__METRIC_TYPE__GAUGE

/* ---- values -------------------------------------------------------------------------------------------- */

#define VALUE(fn, expression)                                                                                \
	static bool fn(const struct subject *s, uint64_t *ret)                                               \
	{                                                                                                    \
		const Crivisor__Agent__V1__StatsResponse *g = &s->usage->guest.stats;                        \
                                                                                                             \
		*ret = (uint64_t)(expression);                                                               \
		return true;                                                                                 \
	}
#define LIMIT(fn, expression)                                                                                \
	static bool fn(const struct subject *s, uint64_t *ret)                                               \
	{                                                                                                    \
		*ret = (uint64_t)(expression);                                                               \
		return (expression) > 0;                                                                     \
	}
#define OF_INTERFACE(fn, field)                                                                              \
	static bool fn(const struct subject *s, uint64_t *ret)                                               \
	{                                                                                                    \
		*ret = s->interface->field;                                                                  \
		return true;                                                                                 \
	}
#define PRESSURE(fn, which, field)                                                                           \
	static bool fn(const struct subject *s, uint64_t *ret)                                               \
	{                                                                                                    \
		const Crivisor__Agent__V1__Pressure *p = s->usage->guest.stats.which;                        \
                                                                                                             \
		*ret = p ? p->field / NS_PER_SEC : 0;                                                        \
		return p;                                                                                    \
	}

VALUE(cpu_usage, g->cpu_usage_ns / NS_PER_SEC)
VALUE(cpu_user, g->cpu_user_ns / NS_PER_SEC)
VALUE(cpu_system, g->cpu_system_ns / NS_PER_SEC)
VALUE(cpu_periods, g->cpu_periods)
VALUE(cpu_throttled, g->cpu_throttled_periods)
VALUE(cpu_throttled_seconds, g->cpu_throttled_ns / NS_PER_SEC)
VALUE(memory_cache, g->memory_cache)
VALUE(memory_rss, g->memory_rss)
VALUE(memory_kernel, g->memory_kernel)
VALUE(memory_mapped, g->memory_mapped_file)
VALUE(memory_swap, g->swap_usage)
VALUE(memory_failcnt, g->memory_limit_hits)
VALUE(memory_usage, g->memory_usage)
VALUE(memory_peak, g->memory_peak)
VALUE(memory_working_set, g->memory_working_set)
VALUE(memory_active, g->memory_active_file)
VALUE(memory_inactive, g->memory_inactive_file)
VALUE(memory_faults, g->memory_page_faults)
VALUE(memory_major_faults, g->memory_major_page_faults)
VALUE(oom_events, g->oom_kills)
VALUE(processes, g->processes)
VALUE(threads, g->pids)
VALUE(fs_reads, g->io_reads)
VALUE(fs_reads_bytes, g->io_read_bytes)
VALUE(fs_writes, g->io_writes)
VALUE(fs_writes_bytes, g->io_write_bytes)
LIMIT(last_seen, s->usage->at_ns / NS_PER_SEC)
LIMIT(start_time, s->container->started_at_ns / NS_PER_SEC)
LIMIT(spec_period, s->limits->cpu_period)
LIMIT(spec_quota, s->limits->cpu_quota)
LIMIT(spec_shares, s->limits->cpu_shares)
LIMIT(spec_memory, s->limits->memory_limit_in_bytes)
LIMIT(spec_swap, s->limits->memory_swap_limit_in_bytes)
PRESSURE(cpu_stalled, cpu_pressure, full_total_ns)
PRESSURE(cpu_waiting, cpu_pressure, some_total_ns)
PRESSURE(memory_stalled, memory_pressure, full_total_ns)
PRESSURE(memory_waiting, memory_pressure, some_total_ns)
PRESSURE(io_stalled, io_pressure, full_total_ns)
PRESSURE(io_waiting, io_pressure, some_total_ns)
OF_INTERFACE(rx_bytes, rx_bytes)
OF_INTERFACE(rx_packets, rx_packets)
OF_INTERFACE(rx_dropped, rx_dropped)
OF_INTERFACE(rx_errors, rx_errors)
OF_INTERFACE(tx_bytes, tx_bytes)
OF_INTERFACE(tx_packets, tx_packets)
OF_INTERFACE(tx_dropped, tx_dropped)
OF_INTERFACE(tx_errors, tx_errors)

static bool fs_usage(const struct subject *s, uint64_t *ret)
{
	*ret = s->usage->layer_bytes;
	return s->usage->layer_at_ns > 0;
}

/* ---- the table ----------------------------------------------------------------------------------------- */

#define CPU_ALL	      .labels = {"cpu"}, .values = {"total"}
#define DEVICE	      .labels = {"device"}, .values = {"all"}
#define FAILURE(what) .labels = {"failure_type", "scope"}, .values = {what, "container"}

static const struct metric container_metrics[] = {
	{"container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", COUNTER,
	 .value = cpu_usage, CPU_ALL},
	{"container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", COUNTER,
	 .value = cpu_user},
	{"container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", COUNTER,
	 .value = cpu_system},
	{"container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", COUNTER,
	 .value = cpu_periods},
	{"container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", COUNTER,
	 .value = cpu_throttled},
	{"container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.",
	 COUNTER, .value = cpu_throttled_seconds},
	{"container_memory_cache", "Number of bytes of page cache memory.", GAUGE, .value = memory_cache},
	{"container_memory_rss", "Size of RSS in bytes.", GAUGE, .value = memory_rss},
	{"container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", GAUGE,
	 .value = memory_kernel},
	{"container_memory_mapped_file", "Size of memory mapped files in bytes.", GAUGE,
	 .value = memory_mapped},
	{"container_memory_swap", "Container swap usage in bytes.", GAUGE, .value = memory_swap},
	{"container_memory_failcnt", "Number of memory usage hits limits.", COUNTER, .value = memory_failcnt},
	{"container_memory_usage_bytes",
	 "Current memory usage in bytes, including all memory regardless of when it was accessed.", GAUGE,
	 .value = memory_usage},
	{"container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes.", GAUGE,
	 .value = memory_peak},
	{"container_memory_working_set_bytes", "Current working set in bytes.", GAUGE,
	 .value = memory_working_set},
	{"container_memory_total_active_file_bytes", "Current total active file in bytes.", GAUGE,
	 .value = memory_active},
	{"container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", GAUGE,
	 .value = memory_inactive},
	{"container_memory_failures_total", "Cumulative count of memory allocation failures.", COUNTER,
	 .value = memory_faults, FAILURE("pgfault")},
	{"container_memory_failures_total", NULL, COUNTER, .value = memory_major_faults,
	 FAILURE("pgmajfault")},
	{"container_oom_events_total", "Count of out of memory events observed for the container.", COUNTER,
	 .value = oom_events},
	{"container_processes", "Number of processes running inside the container.", GAUGE,
	 .value = processes},
	{"container_threads", "Number of threads running inside the container.", GAUGE, .value = threads},
	{"container_fs_usage_bytes", "Number of bytes that are consumed by the container's writable layer.",
	 GAUGE, .value = fs_usage, DEVICE},
	{"container_fs_reads_total", "Cumulative count of reads completed.", COUNTER, .value = fs_reads,
	 DEVICE},
	{"container_fs_reads_bytes_total", "Cumulative count of bytes read.", COUNTER,
	 .value = fs_reads_bytes, DEVICE},
	{"container_fs_writes_total", "Cumulative count of writes completed.", COUNTER, .value = fs_writes,
	 DEVICE},
	{"container_fs_writes_bytes_total", "Cumulative count of bytes written.", COUNTER,
	 .value = fs_writes_bytes, DEVICE},
	{"container_last_seen", "Last time a container was seen by the exporter.", GAUGE, .value = last_seen},
	{"container_start_time_seconds", "Start time of the container since unix epoch in seconds.", GAUGE,
	 .value = start_time},
	{"container_spec_cpu_period", "CPU period of the container.", GAUGE, .value = spec_period},
	{"container_spec_cpu_quota", "CPU quota of the container.", GAUGE, .value = spec_quota},
	{"container_spec_cpu_shares", "CPU share of the container.", GAUGE, .value = spec_shares},
	{"container_spec_memory_limit_bytes", "Memory limit for the container.", GAUGE, .value = spec_memory},
	{"container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", GAUGE,
	 .value = spec_swap},
	{"container_pressure_cpu_stalled_seconds_total",
	 "Total time duration no tasks in the container could make progress due to CPU congestion.", COUNTER,
	 .value = cpu_stalled},
	{"container_pressure_cpu_waiting_seconds_total",
	 "Total time duration tasks in the container have waited due to CPU congestion.", COUNTER,
	 .value = cpu_waiting},
	{"container_pressure_memory_stalled_seconds_total",
	 "Total time duration no tasks in the container could make progress due to memory congestion.",
	 COUNTER, .value = memory_stalled},
	{"container_pressure_memory_waiting_seconds_total",
	 "Total time duration tasks in the container have waited due to memory congestion.", COUNTER,
	 .value = memory_waiting},
	{"container_pressure_io_stalled_seconds_total",
	 "Total time duration no tasks in the container could make progress due to IO congestion.", COUNTER,
	 .value = io_stalled},
	{"container_pressure_io_waiting_seconds_total",
	 "Total time duration tasks in the container have waited due to IO congestion.", COUNTER,
	 .value = io_waiting},
};

#define INTERFACE .labels = {"interface"}

/* Of a pod, for each of its interfaces. */
static const struct metric network_metrics[] = {
	{"container_network_receive_bytes_total", "Cumulative count of bytes received.", COUNTER,
	 .value = rx_bytes, INTERFACE},
	{"container_network_receive_packets_total", "Cumulative count of packets received.", COUNTER,
	 .value = rx_packets, INTERFACE},
	{"container_network_receive_packets_dropped_total",
	 "Cumulative count of packets dropped while receiving.", COUNTER, .value = rx_dropped, INTERFACE},
	{"container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.",
	 COUNTER, .value = rx_errors, INTERFACE},
	{"container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", COUNTER,
	 .value = tx_bytes, INTERFACE},
	{"container_network_transmit_packets_total", "Cumulative count of packets transmitted.", COUNTER,
	 .value = tx_packets, INTERFACE},
	{"container_network_transmit_packets_dropped_total",
	 "Cumulative count of packets dropped while transmitting.", COUNTER, .value = tx_dropped, INTERFACE},
	{"container_network_transmit_errors_total",
	 "Cumulative count of errors encountered while transmitting.", COUNTER, .value = tx_errors,
	 INTERFACE},
};

/* ---- descriptors --------------------------------------------------------------------------------------- */

static int add_descriptor(Runtime__V1__ListMetricDescriptorsResponse *resp, const struct metric *m)
{
	const char *labels[LABELS_MAX + ARRAY_SIZE(base_labels)];
	Runtime__V1__MetricDescriptor *d;
	size_t n = 0;

	if (!m->help)
		return 0; /* the same metric with other labels' values */
	d = pb_append(&resp->descriptors, &resp->n_descriptors, &runtime__v1__metric_descriptor__descriptor);
	if (!d || pb_set_str(&d->name, m->name) < 0 || pb_set_str(&d->help, m->help) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(base_labels); i++)
		labels[n++] = base_labels[i];
	for (size_t i = 0; i < ARRAY_SIZE(m->labels) && m->labels[i]; i++)
		labels[n++] = m->labels[i];
	return pb_set_strv(&d->label_keys, &d->n_label_keys, (char *const *)(uintptr_t)labels, n);
}

SERVICE_HANDLER(list_metric_descriptors)
{
	Runtime__V1__ListMetricDescriptorsResponse *resp = (void *)response;
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(container_metrics) && r == 0; i++)
		r = add_descriptor(resp, &container_metrics[i]);
	for (size_t i = 0; i < ARRAY_SIZE(network_metrics) && r == 0; i++)
		r = add_descriptor(resp, &network_metrics[i]);
	return r < 0 ? err_oom(err) : 0;
}

/* ---- metrics ------------------------------------------------------------------------------------------- */

static int set_labels(Runtime__V1__Metric *out, const struct metric *m, const struct subject *s)
{
	const Runtime__V1__PodSandboxMetadata *pod = s->pod->config->metadata;
	const struct container_view *c = s->container;
	const char *id = c ? c->id : s->pod->id;
	const char *image = !c ? "" : str_empty(c->image_name) ? c->config->image->image : c->image_name;
	const char *values[LABELS_MAX + ARRAY_SIZE(base_labels)] = {
		c ? c->config->metadata->name : "", id, image, id, pod->namespace_, pod->name};
	size_t n = ARRAY_SIZE(base_labels), own = n;

	for (size_t i = 0; i < ARRAY_SIZE(m->labels) && m->labels[i]; i++)
		values[n++] = m->values[i] ? m->values[i] : "";
	if (pb_set_strv(&out->label_values, &out->n_label_values, (char *const *)(uintptr_t)values, n) < 0)
		return -ENOMEM;
	/* A name that a guest has said. */
	return s->interface ? pb_set_text(&out->label_values[own], s->interface->name) : 0;
}

/* timestamp: of the sample, so that a figure that is old shows as old. */
static int add_metric(void *vector, size_t *n, const struct metric *m, const struct subject *s, int64_t at_ns)
{
	Runtime__V1__Metric *out;
	uint64_t value = 0;

	if (!m->value(s, &value))
		return 0;
	out = pb_append(vector, n, &runtime__v1__metric__descriptor);
	if (!out || pb_set_str(&out->name, m->name) < 0)
		return -ENOMEM;
	out->timestamp = at_ns;
	out->metric_type = m->type;
	out->value = pb_new(&runtime__v1__uint64_value__descriptor);
	if (!out->value)
		return -ENOMEM;
	out->value->value = value;
	return set_labels(out, m, s);
}

struct pod_metrics {
	const struct pod_view *pod;
	Runtime__V1__PodSandboxMetrics *out;
};

static int add_container(void *arg, const struct container_view *view, const struct container_usage *u,
			 struct err *err)
{
	static const Runtime__V1__LinuxContainerResources none = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	struct pod_metrics *p = arg;
	const struct subject s = {.pod = p->pod,
				  .container = view,
				  .usage = u,
				  .limits = view->resources ? view->resources : &none};
	Runtime__V1__ContainerMetrics *out =
		pb_append(&p->out->container_metrics, &p->out->n_container_metrics,
			  &runtime__v1__container_metrics__descriptor);
	int r = out ? pb_set_str(&out->container_id, view->id) : -ENOMEM;

	for (size_t i = 0; i < ARRAY_SIZE(container_metrics) && r == 0; i++)
		r = add_metric(&out->metrics, &out->n_metrics, &container_metrics[i], &s, u->at_ns);
	return r < 0 ? err_oom(err) : 0;
}

static int fill_pod(Runtime__V1__PodSandboxMetrics *out, const struct service *service,
		    const struct pod_view *pod, const struct pod_usage *u, struct err *err)
{
	struct pod_metrics p = {.pod = pod, .out = out};
	int r = pb_set_str(&out->pod_sandbox_id, pod->id);

	for (size_t k = 0; k < u->n_interfaces; k++) {
		const struct subject s = {.pod = pod, .interface = &u->interfaces[k]};

		for (size_t i = 0; i < ARRAY_SIZE(network_metrics) && r == 0; i++)
			r = add_metric(&out->metrics, &out->n_metrics, &network_metrics[i], &s,
				       u->guest_at_ns);
	}
	return r < 0 ? err_oom(err)
		     : stats_each_container(service->pods, NULL, pod->id, add_container, &p, err);
}

struct adding {
	const struct service *service;
	void *vector;
	size_t *n;
};

static int add_pod(void *arg, const struct pod_view *pod, const struct pod_usage *u, struct err *err)
{
	struct adding *a = arg;
	Runtime__V1__PodSandboxMetrics *out =
		pb_append(a->vector, a->n, &runtime__v1__pod_sandbox_metrics__descriptor);

	return out ? fill_pod(out, a->service, pod, u, err) : err_oom(err);
}

static int answer_pods(const struct service *service, const ProtobufCMessage *request,
		       ProtobufCMessage *response, struct err *err)
{
	Runtime__V1__ListPodSandboxMetricsResponse *resp = (void *)response;
	struct adding a = {.service = service, .vector = &resp->pod_metrics, .n = &resp->n_pod_metrics};

	(void)request;
	return stats_each_pod(service->pods, NULL, add_pod, &a, err);
}

static const struct service_stats_kind metrics_kind = {
	.response = &runtime__v1__list_pod_sandbox_metrics_response__descriptor,
	.answer = answer_pods,
};

SERVICE_ASYNC(list_pod_sandbox_metrics)
{
	service_stats_run(ctx, &metrics_kind, call, request, reply, NULL);
}

/* ---- in batches ---------------------------------------------------------------------------------------- */

static int note_pod(void *arg, const struct pod_view *pod, const struct pod_usage *u, struct err *err)
{
	(void)u;
	return service_list_note(arg, pod->id, err);
}

static int begin_pods(struct service_list *list, struct err *err)
{
	return stats_each_pod(list->service->pods, NULL, note_pod, list, err);
}

static int next_pod(struct service_list *list, const char *id, ProtobufCMessage *response, struct err *err)
{
	Runtime__V1__StreamPodSandboxMetricsResponse *resp = (void *)response;
	struct adding a = {.service = list->service,
			   .vector = &resp->pod_sandbox_metrics,
			   .n = &resp->n_pod_sandbox_metrics};
	int r = stats_look_pod(list->service->pods, id, add_pod, &a, err);

	return r == -EINVAL || r == -EAGAIN ? -ENOENT : r;
}

static const ProtobufCMessage *no_filter(const ProtobufCMessage *request)
{
	(void)request;
	return NULL;
}

static const struct service_list_kind metrics_list = {
	.response = &runtime__v1__stream_pod_sandbox_metrics_response__descriptor,
	.begin = begin_pods,
	.add = next_pod,
};
static const struct service_stats_kind stream_metrics_kind = {.list = &metrics_list, .filter = no_filter};

SERVICE_STREAM(stream_pod_sandbox_metrics)
{
	service_stats_run(ctx, &stream_metrics_kind, call, request, NULL, stream);
}

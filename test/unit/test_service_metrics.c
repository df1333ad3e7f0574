/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics, over pods whose sandboxes are fakes. */
#include "service_fixture.h"

static const struct rpc_method metrics_methods[] = {
	RPC("ListMetricDescriptors", list_metric_descriptors_request, list_metric_descriptors_response,
	    .unary = service_list_metric_descriptors),
	RPC("ListPodSandboxMetrics", list_pod_sandbox_metrics_request, list_pod_sandbox_metrics_response,
	    .async = service_list_pod_sandbox_metrics),
	RPC("StreamPodSandboxMetrics", stream_pod_sandbox_metrics_request,
	    stream_pod_sandbox_metrics_response, .stream = service_stream_pod_sandbox_metrics),
	{0},
};

static struct client client;
static char pod[65], id[65];

static int setup_metrics(void **state)
{
	service_setup(state, metrics_methods);
	run_pod("pod", pod);
	create(pod, "c", id);
	do_it(containers_start, id);
	client_open(&client, served.socket);
	return 0;
}

static int teardown_metrics(void **state)
{
	client_close(&client);
	return service_teardown(state);
}

static Runtime__V1__ListMetricDescriptorsResponse *descriptors(void)
{
	Runtime__V1__ListMetricDescriptorsRequest req = RUNTIME__V1__LIST_METRIC_DESCRIPTORS_REQUEST__INIT;

	return rpc_answer(&client, "ListMetricDescriptors", &req.base,
			  &runtime__v1__list_metric_descriptors_response__descriptor);
}

static Runtime__V1__ListPodSandboxMetricsResponse *metrics(void)
{
	Runtime__V1__ListPodSandboxMetricsRequest req = RUNTIME__V1__LIST_POD_SANDBOX_METRICS_REQUEST__INIT;

	return rpc_answer(&client, "ListPodSandboxMetrics", &req.base,
			  &runtime__v1__list_pod_sandbox_metrics_response__descriptor);
}

static size_t labels_of(const Runtime__V1__ListMetricDescriptorsResponse *d, const char *name)
{
	const Runtime__V1__MetricDescriptor *found = NULL;

	for (size_t i = 0; i < d->n_descriptors; i++) {
		if (!str_eq(d->descriptors[i]->name, name))
			continue;
		assert_null(found); /* once only */
		found = d->descriptors[i];
	}
	if (!found)
		fail_msg("%s has no descriptor", name);
	return found->n_label_keys;
}

static void check(const Runtime__V1__ListMetricDescriptorsResponse *d, Runtime__V1__Metric *const *list,
		  size_t n)
{
	assert_true(n > 0);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(list[i]->n_label_values, labels_of(d, list[i]->name));
		assert_true(list[i]->timestamp > 0);
		assert_non_null(list[i]->value);
	}
}

static const Runtime__V1__Metric *metric(Runtime__V1__Metric *const *list, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++) {
		if (str_eq(list[i]->name, name))
			return list[i];
	}
	fail_msg("%s is missing", name);
	return NULL;
}

/* A client makes each metric by its descriptor: a label too few, and it drops all of them. */
static void metrics_have_the_labels_of_their_descriptors(void **state)
{
	Runtime__V1__ListMetricDescriptorsResponse *d = descriptors();
	Runtime__V1__ListPodSandboxMetricsResponse *r = metrics();
	const Runtime__V1__PodSandboxMetrics *p;
	const Runtime__V1__ContainerMetrics *c;
	const Runtime__V1__Metric *m;

	(void)state;
	assert_non_null(d);
	assert_non_null(r);
	assert_int_equal(r->n_pod_metrics, 1);
	p = r->pod_metrics[0];
	assert_string_equal(p->pod_sandbox_id, pod);
	check(d, p->metrics, p->n_metrics);
	m = metric(p->metrics, p->n_metrics, "container_network_transmit_bytes_total");
	assert_int_equal(m->value->value, 2000);
	assert_string_equal(m->label_values[m->n_label_values - 1], "eth0");
	assert_int_equal(p->n_container_metrics, 1);
	c = p->container_metrics[0];
	assert_string_equal(c->container_id, id);
	check(d, c->metrics, c->n_metrics);
	m = metric(c->metrics, c->n_metrics, "container_cpu_usage_seconds_total");
	assert_int_equal(m->value->value, 1);
	assert_string_equal(m->label_values[0], "c");
	assert_string_equal(m->label_values[4], "default");
	assert_string_equal(m->label_values[5], "pod");
	m = metric(c->metrics, c->n_metrics, "container_memory_working_set_bytes");
	assert_int_equal(m->value->value, 1 << 20);
	metric(c->metrics, c->n_metrics, "container_fs_usage_bytes");
	pb_free(d);
	pb_free(r);
}

static void metrics_stream_is_the_list(void **state)
{
	Runtime__V1__StreamPodSandboxMetricsRequest req =
		RUNTIME__V1__STREAM_POD_SANDBOX_METRICS_REQUEST__INIT;
	Runtime__V1__StreamPodSandboxMetricsResponse *r;

	(void)state;
	rpc_listen(&client, "StreamPodSandboxMetrics", &req.base);
	r = rpc_next(&client, &runtime__v1__stream_pod_sandbox_metrics_response__descriptor);
	assert_non_null(r);
	assert_int_equal(r->n_pod_sandbox_metrics, 1);
	assert_string_equal(r->pod_sandbox_metrics[0]->pod_sandbox_id, pod);
	pb_free(r);
	assert_null(rpc_next(&client, &runtime__v1__stream_pod_sandbox_metrics_response__descriptor));
	assert_int_equal(client_end(&client), GRPC_STATUS_OK);
}

static void metrics_of_nothing_are_none(void **state)
{
	Runtime__V1__ListPodSandboxMetricsResponse *r;

	(void)state;
	do_it(pods_remove, pod);
	r = metrics();
	assert_non_null(r);
	assert_int_equal(r->n_pod_metrics, 0);
	pb_free(r);
}

int main(void)
{
#define U(name) cmocka_unit_test_setup_teardown(name, setup_metrics, teardown_metrics)
	const struct CMUnitTest tests[] = {
		U(metrics_have_the_labels_of_their_descriptors),
		U(metrics_stream_is_the_list),
		U(metrics_of_nothing_are_none),
	};
#undef U

	return cmocka_run_group_tests(tests, NULL, NULL);
}

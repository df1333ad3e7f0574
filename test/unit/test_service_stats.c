/* SPDX-License-Identifier: Apache-2.0 */
/* Figures, over pods whose sandboxes are fakes. */
#include "service_fixture.h"

#include <math.h>

static const struct rpc_method stats_methods[] = {
	RPC("ContainerStats", container_stats_request, container_stats_response,
	    .async = service_container_stats),
	RPC("ListContainerStats", list_container_stats_request, list_container_stats_response,
	    .async = service_list_container_stats),
	RPC("StreamContainerStats", stream_container_stats_request, stream_container_stats_response,
	    .stream = service_stream_container_stats),
	RPC("PodSandboxStats", pod_sandbox_stats_request, pod_sandbox_stats_response,
	    .async = service_pod_sandbox_stats),
	RPC("ListPodSandboxStats", list_pod_sandbox_stats_request, list_pod_sandbox_stats_response,
	    .async = service_list_pod_sandbox_stats),
	RPC("StreamPodSandboxStats", stream_pod_sandbox_stats_request, stream_pod_sandbox_stats_response,
	    .stream = service_stream_pod_sandbox_stats),
	{0},
};

static struct client client;
static char pod[65], id[65];

static int setup_stats(void **state)
{
	service_setup(state, stats_methods);
	run_pod("pod", pod);
	create(pod, "c", id);
	do_it(containers_start, id);
	client_open(&client, served.socket);
	return 0;
}

static int teardown_stats(void **state)
{
	client_close(&client);
	return service_teardown(state);
}

static Runtime__V1__ContainerStatsResponse *container_stats(const char *container)
{
	Runtime__V1__ContainerStatsRequest req = RUNTIME__V1__CONTAINER_STATS_REQUEST__INIT;

	req.container_id = (char *)(uintptr_t)container;
	return rpc_answer(&client, "ContainerStats", &req.base,
			  &runtime__v1__container_stats_response__descriptor);
}

static Runtime__V1__PodSandboxStatsResponse *pod_stats(const char *which)
{
	Runtime__V1__PodSandboxStatsRequest req = RUNTIME__V1__POD_SANDBOX_STATS_REQUEST__INIT;

	req.pod_sandbox_id = (char *)(uintptr_t)which;
	return rpc_answer(&client, "PodSandboxStats", &req.base,
			  &runtime__v1__pod_sandbox_stats_response__descriptor);
}

static Runtime__V1__ListContainerStatsResponse *list_stats(const char *of_pod)
{
	Runtime__V1__ListContainerStatsRequest req = RUNTIME__V1__LIST_CONTAINER_STATS_REQUEST__INIT;
	Runtime__V1__ContainerStatsFilter filter = RUNTIME__V1__CONTAINER_STATS_FILTER__INIT;

	if (of_pod) {
		filter.pod_sandbox_id = (char *)(uintptr_t)of_pod;
		req.filter = &filter;
	}
	return rpc_answer(&client, "ListContainerStats", &req.base,
			  &runtime__v1__list_container_stats_response__descriptor);
}

static void a_second_passes(void)
{
	usleep(1050000);
}

static void container_stats_are_the_guest_s(void **state)
{
	Runtime__V1__ContainerStatsResponse *r = container_stats(id);
	Runtime__V1__ContainerStats *s;

	(void)state;
	if (!r)
		fail_msg("%s", client.message);
	s = r->stats;
	assert_string_equal(s->attributes->id, id);
	assert_string_equal(s->attributes->metadata->name, "c");
	assert_true(s->cpu->timestamp > 0);
	assert_int_equal(s->cpu->usage_core_nano_seconds->value, NS_PER_SEC);
	assert_null(s->cpu->usage_nano_cores); /* one sample makes no rate */
	assert_int_equal(s->memory->working_set_bytes->value, 1 << 20);
	assert_int_equal(s->memory->available_bytes->value, 255 << 20); /* of the VM's memory */
	assert_null(s->memory->psi);
	assert_int_equal(s->writable_layer->used_bytes->value, 4096);
	assert_int_equal(s->writable_layer->inodes_used->value, 2);
	assert_non_null(strstr(s->writable_layer->fs_id->mountpoint, "/images"));
	pb_free(r);
	a_second_passes();
	r = container_stats(id);
	assert_non_null(r);
	/* A second of CPU in a little more than a second. */
	assert_in_range(r->stats->cpu->usage_nano_cores->value, 100000000, 1000000000);
	pb_free(r);
}

static void pod_stats_are_the_host_s(void **state)
{
	Runtime__V1__PodSandboxStatsResponse *r = pod_stats(pod);
	Runtime__V1__LinuxPodSandboxStats *s;

	(void)state;
	if (!r)
		fail_msg("%s", client.message);
	s = r->stats->linux;
	assert_string_equal(r->stats->attributes->id, pod);
	assert_int_equal(s->cpu->usage_core_nano_seconds->value, 5 * NS_PER_SEC);
	assert_int_equal(s->memory->working_set_bytes->value, 200 << 20);
	assert_int_equal(s->memory->rss_bytes->value, 100 << 20);
	assert_string_equal(s->network->default_interface->name, "eth0");
	assert_int_equal(s->network->default_interface->tx_bytes->value, 2000);
	assert_int_equal(s->process->process_count->value, 3);
	assert_int_equal(s->n_containers, 1);
	assert_string_equal(s->containers[0]->attributes->id, id);
	pb_free(r);
}

/* However many ask, and for whatever: one question a pod and second, one walk of its layers in ten. */
static void stats_ask_a_guest_once_a_second(void **state)
{
	Runtime__V1__ListPodSandboxStatsRequest pods = RUNTIME__V1__LIST_POD_SANDBOX_STATS_REQUEST__INIT;
	Runtime__V1__ListContainerStatsResponse *r;

	(void)state;
	for (int i = 0; i < 20; i++) {
		r = list_stats(NULL);
		assert_non_null(r);
		assert_int_equal(r->n_stats, 1);
		pb_free(r);
		pb_free(rpc_answer(&client, "ListPodSandboxStats", &pods.base,
				   &runtime__v1__list_pod_sandbox_stats_response__descriptor));
	}
	assert_in_range(fake.asked, 1, 4); /* on a machine that is slow, too */
	assert_int_equal(fake.measured, 1);
}

static void stats_of_a_silent_guest_are_unavailable_or_old(void **state)
{
	Runtime__V1__ContainerStatsResponse *r;
	Runtime__V1__ListContainerStatsResponse *list;
	int64_t at;

	(void)state;
	fake.mute = true;
	assert_null(container_stats(id));
	assert_int_equal(client.status, GRPC_STATUS_UNAVAILABLE);
	list = list_stats(NULL);
	assert_non_null(list);
	assert_int_equal(list->n_stats, 0);
	pb_free(list);
	fake.mute = false;
	a_second_passes();
	r = container_stats(id);
	assert_non_null(r);
	at = r->stats->cpu->timestamp;
	pb_free(r);
	fake.mute = true;
	a_second_passes();
	r = container_stats(id);
	assert_non_null(r);
	assert_int_equal(r->stats->cpu->timestamp, at);
	pb_free(r);
}

static void tell_nonsense(Crivisor__Agent__V1__StatsResponse *s)
{
	s->cpu_usage_ns = fake.asked == 1 ? UINT64_MAX : 0;
	s->memory_working_set = UINT64_MAX;
	s->memory_limit = 1;
	s->cpu_pressure = pb_new(&crivisor__agent__v1__pressure__descriptor);
	s->cpu_pressure->some_avg10 = NAN;
	s->cpu_pressure->full_avg60 = -1;
	s->cpu_pressure->some_avg300 = 99;
}

static void stats_of_a_lying_guest_are_numbers(void **state)
{
	Runtime__V1__ContainerStatsResponse *r;

	(void)state;
	fake.lie = tell_nonsense;
	pb_free(container_stats(id));
	a_second_passes();
	r = container_stats(id);
	assert_non_null(r);
	assert_null(r->stats->cpu->usage_nano_cores); /* its counter runs backwards */
	assert_int_equal(r->stats->memory->available_bytes->value, 0);
	assert_true(r->stats->cpu->psi->some->avg10 == 0 && r->stats->cpu->psi->full->avg60 == 0);
	assert_true(r->stats->cpu->psi->some->avg300 == 99);
	pb_free(r);
}

static void stats_of_what_is_missing_or_does_not_run_are_refused(void **state)
{
	char other[65];

	(void)state;
	assert_null(container_stats("0123456789abcdef"));
	assert_int_equal(client.status, GRPC_STATUS_NOT_FOUND);
	assert_null(pod_stats("0123456789abcdef"));
	assert_int_equal(client.status, GRPC_STATUS_NOT_FOUND);
	assert_null(container_stats(""));
	assert_int_equal(client.status, GRPC_STATUS_INVALID_ARGUMENT);
	assert_null(pod_stats(""));
	assert_int_equal(client.status, GRPC_STATUS_INVALID_ARGUMENT);
	create(pod, "created", other);
	assert_null(container_stats(other));
	assert_int_equal(client.status, GRPC_STATUS_FAILED_PRECONDITION);
	do_it(pods_stop, pod);
	assert_null(pod_stats(pod));
	assert_int_equal(client.status, GRPC_STATUS_FAILED_PRECONDITION);
}

static void stats_lists_follow_the_filter(void **state)
{
	Runtime__V1__ListContainerStatsResponse *r;
	char two[65], other[65];

	(void)state;
	run_pod("two", two);
	create(two, "c", other);
	do_it(containers_start, other);
	r = list_stats(NULL);
	assert_int_equal(r->n_stats, 2);
	pb_free(r);
	r = list_stats(two);
	assert_int_equal(r->n_stats, 1);
	assert_string_equal(r->stats[0]->attributes->id, other);
	pb_free(r);
	r = list_stats("0123");
	assert_int_equal(r->n_stats, 0);
	pb_free(r);
}

static void stats_streams_are_the_lists(void **state)
{
	Runtime__V1__StreamContainerStatsRequest req = RUNTIME__V1__STREAM_CONTAINER_STATS_REQUEST__INIT;
	Runtime__V1__StreamPodSandboxStatsRequest pods = RUNTIME__V1__STREAM_POD_SANDBOX_STATS_REQUEST__INIT;
	Runtime__V1__StreamContainerStatsResponse *r;
	Runtime__V1__StreamPodSandboxStatsResponse *p;

	(void)state;
	rpc_listen(&client, "StreamContainerStats", &req.base);
	r = rpc_next(&client, &runtime__v1__stream_container_stats_response__descriptor);
	assert_non_null(r);
	assert_int_equal(r->n_container_stats, 1);
	assert_string_equal(r->container_stats[0]->attributes->id, id);
	pb_free(r);
	assert_null(rpc_next(&client, &runtime__v1__stream_container_stats_response__descriptor));
	assert_int_equal(client_end(&client), GRPC_STATUS_OK);
	rpc_listen(&client, "StreamPodSandboxStats", &pods.base);
	p = rpc_next(&client, &runtime__v1__stream_pod_sandbox_stats_response__descriptor);
	assert_non_null(p);
	assert_int_equal(p->n_pod_sandbox_stats, 1);
	pb_free(p);
	assert_null(rpc_next(&client, &runtime__v1__stream_pod_sandbox_stats_response__descriptor));
	assert_int_equal(client_end(&client), GRPC_STATUS_OK);
}

int main(void)
{
#define U(name) cmocka_unit_test_setup_teardown(name, setup_stats, teardown_stats)
	const struct CMUnitTest tests[] = {
		U(container_stats_are_the_guest_s),
		U(pod_stats_are_the_host_s),
		U(stats_ask_a_guest_once_a_second),
		U(stats_of_a_silent_guest_are_unavailable_or_old),
		U(stats_of_a_lying_guest_are_numbers),
		U(stats_of_what_is_missing_or_does_not_run_are_refused),
		U(stats_lists_follow_the_filter),
		U(stats_streams_are_the_lists),
	};
#undef U

	return cmocka_run_group_tests(tests, NULL, NULL);
}

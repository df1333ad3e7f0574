/* SPDX-License-Identifier: Apache-2.0 */
/* UpdateContainerResources and UpdatePodSandboxResources, over pods whose sandboxes are fakes. */
#include "service_fixture.h"

static const struct rpc_method update_methods[] = {
	RPC("UpdateContainerResources", update_container_resources_request,
	    update_container_resources_response, .async = service_update_container_resources),
	RPC("UpdatePodSandboxResources", update_pod_sandbox_resources_request,
	    update_pod_sandbox_resources_response, .async = service_update_pod_sandbox_resources),
	RPC("ContainerStatus", container_status_request, container_status_response,
	    .unary = service_container_status),
	{0},
};

static struct client client;
static char pod[65], id[65];

static int setup_update(void **state)
{
	service_setup(state, update_methods);
	run_pod("pod", pod);
	create(pod, "c", id);
	client_open(&client, served.socket);
	return 0;
}

static int teardown_update(void **state)
{
	client_close(&client);
	return service_teardown(state);
}

static Runtime__V1__LinuxContainerResources limits(int64_t memory, int64_t quota)
{
	Runtime__V1__LinuxContainerResources r = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;

	r.memory_limit_in_bytes = memory;
	r.cpu_quota = quota;
	r.cpu_period = quota ? 100000 : 0;
	return r;
}

static grpc_status_code update(const char *which, Runtime__V1__LinuxContainerResources *resources)
{
	Runtime__V1__UpdateContainerResourcesRequest req =
		RUNTIME__V1__UPDATE_CONTAINER_RESOURCES_REQUEST__INIT;

	req.container_id = (char *)(uintptr_t)which;
	req.linux = resources;
	pb_free(rpc_answer(&client, "UpdateContainerResources", &req.base,
			   &runtime__v1__update_container_resources_response__descriptor));
	return client.status;
}

/* The guest's last update holds these words. */
static void assert_updated(const char *words)
{
	bool found;

	pthread_mutex_lock(&fake.lock);
	found = strstr(fake.updated, words);
	pthread_mutex_unlock(&fake.lock);
	if (!found)
		fail_msg("no %s in %s", words, fake.updated);
}

static struct vmm_resources pod_limits(void)
{
	struct vmm_resources r;

	pthread_mutex_lock(&fake.lock);
	r = fake.limits;
	pthread_mutex_unlock(&fake.lock);
	return r;
}

/* What ContainerStatus says. */
static void assert_limits(int64_t memory, int64_t quota)
{
	Runtime__V1__ContainerStatusRequest req = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
	const Runtime__V1__LinuxContainerResources none = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	const Runtime__V1__LinuxContainerResources *r = &none;
	Runtime__V1__ContainerStatusResponse *resp;

	req.container_id = id;
	resp = rpc_answer(&client, "ContainerStatus", &req.base,
			  &runtime__v1__container_status_response__descriptor);
	assert_non_null(resp);
	if (resp->status->resources)
		r = resp->status->resources->linux;
	assert_int_equal(r->memory_limit_in_bytes, memory);
	assert_int_equal(r->cpu_quota, quota);
	pb_free(resp);
}

static void update_changes_what_it_names_and_survives_a_restart(void **state)
{
	Runtime__V1__LinuxContainerResources r = limits(64 << 20, 0);

	(void)state;
	assert_int_equal(update(id, &r), GRPC_STATUS_OK);
	assert_updated("67108864");
	do_it(containers_start, id);
	r = limits(0, 50000);
	assert_int_equal(update(id, &r), GRPC_STATUS_OK);
	assert_updated("50000");
	assert_updated("67108864"); /* with what was there */
	assert_limits(64 << 20, 50000);

	client_close(&client);
	service_stop();
	service_begin();
	client_open(&client, served.socket);
	assert_limits(64 << 20, 50000);
}

/* What nothing changes is not shown as changed. */
static void update_leaves_the_oom_score(void **state)
{
	Runtime__V1__ContainerStatusRequest req = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
	Runtime__V1__LinuxContainerResources r = limits(64 << 20, 0);
	Runtime__V1__ContainerStatusResponse *resp;

	(void)state;
	r.oom_score_adj = 321;
	assert_int_equal(update(id, &r), GRPC_STATUS_OK);
	req.container_id = id;
	resp = rpc_answer(&client, "ContainerStatus", &req.base,
			  &runtime__v1__container_status_response__descriptor);
	assert_non_null(resp);
	assert_int_equal(resp->status->resources->linux->memory_limit_in_bytes, 64 << 20);
	assert_int_equal(resp->status->resources->linux->oom_score_adj, 0);
	pb_free(resp);
}

static void update_that_the_guest_refuses_changes_nothing(void **state)
{
	Runtime__V1__LinuxContainerResources r = limits(64 << 20, 0), more = limits(128 << 20, 50000);

	(void)state;
	assert_int_equal(update(id, &r), GRPC_STATUS_OK);
	fail_step(STEP_UPDATE, EIO);
	assert_true(update(id, &more) != GRPC_STATUS_OK);
	fail_step(STEP_UPDATE, 0);
	assert_limits(64 << 20, 0);
	assert_int_equal(fake.updates, 3); /* the way back is tried */
	assert_updated("67108864");
	assert_updated("-1"); /* there was no quota */
}

static void update_of_cpus_that_cannot_be_placed_changes_nothing(void **state)
{
	Runtime__V1__LinuxContainerResources r = limits(64 << 20, 0);

	(void)state;
	r.cpuset_cpus = (char *)(uintptr_t) "0";
	fail_step(STEP_PIN, EIO);
	assert_true(update(id, &r) != GRPC_STATUS_OK);
	fail_step(STEP_PIN, 0);
	assert_limits(0, 0);
	assert_int_equal(fake.updates, 0);
	assert_int_equal(update(id, &r), GRPC_STATUS_OK);
	assert_updated("\"cpus\"");
	assert_limits(64 << 20, 0);
}

static void update_is_refused_in_words(void **state)
{
	Runtime__V1__LinuxContainerResources r = limits(64 << 20, 0);

	(void)state;
	assert_int_equal(update("0123456789abcdef", &r), GRPC_STATUS_NOT_FOUND);
	assert_int_equal(update(id, NULL), GRPC_STATUS_INVALID_ARGUMENT);
	r.memory_limit_in_bytes = -5;
	assert_int_equal(update(id, &r), GRPC_STATUS_INVALID_ARGUMENT);
	assert_non_null(strstr(client.message, "memory_limit_in_bytes"));
	r.memory_limit_in_bytes = 512 << 20;
	assert_int_equal(update(id, &r), GRPC_STATUS_FAILED_PRECONDITION);
	assert_non_null(strstr(client.message, "268435456"));
	assert_non_null(strstr(client.message, "536870912"));
	r = limits(0, 0);
	r.cpuset_cpus = (char *)(uintptr_t) "no CPUs";
	assert_int_equal(update(id, &r), GRPC_STATUS_INVALID_ARGUMENT);
	assert_int_equal(fake.updates, 0);
	assert_limits(0, 0);
	do_it(containers_start, id);
	guest_exit(id, "", 0);
	settle();
	r = limits(64 << 20, 0);
	assert_int_equal(update(id, &r), GRPC_STATUS_FAILED_PRECONDITION);
}

/* A retry of the creation is one of the same configuration still. */
static void update_leaves_the_creation_s_configuration(void **state)
{
	Runtime__V1__LinuxContainerResources r = limits(64 << 20, 0);
	char again[65];

	(void)state;
	assert_int_equal(update(id, &r), GRPC_STATUS_OK);
	create(pod, "c", again);
	assert_string_equal(again, id);
}

static grpc_status_code update_pod(const char *which, Runtime__V1__LinuxContainerResources *resources)
{
	Runtime__V1__UpdatePodSandboxResourcesRequest req =
		RUNTIME__V1__UPDATE_POD_SANDBOX_RESOURCES_REQUEST__INIT;

	req.pod_sandbox_id = (char *)(uintptr_t)which;
	req.resources = resources;
	pb_free(rpc_answer(&client, "UpdatePodSandboxResources", &req.base,
			   &runtime__v1__update_pod_sandbox_resources_response__descriptor));
	return client.status;
}

static void update_of_a_pod_reaches_its_cgroup(void **state)
{
	Runtime__V1__LinuxContainerResources r = limits(0, 70000);

	(void)state;
	assert_int_equal(update_pod(pod, &r), GRPC_STATUS_OK);
	assert_int_equal(pod_limits().cpu_quota_us, 70000);
	r = limits(0, 0);
	r.cpu_shares = 512;
	assert_int_equal(update_pod(pod, &r), GRPC_STATUS_OK);
	assert_int_equal(pod_limits().cpu_shares, 512);
	assert_int_equal(pod_limits().cpu_quota_us, 70000); /* the last update's */
	assert_int_equal(update_pod(pod, NULL), GRPC_STATUS_OK);
	assert_int_equal(update_pod("0123456789abcdef", &r), GRPC_STATUS_NOT_FOUND);
	r.cpu_shares = -1;
	assert_int_equal(update_pod(pod, &r), GRPC_STATUS_INVALID_ARGUMENT);
	r.cpu_shares = 1;
	do_it(pods_stop, pod);
	assert_int_equal(update_pod(pod, &r), GRPC_STATUS_FAILED_PRECONDITION);
}

int main(void)
{
#define U(name) cmocka_unit_test_setup_teardown(name, setup_update, teardown_update)
	const struct CMUnitTest tests[] = {
		U(update_changes_what_it_names_and_survives_a_restart),
		U(update_leaves_the_oom_score),
		U(update_that_the_guest_refuses_changes_nothing),
		U(update_of_cpus_that_cannot_be_placed_changes_nothing),
		U(update_is_refused_in_words),
		U(update_leaves_the_creation_s_configuration),
		U(update_of_a_pod_reaches_its_cgroup),
	};
#undef U

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The size of a pod's VM follows the limits of its containers, over pods whose sandboxes are fakes. */
#include "service_fixture.h"

#define MIB	 (UINT64_C(1) << 20)
#define BOOT	 (256 * MIB) /* of a pod without limits, as the fixture configures it */
#define FOR_512M (640 * MIB) /* 96 beside them, in steps of 128 above the boot's */

static const struct rpc_method size_methods[] = {
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

static int setup_size(void **state)
{
	service_setup(state, size_methods);
	fake.memory_room = 1024 * MIB;
	fake.vcpus_room = 3;
	run_pod("pod", pod);
	create(pod, "c", id);
	client_open(&client, served.socket);
	return 0;
}

static int teardown_size(void **state)
{
	client_close(&client);
	return service_teardown(state);
}

/* ---- words --------------------------------------------------------------------------------------------- */

static Runtime__V1__LinuxContainerResources limits(uint64_t memory, int64_t quota)
{
	Runtime__V1__LinuxContainerResources r = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;

	r.memory_limit_in_bytes = (int64_t)memory;
	r.cpu_quota = quota;
	r.cpu_period = quota ? 100000 : 0;
	return r;
}

static grpc_status_code update_with(const char *which, Runtime__V1__LinuxContainerResources *resources)
{
	Runtime__V1__UpdateContainerResourcesRequest req =
		RUNTIME__V1__UPDATE_CONTAINER_RESOURCES_REQUEST__INIT;

	req.container_id = (char *)(uintptr_t)which;
	req.linux = resources;
	pb_free(rpc_answer(&client, "UpdateContainerResources", &req.base,
			   &runtime__v1__update_container_resources_response__descriptor));
	settle();
	return client.status;
}

static grpc_status_code update(const char *which, uint64_t memory, int64_t quota)
{
	Runtime__V1__LinuxContainerResources r = limits(memory, quota);

	return update_with(which, &r);
}

static grpc_status_code update_pod(uint64_t memory, int64_t quota)
{
	Runtime__V1__LinuxContainerResources r = limits(memory, quota);
	Runtime__V1__UpdatePodSandboxResourcesRequest req =
		RUNTIME__V1__UPDATE_POD_SANDBOX_RESOURCES_REQUEST__INIT;

	req.pod_sandbox_id = pod;
	req.resources = &r;
	pb_free(rpc_answer(&client, "UpdatePodSandboxResources", &req.base,
			   &runtime__v1__update_pod_sandbox_resources_response__descriptor));
	settle();
	return client.status;
}

static void create_limited(const char *name, uint64_t memory, char ret_id[65])
{
	Runtime__V1__ContainerConfig *config = container_config(name);
	struct answer a;

	config->linux = pb_new(&runtime__v1__linux_container_config__descriptor);
	config->linux->resources = pb_new(&runtime__v1__linux_container_resources__descriptor);
	config->linux->resources->memory_limit_in_bytes = (int64_t)memory;
	answer_init(&a);
	containers_create(fake.pods, pod, config, a.call, on_answer, &a);
	pb_free(config);
	expect(&a, ret_id);
}

static void assert_size(uint64_t memory, uint32_t vcpus)
{
	struct vm_size size;

	sandbox_size(NULL, &size, NULL);
	assert_int_equal(size.memory_bytes / MIB, memory / MIB);
	assert_int_equal(size.vcpus, vcpus);
}

static void assert_words(const char *words)
{
	if (!strstr(client.message, words))
		fail_msg("no %s in %s", words, client.message);
}

static void assert_updated(const char *words)
{
	if (!strstr(fake.updated, words))
		fail_msg("no %s in %s", words, fake.updated);
}

/* What ContainerStatus says. */
static void assert_limit(uint64_t memory)
{
	Runtime__V1__ContainerStatusRequest req = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
	const Runtime__V1__ContainerResources *r;
	Runtime__V1__ContainerStatusResponse *resp;

	req.container_id = id;
	resp = rpc_answer(&client, "ContainerStatus", &req.base,
			  &runtime__v1__container_status_response__descriptor);
	assert_non_null(resp);
	r = resp->status->resources;
	assert_int_equal(r && r->linux ? r->linux->memory_limit_in_bytes : 0, memory);
	pb_free(resp);
}

/* ---- both ways ----------------------------------------------------------------------------------------- */

static void vm_grows_before_a_container_and_shrinks_after_it(void **state)
{
	(void)state;
	assert_int_equal(update(id, 128 * MIB, 0), GRPC_STATUS_OK);
	assert_size(BOOT, 1); /* there is room */
	assert_int_equal(fake.resizes, 0);
	assert_int_equal(update(id, 512 * MIB, 0), GRPC_STATUS_OK);
	assert_size(FOR_512M, 1);
	assert_int_equal(fake.memory_at_update, FOR_512M);
	assert_int_equal(update(id, 64 * MIB, 0), GRPC_STATUS_OK);
	assert_int_equal(fake.memory_at_update, FOR_512M);
	assert_size(BOOT, 1); /* and never below */
}

static void vm_gets_vcpus_for_a_cpu_limit(void **state)
{
	(void)state;
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		skip();
	assert_int_equal(update(id, 0, 100000), GRPC_STATUS_OK);
	assert_size(BOOT, 1);
	assert_int_equal(update(id, 0, 150000), GRPC_STATUS_OK);
	assert_size(BOOT, 2);
	assert_int_equal(fake.vcpus_at_update, 2);
	assert_int_equal(update(id, 0, 50000), GRPC_STATUS_OK);
	assert_int_equal(fake.vcpus_at_update, 2);
	assert_size(BOOT, 1);
}

/* A guest's CPUs are numbers in containers' sets. */
static void vm_keeps_vcpus_that_sets_may_name(void **state)
{
	Runtime__V1__LinuxContainerResources r = limits(0, 150000);

	(void)state;
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		skip();
	r.cpuset_cpus = (char *)(uintptr_t) "0";
	assert_int_equal(update_with(id, &r), GRPC_STATUS_OK);
	assert_size(BOOT, 2);
	assert_int_equal(update(id, 0, 50000), GRPC_STATUS_OK);
	assert_size(BOOT, 2);
}

static void vm_has_the_sum_of_the_limits(void **state)
{
	char other[65], third[65];

	(void)state;
	create_limited("other", 256 * MIB, other);
	settle();
	assert_size(384 * MIB, 1);
	assert_int_equal(update(id, 256 * MIB, 0), GRPC_STATUS_OK);
	assert_size(FOR_512M, 1);
	do_it(containers_remove, other);
	settle();
	assert_size(384 * MIB, 1);
	/* A limit is no promise: what does not fit is created all the same. */
	create_limited("third", 8192 * MIB, third);
	assert_size(384 * MIB, 1);
	assert_int_equal(update(id, 512 * MIB, 0), GRPC_STATUS_FAILED_PRECONDITION);
}

static void pod_s_own_limit_counts(void **state)
{
	(void)state;
	assert_int_equal(update_pod(512 * MIB, 70000), GRPC_STATUS_OK);
	assert_size(FOR_512M, 1);
	assert_int_equal(fake.limits.cpu_quota_us, 70000);
	/* Containers change the size, and not the pod's other limits. */
	assert_int_equal(update(id, 640 * MIB, 0), GRPC_STATUS_OK);
	assert_size(768 * MIB, 1);
	assert_int_equal(fake.limits.cpu_quota_us, 70000);
	assert_int_equal(update(id, 64 * MIB, 0), GRPC_STATUS_OK);
	assert_size(FOR_512M, 1);
	assert_int_equal(update_pod(64 * MIB, 0), GRPC_STATUS_OK);
	assert_size(BOOT, 1);
	assert_int_equal(fake.limits.cpu_quota_us, 70000);
}

/* ---- what cannot be had -------------------------------------------------------------------------------- */

static void what_the_vm_cannot_have_is_refused_in_numbers(void **state)
{
	(void)state;
	assert_int_equal(update(id, 2048 * MIB, 0), GRPC_STATUS_FAILED_PRECONDITION);
	assert_words("2147483648"); /* asked for */
	assert_words("268435456");  /* there is */
	assert_words("1342177280"); /* at most */
	if (sysconf(_SC_NPROCESSORS_ONLN) > 1) {
		fake.size.vcpus_max = 1;
		assert_int_equal(update(id, 0, 200000), GRPC_STATUS_FAILED_PRECONDITION);
		assert_words("has 1 and can have 1");
	}
	assert_int_equal(update_pod(4096 * MIB, 50000), GRPC_STATUS_FAILED_PRECONDITION);
	assert_int_equal(fake.limits.cpu_quota_us, 0);
	atomic_store(&fake.host_full, true);
	assert_true(update(id, 512 * MIB, 0) != GRPC_STATUS_OK);
	assert_words("the host's memory is taken");
	assert_int_equal(fake.resizes, 0);
	assert_int_equal(fake.updates, 0);
	assert_limit(0);
	/* What fits goes on to be possible. */
	assert_int_equal(update(id, 128 * MIB, 0), GRPC_STATUS_OK);
	assert_limit(128 * MIB);
}

static void vm_that_does_not_grow_leaves_all_as_it_was(void **state)
{
	(void)state;
	assert_int_equal(update(id, 64 * MIB, 0), GRPC_STATUS_OK);
	fail_step(STEP_RESIZE, EIO);
	assert_true(update(id, 512 * MIB, 0) != GRPC_STATUS_OK);
	assert_true(update_pod(512 * MIB, 70000) != GRPC_STATUS_OK);
	fail_step(STEP_RESIZE, 0);
	assert_int_equal(fake.updates, 1);
	assert_limit(64 * MIB);
	assert_size(BOOT, 1);
	assert_int_equal(update_pod(0, 80000), GRPC_STATUS_OK);
	assert_int_equal(fake.limits.cpu_quota_us, 80000);
	assert_size(BOOT, 1); /* the refused limit of the pod does not count */
}

static void vm_that_grew_and_failed_is_set_right(void **state)
{
	(void)state;
	fake.half_grown = true;
	fail_step(STEP_RESIZE, EIO);
	assert_true(update(id, 512 * MIB, 0) != GRPC_STATUS_OK);
	assert_limit(0);
	assert_size(FOR_512M, 1);
	/* A later server knows that it does not know. */
	client_close(&client);
	service_stop();
	fail_step(STEP_RESIZE, 0);
	service_begin();
	settle();
	client_open(&client, served.socket);
	assert_size(BOOT, 1);
	assert_limit(0);
}

static void guest_that_refuses_lets_the_vm_shrink_again(void **state)
{
	(void)state;
	assert_int_equal(update(id, 64 * MIB, 0), GRPC_STATUS_OK);
	fail_step(STEP_UPDATE, EBUSY);
	assert_true(update(id, 512 * MIB, 0) != GRPC_STATUS_OK);
	fail_step(STEP_UPDATE, 0);
	assert_int_equal(fake.memory_at_update, FOR_512M);
	assert_limit(64 * MIB);
	assert_size(BOOT, 1);
	assert_updated("67108864");
}

static void size_that_cannot_be_noted_is_taken_back(void **state)
{
	(void)state;
	fail_step(STEP_SAVE, EIO);
	assert_true(update(id, 512 * MIB, 0) != GRPC_STATUS_OK);
	assert_true(update_pod(512 * MIB, 0) != GRPC_STATUS_OK);
	fail_step(STEP_SAVE, 0);
	assert_int_equal(fake.updates, 0);
	assert_limit(0);
	assert_int_equal(update(id, 64 * MIB, 0), GRPC_STATUS_OK);
	assert_size(BOOT, 1);
}

static void vm_that_does_not_shrink_fails_no_update(void **state)
{
	(void)state;
	assert_int_equal(update(id, 512 * MIB, 0), GRPC_STATUS_OK);
	fail_step(STEP_RESIZE, ETIMEDOUT);
	assert_int_equal(update(id, 64 * MIB, 0), GRPC_STATUS_OK);
	assert_limit(64 * MIB);
	assert_size(FOR_512M, 1);
	fail_step(STEP_RESIZE, 0);
	assert_int_equal(update(id, 32 * MIB, 0), GRPC_STATUS_OK);
	assert_size(BOOT, 1);
}

/* ---- the other limits ---------------------------------------------------------------------------------- */

static void hugepages_and_unified_reach_the_guest_and_add_up(void **state)
{
	Runtime__V1__HugepageLimit huge = RUNTIME__V1__HUGEPAGE_LIMIT__INIT;
	Runtime__V1__HugepageLimit *pages[] = {&huge};
	Runtime__V1__LinuxContainerResources__UnifiedEntry entry =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__UNIFIED_ENTRY__INIT;
	Runtime__V1__LinuxContainerResources__UnifiedEntry *entries[] = {&entry};
	Runtime__V1__LinuxContainerResources r = limits(0, 0);

	(void)state;
	huge.page_size = (char *)(uintptr_t) "2MB";
	huge.limit = 4 * MIB;
	r.hugepage_limits = pages;
	r.n_hugepage_limits = 1;
	assert_int_equal(update_with(id, &r), GRPC_STATUS_OK);
	assert_updated("\"pageSize\":\"2MB\",\"limit\":4194304");
	entry.key = (char *)(uintptr_t) "memory.high";
	entry.value = (char *)(uintptr_t) "50331648";
	r = limits(0, 0);
	r.unified = entries;
	r.n_unified = 1;
	assert_int_equal(update_with(id, &r), GRPC_STATUS_OK);
	assert_updated("\"memory.high\":\"50331648\"");
	assert_updated("\"pageSize\":\"2MB\""); /* with what was there */
	entry.value = (char *)(uintptr_t) "max";
	fail_step(STEP_UPDATE, EINVAL);
	assert_true(update_with(id, &r) != GRPC_STATUS_OK);
	fail_step(STEP_UPDATE, 0);
	assert_updated("\"memory.high\":\"50331648\""); /* the way back */
	huge.page_size = (char *)(uintptr_t) "../2MB";
	r = limits(0, 0);
	r.hugepage_limits = pages;
	r.n_hugepage_limits = 1;
	assert_int_equal(update_with(id, &r), GRPC_STATUS_INVALID_ARGUMENT);
	entry.key = (char *)(uintptr_t) "../cgroup.kill";
	r = limits(0, 0);
	r.unified = entries;
	r.n_unified = 1;
	assert_int_equal(update_with(id, &r), GRPC_STATUS_INVALID_ARGUMENT);
}

int main(void)
{
#define S(name) cmocka_unit_test_setup_teardown(name, setup_size, teardown_size)
	const struct CMUnitTest tests[] = {
		S(vm_grows_before_a_container_and_shrinks_after_it),
		S(vm_gets_vcpus_for_a_cpu_limit),
		S(vm_keeps_vcpus_that_sets_may_name),
		S(vm_has_the_sum_of_the_limits),
		S(pod_s_own_limit_counts),
		S(what_the_vm_cannot_have_is_refused_in_numbers),
		S(vm_that_does_not_grow_leaves_all_as_it_was),
		S(vm_that_grew_and_failed_is_set_right),
		S(guest_that_refuses_lets_the_vm_shrink_again),
		S(size_that_cannot_be_noted_is_taken_back),
		S(vm_that_does_not_shrink_fails_no_update),
		S(hugepages_and_unified_reach_the_guest_and_add_up),
	};
#undef S

	return cmocka_run_group_tests(tests, NULL, NULL);
}

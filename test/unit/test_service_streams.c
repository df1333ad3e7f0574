/* SPDX-License-Identifier: Apache-2.0 */
/* Lists in batches, over pods whose sandboxes are fakes. */
#include "service_fixture.h"

static const struct rpc_method stream_methods[] = {
	RPC("StreamPodSandboxes", stream_pod_sandboxes_request, stream_pod_sandboxes_response,
	    .stream = service_stream_pod_sandboxes),
	RPC("StreamContainers", stream_containers_request, stream_containers_response,
	    .stream = service_stream_containers),
	RPC("StreamImages", stream_images_request, stream_images_response, .stream = service_stream_images),
	{0},
};

static int setup_streams(void **state)
{
	return service_setup(state, stream_methods);
}

static Runtime__V1__StreamImagesResponse *next_images(struct client *c)
{
	return rpc_next(c, &runtime__v1__stream_images_response__descriptor);
}

static void stream_of_thousands_comes_in_batches(void **state)
{
	static const size_t wanted[] = {1000, 1000, 500};
	Runtime__V1__StreamImagesRequest req = RUNTIME__V1__STREAM_IMAGES_REQUEST__INIT;
	Runtime__V1__StreamImagesResponse *resp;
	struct client c;

	(void)state;
	fake.images = 2500;
	client_open(&c, served.socket);
	rpc_listen(&c, "StreamImages", &req.base);
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		resp = next_images(&c);
		assert_non_null(resp);
		assert_int_equal(resp->n_images, wanted[i]);
		pb_free(resp);
	}
	assert_null(next_images(&c));
	assert_int_equal(client_end(&c), GRPC_STATUS_OK);
	client_close(&c);
}

static bool two_batches(void *arg)
{
	(void)arg;
	return hits(STEP_IMAGE) >= 2000;
}

/* The next batch is made when the last one has gone: nothing piles up, and nothing is left of it. */
static void stream_of_a_client_that_does_not_read_waits_and_ends_with_it(void **state)
{
	Runtime__V1__StreamImagesRequest req = RUNTIME__V1__STREAM_IMAGES_REQUEST__INIT;
	struct client c;
	unsigned int made;

	(void)state;
	fake.images = 100000;
	client_open_narrow(&c, served.socket);
	rpc_listen(&c, "StreamImages", &req.base);
	eventually(two_batches, NULL, "no batches are made");
	usleep(100000);
	settle();
	made = hits(STEP_IMAGE);
	usleep(100000);
	assert_int_equal(hits(STEP_IMAGE), made);
	assert_true(made < 50000);
	grpc_call_cancel(c.call, NULL);
	assert_int_equal(client_end(&c), GRPC_STATUS_CANCELLED);
	client_close(&c);
}

static void stream_of_pods_and_containers_follows_the_filter(void **state)
{
	Runtime__V1__StreamPodSandboxesRequest pods = RUNTIME__V1__STREAM_POD_SANDBOXES_REQUEST__INIT;
	Runtime__V1__StreamContainersRequest all = RUNTIME__V1__STREAM_CONTAINERS_REQUEST__INIT;
	Runtime__V1__ContainerFilter filter = RUNTIME__V1__CONTAINER_FILTER__INIT;
	Runtime__V1__StreamPodSandboxesResponse *p;
	Runtime__V1__StreamContainersResponse *r;
	struct client c;
	char one[65], two[65], id[65], other[65];

	(void)state;
	run_pod("one", one);
	run_pod("two", two);
	create(one, "c", id);
	create(two, "c", other);
	client_open(&c, served.socket);
	rpc_listen(&c, "StreamPodSandboxes", &pods.base);
	p = rpc_next(&c, &runtime__v1__stream_pod_sandboxes_response__descriptor);
	assert_non_null(p);
	assert_int_equal(p->n_pod_sandboxes, 2);
	assert_string_equal(p->pod_sandboxes[0]->id, two); /* newest first, as in the list */
	pb_free(p);
	assert_null(rpc_next(&c, &runtime__v1__stream_pod_sandboxes_response__descriptor));
	assert_int_equal(client_end(&c), GRPC_STATUS_OK);

	filter.pod_sandbox_id = one;
	all.filter = &filter;
	rpc_listen(&c, "StreamContainers", &all.base);
	r = rpc_next(&c, &runtime__v1__stream_containers_response__descriptor);
	assert_non_null(r);
	assert_int_equal(r->n_containers, 1);
	assert_string_equal(r->containers[0]->id, id);
	pb_free(r);
	assert_null(rpc_next(&c, &runtime__v1__stream_containers_response__descriptor));
	assert_int_equal(client_end(&c), GRPC_STATUS_OK);
	client_close(&c);
}

static void stream_of_nothing_is_an_end_without_message(void **state)
{
	Runtime__V1__StreamContainersRequest req = RUNTIME__V1__STREAM_CONTAINERS_REQUEST__INIT;
	struct client c;

	(void)state;
	client_open(&c, served.socket);
	rpc_listen(&c, "StreamContainers", &req.base);
	assert_null(rpc_next(&c, &runtime__v1__stream_containers_response__descriptor));
	assert_int_equal(client_end(&c), GRPC_STATUS_OK);
	client_close(&c);
}

int main(void)
{
#define U(name) cmocka_unit_test_setup_teardown(name, setup_streams, service_teardown)
	const struct CMUnitTest tests[] = {
		U(stream_of_thousands_comes_in_batches),
		U(stream_of_a_client_that_does_not_read_waits_and_ends_with_it),
		U(stream_of_pods_and_containers_follows_the_filter),
		U(stream_of_nothing_is_an_end_without_message),
	};
#undef U

	return cmocka_run_group_tests(tests, NULL, NULL);
}

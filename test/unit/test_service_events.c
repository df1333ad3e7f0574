/* SPDX-License-Identifier: Apache-2.0 */
/* GetContainerEvents, over pods whose sandboxes are fakes. */
#include "service_fixture.h"

typedef Runtime__V1__ContainerEventResponse Event;

#define LISTENERS 40

static const struct rpc_method event_methods[] = {
	RPC("GetContainerEvents", get_events_request, container_event_response,
	    .stream = service_get_container_events),
	{0},
};

static int setup_events(void **state)
{
	return service_setup(state, event_methods);
}

static void listen_to(struct client *c)
{
	Runtime__V1__GetEventsRequest req = RUNTIME__V1__GET_EVENTS_REQUEST__INIT;

	client_open(c, served.socket);
	rpc_listen(c, "GetContainerEvents", &req.base);
}

static Event *next_event(struct client *c)
{
	return rpc_next(c, &runtime__v1__container_event_response__descriptor);
}

static void expect_event(struct client *c, const char *id, Runtime__V1__ContainerEventType type, bool ready,
			 int container_state)
{
	Event *e = next_event(c);

	if (!e)
		fail_msg("the stream has ended: %s", c->message);
	assert_string_equal(e->container_id, id);
	assert_int_equal(e->container_event_type, type);
	assert_true(e->created_at > 0);
	assert_non_null(e->pod_sandbox_status);
	assert_int_equal(e->pod_sandbox_status->state,
			 ready ? RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY
			       : RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_NOTREADY);
	assert_int_equal(e->n_containers_statuses, container_state >= 0 ? 1 : 0);
	if (container_state >= 0)
		assert_int_equal(e->containers_statuses[0]->state, container_state);
	pb_free(e);
}

#define EVENT(name) RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_##name##_EVENT
#define STATE(name) RUNTIME__V1__CONTAINER_STATE__CONTAINER_##name

static void events_of_a_life_come_in_order_with_the_statuses(void **state)
{
	struct client c;
	char pod[65], id[65];

	(void)state;
	listen_to(&c);
	run_pod("pod", pod);
	create(pod, "c", id);
	do_it(containers_start, id);
	guest_exit(id, "", 3);
	expect_event(&c, pod, EVENT(CREATED), true, -1);
	expect_event(&c, pod, EVENT(STARTED), true, -1);
	expect_event(&c, id, EVENT(CREATED), true, STATE(CREATED));
	expect_event(&c, id, EVENT(STARTED), true, STATE(RUNNING));
	expect_event(&c, id, EVENT(STOPPED), true, STATE(EXITED));
	do_it(containers_remove, id);
	expect_event(&c, id, EVENT(DELETED), true, -1);
	do_it(pods_stop, pod);
	expect_event(&c, pod, EVENT(STOPPED), false, -1);
	do_it(pods_remove, pod);
	expect_event(&c, pod, EVENT(DELETED), false, -1);
	grpc_call_cancel(c.call, NULL);
	assert_int_equal(client_end(&c), GRPC_STATUS_CANCELLED);
	client_close(&c);
}

static void events_of_a_dead_sandbox_are_its_containers_and_its_own(void **state)
{
	struct client c;
	char pod[65], id[65];

	(void)state;
	run_pod("pod", pod);
	create(pod, "c", id);
	do_it(containers_start, id);
	listen_to(&c);
	sandbox_condemn(last_sandbox, "it has panicked");
	expect_event(&c, id, EVENT(STOPPED), false, STATE(EXITED));
	expect_event(&c, pod, EVENT(STOPPED), false, STATE(EXITED));
	do_it(pods_remove, pod);
	expect_event(&c, id, EVENT(DELETED), false, -1);
	expect_event(&c, pod, EVENT(DELETED), false, -1);
	grpc_call_cancel(c.call, NULL);
	client_end(&c);
	client_close(&c);
}

/* ---- many listeners ------------------------------------------------------------------------------------ */

enum { CONTAINERS = 330, STEPS_EACH = 4 };

/* Each container's events in their order; one of `total` that is missing is never found. */
static void *count_events(void *arg)
{
	struct client *c = arg;
	char ids[8][65] = {{0}};
	int next[8] = {0};

	for (int n = 0; n < CONTAINERS * STEPS_EACH; n++) {
		Event *e = next_event(c);
		size_t i = 0;

		if (!e)
			return (void *)(uintptr_t) "a listener has lost its stream";
		while (i < ARRAY_SIZE(ids) && !str_eq(ids[i], e->container_id))
			i++;
		/* A new one takes the first place that is free. */
		for (size_t k = 0; i == ARRAY_SIZE(ids) && k < ARRAY_SIZE(ids); k++)
			i = ids[k][0] ? i : k;
		if (i == ARRAY_SIZE(ids) || (int)e->container_event_type != next[i])
			return (void *)(uintptr_t) "an event is out of order";
		snprintf(ids[i], sizeof(ids[i]), "%s", e->container_id);
		next[i]++;
		if (next[i] == STEPS_EACH) {
			ids[i][0] = 0;
			next[i] = 0;
		}
		pb_free(e);
	}
	return NULL;
}

static void one_life(const char *pod, int n)
{
	char id[65], name[16];

	snprintf(name, sizeof(name), "c%d", n);
	create(pod, name, id);
	do_it(containers_start, id);
	guest_exit(id, "", 0);
	do_it(containers_remove, id);
}

/* All get the same; one that does not read is dropped, in words, and holds up nobody. */
static void events_reach_many_listeners_of_which_one_is_slow(void **state)
{
	struct client clients[LISTENERS], slow;
	pthread_t threads[LISTENERS];
	Runtime__V1__GetEventsRequest req = RUNTIME__V1__GET_EVENTS_REQUEST__INIT;
	Event *e;
	char pod[65];

	(void)state;
	run_pod("pod", pod);
	client_open_narrow(&slow, served.socket);
	rpc_listen(&slow, "GetContainerEvents", &req.base);
	for (int i = 0; i < LISTENERS; i++) {
		listen_to(&clients[i]);
		pthread_create(&threads[i], NULL, count_events, &clients[i]);
	}
	for (int i = 0; i < CONTAINERS; i++)
		one_life(pod, i);
	for (int i = 0; i < LISTENERS; i++) {
		void *why;

		pthread_join(threads[i], &why);
		if (why)
			fail_msg("%s", (const char *)why);
		grpc_call_cancel(clients[i].call, NULL);
		client_end(&clients[i]);
		client_close(&clients[i]);
	}
	while ((e = next_event(&slow)))
		pb_free(e);
	assert_int_equal(client_end(&slow), GRPC_STATUS_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(slow.message, "reads too slowly"));
	client_close(&slow);
}

static void events_of_a_server_that_stops_end_unavailable(void **state)
{
	struct client c;

	(void)state;
	listen_to(&c);
	service_events_close(served.service.events);
	assert_null(next_event(&c));
	assert_int_equal(client_end(&c), GRPC_STATUS_UNAVAILABLE);
	assert_string_equal(c.message, "the server is being stopped");
	client_close(&c);
}

int main(void)
{
#define U(name) cmocka_unit_test_setup_teardown(name, setup_events, service_teardown)
	const struct CMUnitTest tests[] = {
		U(events_of_a_life_come_in_order_with_the_statuses),
		U(events_of_a_dead_sandbox_are_its_containers_and_its_own),
		U(events_reach_many_listeners_of_which_one_is_slow),
		U(events_of_a_server_that_stops_end_unavailable),
	};
#undef U

	return cmocka_run_group_tests(tests, NULL, NULL);
}

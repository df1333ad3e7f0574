/* SPDX-License-Identifier: Apache-2.0 */
/* Ports of a pod, over the fake sandbox. */
#include "pod_streams_fixture.h"

#include "fake_streams.h"

#define MUCH (4u << 20)

#define UPGRADE_FORWARD                                                                                      \
	"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n"

static char *offer_forward(struct house *x)
{
	struct err err = ERR_INIT;
	char *url = NULL;

	if (pods_offer_forward(x->pods, POD_ID, &url, &err) < 0)
		fail_msg("%s", err.msg);
	return url;
}

/* A pair of streams: the error's id, and that of the data, which is the next odd one. */
static void open_port(struct client *c, uint32_t id, unsigned int port, const char *request)
{
	char number[16];
	const char *const error[] = {"streamType", "error", "port", number, "requestID", request, NULL, NULL};
	const char *const data[] = {"streamType", "data", "port", number, "requestID", request, NULL, NULL};

	snprintf(number, sizeof(number), "%u", port);
	client_open_with(c, id, error, true);
	client_open_with(c, id + 2, data, false);
}

static void begin(struct client *c, const char *url)
{
	client_init(c);
	put_request(&c->out, "POST", path_of(url), UPGRADE_FORWARD);
}

static void offer_that_makes_no_sense_is_refused(void **state)
{
	struct house *x = *state;
	struct err err = ERR_INIT;
	char *url = NULL;

	assert_true(pods_offer_forward(x->pods, "0c0c", &url, &err) < 0);
	assert_int_equal(err.status, ERR_NOT_FOUND);
	pod_end(x->pod, "it was stopped");
	assert_true(pods_offer_forward(x->pods, POD_ID, &url, &err) < 0);
	assert_int_equal(err.status, ERR_FAILED_PRECONDITION);
	assert_non_null(strstr(err.msg, "not ready"));
	assert_null(url);
}

static void ports_side_by_side_are_echoed(void **state)
{
	struct house *x = *state;
	char *url = offer_forward(x);
	int fd = dial(&x->base);
	struct client c;
	struct heard h;

	begin(&c, url);
	open_port(&c, 1, 80, "0");
	open_port(&c, 5, 81, "1");
	client_data(&c, 3, "one", false);
	client_data(&c, 7, "two", true);
	client_data(&c, 3, "", true);
	client_flush(&c, fd);
	AWAIT(fake_agent_streams_begun(x->guest) == 2);
	house_is_quiet_but(x, 1); /* both have ended; the client may open others */
	shutdown(fd, SHUT_WR);
	h = hear(fd);
	assert_true(heard_is(&h, 3, "one"));
	assert_true(heard_is(&h, 7, "two"));
	assert_true(heard_is(&h, 1, ""));
	assert_true(heard_is(&h, 5, ""));
	house_is_quiet(x);
	free(h.all);
	client_done(&c);
	free(url);
}

/* The one of two ports where nobody listens is told on its error stream; the other goes on. */
static void port_that_is_closed_is_told_on_its_error_stream(void **state)
{
	struct house *x = *state;
	char *url = offer_forward(x);
	int fd = dial(&x->base);
	struct client c;
	struct heard h;

	begin(&c, url);
	open_port(&c, 1, FAKE_PORT_CLOSED, "0");
	open_port(&c, 5, FAKE_PORT_ENDS, "1");
	client_flush(&c, fd);
	AWAIT(fake_agent_streams_begun(x->guest) == 2);
	house_is_quiet_but(x, 1);
	shutdown(fd, SHUT_WR);
	h = hear(fd);
	assert_true(heard_has(&h, 1, "Connection refused"));
	assert_true(heard_has(&h, 1, "port 4"));
	assert_true(heard_is(&h, 3, ""));
	assert_true(heard_is(&h, 5, ""));
	assert_true(heard_is(&h, 7, "bye"));
	house_is_quiet(x);
	free(h.all);
	client_done(&c);
	free(url);
}

static void ports_that_are_none_are_refused(void **state)
{
	static const char *const bad[] = {"0", "65536", "-1", "80x", "", "99999999999999999999"};
	struct house *x = *state;
	char *url = offer_forward(x);
	int fd = dial(&x->base);
	struct client c;
	struct heard h;

	begin(&c, url);
	for (uint32_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *const pairs[] = {"streamType", "error", "port", bad[i],
					     "requestID",  "0",	    NULL,   NULL};

		client_open_with(&c, 1 + 2 * i, pairs, true);
	}
	open_port(&c, 101, 80, "1");
	client_data(&c, 103, "good", true);
	client_flush(&c, fd);
	AWAIT(fake_agent_ahead(x->guest) == 4);
	house_is_quiet_but(x, 1);
	shutdown(fd, SHUT_WR);
	h = hear(fd);
	assert_true(heard_is(&h, 103, "good"));
	house_is_quiet(x);
	free(h.all);
	client_done(&c);
	free(url);
}

static void guest_that_dies_is_told(void **state)
{
	struct house *x = *state;
	char *url = offer_forward(x);
	int fd = dial(&x->base);
	struct client c;
	struct heard h;

	begin(&c, url);
	open_port(&c, 1, 80, "0");
	client_flush(&c, fd);
	AWAIT(fake_agent_streams(x->guest) == 1);
	fake_sandbox_end(x->pod->sandbox, "the VM has crashed", 1);
	AWAIT(!pod_is_ready(x->pod));
	looping_turn(&x->base.l);
	open_port(&c, 5, 80, "1"); /* of a pod that is dead by now */
	client_flush(&c, fd);
	usleep(50000);
	shutdown(fd, SHUT_WR);
	h = hear(fd);
	assert_true(heard_has(&h, 1, "forwarding port 80"));
	assert_true(heard_has(&h, 5, "the VM has crashed"));
	free(h.all);
	client_done(&c);
	free(url);
}

/* ---- the client leaves --------------------------------------------------------------------------------- */

static void client_that_vanishes_closes_the_port(void **state)
{
	struct house *x = *state;
	char *url = offer_forward(x);
	int fd = dial(&x->base);
	struct client c;

	begin(&c, url);
	open_port(&c, 1, 80, "0");
	open_port(&c, 5, 80, "1");
	client_flush(&c, fd);
	AWAIT(fake_agent_streams(x->guest) == 2);
	close(fd);
	house_is_quiet(x);
	client_done(&c);
	free(url);
}

static void reset_of_a_stream_closes_its_port_alone(void **state)
{
	struct house *x = *state;
	char *url = offer_forward(x);
	int fd = dial(&x->base);
	struct client c;
	struct heard h;

	begin(&c, url);
	open_port(&c, 1, 80, "0");
	open_port(&c, 5, 80, "1");
	client_flush(&c, fd);
	AWAIT(fake_agent_streams(x->guest) == 2);
	put32(&c.out, 0x80030003); /* RST_STREAM */
	put32(&c.out, 8);
	put32(&c.out, 3);
	put32(&c.out, 5);
	client_flush(&c, fd);
	AWAIT(fake_agent_streams(x->guest) == 1);
	client_data(&c, 7, "alive", true);
	client_flush(&c, fd);
	house_is_quiet_but(x, 1);
	shutdown(fd, SHUT_WR);
	h = hear(fd);
	assert_true(heard_is(&h, 7, "alive"));
	house_is_quiet(x);
	free(h.all);
	client_done(&c);
	free(url);
}

static void write_4k(struct client *c, const char *url)
{
	unsigned char *data CLEANUP_FREE = bytes_at(0, 700);

	begin(c, url);
	open_port(c, 1, 80, "0");
	open_port(c, 5, FAKE_PORT_CLOSED, "1");
	while (c->out.len < 4096)
		client_bytes(c, 3, data, 700);
}

static void cut_at_each_of_the_first_4_kib_leaves_nothing(void **state)
{
	struct house *x = *state;

	cut_everywhere(x, offer_forward, write_4k, 4096);
	assert_true(pod_is_ready(x->pod));
}

/* ---- backpressure -------------------------------------------------------------------------------------- */

static void echo_beside(struct house *x, unsigned int others)
{
	char *url = offer_forward(x);
	int fd = dial(&x->base);
	struct client c;
	struct taker t = {.id = 3, .fd = fd};
	size_t offset = 0;

	begin(&c, url);
	open_port(&c, 1, 80, "0");
	while (t.taken < MUCH) {
		client_pour(&c, fd, 3, &offset, MUCH, 5);
		taker_take(&t, MUCH, 5);
	}
	assert_false(t.wrong);
	close(fd);
	if (others == 0)
		house_is_quiet(x);
	buf_done(&t.in);
	client_done(&c);
	free(url);
}

static void much_at_once_passes_both_ways(void **state)
{
	struct house *x = *state;

	echo_beside(x, 0);
	assert_true(fake_agent_ahead(x->guest) <= DIAL_WINDOW);
}

/* An agent of an earlier version grants no window, and is sent what its connection takes. */
static void agent_without_windows_is_served_too(void **state)
{
	struct house *x = house_new(&(struct house_options){.in = true});

	(void)state;
	echo_beside(x, 0);
	house_free(x);
}

static void port_that_does_not_read_holds_up_its_client(void **state)
{
	struct house *x = *state;
	char *url = offer_forward(x);
	int fd = dial(&x->base), small = 65536;
	struct client c;
	size_t offset = 0;

	must(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)) == 0);
	fake_agent_stop_reading(x->guest, true);
	begin(&c, url);
	open_port(&c, 1, 80, "0");
	client_pour(&c, fd, 3, &offset, MUCH, 300);
	assert_true(offset < MUCH);
	assert_int_equal(fake_agent_ahead(x->guest), DIAL_WINDOW);
	close(fd); /* it leaves in the middle */
	house_is_quiet(x);
	client_done(&c);
	free(url);
}

static void client_that_does_not_read_stalls_nobody(void **state)
{
	struct house *x = *state;
	char *url = offer_forward(x);
	int fd = dial(&x->base), small = 65536;
	struct client c;
	size_t offset = 0;

	must(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)) == 0);
	must(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)) == 0);
	begin(&c, url);
	open_port(&c, 1, 80, "0");
	client_pour(&c, fd, 3, &offset, 4 * (size_t)MUCH, 300);
	assert_true(offset < 4 * (size_t)MUCH); /* it is held up itself */
	echo_beside(x, 1);
	close(fd);
	house_is_quiet(x);
	client_done(&c);
	free(url);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(offer_that_makes_no_sense_is_refused),
		T(ports_side_by_side_are_echoed),
		T(port_that_is_closed_is_told_on_its_error_stream),
		T(ports_that_are_none_are_refused),
		T(guest_that_dies_is_told),
		T(client_that_vanishes_closes_the_port),
		T(reset_of_a_stream_closes_its_port_alone),
		T(cut_at_each_of_the_first_4_kib_leaves_nothing),
		T(much_at_once_passes_both_ways),
		cmocka_unit_test(agent_without_windows_is_served_too),
		T(port_that_does_not_read_holds_up_its_client),
		T(client_that_does_not_read_stalls_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

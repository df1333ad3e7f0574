/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's streams and dials, from the wire inwards. */
#include "guest_service_fixture.h"

/* ---- streams ------------------------------------------------------------------------------------------- */

struct stream {
	uint32_t id;
	bool acked, over;
	struct err err;
	struct buf data;
	int64_t window;
};

static void on_stream(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct stream *s = arg;
	Google__Protobuf__Any *any =
		payload && len ? google__protobuf__any__unpack(NULL, len, payload) : NULL;

	if (err)
		s->err = *err;
	s->over = s->over || err || eof;
	if (any && rpc_type_is(any->type_url, "google.protobuf.Empty")) {
		s->acked = true;
	} else if (any && rpc_type_is(any->type_url, "containerd.types.transfer.WindowUpdate")) {
		Containerd__Types__Transfer__WindowUpdate *w =
			containerd__types__transfer__window_update__unpack(NULL, any->value.len,
									   any->value.data);

		s->window += w->update;
		protobuf_c_message_free_unpacked(&w->base, NULL);
	} else if (any) {
		Containerd__Types__Transfer__Data *d =
			containerd__types__transfer__data__unpack(NULL, any->value.len, any->value.data);

		assert_int_equal(buf_put(&s->data, d->data.data, d->data.len), 0);
		protobuf_c_message_free_unpacked(&d->base, NULL);
	}
	if (any)
		google__protobuf__any__free_unpacked(any, NULL);
}

static void send_any(struct stream *s, const ProtobufCMessage *inner, bool close)
{
	static unsigned char data[200000], outer[200000];
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	size_t len;

	any.type_url = (char *)inner->descriptor->name;
	any.value.len = protobuf_c_message_pack(inner, data);
	any.value.data = data;
	len = google__protobuf__any__pack(&any, outer);
	assert_int_equal(ttrpc_stream_send(client, s->id, outer, len, close), 0);
}

static void open_stream(struct stream *s, const char *id)
{
	Containerd__Services__Streaming__V1__StreamInit init =
		CONTAINERD__SERVICES__STREAMING__V1__STREAM_INIT__INIT;

	*s = (struct stream){.id = 0};
	init.id = (char *)id;
	assert_int_equal(ttrpc_stream_open(client, STREAMING, "Stream", NULL, 0, on_stream, s, &s->id, NULL),
			 0);
	send_any(s, &init.base, false);
	while (!s->acked && !s->over)
		turn();
}

static void send_data(struct stream *s, const void *data, size_t len, bool close)
{
	Containerd__Types__Transfer__Data msg = CONTAINERD__TYPES__TRANSFER__DATA__INIT;

	msg.data.data = (uint8_t *)data;
	msg.data.len = len;
	send_any(s, &msg.base, close);
}

static void stream_B10_stdin_to_stdout_with_half_close(void **state)
{
	struct proc_io io = {.in = "x", .out = "x", .err = "x"};
	struct stream in, out, err_;

	(void)state;
	run_exec("cat", &io, "cat; echo done >&2");
	open_stream(&in, "box/cat/stdin");
	open_stream(&out, "box/cat/stdout");
	open_stream(&err_, "box/cat/stderr");
	assert_true(in.acked && out.acked && err_.acked);
	send_data(&in, "hello ", 6, false);
	while (out.data.len < 6)
		turn();
	assert_false(out.over);
	send_data(&in, "world", 5, false);
	assert_int_equal(ttrpc_stream_send(client, in.id, NULL, 0, true), 0);
	await(&out.over);
	await(&err_.over);
	await(&in.over);
	assert_int_equal(out.data.len, 11);
	assert_memory_equal(buf_data(&out.data), "hello world", 11);
	assert_memory_equal(buf_data(&err_.data), "done\n", 5);
	assert_int_equal(in.err.code, 0);
	expect_exit("cat", 0);
	assert_int_equal(agent.containers->logs.used, 0);
	buf_done(&out.data);
	buf_done(&err_.data);
}

static void stream_large_output_flows_without_acknowledgement(void **state)
{
	struct proc_io io = {.out = "x"};
	struct stream out;

	(void)state;
	run_exec("big", &io, "head -c 3000000 /dev/zero");
	open_stream(&out, "box/big/stdout");
	await(&out.over);
	assert_int_equal(out.data.len, 3000000);
	buf_done(&out.data);
}

static void stream_beside_readlog_only_listens(void **state)
{
	struct proc_io io = {.in = "x"};
	struct proc *p = run_exec("tap", &io, "echo before; read x; echo after");
	struct stream out;
	char text[256] = "";

	(void)state;
	while (outlog_end(&p->stdio->log) < 7)
		turn();
	p->stdio->log_read = true;
	open_stream(&out, "box/tap/stdout");
	assert_int_equal(stdio_write(p->stdio, "\n", 1), 0);
	await(&out.over);
	assert_int_equal(out.data.len, 6);
	assert_memory_equal(buf_data(&out.data), "after\n", 6);
	read_log("tap", true, text, sizeof(text));
	assert_string_equal(text, "1:before\nafter\n");
	buf_done(&out.data);
}

static void stream_input_window_is_granted_as_it_is_read(void **state)
{
	static char block[65536];
	struct proc_io io = {.in = "x", .out = "x"};
	struct stream in, out;
	size_t sent = 0;

	(void)state;
	run_exec("w", &io, "cat");
	open_stream(&in, "box/w/stdin");
	open_stream(&out, "box/w/stdout");
	while (sent < 2000000) {
		while (in.window <= 0 && !in.over)
			turn();
		assert_false(in.over);
		send_data(&in, block, sizeof(block) / 4, false);
		in.window -= (int64_t)sizeof(block) / 4;
		sent += sizeof(block) / 4;
		turn();
	}
	assert_int_equal(ttrpc_stream_send(client, in.id, NULL, 0, true), 0);
	await(&out.over);
	assert_int_equal(out.data.len, sent);
	buf_done(&out.data);
}

static void stream_bad_beginnings_fail_clearly(void **state)
{
	static const struct {
		const char *id;
		enum err_status status;
	} bad[] = {{"box", ERR_INVALID_ARGUMENT},
		   {"box//nothing", ERR_INVALID_ARGUMENT},
		   {"box//stdout/x", ERR_INVALID_ARGUMENT},
		   {"nobody//stdout", ERR_NOT_FOUND},
		   {"box/none/stdout", ERR_NOT_FOUND},
		   {"box//stdin", ERR_FAILED_PRECONDITION},
		   {"", ERR_INVALID_ARGUMENT},
		   {"../x//stdout", ERR_INVALID_ARGUMENT}};
	struct stream s;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		open_stream(&s, bad[i].id);
		assert_true(s.over);
		assert_int_equal(s.err.status, bad[i].status);
	}
	s = (struct stream){.id = 0};
	assert_int_equal(ttrpc_stream_open(client, STREAMING, "Stream", NULL, 0, on_stream, &s, &s.id, NULL),
			 0);
	assert_int_equal(ttrpc_stream_send(client, s.id, "\xff\xff\xff", 3, false), 0);
	await(&s.over);
	assert_int_equal(s.err.status, ERR_INVALID_ARGUMENT);
}

/* ---- dial ---------------------------------------------------------------------------------------------- */

static void on_dial(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct stream *s = arg;

	if (err)
		s->err = *err;
	s->over = s->over || err || eof;
	if (payload && len) {
		Crivisor__Agent__V1__DialData *d = crivisor__agent__v1__dial_data__unpack(NULL, len, payload);

		assert_int_equal(buf_put(&s->data, d->data.data, d->data.len), 0);
		s->window += d->window;
		crivisor__agent__v1__dial_data__free_unpacked(d, NULL);
	}
}

static void open_dial(struct stream *s, unsigned int port, const char *text, bool close)
{
	Crivisor__Agent__V1__DialData d = CRIVISOR__AGENT__V1__DIAL_DATA__INIT;
	unsigned char data[256];
	size_t len;

	*s = (struct stream){.id = 0};
	d.port = port;
	d.data.data = (uint8_t *)text;
	d.data.len = strlen(text);
	len = crivisor__agent__v1__dial_data__pack(&d, data);
	assert_int_equal(ttrpc_stream_open(client, AGENT, "Dial", NULL, 0, on_dial, s, &s->id, NULL), 0);
	assert_int_equal(ttrpc_stream_send(client, s->id, data, len, close), 0);
}

static int listen_on_loopback(unsigned int *ret_port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
	assert_int_equal(listen(fd, 1), 0);
	getsockname(fd, (struct sockaddr *)&addr, &len);
	*ret_port = ntohs(addr.sin_port);
	return fd;
}

static void dial_B10_half_close_both_ways(void **state)
{
	unsigned int port;
	int lfd = listen_on_loopback(&port), fd;
	struct stream s;
	char buf[64];
	ssize_t n = 0, got = 0;

	(void)state;
	open_dial(&s, port, "ping", true);
	for (int i = 0; i < 5; i++)
		turn();
	fd = accept(lfd, NULL, NULL);
	assert_true(fd >= 0);
	while ((n = read(fd, buf + got, sizeof(buf) - (size_t)got)) > 0)
		got += n;
	assert_int_equal(n, 0); /* our half is closed, the other one is not */
	assert_memory_equal(buf, "ping", 4);
	assert_int_equal(write(fd, "pong", 4), 4);
	while (s.data.len < 4)
		turn();
	assert_false(s.over);
	close(fd);
	await(&s.over);
	assert_int_equal(s.err.code, 0);
	assert_memory_equal(buf_data(&s.data), "pong", 4);
	buf_done(&s.data);
	close(lfd);
}

static void send_dial(struct stream *s, size_t len)
{
	static unsigned char bytes[32768], packed[sizeof(bytes) + 16];
	Crivisor__Agent__V1__DialData d = CRIVISOR__AGENT__V1__DIAL_DATA__INIT;

	d.data.data = bytes;
	d.data.len = len;
	len = crivisor__agent__v1__dial_data__pack(&d, packed);
	assert_int_equal(ttrpc_stream_send(client, s->id, packed, len, false), 0);
}

/* Where nobody listens at 127.0.0.1, ::1 is tried. */
static void dial_reaches_a_port_of_ipv6_alone(void **state)
{
	struct sockaddr_in6 addr = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	socklen_t len = sizeof(addr);
	int lfd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;
	struct stream s;
	char buf[8];

	(void)state;
	if (lfd < 0 || bind(lfd, (struct sockaddr *)&addr, len) < 0)
		skip(); /* a machine without IPv6 */
	assert_int_equal(listen(lfd, 1), 0);
	getsockname(lfd, (struct sockaddr *)&addr, &len);
	open_dial(&s, ntohs(addr.sin6_port), "ping", false);
	for (int i = 0; i < 5; i++)
		turn();
	fd = accept(lfd, NULL, NULL);
	assert_true(fd >= 0);
	assert_int_equal(read(fd, buf, sizeof(buf)), 4);
	assert_memory_equal(buf, "ping", 4);
	close(fd);
	await(&s.over);
	buf_done(&s.data);
	close(lfd);
}

/*
 * A port that takes nothing gets no more than the window, and its connection is read on: the stream's output
 * arrives. Then all that was sent is granted again, but for less than a quarter of the window.
 */
static void dial_window_is_granted_as_the_port_takes_it(void **state)
{
	const size_t rounds = 40, step = 32768;
	char *buf = malloc(step);
	unsigned int port;
	int lfd = listen_on_loopback(&port), fd, small = 4096;
	struct stream s;
	size_t sent = 1, taken = 0;

	(void)state;
	assert_non_null(buf);
	assert_int_equal(setsockopt(lfd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	open_dial(&s, port, "x", false);
	for (int i = 0; i < 5; i++)
		turn();
	fd = accept(lfd, NULL, NULL);
	assert_true(fd >= 0);
	s.window += DIAL_WINDOW - 1;
	while (sent < rounds * step) {
		while (s.window >= (int64_t)step) {
			send_dial(&s, step);
			s.window -= (int64_t)step;
			sent += step;
			turn();
		}
		assert_int_equal(write(fd, "!", 1),
				 1); /* the other way is open, though the window is used up */
		while (s.data.len == 0)
			turn();
		buf_consume(&s.data, s.data.len);
		while (s.window < (int64_t)step) {
			ssize_t n = recv(fd, buf, step, MSG_DONTWAIT);

			if (n > 0)
				taken += (size_t)n;
			turn();
		}
	}
	while (taken < sent) {
		ssize_t n = recv(fd, buf, step, MSG_DONTWAIT);

		if (n > 0)
			taken += (size_t)n;
		turn();
	}
	assert_int_equal(taken, sent);
	assert_true(s.window > DIAL_WINDOW - DIAL_WINDOW / 4 && s.window <= DIAL_WINDOW);
	close(fd);
	await(&s.over);
	buf_done(&s.data);
	free(buf);
	close(lfd);
}

static void dial_refused_and_bad_ports_say_so(void **state)
{
	unsigned int port;
	int lfd = listen_on_loopback(&port);
	struct stream s;

	(void)state;
	close(lfd);
	open_dial(&s, port, "x", false);
	await(&s.over);
	assert_int_equal(s.err.status, ERR_UNAVAILABLE);
	open_dial(&s, 70000, "x", false);
	await(&s.over);
	assert_int_equal(s.err.status, ERR_INVALID_ARGUMENT);
	open_dial(&s, 0, "x", true);
	await(&s.over);
	assert_int_equal(s.err.status, ERR_INVALID_ARGUMENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(stream_B10_stdin_to_stdout_with_half_close),
		T(stream_large_output_flows_without_acknowledgement),
		T(stream_beside_readlog_only_listens),
		T(stream_input_window_is_granted_as_it_is_read),
		T(stream_bad_beginnings_fail_clearly),
		T(dial_B10_half_close_both_ways),
		T(dial_reaches_a_port_of_ipv6_alone),
		T(dial_window_is_granted_as_the_port_takes_it),
		T(dial_refused_and_bad_ports_say_so),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ttrpc_peer: one end of a ttrpc connection over a UNIX socket, for the tests that put containerd's Go ttrpc
 * at the other.
 *
 *   ttrpc_peer serve SOCKET   listens, prints "ready", serves until its standard input ends
 *   ttrpc_peer call SOCKET    calls a server that offers the same service, prints "ok NAME" for each thing
 * tried; status 1 and words on standard error at the first that goes wrong
 *
 * The service is crivisor.test.Peer; every message is a containerd.types.transfer.Data:
 *   Echo, Fail (FailedPrecondition "told to fail"), Hang (never answers), Big (as many bytes as the text of
 * the request says), Reverse (answers once 1000 have come, last one first), Stream (sends back what comes),
 * Count (sends as many messages as the text of the request says), Sum (the number of bytes that came, as
 * text).
 */
#include "api/agent/transfer.pb-c.h"
#include "api/ttrpc/ttrpc.h"
#include "base/util.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define SERVICE	   "crivisor.test.Peer"
#define REVERSE	   1000
#define CLIENTS	   16
#define READ_BYTES 65536

static void die(const char *what)
{
	fprintf(stderr, "ttrpc_peer: %s\n", what);
	exit(1);
}

/* ---- messages ------------------------------------------------------------------------------------------ */

static void *data_pack(const void *bytes, size_t len, size_t *ret_len)
{
	Containerd__Types__Transfer__Data msg = CONTAINERD__TYPES__TRANSFER__DATA__INIT;
	uint8_t *out, *copy = malloc(len ? len : 1);

	if (!copy)
		die("out of memory");
	if (len > 0)
		memcpy(copy, bytes, len);
	msg.data.data = copy;
	msg.data.len = len;
	*ret_len = protobuf_c_message_get_packed_size(&msg.base);
	out = malloc(*ret_len ? *ret_len : 1);
	if (!out)
		die("out of memory");
	protobuf_c_message_pack(&msg.base, out);
	free(copy);
	return out;
}

static Containerd__Types__Transfer__Data *data_unpack(const void *payload, size_t len)
{
	ProtobufCMessage *msg =
		protobuf_c_message_unpack(&containerd__types__transfer__data__descriptor, NULL, len, payload);

	if (!msg)
		die("a message cannot be read");
	return (Containerd__Types__Transfer__Data *)(void *)msg;
}

static void data_free(Containerd__Types__Transfer__Data *msg)
{
	protobuf_c_message_free_unpacked(&msg->base, NULL);
}

static size_t number(const void *payload, size_t len)
{
	Containerd__Types__Transfer__Data *msg = data_unpack(payload, len);
	char text[32] = "";
	uint64_t n = 0;

	if (msg->data.len >= sizeof(text))
		die("not a number");
	if (msg->data.len > 0)
		memcpy(text, msg->data.data, msg->data.len);
	if (parse_u64(text, &n) < 0)
		die("not a number");
	data_free(msg);
	return (size_t)n;
}

/* ---- the service --------------------------------------------------------------------------------------- */

static void echo(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	ttrpc_respond(req, payload, len);
}

static void fail(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct err err = ERR_INIT;

	(void)ctx;
	(void)payload;
	(void)len;
	err_set_status(&err, -EBUSY, ERR_FAILED_PRECONDITION, "told to fail");
	ttrpc_fail(req, &err);
}

static void forget(void *arg)
{
	(void)arg;
}

static void hang(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	(void)payload;
	(void)len;
	ttrpc_request_on_cancel(req, forget, NULL);
}

static void big(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	size_t n = number(payload, len), packed_len;
	char *bytes = calloc(1, n ? n : 1);
	void *packed;

	(void)ctx;
	if (!bytes)
		die("out of memory");
	packed = data_pack(bytes, n, &packed_len);
	ttrpc_respond(req, packed, packed_len);
	free(packed);
	free(bytes);
}

static struct {
	struct ttrpc_request *req;
	void *payload;
	size_t len;
} held[REVERSE];
static size_t held_count;

static void reverse(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	held[held_count].req = req;
	held[held_count].payload = malloc(len ? len : 1);
	held[held_count].len = len;
	if (len > 0)
		memcpy(held[held_count].payload, payload, len);
	if (++held_count < REVERSE)
		return;
	while (held_count > 0) {
		held_count--;
		ttrpc_respond(held[held_count].req, held[held_count].payload, held[held_count].len);
		free(held[held_count].payload);
	}
}

static void on_stream(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct ttrpc_request *req = arg;

	if (err)
		ttrpc_fail(req, err);
	else if (eof)
		ttrpc_stream_finish(req);
	else if (ttrpc_request_send(req, payload, len) < 0)
		die("cannot send on a stream");
}

static void stream(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	(void)ctx;
	ttrpc_request_on_data(req, on_stream, req);
	if (payload && ttrpc_request_send(req, payload, len) < 0)
		die("cannot send on a stream");
}

static void count(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	size_t n = number(payload, len);

	(void)ctx;
	for (size_t i = 0; i < n; i++) {
		char text[32];
		size_t packed_len;
		void *packed = data_pack(text, (size_t)snprintf(text, sizeof(text), "%zu", i), &packed_len);

		if (ttrpc_request_send(req, packed, packed_len) < 0)
			die("cannot send on a stream");
		free(packed);
	}
	ttrpc_stream_finish(req);
}

struct sum {
	struct ttrpc_request *req;
	size_t total;
};

static void on_sum(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct sum *sum = arg;

	if (err) {
		ttrpc_fail(sum->req, err);
		free(sum);
	} else if (eof) {
		char text[32];
		size_t packed_len;
		void *packed =
			data_pack(text, (size_t)snprintf(text, sizeof(text), "%zu", sum->total), &packed_len);

		ttrpc_respond(sum->req, packed, packed_len);
		free(packed);
		free(sum);
	} else {
		Containerd__Types__Transfer__Data *msg = data_unpack(payload, len);

		sum->total += msg->data.len;
		data_free(msg);
	}
}

static void sum(struct ttrpc_request *req, void *ctx, const void *payload, size_t len)
{
	struct sum *s = calloc(1, sizeof(*s));

	(void)ctx;
	if (!s)
		die("out of memory");
	s->req = req;
	ttrpc_request_on_data(req, on_sum, s);
	if (payload)
		on_sum(s, NULL, payload, len, false);
}

static const struct ttrpc_method methods[] = {
	{.name = "Echo", .unary = echo},
	{.name = "Fail", .unary = fail},
	{.name = "Hang", .unary = hang},
	{.name = "Big", .unary = big},
	{.name = "Reverse", .unary = reverse},
	{.name = "Stream", .streaming = stream},
	{.name = "Count", .streaming = count},
	{.name = "Sum", .streaming = sum},
	{0},
};
static const struct ttrpc_service services[] = {{.name = SERVICE, .methods = methods}, {0}};

/* ---- I/O ----------------------------------------------------------------------------------------------- */

struct peer {
	int fd; /* -1: none */
	struct ttrpc_conn *conn;
};

static struct sockaddr_un address(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(a.sun_path))
		die("socket path too long");
	memcpy(a.sun_path, path, strlen(path));
	return a;
}

static int timeout_ms(const struct peer *p)
{
	int64_t left = p->fd < 0 ? INT64_MAX : ttrpc_next_deadline(p->conn);

	if (left == INT64_MAX)
		return 1000;
	left -= now_monotonic_ns();
	return left <= 0 ? 0 : left > NS_PER_SEC ? 1000 : (int)(left / NS_PER_MS) + 1;
}

static short wanted(const struct peer *p)
{
	return (short)(POLLIN | (ttrpc_out(p->conn)->len > 0 ? POLLOUT : 0));
}

/* Moves bytes both ways; false once the connection has ended. */
static bool move(struct peer *p, short revents)
{
	static unsigned char data[READ_BYTES];
	struct err err = ERR_INIT;
	ssize_t n;

	ttrpc_expire(p->conn, now_monotonic_ns());
	if (revents & POLLOUT && ttrpc_out(p->conn)->len > 0) {
		n = buf_write_fd(ttrpc_out(p->conn), p->fd);
		if (n < 0 && n != -EAGAIN)
			return false;
	}
	if (!(revents & (POLLIN | POLLHUP)))
		return true;
	n = read(p->fd, data, sizeof(data));
	if (n < 0 && errno == EAGAIN)
		return true;
	if (n <= 0)
		return false;
	if (ttrpc_feed(p->conn, data, (size_t)n, &err) < 0)
		die(err.msg);
	return true;
}

/* ---- serve --------------------------------------------------------------------------------------------- */

static void accept_one(int listener, struct peer *peers)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	for (size_t i = 0; i < CLIENTS; i++) {
		if (peers[i].fd < 0) {
			peers[i].fd = fd;
			peers[i].conn = ttrpc_server_new(services, NULL, NULL);
			return;
		}
	}
	die("too many clients");
}

static int serve(const char *path)
{
	struct sockaddr_un a = address(path);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct peer peers[CLIENTS];

	if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(listener, 16) < 0)
		die("cannot listen");
	for (size_t i = 0; i < CLIENTS; i++)
		peers[i] = (struct peer){.fd = -1};
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct pollfd fds[CLIENTS + 2] = {{.fd = 0, .events = POLLIN},
						  {.fd = listener, .events = POLLIN}};
		int wait_ms = 1000;

		for (size_t i = 0; i < CLIENTS; i++) {
			fds[i + 2].fd = peers[i].fd;
			if (peers[i].fd >= 0) {
				int ms = timeout_ms(&peers[i]);

				fds[i + 2].events = wanted(&peers[i]);
				wait_ms = ms < wait_ms ? ms : wait_ms;
			}
		}
		poll(fds, CLIENTS + 2, wait_ms);
		for (size_t i = 0; i < CLIENTS; i++) {
			if (peers[i].fd < 0 || move(&peers[i], fds[i + 2].revents))
				continue;
			ttrpc_conn_free(peers[i].conn);
			close(peers[i].fd);
			peers[i] = (struct peer){.fd = -1};
		}
		if (fds[1].revents)
			accept_one(listener, peers);
		if (fds[0].revents)
			break;
	}
	for (size_t i = 0; i < CLIENTS; i++) {
		if (peers[i].fd >= 0)
			ttrpc_conn_free(peers[i].conn);
	}
	return 0;
}

/* ---- call ---------------------------------------------------------------------------------------------- */

struct answer {
	int done, messages;
	struct err err;
	void *bytes; /* of the last message */
	size_t len;
};

static void keep(struct answer *a, const void *payload, size_t len)
{
	Containerd__Types__Transfer__Data *msg = data_unpack(payload, len);

	free(a->bytes);
	a->bytes = malloc(msg->data.len + 1);
	a->len = msg->data.len;
	if (a->len > 0)
		memcpy(a->bytes, msg->data.data, a->len);
	((char *)a->bytes)[a->len] = 0;
	a->messages++;
	data_free(msg);
}

static void on_reply(void *arg, const struct err *err, const void *payload, size_t len)
{
	struct answer *a = arg;

	a->done++;
	if (err)
		a->err = *err;
	else
		keep(a, payload, len);
}

static void on_data(void *arg, const struct err *err, const void *payload, size_t len, bool eof)
{
	struct answer *a = arg;

	if (err)
		a->err = *err;
	if (payload)
		keep(a, payload, len);
	if (err || eof)
		a->done++;
}

static void run_until(struct peer *p, const struct answer *a, int done, int messages)
{
	int64_t deadline = now_monotonic_ns() + 30 * NS_PER_SEC;

	while (a->done < done || a->messages < messages) {
		struct pollfd fd = {.fd = p->fd, .events = wanted(p)};

		poll(&fd, 1, timeout_ms(p));
		if (!move(p, fd.revents))
			die("the server closed the connection");
		if (now_monotonic_ns() > deadline)
			die("no progress in 30 s");
	}
}

static void expect(bool ok, const char *name, const struct answer *a)
{
	if (!ok) {
		fprintf(stderr,
			"ttrpc_peer: %s: done %d, messages %d, last \"%.40s\" (%zu), error %d %s: %s\n", name,
			a->done, a->messages, a->bytes ? (const char *)a->bytes : "", a->len, a->err.code,
			err_status_name(a->err.status), a->err.msg);
		exit(1);
	}
	printf("ok %s\n", name);
	fflush(stdout);
}

static struct answer call(struct peer *p, const char *method, const void *bytes, size_t len,
			  int64_t timeout_ns)
{
	struct answer a = {0};
	size_t packed_len;
	void *packed = data_pack(bytes, len, &packed_len);

	if (ttrpc_call(p->conn, SERVICE, method, packed, packed_len, timeout_ns, on_reply, &a, NULL,
		       &a.err) == 0)
		run_until(p, &a, 1, 0);
	free(packed);
	return a;
}

static void done(struct answer *a)
{
	free(a->bytes);
	*a = (struct answer){0};
}

static void send_data(struct peer *p, uint32_t id, const char *text, size_t len, bool close)
{
	size_t packed_len;
	void *packed = data_pack(text, len, &packed_len);

	if (ttrpc_stream_send(p->conn, id, packed, packed_len, close) < 0)
		die("cannot send on a stream");
	free(packed);
}

static void try_unary(struct peer *p)
{
	struct answer a = call(p, "Echo", "hello", 5, 0);

	expect(a.done == 1 && a.len == 5 && memcmp(a.bytes, "hello", 5) == 0, "unary", &a);
	done(&a);
	a = call(p, "Echo", "", 0, 0);
	expect(a.done == 1 && a.err.code == 0 && a.len == 0, "unary-empty", &a);
	done(&a);
	a = call(p, "Fail", "x", 1, 0);
	expect(a.err.status == ERR_FAILED_PRECONDITION && str_eq(a.err.msg, "told to fail"), "status", &a);
	done(&a);
	a = call(p, "None", "x", 1, 0);
	expect(a.err.status == ERR_UNIMPLEMENTED, "unimplemented", &a);
	done(&a);
}

static void try_timeouts(struct peer *p)
{
	struct answer a, late = {0};
	uint32_t id;

	a = call(p, "Hang", "x", 1, 200 * NS_PER_MS);
	expect(a.err.status == ERR_DEADLINE_EXCEEDED, "timeout", &a);
	done(&a);
	if (ttrpc_call(p->conn, SERVICE, "Hang", "", 0, NS_PER_SEC / 2, on_reply, &late, &id, NULL) < 0)
		die("cannot call");
	a = call(p, "Echo", "y", 1, 0);
	ttrpc_cancel(p->conn, id);
	done(&a);
	a = call(p, "Hang", "x", 1, NS_PER_SEC); /* longer than the one cancelled */
	expect(late.done == 0, "cancel", &late);
	done(&a);
}

static void try_limits(struct peer *p)
{
	size_t most = TTRPC_MESSAGE_MAX;
	char *bytes = calloc(1, most), text[32];
	struct answer a;

	if (!bytes)
		die("out of memory");
	a = call(p, "Echo", bytes, most - 64, 0);
	expect(a.len == most - 64, "4-mib", &a);
	done(&a);
	a = call(p, "Echo", bytes, most, 0);
	expect(a.done == 0 && a.err.status == ERR_RESOURCE_EXHAUSTED, "4-mib-refused-here", &a);
	done(&a);
	snprintf(text, sizeof(text), "%zu", most - 64);
	a = call(p, "Big", text, strlen(text), 0);
	expect(a.len == most - 64, "4-mib-answer", &a);
	done(&a);
	free(bytes);
}

static void try_many(struct peer *p)
{
	static struct answer answers[REVERSE];
	bool all = true;

	for (int i = 0; i < REVERSE; i++) {
		char text[32];
		size_t packed_len;
		void *packed = data_pack(text, (size_t)snprintf(text, sizeof(text), "%d", i), &packed_len);

		if (ttrpc_call(p->conn, SERVICE, "Reverse", packed, packed_len, 0, on_reply, &answers[i],
			       NULL, NULL) < 0)
			die("cannot call");
		free(packed);
	}
	for (int i = 0; i < REVERSE; i++) {
		char text[32];

		run_until(p, &answers[i], 1, 0);
		snprintf(text, sizeof(text), "%d", i);
		all = all && str_eq(answers[i].bytes, text);
		free(answers[i].bytes);
		answers[i].bytes = NULL;
	}
	expect(all, "1000-at-once", &answers[0]);
}

static void try_streams(struct peer *p)
{
	struct answer a = {0};
	size_t packed_len;
	void *packed;
	uint32_t id;

	ttrpc_stream_open(p->conn, SERVICE, "Stream", NULL, 0, on_data, &a, &id, NULL);
	for (int i = 0; i < 100; i++)
		send_data(p, id, "ping", 4, i == 99);
	run_until(p, &a, 1, 100);
	expect(a.messages == 100 && a.err.code == 0 && str_eq(a.bytes, "ping"), "stream", &a);
	done(&a);
	ttrpc_stream_open(p->conn, SERVICE, "Stream", NULL, 0, on_data, &a, &id, NULL);
	send_data(p, id, "1", 1, false);
	run_until(p, &a, 0, 1);
	send_data(p, id, "", 0, false);
	run_until(p, &a, 0, 2);
	ttrpc_stream_send(p->conn, id, NULL, 0, true);
	run_until(p, &a, 1, 2);
	expect(a.len == 0 && a.err.code == 0, "stream-half-close", &a);
	done(&a);
	packed = data_pack("1000", 4, &packed_len);
	ttrpc_stream_open(p->conn, SERVICE, "Count", packed, packed_len, on_data, &a, &id, NULL);
	free(packed);
	run_until(p, &a, 1, 1000);
	expect(a.messages == 1000 && str_eq(a.bytes, "999"), "server-stream", &a);
	done(&a);
	ttrpc_stream_open(p->conn, SERVICE, "Sum", NULL, 0, on_data, &a, &id, NULL);
	for (int i = 0; i < 10; i++)
		send_data(p, id, "1234567", 7, i == 9);
	run_until(p, &a, 1, 1);
	expect(str_eq(a.bytes, "70"), "client-stream", &a);
	done(&a);
	ttrpc_stream_open(p->conn, SERVICE, "NoStream", NULL, 0, on_data, &a, &id, NULL);
	run_until(p, &a, 1, 0);
	expect(a.err.status == ERR_UNIMPLEMENTED, "stream-unimplemented", &a);
	done(&a);
}

static int run_calls(const char *path)
{
	struct sockaddr_un a = address(path);
	struct peer p = {.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};

	if (p.fd < 0 || connect(p.fd, (struct sockaddr *)&a, sizeof(a)) < 0 || set_nonblock(p.fd, true) < 0)
		die("cannot connect");
	p.conn = ttrpc_client_new(NULL, NULL);
	try_unary(&p);
	try_timeouts(&p);
	try_limits(&p);
	try_many(&p);
	try_streams(&p);
	ttrpc_conn_free(p.conn);
	close(p.fd);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && str_eq(argv[1], "serve"))
		return serve(argv[2]);
	if (argc == 3 && str_eq(argv[1], "call"))
		return run_calls(argv[2]);
	fprintf(stderr, "usage: ttrpc_peer serve|call SOCKET\n");
	return 2;
}

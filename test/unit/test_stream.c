/* SPDX-License-Identifier: Apache-2.0 */
/* The streaming server over real sockets, with a user that echoes. */
#include "stream_fixture.h"

#include "base/tree.h"

#include <sys/wait.h>

/* ---- tokens and HTTP ----------------------------------------------------------------------------------- */

static void token_is_for_one_use(void **state)
{
	struct fixture *x = *state;
	char *url = offer(x, STREAM_EXEC, false);

	assert_true(strlen(strrchr(url, '/') + 1) == 32); /* 160 bits, 5 in each letter */
	assert_int_equal(status_of(x, "POST", path_of(url), ""),
			 400); /* used up, though it asks for no upgrade */
	assert_int_equal(status_of(x, "POST", path_of(url), UPGRADE_SPDY), 404);
	AWAIT(atomic_load(&x->released) == 1);
	free(url);
}

static void token_of_another_kind_is_not_found_and_stays(void **state)
{
	struct fixture *x = *state;
	char *url = offer(x, STREAM_EXEC, false);
	char *other CLEANUP_FREE = xasprintf("/attach/%s", strrchr(url, '/') + 1);
	unsigned int tokens, sessions;

	assert_int_equal(status_of(x, "GET", other, UPGRADE_SPDY), 404);
	stream_server_load(x->server, &tokens, &sessions);
	assert_int_equal(tokens, 1);
	assert_int_equal(sessions, 0);
	free(url);
}

static void token_too_old_is_not_found_and_released(void **state)
{
	struct fixture *x = malloc(sizeof(*x));
	void *own = x;
	char *url;

	(void)state;
	assert_non_null(x);
	start_with(x, 50 * NS_PER_MS);
	url = offer(x, STREAM_EXEC, false);
	usleep(60000);
	assert_int_equal(status_of(x, "GET", path_of(url), UPGRADE_SPDY), 404);
	assert_int_equal(atomic_load(&x->released), 1);
	free(url);
	stop(&own);
}

static void tokens_end_at_1000(void **state)
{
	struct fixture *x = *state;
	const struct stream_request request = {.kind = STREAM_ATTACH, .accept = echo_accept, .arg = x};
	struct err err = ERR_INIT;
	char *url = NULL;

	for (int i = 0; i < STREAM_TOKENS_MAX; i++)
		free(offer(x, STREAM_ATTACH, false));
	assert_int_equal(stream_offer(x->server, &request, &url, &err), -EAGAIN);
	assert_int_equal(err.status, ERR_RESOURCE_EXHAUSTED);
	assert_null(url);
}

static void requests_that_are_none_are_refused(void **state)
{
	struct fixture *x = *state;
	static const char *const paths[] = {"/",
					    "/exec",
					    "/exec/",
					    "/exec/x",
					    "/../etc/passwd",
					    "/exec/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
					    "/exec/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
					    "/exec/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/x"};
	char *url;

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		assert_int_equal(status_of(x, "GET", paths[i], UPGRADE_SPDY), 404);
	url = offer(x, STREAM_EXEC, false);
	assert_int_equal(status_of(x, "PUT", path_of(url), UPGRADE_SPDY), 405);
	assert_int_equal(status_of(x, "POST", path_of(url),
				   "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
				   "X-Stream-Protocol-Version: v9.channel.k8s.io\r\n"),
			 403);
	free(url);
	url = offer(x, STREAM_EXEC, false);
	assert_int_equal(status_of(x, "GET", path_of(url), UPGRADE_WS("v9.channel.k8s.io")), 403);
	free(url);
	url = offer(x, STREAM_EXEC, false);
	assert_int_equal(status_of(x, "GET", path_of(url),
				   "Connection: Upgrade\r\nUpgrade: websocket\r\n"
				   "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n"),
			 400);
	free(url);
}

/* ---- addresses and TLS --------------------------------------------------------------------------------- */

static void address_of_ipv6_is_in_brackets(void **state)
{
	struct fixture *x = *state;
	struct stream_server_options options = {.loop = x->l.loop, .address = "[::1]:0"};
	struct stream_server *server = NULL;

	if (stream_server_new(&options, &server, NULL) == -EADDRNOTAVAIL)
		skip(); /* a machine without IPv6 */
	assert_true(str_starts(stream_server_url(server), "http://[::1]:"));
	stream_server_free(server);
}

static void address_or_certificate_that_is_none_is_refused(void **state)
{
	static const struct {
		const char *address, *cert, *key, *words;
	} bad[] = {
		{"127.0.0.1", NULL, NULL, "want <address>:<port>"},
		{":80", NULL, NULL, "want <address>:<port>"},
		{"localhost:80", NULL, NULL, "in numbers"},
		{"127.0.0.1:http", NULL, NULL, "in numbers"},
		{"127.0.0.1:70000", NULL, NULL, "in numbers"},
		{"192.0.2.1:0", NULL, NULL, "192.0.2.1:0"}, /* not of this host */
		{"127.0.0.1:0", "/dev/null", NULL, "certificate and a key"},
		{"127.0.0.1:0", NULL, "/dev/null", "certificate and a key"},
		{"127.0.0.1:0", "/no/such", "/dev/null", "/no/such"},
		{"127.0.0.1:0", "/dev/null", "/no/such", "/no/such"},
		{"127.0.0.1:0", "/dev/null", "/dev/null", "PEM"},
		{"127.0.0.1:0", CRV_SOURCE_DIR "/LICENSE", CRV_SOURCE_DIR "/LICENSE", "PEM"},
	};
	struct fixture *x = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct stream_server_options options = {.loop = x->l.loop,
							.address = bad[i].address,
							.tls_cert_file = bad[i].cert,
							.tls_key_file = bad[i].key};
		struct stream_server *server = NULL;
		struct err err = ERR_INIT;

		assert_true(stream_server_new(&options, &server, &err) < 0);
		assert_null(server);
		if (!strstr(err.msg, bad[i].words))
			fail_msg("%s: %s", bad[i].address, err.msg);
	}
}

/* openssl as a client: what is written to the socket goes out by TLS, and back. */
static int dial_tls(struct stream_server *server, pid_t *ret_pid)
{
	const char *address = strrchr(stream_server_url(server), '/') + 1;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	*ret_pid = fork();
	if (*ret_pid == 0) {
		dup2(fds[1], STDIN_FILENO);
		dup2(fds[1], STDOUT_FILENO);
		execlp("openssl", "openssl", "s_client", "-quiet", "-connect", address, "-CAfile", "cert.pem",
		       (char *)NULL);
		_exit(127);
	}
	assert_true(*ret_pid > 0);
	close(fds[1]);
	return fds[0];
}

/*
 * By TLS as without it: a client that sends much and takes it back at the same time. The certificate is made
 * by openssl, too.
 */
static void tls_carries_much_both_ways_at_once(void **state)
{
	const size_t much = 8u << 20;
	struct fixture *x = malloc(sizeof(*x));
	struct stream_server_options options = {
		.address = "127.0.0.1:0", .tls_cert_file = "cert.pem", .tls_key_file = "key.pem"};
	char dir[] = "/tmp/crv-tls-XXXXXX", *url;
	struct taker t = {.id = 5};
	struct client c;
	void *own = x;
	size_t offset = 0;
	pid_t pid;

	(void)state;
	assert_non_null(x);
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chdir(dir), 0);
	if (system("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem "
		   "-out cert.pem 2>/dev/null") != 0)
		skip(); /* a machine without openssl */
	memset(x, 0, sizeof(*x));
	looping_start(&x->l);
	options.loop = x->l.loop;
	assert_int_equal(stream_server_new(&options, &x->server, NULL), 0);
	assert_true(str_starts(stream_server_url(x->server), "https://127.0.0.1:"));
	url = offer(x, STREAM_EXEC, false);
	t.fd = dial_tls(x->server, &pid);
	client_init(&c);
	put_request(&c.out, "POST", strchr(url + strlen("https://"), '/'), UPGRADE_SPDY);
	client_open(&c, 1, "error");
	client_open(&c, 3, "stdin");
	client_open(&c, 5, "stdout");
	client_open(&c, 7, "stderr");
	for (int idle = 0; t.taken < much && idle < 1000;) {
		size_t before = t.taken;

		client_pour(&c, t.fd, 3, &offset, much, 5);
		taker_take(&t, much, 5);
		idle = t.taken == before ? idle + 1 : 0;
	}
	assert_int_equal(t.taken, much);
	assert_false(t.wrong);
	client_data(&c, 3, "", true);
	client_flush(&c, t.fd);
	free(read_to_end(t.fd, NULL)); /* the server closes */
	close(t.fd);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	AWAIT(atomic_load(&x->ended) == 1);
	buf_done(&t.in);
	client_done(&c);
	free(url);
	assert_int_equal(chdir("/"), 0);
	remove_tree(dir);
	stop(&own);
}

/* ---- SPDY's dictionary --------------------------------------------------------------------------------- */

/* RFC 1950's checksum of the 1423 bytes that the draft's section 2.6.10.1 prints. */
static void dictionary_is_that_of_the_draft(void **state)
{
	unsigned char dictionary[SPDY_DICTIONARY_LEN];

	(void)state;
	assert_int_equal(SPDY_DICTIONARY_LEN, 1423);
	spdy_dictionary(dictionary);
	assert_int_equal(adler32(adler32(0, NULL, 0), dictionary, sizeof(dictionary)), 0xe3c6a7c2);
}

/* ---- exec on SPDY -------------------------------------------------------------------------------------- */

/* A whole exec in one write, the request included: what comes with it is not lost. */
static void put_exec(struct client *c, const char *path)
{
	put_request(&c->out, "POST", path, UPGRADE_SPDY);
	client_open(c, 1, "error");
	client_open(c, 3, "stdin");
	client_open(c, 5, "stdout");
	client_open(c, 7, "stderr");
	client_data(c, 3, "hello", false);
	client_data(c, 3, " world", true);
}

static void exec_on_spdy_echoes_and_tells_its_exit_code(void **state)
{
	struct fixture *x = *state;
	char *url = offer(x, STREAM_EXEC, false), *answer, *text;
	struct client c;
	size_t len;
	int fd = dial(x);

	client_init(&c);
	put_exec(&c, path_of(url));
	send_all(fd, buf_data(&c.out), c.out.len);
	answer = read_to_end(fd, &len);
	close(fd);
	text = stream_text(answer, len, 5);
	assert_string_equal(text, "hello world");
	free(text);
	text = stream_text(answer, len, 1);
	assert_non_null(strstr(text, "\"NonZeroExitCode\""));
	assert_non_null(strstr(text, "{\"reason\":\"ExitCode\",\"message\":\"3\"}"));
	free(text);
	free(answer);
	AWAIT(atomic_load(&x->released) == 1);
	assert_int_equal(atomic_load(&x->ended), 1);
	client_done(&c);
	free(url);
}

static void exec_with_a_terminal_is_told_its_size(void **state)
{
	struct fixture *x = *state;
	char *url = offer(x, STREAM_EXEC, true);
	struct client c;
	int fd = dial(x);

	client_init(&c);
	put_request(&c.out, "POST", path_of(url), UPGRADE_SPDY);
	client_open(&c, 1, "error");
	client_open(&c, 3, "stdin");
	client_open(&c, 5, "stdout");
	client_open(&c, 7, "resize");
	client_data(&c, 7, "{\"Width\":97,\"Hei", false);
	client_data(&c, 7, "ght\":33}\n{\"Width\":50,\"Height\":20}", false);
	client_data(&c, 7, "{\"Width\":70000,\"Height\":20}", false); /* no size */
	client_data(&c, 3, "", true);
	send_all(fd, buf_data(&c.out), c.out.len);
	free(read_to_end(fd, NULL));
	close(fd);
	assert_int_equal(atomic_load(&x->sizes), 2);
	assert_int_equal(atomic_load(&x->width), 50);
	assert_int_equal(atomic_load(&x->height), 20);
	client_done(&c);
	free(url);
}

/*
 * Whatever the byte at which a client is cut off: its pipe is told once, its request released, nothing is
 * left.
 */
static void cut(struct fixture *x, const void *data, size_t len)
{
	unsigned int accepted = atomic_load(&x->accepted), ended = atomic_load(&x->ended), tokens, sessions;
	int fd = dial(x);

	send_all(fd, data, len);
	close(fd);
	do {
		usleep(200);
		stream_server_load(x->server, &tokens, &sessions);
	} while (sessions > 0);
	AWAIT(atomic_load(&x->accepted) - accepted == atomic_load(&x->ended) - ended);
}

static void exec_on_spdy_cut_at_any_byte_leaves_nothing(void **state)
{
	struct fixture *x = *state;
	size_t len = 1;

	for (size_t at = 1; at <= len; at++) {
		char *url = offer(x, STREAM_EXEC, false);
		struct client c;

		client_init(&c);
		put_exec(&c, path_of(url));
		len = c.out.len;
		cut(x, buf_data(&c.out), at);
		client_done(&c);
		free(url);
	}
	assert_true(atomic_load(&x->accepted) > 0);
}

/* ---- exec on WebSocket --------------------------------------------------------------------------------- */

/* A client's frame, masked with zeros. */
static void put_frame(struct buf *to, unsigned char opcode, int channel, const char *text)
{
	size_t len = strlen(text) + (channel >= 0);
	const unsigned char head[] = {
		(unsigned char)(0x80 | opcode), (unsigned char)(0x80 | len), 0, 0, 0, 0};
	const unsigned char first = (unsigned char)channel;

	must(len < 126 && buf_put(to, head, sizeof(head)) == 0);
	if (channel >= 0)
		must(buf_put(to, &first, 1) == 0);
	put_text(to, text);
}

/* v5: no more on that channel. */
static void put_close(struct buf *to, unsigned char channel)
{
	const unsigned char frame[] = {0x82, 0x82, 0, 0, 0, 0, 255, channel};

	must(buf_put(to, frame, sizeof(frame)) == 0);
}

static void put_exec_ws(struct buf *out, const char *path)
{
	put_request(out, "GET", path, UPGRADE_WS("v5.channel.k8s.io"));
	put_frame(out, 2, 0, "hello");
	put_frame(out, 9, -1, "ping");
	put_frame(out, 2, 0, " world");
	put_close(out, 0);
}

static void exec_on_websocket_v5_echoes_and_closes(void **state)
{
	struct fixture *x = *state;
	char *url = offer(x, STREAM_EXEC, false), *answer;
	struct buf out = {0};
	size_t len;
	int fd = dial(x);

	put_exec_ws(&out, path_of(url));
	send_all(fd, buf_data(&out), out.len);
	answer = read_to_end(fd, &len);
	close(fd);
	assert_non_null(strstr(answer, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
	assert_non_null(strstr(answer, "Sec-WebSocket-Protocol: v5.channel.k8s.io"));
	assert_non_null(memmem(answer, len, "\x82\x06\x01hello", 8));
	assert_non_null(memmem(answer, len, "\x8a\x04ping", 6));
	assert_non_null(memmem(answer, len, "\x82\x07\x01 world", 9));
	assert_non_null(memmem(answer, len, "\"NonZeroExitCode\"", 17));
	assert_non_null(memmem(answer, len, "\x88\x02\x03\xe8", 4)); /* close, 1000 */
	free(answer);
	buf_done(&out);
	free(url);
}

static void exec_on_websocket_cut_at_any_byte_leaves_nothing(void **state)
{
	struct fixture *x = *state;
	size_t len = 1;

	for (size_t at = 1; at <= len; at++) {
		char *url = offer(x, STREAM_EXEC, false);
		struct buf out = {0};

		put_exec_ws(&out, path_of(url));
		len = out.len;
		cut(x, buf_data(&out), at);
		buf_done(&out);
		free(url);
	}
	assert_true(atomic_load(&x->accepted) > 0);
}

static void exec_on_base64_websocket_decodes_in_pieces(void **state)
{
	struct fixture *x = *state;
	char *url = offer(x, STREAM_EXEC, false), answer[4096] = "";
	struct buf out = {0};
	size_t len = 0;
	int fd = dial(x);

	put_request(&out, "GET", path_of(url), UPGRADE_WS("v4.base64.channel.k8s.io"));
	put_frame(&out, 1, '0', "aGVsbG8gd29ybGQ="); /* hello world */
	send_all(fd, buf_data(&out), out.len);
	while (len < sizeof(answer) - 1 && !memmem(answer, len, "1aGVsbG8gd29ybGQ=", 17)) {
		ssize_t n = read(fd, answer + len, sizeof(answer) - 1 - len);

		assert_true(n > 0);
		len += (size_t)n;
	}
	close(fd);
	AWAIT(atomic_load(&x->ended) == 1);
	buf_done(&out);
	free(url);
}

/* ---- port forwarding ----------------------------------------------------------------------------------- */

static void open_forward(struct client *c, uint32_t id, const char *type, const char *port,
			 const char *request)
{
	const char *const pairs[] = {"streamtype", type, "port", port, "requestid", request, NULL, NULL};

	client_open_with(c, id, pairs, strcmp(type, "error") == 0);
}

static void forward_on_spdy_carries_connections_side_by_side(void **state)
{
	struct fixture *x = *state;
	char *url = offer(x, STREAM_FORWARD, false), *answer, *text;
	struct client c;
	size_t len;
	int fd = dial(x);

	client_init(&c);
	put_request(&c.out, "POST", path_of(url),
		    "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: "
		    "portforward.k8s.io\r\n");
	open_forward(&c, 1, "error", "80", "0");
	open_forward(&c, 3, "data", "80", "0");
	open_forward(&c, 5, "error", "81", "1");
	open_forward(&c, 7, "data", "81", "1");
	open_forward(&c, 9, "data", "0", "2"); /* no port: refused, and the others go on */
	client_data(&c, 7, "two", false);
	client_data(&c, 3, "one", true);
	client_data(&c, 7, "", true);
	send_all(fd, buf_data(&c.out), c.out.len);
	AWAIT(atomic_load(&x->ended) == 2);
	shutdown(fd, SHUT_WR);
	answer = read_to_end(fd, &len);
	close(fd);
	text = stream_text(answer, len, 3);
	assert_string_equal(text, "one");
	free(text);
	text = stream_text(answer, len, 7);
	assert_string_equal(text, "two");
	free(text);
	free(answer);
	assert_int_equal(atomic_load(&x->port), 81);
	AWAIT(atomic_load(&x->released) == 1);
	client_done(&c);
	free(url);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, start, stop)
	const struct CMUnitTest tests[] = {
		T(token_is_for_one_use),
		T(token_of_another_kind_is_not_found_and_stays),
		cmocka_unit_test(token_too_old_is_not_found_and_released),
		T(tokens_end_at_1000),
		T(requests_that_are_none_are_refused),
		T(address_of_ipv6_is_in_brackets),
		T(address_or_certificate_that_is_none_is_refused),
		cmocka_unit_test(tls_carries_much_both_ways_at_once),
		cmocka_unit_test(dictionary_is_that_of_the_draft),
		T(exec_on_spdy_echoes_and_tells_its_exit_code),
		T(exec_with_a_terminal_is_told_its_size),
		T(exec_on_spdy_cut_at_any_byte_leaves_nothing),
		T(exec_on_websocket_v5_echoes_and_closes),
		T(exec_on_websocket_cut_at_any_byte_leaves_nothing),
		T(exec_on_base64_websocket_decodes_in_pieces),
		T(forward_on_spdy_carries_connections_side_by_side),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

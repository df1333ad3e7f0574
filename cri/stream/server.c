/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP by libmicrohttpd: tokens are taken in, versions agreed on, connections upgraded. */
#include "cri/stream/session_internal.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netdb.h>
#include <strings.h>
#include <sys/socket.h>

#define HTTP_TIMEOUT_S	30
#define HTTP_MEMORY	(16u * 1024) /* for a request's headers */
#define HTTP_STACK	(128u * 1024)
#define PROTOCOL_HEADER "X-Stream-Protocol-Version"

typedef enum MHD_Result result;

/* ---- versions ------------------------------------------------------------------------------------------ */

struct protocol {
	const char *name;
	enum transport transport;
	bool forward;
	int version;
	bool text;
};
/* In the order in which they are told to a client that has offered none of them. */
static const struct protocol protocols[] = {
	{"v4.channel.k8s.io", TRANSPORT_SPDY, false, 4, false},
	{"v3.channel.k8s.io", TRANSPORT_SPDY, false, 3, false},
	{"v2.channel.k8s.io", TRANSPORT_SPDY, false, 2, false},
	{"channel.k8s.io", TRANSPORT_SPDY, false, 1, false},
	{"portforward.k8s.io", TRANSPORT_SPDY, true, 0, false},
	{"v5.channel.k8s.io", TRANSPORT_WS, false, 5, false},
	{"v4.channel.k8s.io", TRANSPORT_WS, false, 4, false},
	{"v4.base64.channel.k8s.io", TRANSPORT_WS, false, 4, true},
	{"channel.k8s.io", TRANSPORT_WS, false, 1, false},
	{"base64.channel.k8s.io", TRANSPORT_WS, false, 1, true},
	{"SPDY/3.1+portforward.k8s.io", TRANSPORT_WS_SPDY, true, 0, false},
};

struct offer {
	bool websocket;
	bool forward;
	bool any; /* the client named a version */
	const struct protocol *chosen;
};

static const struct protocol *find(const struct offer *offer, const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(protocols); i++) {
		const struct protocol *p = &protocols[i];

		if ((p->transport != TRANSPORT_SPDY) == offer->websocket && p->forward == offer->forward &&
		    strlen(p->name) == len && memcmp(p->name, name, len) == 0)
			return p;
	}
	return NULL;
}

/* Of each header of that name, and each name in it; the client's first that we have. */
static result look_at_offer(void *arg, enum MHD_ValueKind kind, const char *key, const char *value)
{
	struct offer *offer = arg;

	(void)kind;
	if (!value || strcasecmp(key, offer->websocket ? "Sec-WebSocket-Protocol" : PROTOCOL_HEADER) != 0)
		return MHD_YES;
	while (*value) {
		size_t len;

		value += strspn(value, ", \t");
		len = strcspn(value, ", \t");
		offer->any = offer->any || len > 0;
		if (len > 0 && !offer->chosen)
			offer->chosen = find(offer, value, len);
		value += len;
	}
	return MHD_YES;
}

/* ---- answers ------------------------------------------------------------------------------------------- */

static result answer(struct MHD_Connection *connection, unsigned int status, const char *text)
{
	struct MHD_Response *response =
		MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
	result r;

	if (!response)
		return MHD_NO;
	(void)MHD_add_response_header(response, "Content-Type", "text/plain; charset=utf-8");
	(void)MHD_add_response_header(response, "Connection", "close");
	if (status == MHD_HTTP_FORBIDDEN) {
		for (size_t i = 0; i < ARRAY_SIZE(protocols); i++)
			(void)MHD_add_response_header(response, "X-Accepted-Stream-Protocol-Versions",
						      protocols[i].name);
	}
	r = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return r;
}

/* A connection's, until libmicrohttpd has done with it: on_completed frees it. */
struct upgrade {
	struct stream_server *server;
	struct stream_request request;
	const struct protocol *protocol;
	bool taken; /* a token's request is in it */
	bool seen;  /* the handler has been called for the headers */
};

static void upgrade_free(struct upgrade *upgrade)
{
	if (upgrade->taken) {
		if (upgrade->request.release)
			upgrade->request.release(upgrade->request.arg);
		atomic_fetch_sub(&upgrade->server->sessions_len, 1);
	}
	free(upgrade);
}

static void close_upgraded(void *arg)
{
	MHD_upgrade_action(arg, MHD_UPGRADE_ACTION_CLOSE);
}

/* The 101 has been sent. */
static void on_upgraded(void *arg, struct MHD_Connection *connection, void *request_arg, const char *extra,
			size_t extra_len, MHD_socket fd, struct MHD_UpgradeResponseHandle *handle)
{
	struct upgrade *upgrade = arg;
	struct session_options options = {
		.request = upgrade->request,
		.transport = upgrade->protocol->transport,
		.version = upgrade->protocol->version,
		.text = upgrade->protocol->text,
		.fd = fd,
		.close = close_upgraded,
		.close_arg = handle,
		.early = extra,
		.early_len = extra_len,
	};

	(void)connection;
	(void)request_arg;
	upgrade->taken = false;
	(void)set_nonblock(fd, true);
	session_start(upgrade->server, &options);
}

static result switch_protocols(struct MHD_Connection *connection, struct upgrade **upgrade, bool websocket,
			       bool named)
{
	const char *key = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Sec-WebSocket-Key");
	const char *version =
		MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Sec-WebSocket-Version");
	struct MHD_Response *response;
	char accept[WS_ACCEPT_MAX];
	result r;

	if (websocket && (!key || strlen(key) > 64 || !str_eq(version, "13")))
		return answer(connection, MHD_HTTP_BAD_REQUEST, "malformed WebSocket handshake\n");
	response = MHD_create_response_for_upgrade(on_upgraded, *upgrade);
	if (!response)
		return MHD_NO;
	(void)MHD_add_response_header(response, "Upgrade", websocket ? "websocket" : "SPDY/3.1");
	if (websocket) {
		ws_accept(key, accept);
		(void)MHD_add_response_header(response, "Sec-WebSocket-Accept", accept);
	}
	if (named)
		(void)MHD_add_response_header(response,
					      websocket ? "Sec-WebSocket-Protocol" : PROTOCOL_HEADER,
					      (*upgrade)->protocol->name);
	r = MHD_queue_response(connection, MHD_HTTP_SWITCHING_PROTOCOLS, response);
	MHD_destroy_response(response);
	if (r != MHD_YES)
		return answer(connection, MHD_HTTP_BAD_REQUEST, "this request cannot be upgraded\n");
	return r;
}

/* ---- requests ------------------------------------------------------------------------------------------ */

/* Takes the token's request into the upgrade: 0, or the HTTP status to answer. */
static unsigned int take_token(struct upgrade *upgrade, const char *path, bool *ret_forward)
{
	struct stream_server *server = upgrade->server;
	char token[TOKEN_LEN + 1];
	enum stream_kind kind;

	if (!stream_path_parse(path, &kind, token))
		return MHD_HTTP_NOT_FOUND;
	if (atomic_fetch_add(&server->sessions_len, 1) >= STREAM_SESSIONS_MAX) {
		atomic_fetch_sub(&server->sessions_len, 1);
		return MHD_HTTP_SERVICE_UNAVAILABLE;
	}
	if (!tokens_take(&server->tokens, kind, token, &upgrade->request)) {
		atomic_fetch_sub(&server->sessions_len, 1);
		return MHD_HTTP_NOT_FOUND;
	}
	upgrade->taken = true;
	*ret_forward = kind == STREAM_FORWARD;
	return 0;
}

static result handle(struct MHD_Connection *connection, struct upgrade **upgrade, const char *path)
{
	const char *wanted = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Upgrade");
	struct offer offer = {.websocket = wanted && strcasecmp(wanted, "websocket") == 0};
	unsigned int status = take_token(*upgrade, path, &offer.forward);

	if (status == MHD_HTTP_NOT_FOUND)
		return answer(connection, status, "no such stream, or its token was used or is too old\n");
	if (status != 0)
		return answer(connection, status, "too many streams\n");
	if (!offer.websocket && (!wanted || strcasecmp(wanted, "SPDY/3.1") != 0))
		return answer(connection, MHD_HTTP_BAD_REQUEST, "want an upgrade to SPDY/3.1 or websocket\n");
	MHD_get_connection_values(connection, MHD_HEADER_KIND, look_at_offer, &offer);
	/* The first clients named none. */
	if (!offer.any && !(offer.websocket && offer.forward))
		offer.chosen = offer.forward
				       ? find(&offer, "portforward.k8s.io", strlen("portforward.k8s.io"))
				       : find(&offer, "channel.k8s.io", strlen("channel.k8s.io"));
	if (!offer.chosen)
		return answer(connection, MHD_HTTP_FORBIDDEN, "none of the protocol versions is supported\n");
	(*upgrade)->protocol = offer.chosen;
	return switch_protocols(connection, upgrade, offer.websocket, offer.any);
}

static result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
			 const char *version, const char *upload, size_t *upload_len, void **state)
{
	struct upgrade *upgrade = *state;

	(void)version;
	(void)upload;
	if (!upgrade) {
		upgrade = calloc(1, sizeof(*upgrade));
		if (!upgrade)
			return MHD_NO;
		upgrade->server = arg;
		*state = upgrade;
		return MHD_YES;
	}
	if (*upload_len > 0) { /* a body: it means nothing */
		*upload_len = 0;
		return MHD_YES;
	}
	if (strcmp(method, "GET") != 0 && strcmp(method, "POST") != 0)
		return answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "want GET or POST\n");
	if (upgrade->seen)
		return MHD_NO;
	upgrade->seen = true;
	return handle(connection, (struct upgrade **)state, url);
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **state,
			 enum MHD_RequestTerminationCode code)
{
	(void)arg;
	(void)connection;
	(void)code;
	if (*state)
		upgrade_free(*state);
	*state = NULL;
}

/* ---- listening ----------------------------------------------------------------------------------------- */

/* "127.0.0.1:0", "[::1]:10010" */
static int parse_address(const char *text, struct addrinfo **ret_address, struct err *err)
{
	const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
				       .ai_socktype = SOCK_STREAM};
	char host[64], *end;
	const char *colon = strrchr(text, ':');
	uint64_t port;
	int r;

	if (!colon || (size_t)(colon - text) >= sizeof(host) || colon == text)
		return err_set(err, -EINVAL, "stream address \"%s\": want <address>:<port>", text);
	snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
	end = host + strlen(host) - 1;
	if (host[0] == '[' && *end == ']') {
		*end = 0;
		memmove(host, host + 1, strlen(host));
	}
	/* getaddrinfo takes a port modulo 65536. */
	r = parse_u64(colon + 1, &port) < 0 || port > UINT16_MAX ? -EINVAL : 0;
	if (r == 0)
		r = getaddrinfo(host, colon + 1, &hints, ret_address);
	if (r != 0)
		return err_set(err, -EINVAL, "stream address \"%s\": want <address>:<port>, in numbers",
			       text);
	return 0;
}

/* A client on this host reaches a wildcard address on loopback. */
static void fill_url(struct stream_server *server, const struct sockaddr_storage *address)
{
	const struct sockaddr_in6 *v6 = (const void *)address;
	const struct sockaddr_in *v4 = (const void *)address;
	const char *scheme = server->secure ? "https" : "http";
	char host[INET6_ADDRSTRLEN] = "";

	if (address->ss_family == AF_INET6) {
		inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
		if (IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr))
			snprintf(host, sizeof(host), "::1");
		snprintf(server->url, sizeof(server->url), "%s://[%s]:%u", scheme, host,
			 ntohs(v6->sin6_port));
		return;
	}
	inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
	if (v4->sin_addr.s_addr == htonl(INADDR_ANY))
		snprintf(host, sizeof(host), "127.0.0.1");
	snprintf(server->url, sizeof(server->url), "%s://%s:%u", scheme, host, ntohs(v4->sin_port));
}

static int listen_at(struct stream_server *server, const char *text, int *ret_fd, struct err *err)
{
	struct sockaddr_storage bound = {0};
	socklen_t len = sizeof(bound);
	struct addrinfo *address;
	const int on = 1;
	int fd CLEANUP_CLOSE = -1;
	int r = parse_address(text, &address, err);

	if (r < 0)
		return r;
	fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(fd, address->ai_addr, address->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0 ||
	    getsockname(fd, (struct sockaddr *)&bound, &len) < 0)
		r = err_set_errno(err, -errno, "stream address %s", text);
	freeaddrinfo(address);
	if (r < 0)
		return r;
	fill_url(server, &bound);
	*ret_fd = move_fd(fd);
	return 0;
}

/* Loop. A client by TLS, in the clear from here on. */
static void on_connected(void *arg, int fd, const struct sockaddr *from, socklen_t from_len)
{
	const struct stream_server *server = arg;

	(void)MHD_add_connection(server->daemon, fd, from, from_len); /* closes it, where it fails */
}

static int start_http(struct stream_server *server, int fd, struct err *err)
{
	struct MHD_OptionItem listen_at_fd[] = {{MHD_OPTION_LISTEN_SOCKET, fd, NULL},
						{MHD_OPTION_END, 0, NULL}};
	unsigned int flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_UPGRADE | MHD_USE_ITC;

	if (server->secure) {
		flags |= MHD_USE_NO_LISTEN_SOCKET;
		listen_at_fd[0] = listen_at_fd[1];
	}
	server->daemon = MHD_start_daemon(
		flags, 0, NULL, NULL, on_request, server, MHD_OPTION_ARRAY, listen_at_fd,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, server, MHD_OPTION_CONNECTION_LIMIT,
		(unsigned int)(2 * STREAM_SESSIONS_MAX), MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned int)HTTP_TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_MEMORY,
		MHD_OPTION_THREAD_STACK_SIZE, (size_t)HTTP_STACK, MHD_OPTION_END);
	if (!server->daemon)
		return err_set(err, -EIO, "the streaming server cannot start at %s", server->url);
	return 0;
}

static int start_listening(struct stream_server *server, const struct stream_server_options *options,
			   struct err *err)
{
	struct tls_options tls = {.loop = options->loop,
				  .cert_file = options->tls_cert_file,
				  .key_file = options->tls_key_file,
				  .connected = on_connected,
				  .arg = server};
	int fd = -1, r;

	if (!options->tls_cert_file != !options->tls_key_file)
		return err_set(err, -EINVAL, "TLS of the streaming server needs a certificate and a key");
	server->secure = options->tls_cert_file;
	r = listen_at(server, options->address, &fd, err);
	if (r < 0)
		return r;
	r = start_http(server, fd, err);
	if (r == 0 && server->secure) {
		tls.listen_fd = fd;
		r = tls_new(&tls, &server->tls, err);
	}
	if (r < 0 && (server->secure || !server->daemon))
		close_fd(fd);
	return r;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

int stream_server_new(const struct stream_server_options *options, struct stream_server **ret_server,
		      struct err *err)
{
	struct stream_server *server = calloc(1, sizeof(*server));
	int r;

	if (!server)
		return err_oom(err);
	server->loop = options->loop;
	atomic_init(&server->refs, 1);
	pthread_mutex_init(&server->lock, NULL);
	tokens_init(&server->tokens, options->token_ns > 0 ? options->token_ns : STREAM_TOKEN_NS);
	r = start_listening(server, options, err);
	if (r < 0) {
		stream_server_free(server);
		return r;
	}
	*ret_server = server;
	return 0;
}

void stream_server_unref(struct stream_server *server)
{
	if (atomic_fetch_sub(&server->refs, 1) != 1)
		return;
	tokens_done(&server->tokens);
	pthread_mutex_destroy(&server->lock);
	free(server);
}

struct stream_server *stream_server_free(struct stream_server *server)
{
	if (!server)
		return NULL;
	pthread_mutex_lock(&server->lock);
	server->closing = true;
	pthread_mutex_unlock(&server->lock);
	session_discard_incoming(server);
	while (server->sessions)
		session_free(server->sessions);
	server->tls = tls_free(server->tls);
	/* All that is upgraded is closed by now, and what is upgraded meanwhile is closed at once. */
	if (server->daemon)
		MHD_stop_daemon(server->daemon);
	stream_server_unref(server);
	return NULL;
}

const char *stream_server_url(const struct stream_server *server)
{
	return server->url;
}

void stream_server_load(struct stream_server *server, unsigned int *ret_tokens, unsigned int *ret_sessions)
{
	tokens_expire(&server->tokens);
	*ret_tokens = tokens_len(&server->tokens);
	*ret_sessions = atomic_load(&server->sessions_len);
}

int stream_offer(struct stream_server *server, const struct stream_request *request, char **ret_url,
		 struct err *err)
{
	char token[TOKEN_LEN + 1];
	/* Before the token is given: it cannot be taken back. */
	char *url = malloc(sizeof(server->url) + sizeof(token) + 16);
	int r = url ? tokens_add(&server->tokens, request, token, err) : err_oom(err);

	if (r < 0) {
		free(url);
		return r;
	}
	snprintf(url, sizeof(server->url) + sizeof(token) + 16, "%s/%s/%s", server->url,
		 stream_kind_name(request->kind), token);
	*ret_url = url;
	return 0;
}

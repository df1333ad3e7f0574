/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http_internal.h: one HTTP exchange by libcurl, for the registry client.
 *
 * Threads:   a struct http belongs to one thread; it keeps connections open between calls. Blocks.
 * Limits:    see http_request. Redirects are reported, never followed.
 * Errors:    -errno with a message in curl's words; http_response.fault says what may be done about it.
 */
#ifndef CRI_IMAGE_REGISTRY_HTTP_INTERNAL_H
#define CRI_IMAGE_REGISTRY_HTTP_INTERNAL_H

#include "base/buf.h"
#include "base/err.h"
#include "cri/core/call.h"
#include "cri/image/registry/auth.h"
#include "cri/image/registry/hosts_internal.h"

#include <stdbool.h>
#include <stdint.h>

struct http;

/* `call` (may be NULL) outlives it and ends every exchange. */
int http_new(struct call *call, struct http **ret_http, struct err *err);
struct http *http_free(struct http *http);

struct http_request {
	const char *url;
	const struct registry_host *tls; /* authorities, skip_verify, client certificate, connect timeout */
	bool same_origin;		 /* the client certificate and the host's headers may go along */
	const char *authorization;	 /* NULL: none */
	const char *accept;		 /* NULL: anything */
	const char *form;		 /* NULL: GET; else POST of this form */
	uint64_t range_from;		 /* > 0: a Range request */
	bool bulk;			 /* no time limit as long as bytes come at 1 KiB/s or more */
	long stall_s;			 /* so long they may come slower; 0: 60 s */
	size_t max_bytes;		 /* of a body kept in memory */
	/* Receives the body of a 200 or 206; NULL: kept in memory. *_begin says at which offset it starts. */
	int (*begin)(void *arg, uint64_t offset, struct err *err);
	int (*data)(void *arg, const void *data, size_t len, struct err *err);
	void *arg;
};

enum http_fault {
	HTTP_FAULT_NONE,
	HTTP_FAULT_SINK,	/* begin or data failed: err is theirs */
	HTTP_FAULT_STOPPED,	/* the call has ended */
	HTTP_FAULT_UNREACHABLE, /* no connection */
	HTTP_FAULT_TLS,		/* no TLS spoken there, or a certificate that does not verify */
	HTTP_FAULT_BROKEN,	/* connection lost or stalled under way */
	HTTP_FAULT_ANSWER,	/* what came makes no sense */
};

struct http_response {
	enum http_fault fault;
	bool no_tls; /* with HTTP_FAULT_TLS: the peer does not speak TLS at all */
	long status;
	char content_type[256];
	long retry_after_s;
	struct auth_challenge challenge;
	char *redirect; /* absolute, or NULL */
	struct buf body;
	/* internal */
	bool range_ok;
	uint64_t range_start;
};

/* 0 once a whole answer came, whatever its status. http_response_done either way. */
int http_do(struct http *http, const struct http_request *request, struct http_response *ret_response,
	    struct err *err);
void http_response_done(struct http_response *response);
/* True if both URLs have the same scheme, host and port. */
bool http_same_origin(const char *a, const char *b);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tls_internal.h: TLS in front of the HTTP server.
 *
 * Purpose:   accepts connections, does TLS with OpenSSL on the loop, and hands a socket on whose far end the
 *            same bytes come in the clear. libmicrohttpd has TLS of its own; there (0.9.75) an upgraded
 *            connection that carries much both ways at once comes to a stand.
 * Threads:   tls_new: any. All else: the loop's; tls_free also once the loop has ended.
 * Ownership: the listening socket is its own, unless tls_new fails. The socket that `connected` is given is
 *            its callee's.
 * Limits:    TLS_CONNECTIONS_MAX connections; a handshake of 30 s; 64 KiB each way, and no more is read while
 *            they wait. TLS 1.2 at least.
 * Errors:    -EINVAL: files that are not a certificate and its key.
 */
#ifndef CRI_STREAM_TLS_INTERNAL_H
#define CRI_STREAM_TLS_INTERNAL_H

#include "base/err.h"
#include "cri/core/loop.h"

#include <sys/socket.h>

#define TLS_CONNECTIONS_MAX 2048

struct tls;

struct tls_options {
	struct loop *loop;
	int listen_fd; /* non-blocking */
	const char *cert_file, *key_file;
	void (*connected)(void *arg, int fd, const struct sockaddr *from, socklen_t from_len);
	void *arg;
};
int tls_new(const struct tls_options *options, struct tls **ret_tls, struct err *err);
/* Returns NULL. NULL-safe. */
struct tls *tls_free(struct tls *tls);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server.h: the agent's connections, which carry its ttrpc services, and the socket on which they come.
 *
 * Threads:   the loop's.
 * Ownership: server_new's object is its caller's. A connection belongs to the server; streams
 *            find it by server_conn and must clear their drain hooks (server_drain_clear) before they end.
 * Limits:    SERVER_CONNS_MAX connections at once.
 * Trust:     the accept function lets nobody but the host in: nothing in a container can drive the agent.
 */
#ifndef GUEST_RPC_SERVER_H
#define GUEST_RPC_SERVER_H

#include "api/ttrpc/ttrpc.h"
#include "base/buf.h"
#include "guest/core/agent.h"

#define SERVER_CONNS_MAX 1024
#define SERVER_OUT_HIGH	 (256u * 1024) /* streams stop sending above this much unwritten output */
#define SERVER_OUT_LOW	 (64u * 1024)  /* and go on below this */

struct server_conn;

/* One server in a process. services end with a NULL name and live on. NULL on ENOMEM. */
struct server *server_new(struct agent *agent, const struct ttrpc_service *services);
/* Accepts a connection that may be served: a non-blocking fd, or a negative errno (refused, and logged). */
typedef int server_accept_fn(int fd);
/* Serves what connects to the listening socket fd, which is the server's from now on, unless this fails. */
int server_serve(struct server *server, int fd, server_accept_fn *accept, struct err *err);
/* As given to server_new. */
const struct ttrpc_service *server_services(const struct server *server);
/*
 * Serves a connected, non-blocking socket, which is the server's from now on, unless this fails: 0 or
 * -ENOMEM.
 */
int server_take(struct server *server, int fd);
/* Ends all connections. NULL-safe; returns NULL. */
struct server *server_free(struct server *server);
/* Writes out pending answers, up to the deadline (CLOCK_MONOTONIC): before the end. */
void server_flush(struct server *server, int64_t deadline_ns);
/*
 * buf_write_fd for a vsock connection, at most SERVER_SEND_MAX bytes at once: Linux (6.12.y) puts a longer
 * send into a packet of several fragments, and vhost-device-vsock 0.3 takes one descriptor of data a packet:
 * the rest would be lost silently.
 */
#define SERVER_SEND_MAX 16384
ssize_t server_send(struct buf *b, int fd);

/* ---- for streams ---------------------------------------------------------------------------------- */

struct server_drain {
	struct server_drain *next;
	void (*fn)(void *arg); /* runs once, when the output has fallen below SERVER_OUT_LOW */
	void *arg;
	bool queued;
};

struct server_conn *server_conn(struct ttrpc_request *req);
/* True while a stream may send on this connection. */
bool server_may_send(const struct server_conn *conn);
void server_on_drain(struct server_conn *conn, struct server_drain *drain, void (*fn)(void *arg), void *arg);
void server_drain_clear(struct server_conn *conn, struct server_drain *drain);
/* Stops reading from the connection (calls nest), while what it sends cannot be taken. */
void server_pause(struct server_conn *conn, bool pause);

#endif

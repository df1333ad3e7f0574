/*
 * gserver.h: the agent's vsock listener and its connections, which carry the four ttrpc services.
 *
 * Threads:   the loop's.
 * Ownership: gserver_new's object is its caller's. A connection belongs to the server; streams
 *            find it by gserver_conn and must clear their drain hooks (gserver_drain_clear) before they go
 *            away.
 * Limits:    GSERVER_CONNS_MAX connections at once; only the host (CID 2) may connect, so nothing in a
 *            container can drive the agent.
 */
#ifndef GUEST_GSERVER_H
#define GUEST_GSERVER_H

#include "api/ttrpc/ttrpc.h"
#include "guest/core/agent.h"

#define GSERVER_CONNS_MAX 1024
#define GSERVER_OUT_HIGH  (256u * 1024) /* streams stop sending above this much unwritten output */
#define GSERVER_OUT_LOW	  (64u * 1024)	/* and go on below this */

struct gconn;

/* One server in a process. services end with a NULL name and live on. NULL on ENOMEM. */
struct gserver *gserver_new(struct guest *g, const struct ttrpc_service *services);
/* Listens on a vsock port. */
int gserver_serve(struct gserver *server, unsigned int port, struct err *err);
/* Serves a connected, non-blocking socket, which is the server's from now on: 0 or -ENOMEM (then it is not).
 */
int gserver_take(struct gserver *server, int fd);
/* Ends all connections. NULL-safe; returns NULL. */
struct gserver *gserver_free(struct gserver *server);
/* Writes out what waits, up to the deadline: before power-off. */
void gserver_flush(struct gserver *server, int64_t deadline_ns);
/*
 * A listening vsock socket, and an accepted connection of the host's (others are closed and logged; -EAGAIN
 * then).
 */
int gserver_listen(unsigned int port, struct err *err);
int gserver_accept(int fd);
/*
 * buf_write_fd for a vsock connection, at most GSERVER_SEND_MAX bytes at once: Linux (6.12.y) puts a longer
 * send into a packet of several fragments, and vhost-device-vsock 0.3 takes one descriptor of data a packet:
 * the rest would be lost without a word.
 */
#define GSERVER_SEND_MAX 16384
ssize_t gserver_send(struct buf *b, int fd);

/* ---- for streams ---- */

struct gserver_drain {
	struct gserver_drain *next;
	void (*fn)(void *arg); /* runs once, when the output has fallen below GSERVER_OUT_LOW */
	void *arg;
	bool queued;
};

struct gconn *gserver_conn(struct ttrpc_request *req);
/* True while a stream may send on this connection. */
bool gserver_may_send(const struct gconn *conn);
void gserver_on_drain(struct gconn *conn, struct gserver_drain *drain, void (*fn)(void *arg), void *arg);
void gserver_drain_clear(struct gconn *conn, struct gserver_drain *drain);
/* Holds back reading from the connection (calls nest): what it sends has no taker at the moment. */
void gserver_pause(struct gconn *conn, bool pause);

#endif

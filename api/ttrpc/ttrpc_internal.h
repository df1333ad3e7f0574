/* SPDX-License-Identifier: Apache-2.0 */
/* ttrpc_internal.h: what the files of this directory share. See ttrpc.h. */
#ifndef API_TTRPC_TTRPC_INTERNAL_H
#define API_TTRPC_TTRPC_INTERNAL_H

#include "api/ttrpc/ttrpc.h"

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define FRAME_HEADER 10
#define OUT_SLACK    (64u << 10) /* room above TTRPC_OUT_MAX for answers that only carry a status */

enum frame_type {
	FRAME_REQUEST = 1,
	FRAME_RESPONSE = 2,
	FRAME_DATA = 3,
};
#define FLAG_REMOTE_CLOSED 1u
#define FLAG_REMOTE_OPEN   2u
#define FLAG_NO_DATA	   4u

struct ttrpc_frame {
	uint32_t len;
	uint32_t id;
	uint8_t type;
	uint8_t flags;
	const uint8_t *data; /* never NULL */
};

/* One call or stream, on either side. */
struct ttrpc_request {
	struct ttrpc_conn *conn; /* NULL: nobody waits for the answer any more */
	uint32_t id;
	uint32_t heap_at; /* index in the heap + 1, 0: no deadline */
	int64_t deadline_ns;
	bool streaming;
	bool local_closed, remote_closed;
	ttrpc_reply_fn *reply; /* client, unary */
	ttrpc_stream_fn *on_data;
	void *arg;
	void (*on_cancel)(void *arg); /* server */
	void *cancel_arg;
	UT_hash_handle hh;
};

/* Calls by id (uthash), and those with a deadline in a binary heap. */
struct ttrpc_calls {
	struct ttrpc_request *table;
	uint32_t count;
	struct ttrpc_request **heap;
	uint32_t heap_len, heap_room;
};

struct ttrpc_conn {
	const struct ttrpc_service *services; /* NULL: client */
	ttrpc_output_fn *output;
	void *owner;
	struct ttrpc_calls calls;
	struct buf in; /* a frame that has come in part */
	struct buf out;
	uint8_t header[FRAME_HEADER];
	uint8_t header_len;
	bool dead;
	int broken;	      /* negative errno: feed fails from now on */
	uint32_t skip;	      /* bytes of an oversized frame still to come */
	uint64_t stray_bytes; /* client: of frames that nobody waited for, less those that were */
	uint32_t last_id;     /* client: last one given out; server: last one seen */
};

/* calls.c */
int ttrpc_calls_add(struct ttrpc_calls *calls, struct ttrpc_request *call);
struct ttrpc_request *ttrpc_calls_find(const struct ttrpc_calls *calls, uint32_t id);
void ttrpc_calls_remove(struct ttrpc_calls *calls, struct ttrpc_request *call);
/* Any call, NULL if there is none. */
struct ttrpc_request *ttrpc_calls_any(const struct ttrpc_calls *calls);
/* The call with the earliest deadline, NULL if none has one. */
struct ttrpc_request *ttrpc_calls_earliest(const struct ttrpc_calls *calls);
void ttrpc_calls_done(struct ttrpc_calls *calls);

/* conn.c */
struct ttrpc_conn *ttrpc_conn_new(const struct ttrpc_service *services, ttrpc_output_fn *output, void *owner);
/* A new call, in the table; NULL on -ENOMEM. timeout_ns 0: none; negative: has passed already. */
struct ttrpc_request *ttrpc_conn_add_call(struct ttrpc_conn *conn, uint32_t id, int64_t timeout_ns);
/* Takes it out of the table and frees it. */
void ttrpc_conn_drop_call(struct ttrpc_conn *conn, struct ttrpc_request *call);
/* 0, -ECONNRESET, or -ENOBUFS if `len` more bytes of message do not fit. */
int ttrpc_conn_room(const struct ttrpc_conn *conn, size_t len);
/* Room for one frame; the caller fills in the message and then calls ttrpc_conn_commit. NULL: -errno in
 * *ret_r. */
uint8_t *ttrpc_conn_frame(struct ttrpc_conn *conn, uint32_t id, enum frame_type type, uint8_t flags,
			  size_t len);
void ttrpc_conn_commit(struct ttrpc_conn *conn, size_t len);
/* One whole data frame: 0 or negative errno. */
int ttrpc_conn_put_data(struct ttrpc_conn *conn, uint32_t id, uint8_t flags, const void *payload, size_t len);

/* client.c */
void ttrpc_client_frame(struct ttrpc_conn *conn, const struct ttrpc_frame *f);
/* Ends a client's call with err and frees it. */
void ttrpc_client_end(struct ttrpc_conn *conn, struct ttrpc_request *call, const struct err *err);

/* server.c */
void ttrpc_server_frame(struct ttrpc_conn *conn, const struct ttrpc_frame *f);
/* An answer with nothing but a status. */
void ttrpc_server_put_status(struct ttrpc_conn *conn, uint32_t id, const struct err *err);
/* Nobody waits for the answer any more: tells the handler. */
void ttrpc_server_cancel(struct ttrpc_conn *conn, struct ttrpc_request *req, const struct err *err);

/* wire.c: ttrpc.Request, ttrpc.Response, google.rpc.Status */
struct wire_request {
	const char *service, *method; /* not NUL-terminated */
	size_t service_len, method_len;
	const void *payload; /* NULL: none */
	size_t len;
	int64_t timeout_ns;
};
int ttrpc_wire_read_request(const struct ttrpc_frame *f, struct wire_request *ret_req);
size_t ttrpc_wire_request_size(const struct wire_request *req);
uint8_t *ttrpc_wire_put_request(uint8_t *p, const struct wire_request *req);
/*
 * The payload of a response (never NULL), 0; or its status as err and its errno; or -EBADMSG
 * if it is malformed.
 */
int ttrpc_wire_read_response(const struct ttrpc_frame *f, const void **ret_payload, size_t *ret_len,
			     struct err *err);
size_t ttrpc_wire_response_size(size_t payload_len);
uint8_t *ttrpc_wire_put_response(uint8_t *p, const void *payload, size_t len);
/* A response with err's status; out has room for WIRE_STATUS_MAX bytes. The length. */
#define WIRE_STATUS_MAX (ERR_MSG_MAX + 32)
size_t ttrpc_wire_put_status(uint8_t *out, const struct err *err);

#endif

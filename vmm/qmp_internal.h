/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp_internal.h: the QEMU Machine Protocol on one connection (docs/interop/qmp-spec.txt of QEMU 7.2).
 *
 * Purpose:   tells greeting, replies and events apart as they come; does not wait on sockets.
 * Threads:   the VM's io lock guards a struct qmp.
 * Limits:    a line of at most QMP_LINE_MAX bytes, JSON nested at most 32 deep. Beyond that, and for anything
 *            else that violates the protocol, qmp_feed fails and the connection must be closed.
 */
#ifndef VMM_QMP_INTERNAL_H
#define VMM_QMP_INTERNAL_H

#include "base/buf.h"
#include "base/err.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#define QMP_LINE_MAX (1024 * 1024)

/* data is borrowed and may be NULL. */
typedef void qmp_event_fn(const char *name, struct json_object *data, void *arg);

struct qmp {
	struct buf in;
	qmp_event_fn *on_event;
	void *arg;
	bool greeted;
	uint64_t id;		   /* of the last command */
	struct json_object *reply; /* the whole answer to it, once it is here; owned */
};

void qmp_init(struct qmp *q, qmp_event_fn *on_event, void *arg);
void qmp_done(struct qmp *q);
/* Takes what is complete in q->in. 0 or -EPROTO. */
int qmp_feed(struct qmp *q, struct err *err);
/*
 * The text of the next command, with a new id, newline included; free() it. Takes ownership of arguments (may
 * be NULL), on failure too. NULL on ENOMEM.
 */
char *qmp_request(struct qmp *q, const char *command, struct json_object *arguments);
/* The "return" of q->reply (borrowed), or QEMU's own description as an error. Call when q->reply is set. */
int qmp_result(const struct qmp *q, struct json_object **ret_value, struct err *err);

#endif

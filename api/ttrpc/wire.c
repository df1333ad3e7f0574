/* SPDX-License-Identifier: Apache-2.0 */
#include "api/ttrpc/ttrpc_internal.h"

#include "api/pbwire.h"
#include "base/text.h"
#include "base/util.h"

/* Source of the numbers: containerd/ttrpc request.proto and googleapis google/rpc/status.proto. */
enum {
	REQUEST_SERVICE = 1,
	REQUEST_METHOD = 2,
	REQUEST_PAYLOAD = 3,
	REQUEST_TIMEOUT = 4,
	RESPONSE_STATUS = 1,
	RESPONSE_PAYLOAD = 2,
	STATUS_CODE = 1,
	STATUS_MESSAGE = 2,
};

int ttrpc_wire_read_request(const struct ttrpc_frame *f, struct wire_request *ret_req)
{
	const uint8_t *at = f->data, *end = f->data + f->len;
	struct wire_request req = {.service = "", .method = ""};
	struct pbw_field field;
	int r;

	while ((r = pbw_next(&at, end, &field)) > 0) {
		enum pbw_type want = field.number == REQUEST_TIMEOUT ? PBW_VARINT : PBW_LEN;

		if (field.number > 5)
			continue;
		if (field.type != want)
			return -EBADMSG;
		switch (field.number) {
		case REQUEST_SERVICE:
			req.service = (const char *)field.data;
			req.service_len = field.len;
			break;
		case REQUEST_METHOD:
			req.method = (const char *)field.data;
			req.method_len = field.len;
			break;
		case REQUEST_PAYLOAD:
			req.payload = field.data;
			req.len = field.len;
			break;
		case REQUEST_TIMEOUT:
			req.timeout_ns = (int64_t)field.value;
			break;
		default: /* metadata: nothing here uses it */
			break;
		}
	}
	if (r < 0)
		return r;
	*ret_req = req;
	return 0;
}

size_t ttrpc_wire_request_size(const struct wire_request *req)
{
	size_t n = pbw_len_size(req->service_len) + pbw_len_size(req->method_len);

	if (req->payload)
		n += pbw_len_size(req->len);
	if (req->timeout_ns)
		n += 1 + pbw_varint_size((uint64_t)req->timeout_ns);
	return n;
}

uint8_t *ttrpc_wire_put_request(uint8_t *p, const struct wire_request *req)
{
	p = pbw_put_len(p, REQUEST_SERVICE, req->service, req->service_len);
	p = pbw_put_len(p, REQUEST_METHOD, req->method, req->method_len);
	if (req->payload)
		p = pbw_put_len(p, REQUEST_PAYLOAD, req->payload, req->len);
	if (req->timeout_ns) {
		*p++ = REQUEST_TIMEOUT << 3 | PBW_VARINT;
		p = pbw_put_varint(p, (uint64_t)req->timeout_ns);
	}
	return p;
}

/* The errno that stands for a status received. */
static int errno_of(enum err_status status)
{
	switch (status) {
	case ERR_CANCELLED:
		return -ECANCELED;
	case ERR_INVALID_ARGUMENT:
	case ERR_OUT_OF_RANGE:
		return -EINVAL;
	case ERR_DEADLINE_EXCEEDED:
		return -ETIMEDOUT;
	case ERR_NOT_FOUND:
		return -ENOENT;
	case ERR_ALREADY_EXISTS:
		return -EEXIST;
	case ERR_PERMISSION_DENIED:
	case ERR_UNAUTHENTICATED:
		return -EACCES;
	case ERR_RESOURCE_EXHAUSTED:
		return -ENOSPC;
	case ERR_FAILED_PRECONDITION:
		return -EBUSY;
	case ERR_ABORTED:
		return -EAGAIN;
	case ERR_UNIMPLEMENTED:
		return -EOPNOTSUPP;
	case ERR_UNAVAILABLE:
		return -ECONNREFUSED;
	default:
		return -EIO;
	}
}

static int read_status(const uint8_t *at, size_t len, struct err *err)
{
	const uint8_t *end = at + len, *message = at;
	size_t message_len = 0;
	struct pbw_field field;
	uint64_t code = 0;
	char text[ERR_MSG_MAX];
	int r;

	while ((r = pbw_next(&at, end, &field)) > 0) {
		if (field.number == STATUS_CODE && field.type == PBW_VARINT) {
			code = field.value;
		} else if (field.number == STATUS_MESSAGE && field.type == PBW_LEN) {
			message = field.data;
			message_len = field.len;
		}
	}
	if (r < 0)
		return -EBADMSG;
	if (code == ERR_OK)
		return 0;
	if (code > ERR_UNAUTHENTICATED)
		code = ERR_UNKNOWN;
	text_copy(text, sizeof(text), message, message_len);
	return err_set_status(err, errno_of((enum err_status)code), (enum err_status)code, "%s",
			      *text ? text : err_status_name((enum err_status)code));
}

int ttrpc_wire_read_response(const struct ttrpc_frame *f, const void **ret_payload, size_t *ret_len,
			     struct err *err)
{
	static const char malformed[] = "malformed response from the peer";
	const uint8_t *at = f->data, *end = f->data + f->len;
	struct pbw_field field, status = {0}, payload = {.data = f->data};
	int r;

	while ((r = pbw_next(&at, end, &field)) > 0) {
		if (field.number > RESPONSE_PAYLOAD)
			continue;
		if (field.type != PBW_LEN)
			return err_set_status(err, -EBADMSG, ERR_INTERNAL, malformed);
		if (field.number == RESPONSE_STATUS)
			status = field;
		else
			payload = field;
	}
	if (r < 0)
		return err_set_status(err, -EBADMSG, ERR_INTERNAL, malformed);
	if (status.data) {
		r = read_status(status.data, status.len, err);
		if (r == -EBADMSG)
			return err_set_status(err, -EBADMSG, ERR_INTERNAL, malformed);
		if (r < 0)
			return r;
	}
	*ret_payload = payload.data;
	*ret_len = payload.len;
	return 0;
}

size_t ttrpc_wire_response_size(size_t payload_len)
{
	return pbw_len_size(payload_len);
}

uint8_t *ttrpc_wire_put_response(uint8_t *p, const void *payload, size_t len)
{
	return pbw_put_len(p, RESPONSE_PAYLOAD, payload, len);
}

size_t ttrpc_wire_put_status(uint8_t *out, const struct err *err)
{
	uint8_t code = err->status > ERR_OK && err->status <= ERR_UNAUTHENTICATED ? (uint8_t)err->status
										  : ERR_UNKNOWN;
	char text[ERR_MSG_MAX];
	size_t len;
	uint8_t *p = out;

	text_copy(text, sizeof(text), err->msg, strnlen(err->msg, sizeof(err->msg)));
	len = strlen(text);
	*p++ = RESPONSE_STATUS << 3 | PBW_LEN;
	p = pbw_put_varint(p, 2 + pbw_len_size(len));
	*p++ = STATUS_CODE << 3 | PBW_VARINT;
	*p++ = code;
	p = pbw_put_len(p, STATUS_MESSAGE, text, len);
	return (size_t)(p - out);
}

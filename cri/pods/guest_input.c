/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client's input on its way to a process in the guest, by the Streaming service. The guest says by window
 * updates how much it takes; the client is held while something waits.
 */
#include "cri/pods/pods_internal.h"

#include "api/agent/streaming.pb-c.h"
#include "api/agent/transfer.pb-c.h"
#include "api/pb.h"
#include "api/pbcheck.h"

#define CHUNK (32u * 1024)

static void settle(struct guest_input *in)
{
	bool full = !in->closed && (in->window <= 0 || in->waiting.len > 0);

	if (in->pipe)
		stream_pipe_hold(in->pipe, full);
}

/* The process takes no more: what comes is dropped. */
static void shut(struct guest_input *in)
{
	in->closed = true;
	buf_done(&in->waiting);
	settle(in);
}

static int send_any(struct agent_conn *conn, const char *type, const ProtobufCMessage *msg)
{
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	void *data CLEANUP_FREE = NULL;
	int r = pb_pack(msg, &data, &any.value.len);

	if (r < 0)
		return r;
	any.type_url = (char *)(uintptr_t)type;
	any.value.data = data;
	return agent_stream_send(conn, &any.base, false);
}

static void push(struct guest_input *in)
{
	int r = 0;

	while (in->conn && !in->closed && in->waiting.len > 0 && in->window > 0 && r == 0) {
		Containerd__Types__Transfer__Data msg = CONTAINERD__TYPES__TRANSFER__DATA__INIT;

		msg.data.data = buf_data(&in->waiting);
		msg.data.len = in->waiting.len < CHUNK ? in->waiting.len : CHUNK;
		if ((int64_t)msg.data.len > in->window)
			msg.data.len = (size_t)in->window;
		r = send_any(in->conn, "containerd.types.transfer.Data", &msg.base);
		in->window -= (int64_t)msg.data.len;
		buf_consume(&in->waiting, msg.data.len);
	}
	if (r == 0 && in->conn && !in->closed && in->over && in->close_at_end && in->waiting.len == 0) {
		in->closed = true;
		r = agent_stream_send(in->conn, NULL, true);
	}
	if (r < 0)
		shut(in);
	else
		settle(in);
}

static void on_message(void *arg, const struct err *err, const ProtobufCMessage *msg, bool eof)
{
	struct guest_input *in = arg;
	const Google__Protobuf__Any *any = (const void *)msg;
	ProtobufCMessage *update = NULL;

	if (err || eof) {
		shut(in);
		return;
	}
	if (!any || !str_ends(any->type_url, "containerd.types.transfer.WindowUpdate") ||
	    pb_unpack(&containerd__types__transfer__window_update__descriptor, any->value.data,
		      any->value.len, &update, NULL) < 0)
		return; /* the Empty that says that the stream stands */
	in->window += ((const Containerd__Types__Transfer__WindowUpdate *)(const void *)update)->update;
	pb_free(update);
	push(in);
}

int guest_input_open(struct guest_input *in, struct agent_conn *conn, const char *container_id,
		     const char *exec_id, struct err *err)
{
	Containerd__Services__Streaming__V1__StreamInit init =
		CONTAINERD__SERVICES__STREAMING__V1__STREAM_INIT__INIT;
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	char *id CLEANUP_FREE = xasprintf("%s/%s/stdin", container_id, exec_id);
	void *data CLEANUP_FREE = NULL;
	int r;

	in->conn = conn;
	init.id = id;
	r = id ? pb_pack(&init.base, &data, &any.value.len) : -ENOMEM;
	if (r < 0)
		return err_oom(err);
	any.type_url = (char *)(uintptr_t) "containerd.services.streaming.v1.StreamInit";
	any.value.data = data;
	r = agent_stream_open(conn, &AGENT_STREAM, &any.base, on_message, in, err);
	if (r == 0)
		push(in);
	return r;
}

void guest_input_take(struct guest_input *in, const void *data, size_t len)
{
	if (in->closed)
		return;
	if (buf_put(&in->waiting, data, len) < 0)
		shut(in);
	else
		push(in);
}

void guest_input_end(struct guest_input *in)
{
	in->over = true;
	push(in);
}

void guest_input_done(struct guest_input *in)
{
	in->pipe = NULL;
	in->closed = true;
	buf_done(&in->waiting);
	in->conn = agent_conn_close(in->conn);
}

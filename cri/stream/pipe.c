/* SPDX-License-Identifier: Apache-2.0 */
/* Pipes, as their users see them. */
#include "cri/stream/session_internal.h"

struct stream_pipe *session_pipe_new(struct session *session)
{
	struct stream_pipe *pipe = session->pipes_len < SESSION_PIPES_MAX ? calloc(1, sizeof(*pipe)) : NULL;

	if (!pipe)
		return NULL;
	*pipe = (struct stream_pipe){.session = session,
				     .next = session->pipes,
				     .until_ns = now_monotonic_ns() + STREAM_CREATE_NS};
	if (pipe->next)
		pipe->next->prev = pipe;
	session->pipes = pipe;
	session->pipes_len++;
	loop_timer_set(session->timer, pipe->until_ns);
	return pipe;
}

void session_pipe_free(struct stream_pipe *pipe)
{
	struct session *session = pipe->session;

	if (pipe->prev)
		pipe->prev->next = pipe->next;
	else
		session->pipes = pipe->next;
	if (pipe->next)
		pipe->next->prev = pipe->prev;
	session->pipes_len--;
	if (pipe->held)
		session->held--;
	free(pipe);
	session_flush(session);
}

void session_pipe_gone(struct stream_pipe *pipe)
{
	const struct stream_ops *ops = pipe->ops;
	void *arg = pipe->arg;

	session_pipe_free(pipe);
	if (ops)
		ops->gone(arg);
}

void session_accept(struct stream_pipe *pipe)
{
	const struct stream_request *request = &pipe->session->request;

	pipe->complete = true;
	request->accept(request->arg, pipe, pipe->port);
}

void session_input_end(struct stream_pipe *pipe)
{
	if (pipe->input_over || !pipe->ops)
		return;
	pipe->input_over = true;
	pipe->ops->input_end(pipe->arg);
}

/* ---- the user's calls ---------------------------------------------------------------------------------- */

void stream_pipe_use(struct stream_pipe *pipe, const struct stream_ops *ops, void *arg)
{
	pipe->ops = ops;
	pipe->arg = arg;
}

size_t stream_pipe_room(struct stream_pipe *pipe)
{
	size_t queued = pipe->session->out.len;

	if (queued < STREAM_BUFFER)
		return STREAM_BUFFER - queued;
	pipe->starved = pipe->session->starved = true;
	return 0;
}

void stream_pipe_write(struct stream_pipe *pipe, enum stream_output which, const void *data, size_t len)
{
	if (len > 0)
		session_send(pipe, which == STREAM_STDOUT ? CHANNEL_STDOUT : CHANNEL_STDERR, data, len);
}

void stream_pipe_hold(struct stream_pipe *pipe, bool on)
{
	struct session *session = pipe->session;

	if (pipe->held == on)
		return;
	pipe->held = on;
	session->held += on ? 1 : -1u;
	session_flush(session);
}

void stream_pipe_finish(struct stream_pipe *pipe, int exit_code, const struct err *why)
{
	if (why && why->code == 0)
		why = NULL;
	if (pipe->session->request.kind == STREAM_FORWARD)
		forward_finish(pipe, why);
	else
		command_finish(pipe, exit_code, why);
}

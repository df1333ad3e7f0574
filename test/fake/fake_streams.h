/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_streams.h: the streams of a fake agent (fake_agent.c): the input of processes, and ports.
 *
 * Purpose:   a process whose input comes by the Streaming service is a `cat`: what it reads is its output, it
 *            ends with 0 at the end of its input, and it reads on only while its output is taken. A stream
 *            that names no process echoes messages. At a port an echo listens; nobody does at
 *            FAKE_PORT_CLOSED, and what listens at FAKE_PORT_ENDS says "bye" and closes.
 * Threads:   the fake agent's, with its lock held.
 */
#ifndef TEST_FAKE_STREAMS_H
#define TEST_FAKE_STREAMS_H

#include "api/ttrpc/ttrpc.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAKE_PORT_CLOSED 4
#define FAKE_PORT_ENDS	 5

/* A process is named "<container>" or "<container>/<exec>". */
struct fake_streams_hooks {
	bool (*knows)(void *arg, const char *process);
	void (*print)(void *arg, const char *process, const void *data, size_t len);
	/* Bytes of its output that are not acknowledged. */
	uint64_t (*unread)(void *arg, const char *process);
	void (*input_over)(void *arg, const char *process);
	void *arg;
};

struct fake_streams;
struct fake_streams *fake_streams_new(const struct fake_streams_hooks *hooks);
/* Once its connections are closed. Returns NULL. NULL-safe. */
struct fake_streams *fake_streams_free(struct fake_streams *streams);
void fake_streams_open_input(struct fake_streams *streams, struct ttrpc_request *req);
void fake_streams_open_port(struct fake_streams *streams, struct ttrpc_request *req);
/* Grants what can be granted now. */
void fake_streams_look(struct fake_streams *streams);
/* Nothing is read, and no window granted. */
void fake_streams_stop_reading(struct fake_streams *streams, bool on);
unsigned int fake_streams_open(const struct fake_streams *streams);
/* In all. */
unsigned int fake_streams_begun(const struct fake_streams *streams);
/* The most that was in the way at once: sent by the host, and not granted again. */
size_t fake_streams_ahead(const struct fake_streams *streams);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_agent.h: a guest agent for unit tests, in this process, with containers that are entries in memory.
 *
 * Purpose:   answers Task, SandboxService, Agent and Streaming as the real one does (its processes and ports:
 *            fake_streams.h), and does on command what a real one
 *            does only when it is ill: cut connections, be silent, be slow, refuse, lie, be another boot.
 * Threads:   one of its own serves all connections; every function here from any other thread.
 * Ownership: fake_agent_free ends the thread and all connections.
 */
#ifndef TEST_FAKE_AGENT_H
#define TEST_FAKE_AGENT_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fake_agent;

struct fake_agent *fake_agent_new(void);
/* Returns NULL. NULL-safe. */
struct fake_agent *fake_agent_free(struct fake_agent *agent);

/* agent_options.dial, with the fake as its arg. */
int fake_agent_dial(void *arg, uint32_t port, int64_t deadline_ns, struct err *err);
/* Serves a connection that was made in another way; the fd is the fake's. */
void fake_agent_serve(struct fake_agent *agent, int fd);
/* Dials fail with that negative errno; 0: no more. */
void fake_agent_refuse(struct fake_agent *agent, int code);
unsigned int fake_agent_dials(struct fake_agent *agent);

/* What Info says. The boot id is "boot-1" at first. */
void fake_agent_set_boot(struct fake_agent *agent, const char *boot_id);
/* Empty at first, as with agents that have none. */
void fake_agent_set_instance(struct fake_agent *agent, const char *instance_id);
/* How far the guest's clock is ahead of the host's; 0 at first. SyncClock moves it. */
void fake_agent_set_clock(struct fake_agent *agent, int64_t ahead_ns);
int64_t fake_agent_clock(struct fake_agent *agent);
/* NULL-terminated, of static strings; none at first. */
void fake_agent_set_features(struct fake_agent *agent, const char *const *features);

/* Methods are named as on the wire: "Kill", "ReadLog", … */
unsigned int fake_agent_calls(struct fake_agent *agent, const char *method);
/* Waits until the method has been called `count` times in all; aborts the test after 20 s. */
void fake_agent_await(struct fake_agent *agent, const char *method, unsigned int count);
/* The next call of the method is carried out (or not) and its connection closed instead of answered. */
void fake_agent_cut_at(struct fake_agent *agent, const char *method, bool carried_out);
/* Closes all connections. */
void fake_agent_cut(struct fake_agent *agent);
/* What OnlineResources finds at most; a new one finds all that it is asked for. */
void fake_agent_set_size(struct fake_agent *agent, uint32_t vcpus, uint64_t memory);
/* Calls of the method are not answered (and not carried out) until it is switched off again. */
void fake_agent_hang(struct fake_agent *agent, const char *method, bool on);
/* The next call fails. */
void fake_agent_fail(struct fake_agent *agent, const char *method, int code, const char *words);
/* The next call is answered with these bytes. */
void fake_agent_answer(struct fake_agent *agent, const char *method, const void *data, size_t len);

/* Makes a container without a call, running or only created. */
void fake_agent_put(struct fake_agent *agent, const char *id, bool running);
/* Ends a container's process: Wait answers. Its output ends too. */
void fake_agent_exit(struct fake_agent *agent, const char *id, uint32_t code);
/* Adds output (stderr: of the other stream). At most one record is given out for each read. */
void fake_agent_print(struct fake_agent *agent, const char *id, bool is_stderr, const void *data, size_t len);
/* Below this offset the output was acknowledged and is forgotten. */
uint64_t fake_agent_acked(struct fake_agent *agent, const char *id);
bool fake_agent_has(struct fake_agent *agent, const char *id);
/* The process that the last Exec has added: "<container>/<exec>", an id for the functions above. */
void fake_agent_last_exec(struct fake_agent *agent, char ret_id[80]);
/* Of the last ResizePty; 0 before. */
void fake_agent_size(struct fake_agent *agent, uint32_t *ret_width, uint32_t *ret_height);
/* Processes and ports take no input, until it is switched off. */
void fake_agent_stop_reading(struct fake_agent *agent, bool on);
/* Connections that are open. */
unsigned int fake_agent_conns(struct fake_agent *agent);
/* Containers and execs that are not deleted. */
unsigned int fake_agent_processes(struct fake_agent *agent);
/* Streams that are open. */
unsigned int fake_agent_streams(struct fake_agent *agent);
/* Streams that were ever opened. */
unsigned int fake_agent_streams_begun(struct fake_agent *agent);
/* The most input of one stream that was sent beyond what has been granted again. */
size_t fake_agent_ahead(struct fake_agent *agent);
/* A read below that offset has been asked for: the fake has lost it, as the real one would have. */
bool fake_agent_asked_for_lost(struct fake_agent *agent);

#endif

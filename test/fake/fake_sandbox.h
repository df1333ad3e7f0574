/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_sandbox.h: sandboxes without virtual machines, for unit tests of what stands on sandbox.h.
 *
 * Purpose:   a driver whose machines are entries in memory with a fake agent each (fake_agent.h), and
 *            directories without mounts: needs no root. They die, are slow, fail and hang on command. A
 *            machine outlives its sandbox object, so that a test can play a restart of the server.
 * Threads:   every function from any thread.
 */
#ifndef TEST_FAKE_SANDBOX_H
#define TEST_FAKE_SANDBOX_H

#include "cri/sandbox/sandbox.h"
#include "fake_agent.h"

/* For sandboxes_options.driver. */
extern const struct sandbox_driver fake_sandbox_driver;

/* The steps that can be made to fail or to be slow. */
enum fake_step {
	FAKE_PREPARE,
	FAKE_START,
	FAKE_JOIN,
	FAKE_KILL,
	FAKE_SAVE,
	FAKE_RECOVER,
	FAKE_RESIZE,
	FAKE_PLACE,
	FAKE_BIND,
	FAKE_WRITE,
	FAKE_UNDO,
	FAKE_STEPS,
};
/* The next time the step fails with that negative errno. */
void fake_sandbox_fail(enum fake_step step, int code);
/* From now on the step takes that long; a start ends early when its machine is killed. 0: no more. */
void fake_sandbox_slow(enum fake_step step, int64_t ns);
/* How many times it was run. */
unsigned int fake_sandbox_count(enum fake_step step);
/* The next `n` machines end before they have said a word. */
void fake_sandbox_mute(unsigned int n);
/* The agents of machines to come hang at this method until it is switched off by NULL. */
void fake_sandbox_new_agents_hang(const char *method);
/* The features of agents to come; NULL-terminated, static; NULL: none. */
void fake_sandbox_features(const char *const *features);

/* The agent of a sandbox's machine; NULL before it starts. Lives until fake_sandbox_reset. */
struct fake_agent *fake_sandbox_agent(const struct sandbox *sandbox);
/* The machine ends by itself. */
void fake_sandbox_end(const struct sandbox *sandbox, const char *why, int status);
/* Machines that run. */
unsigned int fake_sandbox_running(void);
/* Forgets all machines and commands. Once no sandbox is left. */
void fake_sandbox_reset(void);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console_internal.h: the debug console: a shell in the VM, on a terminal, for each connection of the host's
 * to its vsock port. Only with task.debug.
 *
 * Threads: the loop's.
 * Limits:  CONSOLE_MAX shells at once, CONSOLE_BUFFER bytes on the way in each direction.
 */
#ifndef GUEST_INIT_CONSOLE_INTERNAL_H
#define GUEST_INIT_CONSOLE_INTERNAL_H

#include "base/err.h"
#include "guest/core/agent.h"

#define CONSOLE_MAX    4
#define CONSOLE_BUFFER 65536

/* program: the shell's path, which lives on. */
int console_setup(struct agent *agent, const char *program, unsigned int port, struct err *err);

#endif

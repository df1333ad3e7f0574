/*
 * gconsole.h: the debug console: a shell in the guest, on a terminal, for each connection of the host's to
 * its vsock port. Only with task.debug.
 *
 * Threads: the loop's.
 * Limits:  GCONSOLE_MAX shells at once, GCONSOLE_BUFFER bytes on the way in each direction.
 */
#ifndef GUEST_GCONSOLE_H
#define GUEST_GCONSOLE_H

#include "base/err.h"
#include "guest/core/agent.h"

#define GCONSOLE_MAX	4
#define GCONSOLE_BUFFER 65536

int gconsole_setup(struct guest *g, unsigned int port, struct err *err);

#endif

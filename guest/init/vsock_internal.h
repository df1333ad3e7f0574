/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vsock_internal.h: listening on vsock for the host alone.
 *
 * Threads:   the loop's.
 * Ownership: both return file descriptors of the caller's, non-blocking and close-on-exec.
 * Trust:     only CID 2, the host, may connect: nothing in a container can drive the agent.
 */
#ifndef GUEST_INIT_VSOCK_INTERNAL_H
#define GUEST_INIT_VSOCK_INTERNAL_H

#include "base/err.h"

int vsock_listen(unsigned int port, struct err *err);
/* An accepted connection, or a negative errno; others than the host are closed and logged, -EAGAIN then. */
int vsock_accept(int fd);

#endif

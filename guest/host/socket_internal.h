/* SPDX-License-Identifier: Apache-2.0 */
/*
 * socket_internal.h: listening on a UNIX socket for root alone.
 *
 * Threads:   the loop's.
 * Ownership: both return file descriptors of the caller's, non-blocking and close-on-exec. The socket's file
 *            is the caller's to unlink.
 * Trust:     the file has mode 0600, and a peer whose user is not root (SO_PEERCRED) is refused, whatever has
 *            happened to the mode since. uid 0 of a user namespace is another uid here.
 */
#ifndef GUEST_HOST_SOCKET_INTERNAL_H
#define GUEST_HOST_SOCKET_INTERNAL_H

#include "base/err.h"

/* Replaces a socket that nobody serves any more; -EADDRINUSE where somebody does. */
int socket_listen(const char *path, struct err *err);
/* An accepted connection, or a negative errno; a peer that is not root is closed and logged, -EAGAIN then. */
int socket_accept(int fd);

#endif

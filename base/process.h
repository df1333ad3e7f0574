/* SPDX-License-Identifier: Apache-2.0 */
/*
 * process.h: starts a program from a process with threads.
 *
 * Purpose:   posix_spawn with what every child of ours needs: its three streams, no other descriptor but
 *            those it is given, default signals, nothing blocked. The server never forks itself.
 * Threads:   any. Blocks until the child has executed the program, or failed to.
 * Ownership: descriptors stay the caller's; the child gets copies. The child is the caller's to wait for.
 * Limits:    PROCESS_FDS_MAX descriptors beyond the streams.
 * Errors:    0 or a negative errno (-ENOENT: no such program).
 * Source:    posix_spawn(3).
 */
#ifndef BASE_PROCESS_H
#define BASE_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define PROCESS_FDS_MAX 16

struct process_spec {
	const char *path;  /* with a slash: that file; without: looked for in PATH */
	char *const *argv; /* NULL: the path alone */
	char *const *env;  /* NULL: the usual PATH, LANG=C and HOME=/ */
	const char *cwd;   /* NULL: "/" */
	int stdio[3];	   /* -1: /dev/null */
	const int *fds;	   /* the i-th becomes 3 + i in the child */
	size_t n_fds;
	bool group; /* in a process group of its own */
};

/* ret_pidfd may be NULL. */
int process_spawn(const struct process_spec *spec, pid_t *ret_pid, int *ret_pidfd);

#endif

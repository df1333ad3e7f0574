/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn_internal.h: what the files of crivisor-spawn share. One thread; whatever fails ends the process.
 */
#ifndef VMM_SPAWN_INTERNAL_H
#define VMM_SPAWN_INTERNAL_H

#include <stddef.h>
#include <sys/types.h>

#define SPAWN_PATHS_MAX 16
#define SPAWN_PID_MARK	'\1' /* on the status fd, before the program's pid and a newline */

/* Writes the message, with errno's words if it is set, to the status fd and ends with 127. */
__attribute__((noreturn, format(printf, 1, 2))) void spawn_die(const char *fmt, ...);

struct spawn_jail {
	uid_t uid;
	const char *home; /* the one directory that the program may write */
	const char *paths[SPAWN_PATHS_MAX];
	size_t n_paths;
};

/*
 * Gives the process mount and IPC namespaces of its own and, as its root, a read-only directory that holds
 * `home`, the system's programs and libraries (/usr, read-only), and the paths: each under its own name, and
 * nothing else of the host. A file or directory among the paths is bound read-only; for a character device
 * the root gets a node of its own that belongs to uid. A path below /sys comes from a sysfs of the process's
 * network namespace. Takes CAP_SYS_ADMIN, CAP_MKNOD and CAP_CHOWN.
 */
void spawn_jail_enter(const struct spawn_jail *jail);
/* Bounds what a user that runs one VM can need. */
void spawn_jail_limits(void);

/* The next process that this one makes is the first of a PID namespace. Takes CAP_SYS_ADMIN. */
void spawn_pidns_make(void);
/*
 * Returns in a child of this process's parent, which is in that namespace, beside an init that has argv's
 * memory for its name. This process writes the child's pid to the status fd and ends. What fails before that
 * ends it as spawn_die does.
 */
void spawn_pidns_enter(int status_fd, int argc, char **argv);

#endif

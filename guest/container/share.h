/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share.h: holds what the share gives a container, and lets go of it once the container is gone.
 *
 * Purpose:   where the share crosses into another file system of the host (a container's root, each volume), the
 *            kernel mounts that as a virtiofs of its own, and the last unmount ends it. Linux (6.12) does not wait
 *            there for what is still in flight, but a file that is closed while it is read ahead is released when
 *            that read is answered, and its inode held until then (fs/fuse/file.c, fuse_file_release): "Busy inodes
 *            after unmount", and a panic at the answer. A process may end so; its mounts must outlive what is in
 *            flight, by a handle of the agent's.
 *            Then again the host cannot unmount while the guest holds a mount, or a cached inode, each of which
 *            keeps a handle open in virtiofsd.
 * Threads:   the loop's. Only share_hold waits for virtiofsd, as reading a container's config.json does; a
 *            volume whose storage hangs must not hold up the agent when a container ends.
 * Errors:    logged; the host detaches lazily what stays held.
 */
#ifndef GUEST_CONTAINER_SHARE_H
#define GUEST_CONTAINER_SHARE_H

#include "guest/core/loop.h"

#include <stdbool.h>
#include <sys/types.h>

#define SHARE_WAIT_NS (NS_PER_SEC / 2) /* while other containers keep virtiofs busy */
#define SHARE_HUNG_NS                                                                                        \
	(10 * NS_PER_SEC) /* while virtiofsd answers nothing; the server waits 20 s for a deletion */
#define SHARE_BLIND_NS (50 * NS_PER_MS) /* where the kernel does not tell */
/*
 * fusectl: one directory for each connection. Linux leaves virtiofs out; the project's own kernel shows it
 * (deploy/guest/build-kernel).
 */
#define GUEST_FUSE_DIR "/sys/fs/fuse/connections"

/* Whether the kernel tells what is in flight. */
bool share_is_counted(void);

/* Mounts a container's root, before anything else does, so that it stays until share_release. id: checked before. */
void share_hold(const char *id);
/* Keeps the mounts of a process alive when it ends: a handle of its mount namespace, or -1 if it is gone already. */
int share_hold_mounts(pid_t pid);
/* Gives that up; -1 does nothing. Returns -1. */
int share_release_mounts(int handle);
/* Unmounts what the share has of the container, once its processes have ended and their handle is given up. */
void share_release(const char *id);

enum share_flight {
	SHARE_IDLE, /* nothing is in flight */
	SHARE_PAST, /* what was in flight has been answered, or so it must be taken */
	SHARE_HUNG, /* virtiofsd answers nothing: nothing may be unmounted */
};
typedef void share_flight_fn(void *arg, enum share_flight flight);
struct share_wait {
	struct loop_timer timer;
	struct loop *loop;
	long in_flight; /* at the last look */
	int64_t answered_ns, until_ns,
		limit_ns; /* the last answer that was seen; where it gives up, and at the latest */
	share_flight_fn *fn;
	void *arg;
};

/*
 * Calls fn once virtiofs has nothing in flight, which may be at once. Other containers may keep it busy all the time; so
 * fn is told SHARE_PAST after SHARE_WAIT_NS in which answers have come. Where none come virtiofsd hangs, and fn is told
 * so after SHARE_HUNG_NS. A kernel that does not show virtiofs in fusectl gets SHARE_BLIND_NS.
 * A wait that is on already is replaced, its fn not called.
 */
void share_wait(struct loop *loop, struct share_wait *wait, share_flight_fn *fn, void *arg);
/* Its fn does not come any more. */
void share_wait_clear(struct share_wait *wait);

#endif

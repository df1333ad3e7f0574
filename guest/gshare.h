/*
 * gshare.h: holds what the share gives a container, and lets go of it once the container is gone.
 *
 * Purpose:   where the share crosses into another file system of the host (a container's root, each volume), the
 *            kernel mounts that as a virtiofs of its own, and the last unmount ends it. Linux (6.12) does not wait
 *            there for what is still in flight, but the release of a file holds the file's inode until it is
 *            answered (fs/fuse/file.c, fuse_file_release): "Busy inodes after unmount", and soon a panic. A process
 *            that ends has such releases in flight; so its mounts must outlive them, by a handle of the agent's.
 *            Then again the host cannot unmount while the guest holds a mount, or a cached inode, each of which
 *            keeps a handle open in virtiofsd.
 * Threads:   the loop's. Only gshare_hold waits for virtiofsd, as reading a container's config.json does; a
 *            volume whose storage hangs must not hold up the agent when a container ends.
 * Errors:    logged; the host detaches lazily what stays held.
 */
#ifndef GUEST_GSHARE_H
#define GUEST_GSHARE_H

#include "guest/eloop.h"

#include <sys/types.h>

#define GSHARE_WAIT_NS (NS_PER_SEC / 2)
#define GUEST_FUSE_DIR "/sys/fs/fuse/connections" /* fusectl: one directory for each connection */

/* Mounts a container's root, before anything else does, so that it stays until gshare_release. id: checked before. */
void gshare_hold(const char *id);
/* Keeps the mounts of a process alive when it ends: a handle of its mount namespace, or -1 if it is gone already. */
int gshare_hold_mounts(pid_t pid);
/* Gives that up; -1 does nothing. Returns -1. */
int gshare_release_mounts(int handle);
/* Unmounts what the share has of the container, once its processes have ended and their handle is given up. */
void gshare_release(const char *id);

typedef void gshare_idle_fn(void *arg, bool idle);
struct gshare_wait {
	struct eloop_timer timer;
	struct eloop *loop;
	int64_t until_ns;
	gshare_idle_fn *fn;
	void *arg;
};

/*
 * Calls fn once virtiofs has nothing in flight, which may be at once; or with `idle` false after GSHARE_WAIT_NS, since
 * other containers may keep it busy all the time: what was in flight before has been answered by then, unless virtiofsd hangs.
 * A wait that is on already is replaced, its fn not called.
 */
void gshare_wait(struct eloop *loop, struct gshare_wait *wait, gshare_idle_fn *fn, void *arg);
/* Its fn does not come any more. */
void gshare_wait_clear(struct gshare_wait *wait);

#endif

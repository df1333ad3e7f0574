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
 * Threads:   the loop's; each call takes a few milliseconds.
 * Errors:    logged; the host detaches lazily what stays held.
 */
#ifndef GUEST_GSHARE_H
#define GUEST_GSHARE_H

#include <sys/types.h>

#define GUEST_FUSE_DIR "/sys/fs/fuse/connections" /* fusectl: one directory for each connection */

/* Mounts a container's root, before anything else does, so that it stays until gshare_release. id: checked before. */
void gshare_hold(const char *id);
/* Keeps the mounts of a process alive when it ends: a handle of its mount namespace, or -1 if it is gone already. */
int gshare_hold_mounts(pid_t pid);
/* Gives that up (-1 does nothing), once virtiofs has answered what was in flight; returns -1. */
int gshare_release_mounts(int handle);
/* Once all processes of the container have ended and their handle is given up. */
void gshare_release(const char *id);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share.h: the mounts that the share gives a container: kept while it lives, given up once it is gone.
 *
 * Purpose:   where the share crosses into another file system of the host (a container's root, each volume),
 *            the kernel mounts that as a virtiofs of its own, and the last unmount ends it. Linux (6.12) does
 *            not wait there for requests in flight. A file that is closed while it is read ahead is released
 *            when that read is answered, and its inode is held until then (fs/fuse/file.c,
 *            fuse_file_release): "Busy inodes after unmount", and a panic at the answer. A process may end in
 *            that moment, so its mounts must outlive the requests in flight: the agent holds its mount
 *            namespace. The host cannot unmount while the guest holds a mount or a cached inode, each of
 *            which keeps a handle open in virtiofsd. So the agent lets go of both as soon as the container is
 *            gone. Beside a VM (agent->in_vm false) the bundles are mounts of the host's: waits end at once,
 *            and nothing is unmounted here.
 *            A volume is one mount for all containers that use it: in the agent's namespace, and bound from
 *            there into each; it stays until the last of them is deleted.
 * Threads:   the loop's. Only share_hold waits for virtiofsd, as reading a container's config.json does; a
 *            volume whose storage hangs does not hold up the agent when a container ends.
 * Errors:    logged; the host detaches lazily whatever stays held.
 */
#ifndef GUEST_CONTAINER_SHARE_H
#define GUEST_CONTAINER_SHARE_H

#include "guest/core/agent.h"
#include "guest/core/loop.h"

#include <stdbool.h>
#include <sys/types.h>

#define SHARE_WAIT_NS (NS_PER_SEC / 2) /* while other containers keep virtiofs busy */
/* While virtiofsd does not answer; the server waits 20 s for a deletion. */
#define SHARE_HUNG_NS	  (10 * NS_PER_SEC)
#define SHARE_VOLUMES_MAX (4u << 20)	   /* bytes of the list */
#define SHARE_BLIND_NS	  (50 * NS_PER_MS) /* where the kernel does not count requests */
/*
 * fusectl: one directory for each connection. Linux leaves virtiofs out; the project's own kernel shows it
 * (deploy/guest/build-kernel).
 */
#define SHARE_FUSE_DIR "/sys/fs/fuse/connections"

/* Whether the kernel counts the requests in flight. */
bool share_is_counted(const struct agent *agent);

/*
 * Mounts a container's root, before anything else does, so that it stays until share_release. id: checked
 * before.
 */
void share_hold(const struct agent *agent, const char *id);
/*
 * Keeps the mounts of a process alive when it ends: a handle of its mount namespace, or -1 if it is gone
 * already.
 */
int share_hold_mounts(pid_t pid);
/* Gives that up; -1 does nothing. Returns -1. */
int share_release_mounts(int handle);
/*
 * Unmounts the container's mounts of the share, once its processes have ended and their handle is given up.
 * volumes (NULL: none): those that no other container uses.
 */
void share_release(const struct agent *agent, const char *id, char *const *volumes);

/*
 * The volumes of a container, and the mounts below them: paths below the share, from the file `volumes` of
 * its bundle. NULL where there is none.
 */
int share_volumes(const struct agent *agent, const char *id, char ***ret_paths, struct err *err);
/*
 * Mounts them in the agent's namespace, where the containers' binds are copied from: each container that
 * walked into a volume by itself would get a file system of its own there. May block: for a child.
 */
void share_hold_volumes(const struct agent *agent, char *const *paths);

enum share_flight {
	SHARE_IDLE, /* nothing is in flight */
	SHARE_PAST, /* requests are in flight, but those of the beginning have been answered */
	SHARE_HUNG, /* virtiofsd does not answer: nothing may be unmounted */
};
typedef void share_flight_fn(void *arg, enum share_flight flight);
struct share_wait {
	struct loop_timer timer;
	const struct agent *agent;
	long in_flight; /* at the last look */
	int64_t answered_ns, until_ns,
		limit_ns; /* the last answer seen; when it gives up, and at the latest */
	share_flight_fn *fn;
	void *arg;
};

/*
 * Calls fn once virtiofs has nothing in flight, possibly at once. Other containers may keep it busy all the
 * time, so fn gets SHARE_PAST after SHARE_WAIT_NS in which answers have come. Where none come virtiofsd
 * hangs, and fn gets SHARE_HUNG after SHARE_HUNG_NS. A kernel that does not show virtiofs in fusectl gets
 * SHARE_BLIND_NS. A wait that is on already is replaced, its fn not called.
 */
void share_wait(const struct agent *agent, struct share_wait *wait, share_flight_fn *fn, void *arg);
/* Its fn is not called any more. */
void share_wait_clear(struct share_wait *wait);

#endif

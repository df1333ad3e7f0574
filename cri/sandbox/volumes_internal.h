/* SPDX-License-Identifier: Apache-2.0 */
/*
 * volumes_internal.h: the volumes of a pod: each source of the host is shared with the guest once.
 *
 * Purpose:   containers that mount the same source must see one file system (sockets, FIFOs, locks, shared
 *            mappings, inotify), so a source has one mount in the share, <pod dir>/mounts/volumes/<name>, and
 *            the guest binds that into each container. <name> is random and never used again. Same: a source
 *            is known by device and inode, the flags of its mount, and, where other mounts lie below it, by
 *            that mount and by whether they are to be read-only too: what one container must not write or
 *            see, another's wish does not open. Read-only: on the host while every container that uses the
 *            volume wants it so. The first that wants to write makes it writable, in the mount namespaces of
 *            the pod's processes too; for the others the guest's mount stays read-only. It does not turn
 *            back. Record: <pod dir>/volumes/<name>/key says what it is, and a file for each container that
 *            uses it. It lives in run_dir as the mounts do: a later server finds both, a reboot ends both.
 *            The container's step "cdir" is journalled before volumes_bind; its undo is volumes_release.
 *            Guest: <pod dir>/mounts/<container>/volumes lists what the agent must mount before the
 *            container, a path below the share on each line. A path that holds a newline is left out.
 * Threads:   any; one at a time for each pod (flock on <pod dir>/volumes).
 * Errors:    name the source; a missing one is -ENOENT.
 */
#ifndef CRI_SANDBOX_VOLUMES_INTERNAL_H
#define CRI_SANDBOX_VOLUMES_INTERNAL_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

#define VOLUMES_DIR  "volumes" /* beside containers' places, whose names are hexadecimal */
#define VOLUMES_NAME 64	       /* bytes for VOLUMES_DIR/<name> */

struct volume {
	const char *source;
	bool read_only;
	bool recursive_ro; /* applies read_only to the mounts below as well */
};

/*
 * Shares a source with the guest, or joins the share that there is. cgroup: whose processes may have a mount
 * namespace that is to be changed with it; NULL: none. ret_path: the volume's path below the share.
 */
int volumes_bind(const char *pod_dir, const char *cgroup, const char *container_id,
		 const struct volume *volume, char ret_path[VOLUMES_NAME], struct err *err);
/*
 * The container uses no volume any more: those that no other uses are unmounted; `lazy` where the VM is dead.
 * Nothing to do: success.
 */
int volumes_release(const char *pod_dir, const char *container_id, bool lazy, struct err *err);

#endif

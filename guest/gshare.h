/*
 * gshare.h: lets go of what the share holds for a container that is gone.
 *
 * Purpose:   the host cannot unmount a container's root or volume while the guest holds it: by the automounts
 *            that the kernel makes where the share crosses into another file system of the host, and by
 *            cached inodes, each of which keeps a handle open in virtiofsd.
 * Threads:   the loop's; umount and drop_caches take a few milliseconds.
 * Errors:    logged; the host detaches lazily what stays held.
 */
#ifndef GUEST_GSHARE_H
#define GUEST_GSHARE_H

/* id: a container's, checked before. */
void gshare_release(const char *id);

#endif

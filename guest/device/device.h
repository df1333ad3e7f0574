/*
 * gdevice.h: devices that were plugged in while the guest runs, found by their PCI address.
 *
 * Threads:   the loop's; what may block (mount) runs in a child.
 * Limits:    GDEVICE_WAIT_NS for a device to appear (its uevents wake the search; nothing is polled), as long
 *            again for a mount.
 * Source:    sysfs: /sys/bus/pci/devices/<address>/…; kobject uevents over netlink (lib/kobject_uevent.c).
 */
#ifndef GUEST_GDEVICE_H
#define GUEST_GDEVICE_H

#include "base/err.h"
#include "guest/core/agent.h"

#define GDEVICE_WAIT_NS (10 * 1000000000LL)

int gdevice_setup(struct guest *g, struct err *err);
/* "0000:00:05.0" (domain may be left out: then 0000 is put in front in ret, 16 bytes). */
int gdevice_parse_pci(const char *text, char *ret, struct err *err);
/* Mount points may lie below /run only, without "..". */
bool gdevice_mount_path_valid(const char *path);

#endif

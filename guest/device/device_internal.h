/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_internal.h: devices that were plugged in while the guest runs, found by their PCI address.
 *
 * Threads:   the loop's; what may block (mount) runs in a child.
 * Limits:    DEVICE_WAIT_NS for a device to appear (its uevents wake the search; nothing is polled), as long
 *            again for a mount.
 * Source:    sysfs: /sys/bus/pci/devices/<address>/…; kobject uevents over netlink (lib/kobject_uevent.c).
 */
#ifndef GUEST_DEVICE_DEVICE_INTERNAL_H
#define GUEST_DEVICE_DEVICE_INTERNAL_H

#include "base/err.h"
#include "guest/core/agent.h"

#define DEVICE_WAIT_NS (10 * 1000000000LL)

int device_setup(struct agent *agent, struct err *err);
/* "0000:00:05.0" (domain may be left out: then 0000 is put in front in ret, 16 bytes). */
int device_parse_pci(const char *text, char *ret, struct err *err);
/* Mount points may lie below /run only, without "..". */
bool device_mount_path_valid(const char *path);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h: devices and resources that are plugged in while the VM runs.
 *
 * Threads:   the loop's; what may block (mount) runs in a child.
 * Limits:    DEVICE_WAIT_NS for a device to appear (its uevents wake the search; nothing is polled), as long
 *            again for a mount.
 * Source:    sysfs: /sys/bus/pci/devices/<address>/…; kobject uevents over netlink (lib/kobject_uevent.c).
 */
#ifndef GUEST_DEVICE_DEVICE_H
#define GUEST_DEVICE_DEVICE_H

#include "api/ttrpc/ttrpc.h"
#include "guest/core/agent.h"

#define DEVICE_WAIT_NS (10 * 1000000000LL)

/* Listens for uevents: at agent_settle. */
int device_settle(struct agent *agent, struct err *err);
/* Agent.AttachDevice and Agent.OnlineResources; the context is the struct agent. */
void device_attach(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);
void device_online(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len);

#endif

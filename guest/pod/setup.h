/*
 * gsandbox.h: what makes this guest the pod's: hostname, sysctls, the shared /dev/shm and PID namespace, DNS.
 *
 * Threads:   the loop's. Everything may be asked for again with the same result.
 * Errors:    name the thing: an unknown sysctl by its name.
 */
#ifndef GUEST_GSANDBOX_H
#define GUEST_GSANDBOX_H

#include "api/agent/agent.pb-c.h"
#include "guest/core/agent.h"

int gsandbox_setup(struct guest *g, const Crivisor__Agent__V1__Sandbox *sb, struct err *err);
/* Binds GUEST_RESOLV over /etc/resolv.conf if it exists; done once. */
int gsandbox_dns(struct err *err);
/*
 * The path below /proc/sys of a sysctl name, dots or slashes between its parts (a slash-separated part may
 * hold dots, as "net/ipv4/conf/eth0.1/…"); NULL if the name could leave it.
 */
char *gsandbox_sysctl_path(const char *name);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * netview_internal.h: the parts of a reading.
 *
 * Threads:   as netview.h.
 */
#ifndef VMM_NETVIEW_INTERNAL_H
#define VMM_NETVIEW_INTERNAL_H

#include "vmm/netview.h"

/*
 * Space for one more in an array of `*n` items of `size` bytes: the new item, zeroed, or NULL; -E2BIG is told
 * by *r.
 */
void *netview_append(void *array, size_t *n, size_t size, int *r);
/* Appends the sysctls of the namespace that differ from a fresh one's, for the interfaces in `net`. */
int netview_sysctls(const char *netns_path, struct vmm_net *net, struct err *err);

#endif

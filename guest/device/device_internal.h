/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_internal.h: the checks of device requests; pure, for tests too.
 *
 * Threads: none of its own.
 */
#ifndef GUEST_DEVICE_DEVICE_INTERNAL_H
#define GUEST_DEVICE_DEVICE_INTERNAL_H

#include "base/err.h"

#include <stdbool.h>

/* "0000:00:05.0"; the domain may be left out: then 0000 is put in front in ret, 16 bytes. */
int device_parse_pci(const char *text, char *ret, struct err *err);
/* Mount points may lie below /run only, without "..". */
bool device_mount_path_valid(const char *path);

#endif

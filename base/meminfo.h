/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meminfo.h: figures of /proc/meminfo (proc(5)).
 *
 * Threads: any; no state.
 */
#ifndef BASE_MEMINFO_H
#define BASE_MEMINFO_H

#include <stdint.h>

/* The number of a line "Key:  N" or "Key:  N kB", as it stands; 0 if there is no such line. */
uint64_t meminfo_count(const char *meminfo, const char *key);
/* The same of a line in kB, in bytes; at most UINT64_MAX. */
uint64_t meminfo_bytes(const char *meminfo, const char *key);

#endif

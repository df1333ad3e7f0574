/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpulist.h: sets of CPUs or memory nodes in the kernel's words, e.g. "0-3,8".
 *
 * Threads: no shared state.
 * Limits:  numbers below CPU_SETSIZE (1024).
 * Source:  Linux Documentation/admin-guide/cgroup-v2.rst, "cpuset.cpus" (lists and ranges).
 */
#ifndef BASE_CPULIST_H
#define BASE_CPULIST_H

#include <sched.h>
#include <stddef.h>

#define CPULIST_WORDS_MAX 4096 /* for any set, the NUL included */

/* 0; -EINVAL if the text is not such a list or names nothing; -ERANGE for a number that is too large. */
int cpulist_parse(const char *text, cpu_set_t *ret_set);
/* "" for the empty set. */
void cpulist_words(const cpu_set_t *set, char *out, size_t size);
/* The host's CPUs that are online. */
int cpulist_online(cpu_set_t *ret_set);

#endif

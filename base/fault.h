/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.h: fault points: places where a test makes the program fail or die on purpose.
 *
 * Purpose:   every undo and every path for "out of memory" is run by a test. The environment variable
 *            CRV_FAULT=<name>[:<n>] names one point and which of its hits counts (the first, if n is left
 *            out). Points: "store.before", "store.after" (a commit of the state database; the process is
 *            killed there), "journal.<kind>" (a step of that kind has been written and not yet taken;
 *            killed), "lane.<name>" (the lane takes no job), "alloc" (an allocation of our own code fails).
 * Threads:   every function from any thread; hits of all threads are counted together.
 * Limits:    only in builds with CRV_FAULTS; in others every function is empty and costs nothing.
 */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

#include <stdbool.h>

#ifdef CRV_FAULTS
/* Kills this process with SIGKILL where CRV_FAULT says so. */
void fault_kill(const char *name);
/* As fault_kill with the name "<group>.<name>". */
void fault_kill_in(const char *group, const char *name);
/* True where CRV_FAULT wants this hit to fail. */
bool fault_fails(const char *name);
/* As CRV_FAULT, from here on and counted from 0; NULL: none. For tests. */
void fault_set(const char *spec);
/* Hits of the named point since it was set, the failed one included. */
unsigned long fault_hits(void);
/*
 * While it is on, this thread's hits do not count: for fakes that live in the process under test. Returns
 * what it was before.
 */
bool fault_spare(bool on);
#else
static inline void fault_kill(const char *name)
{
	(void)name;
}
static inline void fault_kill_in(const char *group, const char *name)
{
	(void)group;
	(void)name;
}
static inline bool fault_fails(const char *name)
{
	(void)name;
	return false;
}
static inline bool fault_spare(bool on)
{
	(void)on;
	return false;
}
#endif

#endif

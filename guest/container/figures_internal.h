/* SPDX-License-Identifier: Apache-2.0 */
/*
 * figures_internal.h: parsers of cgroupfs figures. For tests too.
 *
 * Threads:   no shared state.
 * Source:    Documentation/admin-guide/cgroup-v2.rst, Documentation/accounting/psi.rst.
 */
#ifndef GUEST_CONTAINER_FIGURES_INTERNAL_H
#define GUEST_CONTAINER_FIGURES_INTERNAL_H

#include "api/agent/agent.pb-c.h"

#include <stdbool.h>

/* "some avg10=… avg60=… avg300=… total=<us>" and "full …"; false if there is no such line. */
bool figures_parse_pressure(const char *text, Crivisor__Agent__V1__Pressure *ret);
/* The sum over all devices of "<major>:<minor> … key=<n> …". */
uint64_t figures_io_sum(const char *text, const char *key);
/* The lines of cgroup.procs. */
uint64_t figures_count_lines(const char *text);

#endif

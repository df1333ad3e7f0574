/* SPDX-License-Identifier: Apache-2.0 */
/*
 * options_internal.h: the command line of crivisor-agent-host.
 *
 * Threads:   none of its own.
 * Ownership: the strings are argv's.
 */
#ifndef GUEST_HOST_OPTIONS_INTERNAL_H
#define GUEST_HOST_OPTIONS_INTERNAL_H

#include "base/err.h"
#include "base/log.h"

#include <stdbool.h>

struct options {
	const char *socket;	   /* where it serves */
	const char *bundles;	   /* <bundles>/<container id> is a container's bundle */
	const char *run_dir;	   /* of this agent alone */
	const char *cgroup_parent; /* of this agent's containers alone */
	const char *runtime;
	enum log_level log_level;
	bool help, version;
};

/* 0 or -EINVAL. With help or version nothing else is required. */
int options_parse(int argc, char **argv, struct options *ret, struct err *err);
extern const char options_help[];

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ulimit.h: a resource limit in words, as [sandbox] default_ulimits has it: "nofile=1024:524288".
 *
 * Purpose: the configuration checks such words, the OCI runtime spec takes them.
 * Threads: no shared state.
 * Source:  the names are those of getrlimit(2) and of docker run --ulimit: "name=soft[:hard]"; -1 and
 *          "unlimited" are no limit; without hard the hard limit is the soft one.
 */
#ifndef CRI_CONFIG_ULIMIT_H
#define CRI_CONFIG_ULIMIT_H

#include <stdint.h>

struct ulimit {
	const char *type;    /* "RLIMIT_NOFILE"; static */
	uint64_t soft, hard; /* UINT64_MAX: none */
};

/* 0 or -EINVAL. */
int ulimit_parse(const char *text, struct ulimit *ret_limit);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uid_range.h: the users that VMs run as, as [sandbox] uid_range has them: "FIRST-LAST", or "" for none.
 *
 * Purpose: the configuration checks such words, the sandboxes' room takes the numbers.
 * Threads: no shared state.
 * Source:  the default lies above the users of containers (524288 to 1879048191) and below the foreign ones
 *          (from 2147352576 on) of systemd's UIDS-GIDS.md, and above those that shadow's login.defs hands out
 *          as subordinate (up to 600100000).
 */
#ifndef CRI_CONFIG_UID_RANGE_H
#define CRI_CONFIG_UID_RANGE_H

#include <stdint.h>
#include <sys/types.h>

#define UID_RANGE_DEFAULT "1900000000-1900065535"
#define UID_RANGE_MIN	  1000
#define UID_RANGE_LAST	  2147483647
#define UID_RANGE_COUNT	  (1U << 20)

struct uid_range {
	uid_t first;
	uint32_t count; /* 0: none */
};

/* 0 or -EINVAL. Both ends are of the range, which begins at UID_RANGE_MIN and has UID_RANGE_COUNT at most. */
int uid_range_parse(const char *text, struct uid_range *ret_range);

#endif

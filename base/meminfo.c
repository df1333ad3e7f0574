/* SPDX-License-Identifier: Apache-2.0 */
#include "base/meminfo.h"

#include <stdlib.h>
#include <string.h>

uint64_t meminfo_count(const char *meminfo, const char *key)
{
	size_t len = strlen(key);

	for (const char *p = meminfo; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (strncmp(p, key, len) == 0 && p[len] == ':')
			return strtoull(p + len + 1, NULL, 10);
	return 0;
}

uint64_t meminfo_bytes(const char *meminfo, const char *key)
{
	uint64_t n = meminfo_count(meminfo, key);

	return n > UINT64_MAX / 1024 ? UINT64_MAX : n * 1024;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/config/uid_range.h"

#include "base/util.h"

int uid_range_parse(const char *text, struct uid_range *ret_range)
{
	const char *dash = strchr(text, '-');
	uint64_t first, last;
	char low[16];

	if (str_empty(text)) {
		*ret_range = (struct uid_range){0};
		return 0;
	}
	if (!dash || (size_t)(dash - text) >= sizeof(low))
		return -EINVAL;
	snprintf(low, sizeof(low), "%.*s", (int)(dash - text), text);
	if (parse_u64(low, &first) < 0 || parse_u64(dash + 1, &last) < 0 || first < UID_RANGE_MIN ||
	    last > UID_RANGE_LAST || last < first || last - first >= UID_RANGE_COUNT)
		return -EINVAL;
	*ret_range = (struct uid_range){(uid_t)first, (uint32_t)(last - first + 1)};
	return 0;
}

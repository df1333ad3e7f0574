/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/core/agent.h"

#include "api/agent/guest_abi.h"
#include "base/util.h"

#include <time.h>

const char *agent_tmp_dir = GUEST_RUN_DIR "/tmp";

int64_t agent_boottime_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (int64_t)ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

bool agent_id_valid(const char *id)
{
	size_t len = id ? strlen(id) : 0;

	if (len == 0 || len > AGENT_ID_MAX || id[0] == '.')
		return false;
	return strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") == len;
}

int agent_id_check(const char *what, const char *id, struct err *err)
{
	if (agent_id_valid(id))
		return 0;
	return err_set(err, -EINVAL, "%s \"%.64s\" is not a valid name: want 1 to %d of A-Z a-z 0-9 _ . -",
		       what, id ? id : "", AGENT_ID_MAX);
}

unsigned int agent_serial(void)
{
	static unsigned int serial;

	return ++serial;
}

#include "guest/core/agent.h"

#include "api/agent/guest_abi.h"
#include "base/util.h"

#include <time.h>

const char *guest_tmp_dir = GUEST_RUN_DIR "/tmp";

int64_t guest_boottime_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (int64_t)ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

bool guest_id_valid(const char *id)
{
	size_t len = id ? strlen(id) : 0;

	if (len == 0 || len > GUEST_ID_MAX || id[0] == '.')
		return false;
	return strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") == len;
}

int guest_id_check(const char *what, const char *id, struct err *err)
{
	if (guest_id_valid(id))
		return 0;
	return err_set(err, -EINVAL, "%s \"%.64s\" is not a valid name: want 1 to %d of A-Z a-z 0-9 _ . -",
		       what, id ? id : "", GUEST_ID_MAX);
}

unsigned int guest_serial(void)
{
	static unsigned int serial;

	return ++serial;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/core/agent.h"

#include "base/util.h"

#include <sys/random.h>
#include <time.h>

#define INSTANCE_BYTES 16

void agent_settle(struct agent *agent)
{
	if (agent->settled)
		return;
	agent->settled = true;
	agent->ops->settle(agent);
}

const char *agent_instance_id(void)
{
	static char id[2 * INSTANCE_BYTES + 1];
	unsigned char bytes[INSTANCE_BYTES];

	if (id[0])
		return id;
	/*
	 * Unique, not secret: early in a VM's boot the pool may not be ready, and an answer must not wait for
	 * it. The flag is of Linux 5.6; the time is enough for a kernel without it.
	 */
	if (getrandom(bytes, sizeof(bytes), GRND_INSECURE) != (ssize_t)sizeof(bytes)) {
		int64_t parts[2] = {now_realtime_ns(), agent_boottime_ns()};

		memcpy(bytes, parts, sizeof(bytes));
	}
	hex_encode(bytes, sizeof(bytes), id);
	return id;
}

int agent_vm_only(const struct agent *agent, const char *what, struct err *err)
{
	if (agent->in_vm)
		return 0;
	return err_set(err, -EOPNOTSUPP,
		       "%s: not supported by an agent on the host, where it would change the host", what);
}

int64_t agent_boottime_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (int64_t)ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

unsigned int agent_serial(void)
{
	static unsigned int serial;

	return ++serial;
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

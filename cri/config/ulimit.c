/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/config/ulimit.h"

#include "base/util.h"

static const struct {
	const char *name, *type;
} names[] = {
	{"as", "RLIMIT_AS"},	       {"core", "RLIMIT_CORE"},		{"cpu", "RLIMIT_CPU"},
	{"data", "RLIMIT_DATA"},       {"fsize", "RLIMIT_FSIZE"},	{"locks", "RLIMIT_LOCKS"},
	{"memlock", "RLIMIT_MEMLOCK"}, {"msgqueue", "RLIMIT_MSGQUEUE"}, {"nice", "RLIMIT_NICE"},
	{"nofile", "RLIMIT_NOFILE"},   {"nproc", "RLIMIT_NPROC"},	{"rss", "RLIMIT_RSS"},
	{"rtprio", "RLIMIT_RTPRIO"},   {"rttime", "RLIMIT_RTTIME"},	{"sigpending", "RLIMIT_SIGPENDING"},
	{"stack", "RLIMIT_STACK"},
};

static int parse_value(const char *text, size_t len, uint64_t *ret)
{
	char word[24];

	if (len == 0 || len >= sizeof(word))
		return -EINVAL;
	memcpy(word, text, len);
	word[len] = 0;
	if (str_eq(word, "-1") || str_eq(word, "unlimited")) {
		*ret = UINT64_MAX;
		return 0;
	}
	return parse_u64(word, ret) < 0 ? -EINVAL : 0;
}

int ulimit_parse(const char *text, struct ulimit *ret_limit)
{
	size_t name = strcspn(text, "="), len;
	struct ulimit limit = {0};
	const char *value = text + name + 1;

	if (!text[name])
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strlen(names[i].name) == name && strncmp(names[i].name, text, name) == 0)
			limit.type = names[i].type;
	}
	len = strcspn(value, ":");
	if (!limit.type || parse_value(value, len, &limit.soft) < 0)
		return -EINVAL;
	limit.hard = limit.soft;
	if (value[len] && parse_value(value + len + 1, strlen(value + len + 1), &limit.hard) < 0)
		return -EINVAL;
	if (limit.soft > limit.hard)
		return -EINVAL;
	*ret_limit = limit;
	return 0;
}

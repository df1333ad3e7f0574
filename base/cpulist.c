/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cpulist.h"

#include "base/util.h"

/* Digits at *text, which moves behind them. */
static int parse_number(const char **text, unsigned int *ret)
{
	unsigned int n = 0;

	if (**text < '0' || **text > '9')
		return -EINVAL;
	for (; **text >= '0' && **text <= '9'; (*text)++) {
		n = n * 10 + (unsigned int)(**text - '0');
		if (n >= CPU_SETSIZE)
			return -ERANGE;
	}
	*ret = n;
	return 0;
}

int cpulist_parse(const char *text, cpu_set_t *ret_set)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	do {
		unsigned int first, last;
		int r = parse_number(&text, &first);

		last = first;
		if (r == 0 && *text == '-') {
			text++;
			r = parse_number(&text, &last);
		}
		if (r < 0)
			return r;
		if (last < first)
			return -EINVAL;
		for (unsigned int i = first; i <= last; i++)
			CPU_SET(i, &set);
	} while (*text == ',' && *++text);
	if (*text && *text != '\n')
		return -EINVAL;
	*ret_set = set;
	return 0;
}

void cpulist_words(const cpu_set_t *set, char *out, size_t size)
{
	size_t len = 0;

	out[0] = 0;
	for (unsigned int i = 0; i < CPU_SETSIZE && len < size; i++) {
		unsigned int last = i;

		if (!CPU_ISSET(i, set))
			continue;
		while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, set))
			last++;
		len += (size_t)snprintf(out + len, size - len, "%s%u", len ? "," : "", i);
		if (last > i && len < size)
			len += (size_t)snprintf(out + len, size - len, "-%u", last);
		i = last;
	}
}

int cpulist_online(cpu_set_t *ret_set)
{
	char *text CLEANUP_FREE = NULL;
	int r = read_file("/sys/devices/system/cpu/online", CPULIST_WORDS_MAX, &text, NULL);

	return r < 0 ? r : cpulist_parse(text, ret_set);
}

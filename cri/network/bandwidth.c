/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/network/cni.h"

#include "base/util.h"

#include <ctype.h>

#define LEAST UINT64_C(1000)
#define MOST  UINT64_C(1000000000000000)

/* The factor of a suffix; 0 if it is none. Source: Kubernetes' apimachinery, "Quantity". */
static uint64_t suffix_factor(const char *suffix)
{
	static const char letters[] = "KMGTP";
	const char *at;
	uint64_t factor = 1;
	bool binary;

	if (!*suffix)
		return 1;
	if (str_eq(suffix, "k"))
		return 1000;
	at = strchr(letters, suffix[0]);
	binary = suffix[1] == 'i' && !suffix[2];
	if (!at || (!binary && (suffix[1] || suffix[0] == 'K')))
		return 0;
	for (const char *p = letters; p <= at; p++)
		factor *= binary ? 1024 : 1000;
	return factor;
}

/* "e6" to its factor; 0 if it is none. */
static uint64_t exponent_factor(const char *text)
{
	uint64_t power, factor = 1;

	if ((text[0] != 'e' && text[0] != 'E') || parse_u64(text + 1, &power) < 0 || power > 15)
		return 0;
	while (power-- > 0)
		factor *= 10;
	return factor;
}

int cni_bandwidth_parse(const char *quantity, uint64_t *ret_bps, struct err *err)
{
	uint64_t whole = 0, part = 0, scale = 1, factor;
	const char *p = quantity;
	bool digits = false;
	__extension__ unsigned __int128 value;

	for (; isdigit((unsigned char)*p) && whole < MOST; p++, digits = true)
		whole = whole * 10 + (uint64_t)(*p - '0');
	if (*p == '.')
		for (p++; isdigit((unsigned char)*p) && scale < MOST; p++, digits = true, scale *= 10)
			part = part * 10 + (uint64_t)(*p - '0');
	factor = suffix_factor(p);
	if (!factor)
		factor = exponent_factor(p);
	if (!digits || !factor)
		return err_set(err, -EINVAL, "\"%.32s\" is not a quantity like 10M", quantity);
	value = whole;
	value = value * factor + (__extension__(unsigned __int128) part) * factor / scale;
	if (value < LEAST || value > MOST)
		return err_set(err, -EINVAL, "bandwidth \"%.32s\" is not within 1k and 1P bits per second",
			       quantity);
	*ret_bps = (uint64_t)value;
	return 0;
}

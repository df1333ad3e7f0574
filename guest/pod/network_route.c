/* SPDX-License-Identifier: Apache-2.0 */
/* Routes come as the host's kernel dumps them. In them interfaces are named by the host's numbers. */
#include "guest/pod/network_internal.h"

#include "base/util.h"

#include <string.h>
#include <sys/socket.h>

static int translate(const struct numbers *numbers, unsigned char *at, struct err *err)
{
	uint32_t number;

	memcpy(&number, at, sizeof(number));
	for (size_t i = 0; i < numbers->n; i++) {
		if (numbers->ifaces[i]->index == number && numbers->indexes[i] > 0) {
			memcpy(at, &numbers->indexes[i], sizeof(number));
			return numbers->indexes[i];
		}
	}
	return err_set(err, -EINVAL, "interface number %u is not among the interfaces", number);
}

static int translate_hops(const struct numbers *numbers, unsigned char *at, size_t len, struct err *err)
{
	struct rtnexthop hop;
	int r = 0;

	for (size_t step; r >= 0 && len >= sizeof(hop); at += step, len -= step) {
		memcpy(&hop, at, sizeof(hop));
		if (hop.rtnh_len < sizeof(hop) || hop.rtnh_len > len)
			return err_set(err, -EINVAL, "malformed next hop");
		r = translate(numbers, at + offsetof(struct rtnexthop, rtnh_ifindex), err);
		step = (hop.rtnh_len + 3u) & ~3u;
		step = step < len ? step : len;
	}
	return r < 0 ? r : 0;
}

int route_translate(const struct numbers *numbers, unsigned char *bytes, size_t len, struct route_view *ret,
		    struct err *err)
{
	struct rtmsg info;
	int r = 0;

	if (len < sizeof(info))
		return err_set(err, -EINVAL, "a route of %zu bytes", len);
	memcpy(&info, bytes, sizeof(info));
	*ret = (struct route_view){.family = info.rtm_family};
	if (info.rtm_family != AF_INET && info.rtm_family != AF_INET6)
		return err_set(err, -EINVAL, "a route of address family %d", info.rtm_family);
	for (size_t at = (size_t)NLMSG_ALIGN(sizeof(info));
	     r >= 0 && len - at >= sizeof(struct rtattr) && at < len;) {
		unsigned char *data = bytes + at + RTA_LENGTH(0);
		struct rtattr rta;

		memcpy(&rta, bytes + at, sizeof(rta));
		if (rta.rta_len < RTA_LENGTH(0) || rta.rta_len > len - at)
			return err_set(err, -EINVAL, "a route with a malformed attribute");
		if ((rta.rta_type == RTA_OIF || rta.rta_type == RTA_IIF) && rta.rta_len == RTA_LENGTH(4)) {
			r = translate(numbers, data, err);
			if (rta.rta_type == RTA_OIF)
				ret->oif = r;
		} else if (rta.rta_type == RTA_MULTIPATH) {
			r = translate_hops(numbers, data, rta.rta_len - RTA_LENGTH(0), err);
		}
		ret->indirect |= rta.rta_type == RTA_GATEWAY || rta.rta_type == RTA_VIA ||
				 rta.rta_type == RTA_MULTIPATH;
		at += RTA_ALIGN(rta.rta_len) < len - at ? RTA_ALIGN(rta.rta_len) : len - at;
	}
	return r < 0 ? r : 0;
}

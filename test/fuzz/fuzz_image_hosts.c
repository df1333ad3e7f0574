/* SPDX-License-Identifier: Apache-2.0 */
/* hosts.toml */
#include "base/util.h"
#include "cri/image/registry/hosts_internal.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct registry_hosts hosts = {0};
	struct err err = ERR_INIT;

	if (registry_hosts_parse((const char *)data, size, "f", "/b", "registry.test", &hosts, &err) < 0) {
		if (!err.msg[0])
			__builtin_trap();
		return 0;
	}
	for (size_t i = 0; i < hosts.n_items; i++) {
		const struct registry_host *h = &hosts.items[i];

		if ((!str_starts(h->base, "http://") && !str_starts(h->base, "https://")) ||
		    strpbrk(h->base, " \r\n") || strpbrk(h->host, "@/?#") || h->connect_timeout_ms < 1)
			__builtin_trap();
		for (char **p = h->headers; p && *p; p++) {
			if (strpbrk(*p, "\r\n"))
				__builtin_trap();
		}
	}
	registry_hosts_done(&hosts);
	return 0;
}

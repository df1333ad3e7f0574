/* SPDX-License-Identifier: Apache-2.0 */
/* What a plugin prints: a result or an error. */
#include "cri/network/result_internal.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cni_result result = {0};
	struct err err = ERR_INIT;
	unsigned int code;
	char words[128];

	if (cni_result_parse((const char *)data, size, "eth0", &result, &err) == 0) {
		for (size_t i = 0; i < result.n_ips; i++)
			if (!cni_cidr_valid(result.ips[i].address))
				__builtin_trap();
		for (size_t i = 0; i < result.n_routes; i++)
			if (!cni_cidr_valid(result.routes[i].dst))
				__builtin_trap();
	} else if (!err.msg[0]) {
		__builtin_trap();
	}
	cni_error_parse((const char *)data, size, words, sizeof(words), &code);
	return 0;
}

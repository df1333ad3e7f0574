/* SPDX-License-Identifier: Apache-2.0 */
/* A network configuration, as a list and as a single plugin. */
#include "cri/network/conf_internal.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const files[] = {"f.conflist", "f.conf"};

	if (size > CNI_CONF_MAX)
		return 0;
	for (int i = 0; i < 2; i++) {
		struct cni_conf *conf = NULL;
		struct err err = ERR_INIT;

		if (cni_conf_parse((const char *)data, size, files[i], &conf, &err) == 0)
			cni_conf_free(conf);
		else if (!err.msg[0])
			__builtin_trap();
	}
	return 0;
}

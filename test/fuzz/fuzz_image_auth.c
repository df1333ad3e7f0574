/* SPDX-License-Identifier: Apache-2.0 */
/* WWW-Authenticate headers (a line each), and token answers. */
#include "base/util.h"
#include "cri/image/registry/auth.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size), *header = NULL;
	struct auth_challenge c = {0};
	struct err err = ERR_INIT;

	if (!text)
		return 0;
	for (char *save = NULL, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		(void)auth_challenge_parse(line, &c);
	if (c.scheme == AUTH_BEARER && !c.realm)
		__builtin_trap();
	auth_challenge_done(&c);
	if (auth_token_parse((const char *)data, size, &header, &err) == 0) {
		if (strpbrk(header + strlen("Bearer "), " \r\n"))
			__builtin_trap();
		image_secret_free(header);
	}
	free(text);
	return 0;
}

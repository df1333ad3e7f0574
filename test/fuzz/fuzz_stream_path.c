/* SPDX-License-Identifier: Apache-2.0 */
/* Paths of requests; a table with one token, which no input but its own may take. */
#include "base/util.h"
#include "cri/stream/token_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct tokens tokens;
	static char own[TOKEN_LEN + 1];
	const struct stream_request request = {.kind = STREAM_EXEC};
	struct stream_request taken;
	char *path = malloc(size + 1), token[TOKEN_LEN + 1];
	enum stream_kind kind;

	if (!path)
		return 0;
	if (!own[0]) {
		tokens_init(&tokens, INT64_MAX / 2);
		if (tokens_add(&tokens, &request, own, NULL) < 0)
			abort();
	}
	memcpy(path, data, size);
	path[size] = 0;
	if (stream_path_parse(path, &kind, token) && tokens_take(&tokens, kind, token, &taken) &&
	    !str_eq(token, own))
		abort();
	free(path);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* An image reference: what is accepted must come out the same when its parts are put together again. */
#include "base/util.h"
#include "cri/image/oci/reference.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size), *again = NULL;
	struct image_ref ref = {0}, twin = {0};
	struct err err = ERR_INIT;

	if (!text)
		return 0;
	if (image_ref_parse(text, &ref, &err) == 0) {
		again = xasprintf("%s%s%s%s%s", ref.name, ref.tag ? ":" : "", ref.tag ? ref.tag : "",
				  ref.digest ? "@" : "", ref.digest ? ref.digest : "");
		if (!again || image_ref_parse(again, &twin, NULL) < 0 || !str_eq(ref.name, twin.name) ||
		    !str_eq(ref.tag, twin.tag) || !str_eq(ref.digest, twin.digest))
			__builtin_trap();
		(void)image_host_is_loopback(ref.domain);
	} else if (!err.msg[0] || !utf8_valid(err.msg, strlen(err.msg))) {
		__builtin_trap();
	}
	image_ref_done(&ref);
	image_ref_done(&twin);
	free(again);
	free(text);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The body of a Cloud Hypervisor error, the answer to CONNECT, and a VM's console: text from outside, into
 * words.
 */
#include "base/util.h"
#include "vmm/ch_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct console c = {.fd = -1, .watch = -1};
	enum vm_device_type type;
	char words[128], name[128];

	ch_error_words((const char *)data, size, words, size % sizeof(words) + 1);
	vsock_parse_ok((const char *)data, size);
	console_sign(&c, (const char *)data, size / 2);
	console_sign(&c, (const char *)data + size / 2, size - size / 2);
	snprintf(name, sizeof(name), "%.*s", size < 127 ? (int)size : 127, (const char *)data);
	vm_device_id(name, &type);
	return 0;
}

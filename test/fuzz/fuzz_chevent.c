/* SPDX-License-Identifier: Apache-2.0 */
/* Cloud Hypervisor's event monitor, in pieces of a size that the first byte names. */
#include "base/util.h"
#include "vmm/ch_internal.h"
#include "vmm/vm_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vm *vm;
	static struct ch *c;
	struct vm_event e;
	size_t step = size ? (size_t)data[0] + 1 : 1;

	if (!vm) {
		vm = vm_new(&vmm_driver_cloud_hypervisor, "fuzz", "/nonexistent", NULL);
		c = calloc(1, sizeof(*c));
		if (!vm || !c)
			abort();
		c->events = -1;
		c->in.max = 2 * CH_EVENT_MAX;
		vm->state = c;
	}
	buf_done(&c->in);
	for (size_t at = 1; at < size; at += step) {
		size_t n = size - at < step ? size - at : step;

		if (buf_put(&c->in, data + at, n) < 0 || ch_feed_events(vm, &c->in, NULL) < 0)
			break;
	}
	while (vm_dispatch(vm, &e) > 0)
		;
	vm->ending = false;
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QMP as QEMU might send it, in pieces of a size that the first byte names; what comes as a reply is read as
 * query-pci.
 */
#include "base/util.h"
#include "vmm/qemu_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void note(const char *name, struct json_object *data, void *arg)
{
	(void)arg;
	if (name[0] && data)
		json_object_object_length(data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qmp q;
	size_t step = size ? (size_t)data[0] + 1 : 1;

	qmp_init(&q, note, NULL);
	free(qmp_request(&q, "query-pci", NULL));
	for (size_t at = 1; at < size; at += step) {
		size_t n = size - at < step ? size - at : step;

		if (buf_put(&q.in, data + at, n) < 0 || qmp_feed(&q, NULL) < 0)
			break;
	}
	if (q.reply) {
		struct qemu_port ports[QEMU_ROOT_PORTS];
		struct json_object *v = NULL;
		struct err err = ERR_INIT;

		if (qmp_result(&q, &v, &err) == 0)
			qemu_read_ports(v, ports);
	}
	qmp_done(&q);
	return 0;
}

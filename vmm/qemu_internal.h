/* SPDX-License-Identifier: Apache-2.0 */
/* qemu_internal.h: what the files of the QEMU driver share. */
#ifndef VMM_QEMU_INTERNAL_H
#define VMM_QEMU_INTERNAL_H

#include "vmm/driver_internal.h"
#include "vmm/qmp_internal.h"

#define QEMU_ROOT_PORTS	  8 /* places for hot plug: pcie-root-port rp0 … rp7 */
#define QEMU_MEMORY_ALIGN (2ULL << 20)

struct qemu {
	int fd;
	bool broken; /* the connection cannot be used any more */
	char broken_words[160];
	bool memory_changed; /* a MEMORY_DEVICE_SIZE_CHANGE has come */
	char deleted[64];    /* the last DEVICE_DELETED that was for none of our plugged devices: a vCPU */
	struct qmp qmp;
};

/* One pcie-root-port, as query-pci shows it. */
struct qemu_port {
	bool present;
	int bus;	  /* secondary bus number; 0: the firmware has not set it yet */
	char device[128]; /* qdev id of what is plugged there; "": nothing */
	int slot, function;
};
/* Reads query-pci's answer; unexpected entries are left out. */
void qemu_read_ports(struct json_object *value, struct qemu_port ports[QEMU_ROOT_PORTS]);

int qemu_command(const struct vm *vm, const struct vm_launch *launch, char ***ret_argv, struct err *err);
/*
 * One command: *ret_value (may be NULL) is owned by the caller (json_object_put). Takes ownership of
 * arguments, on failure too. fd >= 0 is passed along by SCM_RIGHTS and stays the caller's.
 */
int qemu_call(struct vm *vm, const char *command, struct json_object *arguments, int fd, int64_t deadline_ns,
	      struct json_object **ret_value, struct err *err);
int qemu_attach(struct vm *vm, const struct vm_device *device, char ret_pci[VM_PCI_ADDRESS_MAX],
		int64_t deadline_ns, struct err *err);
int qemu_detach(struct vm *vm, const struct vm_slot *slot, int64_t deadline_ns, struct err *err);
int qemu_resize(struct vm *vm, uint32_t vcpus, uint64_t memory_bytes, int64_t deadline_ns, struct err *err);
/* Of query-cpus-fast. */
int qemu_vcpu_threads(struct vm *vm, pid_t *ret_tids, uint32_t n, int64_t deadline_ns, struct err *err);
/* Fills the VM's device table and sizes from the running QEMU. */
int qemu_learn(struct vm *vm, int64_t deadline_ns, struct err *err);

#endif

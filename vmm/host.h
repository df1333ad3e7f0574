/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host.h: the programs and the virtualization that this host has, for diagnosis.
 *
 * Threads:   any. Every call looks again and leaves nothing on the host.
 * Ownership: results are plain structs.
 */
#ifndef VMM_HOST_H
#define VMM_HOST_H

#include "base/err.h"
#include "vmm/config.h"

enum vmm_program {
	VMM_PROGRAM_CLOUD_HYPERVISOR,
	VMM_PROGRAM_QEMU,
	VMM_PROGRAM_SPAWN_HELPER,
	VMM_PROGRAM_VIRTIOFSD,
	VMM_PROGRAM_VSOCK_DAEMON,
};
struct vmm_program_info {
	char path[512];
	char version[128]; /* the first line of its `--version`; "": it prints none, or is the spawn helper */
	bool legacy;	   /* virtiofsd only: the C one */
};
/*
 * Where the start of a VM would find the program. Blocks while the program prints its version, at most 10 s.
 */
int vmm_program_find(const struct vmm_config *config, enum vmm_program program, struct vmm_program_info *ret,
		     struct err *err);

struct vmm_kvm {
	bool vmx, svm;	 /* in the CPU flags: Intel's, AMD's virtualization */
	bool intel, amd; /* the CPU's maker */
	bool guest;	 /* this host is a VM itself */
	int open_errno;	 /* the errno of opening /dev/kvm; 0: it opens */
};
/* 0, or a negative errno if /proc/cpuinfo cannot be read: then only open_errno is set. */
int vmm_kvm_look(struct vmm_kvm *ret);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choose.h: which VMM runs the VMs of this host, and whether the guest's kernel and image are usable.
 *
 * Threads:   any. The calls block for as long as it takes to run `--version` (at most 5 s) and to read the
 *            guest's files (some 40 MB); with a filled struct vmm_known they cost a few stat(2).
 * Ownership: results are plain structs without pointers to free. Nothing stays open.
 * Errors:    name the missing or damaged file, and the configuration key that leads to it.
 */
#ifndef VMM_CHOOSE_H
#define VMM_CHOOSE_H

#include "base/err.h"
#include "vmm/config.h"

enum vmm_cap {
	VMM_CAP_HOTPLUG_DISK = 1 << 0,
	VMM_CAP_HOTPLUG_NET = 1 << 1,
	VMM_CAP_HOTPLUG_PMEM = 1 << 2,
	VMM_CAP_HOTPLUG_FS = 1 << 3,
	VMM_CAP_HOTPLUG_VFIO = 1 << 4,
	VMM_CAP_RESIZE = 1 << 5,
	VMM_CAP_PAUSE = 1 << 6,
	VMM_CAP_SNAPSHOT = 1 << 7,
};

/* Identifies a file and its content: any write or replacement changes it. All zero: no file. */
struct vmm_file_id {
	uint64_t dev, ino;
	int64_t size, mtime_ns, ctime_ns;
};
/* The result of a check of a file's content. */
struct vmm_file_facts {
	bool known;
	struct vmm_file_id file, sums; /* sums: the SHA256SUMS beside it */
	int code;		       /* 0: usable; else a negative errno, explained by words */
	char words[512];
};
/*
 * A cache for vmm_choose: what it learned by running a program and reading files. An entry holds until its
 * file changes. Zeroed: empty. Opaque to callers; may be copied.
 */
struct vmm_known {
	struct vmm_file_facts binary, kernel, image;
	char version[128];
};

struct vmm_choice {
	const char *driver; /* static */
	char path[512];	    /* the VMM's binary */
	char version[128];  /* the first line of its `--version` */
	char accel[16];	    /* "kvm" or "tcg" */
	char reason[256];   /* why this one, in words */
	uint32_t caps;	    /* enum vmm_cap */
	uint32_t mtu_max;   /* largest MTU of the boot NIC */
};

/*
 * Resolves `auto` (or the named driver) on this host. Checks binary, KVM (vmx or svm in the CPU flags, and
 * /dev/kvm opens), guest kernel and image. known may be NULL: everything is looked at again.
 */
int vmm_choose(const struct vmm_config *config, struct vmm_known *known, struct vmm_choice *ret_choice,
	       struct err *err);
/* Its parts, for diagnosis: the driver without version and guest files, and the check of each guest file. */
int vmm_choose_driver(const struct vmm_config *config, struct vmm_choice *ret_choice, struct err *err);
int vmm_check_kernel(const struct vmm_config *config, struct err *err);
int vmm_check_image(const struct vmm_config *config, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest_files_internal.h: whether guest kernel and image can be booted by a VMM, told from the files alone.
 *
 * Purpose:   a wrong or damaged file is reported with its path and its fault before a VM is started with it:
 *            from outside, a guest that cannot boot looks like one that is slow.
 * Threads:   any; blocks for as long as it takes to read the files (some 40 MB at the first look).
 * Limits:    at most a few KiB of a file are interpreted; SHA256SUMS is read up to 64 KiB.
 */
#ifndef VMM_GUEST_FILES_INTERNAL_H
#define VMM_GUEST_FILES_INTERNAL_H

#include "vmm/choose.h"

#define GUEST_SUMS "SHA256SUMS" /* beside kernel and image, as sha256sum(1) writes it; may be missing */

/*
 * kernel: a complete ELF for x86-64 with a PVH entry (the note XEN_ELFNOTE_PHYS32_ENTRY), or a bzImage.
 * image: a complete MBR disk whose first partition holds an ext4 of 4 KiB blocks with a journal (see
 * deploy/guest/build-image). Both must match GUEST_SUMS, if that names them. `facts` caches the result until
 * the file or GUEST_SUMS changes; zeroed: empty. Faults are -ENOEXEC (kernel), -EUCLEAN (image, sums), or the
 * errno of opening or reading the file.
 */
int guest_kernel_check(const char *path, struct vmm_file_facts *facts, struct err *err);
int guest_image_check(const char *path, struct vmm_file_facts *facts, struct err *err);

/* The identity of the file as it is now; *ret_id stays as it is if there is none. */
void guest_file_id(const char *path, struct vmm_file_id *ret_id);
bool guest_same_file(const struct vmm_file_id *a, const struct vmm_file_id *b);

#endif

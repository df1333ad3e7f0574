/*
 * guest_files_internal.h: whether guest kernel and image are what a VMM can boot, told from the files alone.
 *
 * Purpose:   a wrong or damaged file is named with its path and what is wrong with it, before a VM is started
 *            with it: from outside, a guest that cannot boot looks like one that is slow.
 * Threads:   any; blocks for as long as it takes to read the files (some 40 MB at the first look).
 * Limits:    no more than a few KiB of a file are interpreted; SHA256SUMS is read up to 64 KiB.
 */
#ifndef VMM_GUEST_FILES_INTERNAL_H
#define VMM_GUEST_FILES_INTERNAL_H

#include "vmm/choose.h"

#define GUEST_SUMS "SHA256SUMS" /* beside kernel and image, as sha256sum(1) writes it; may be missing */

/*
 * kernel: an ELF for x86-64 with a PVH entry (the note XEN_ELFNOTE_PHYS32_ENTRY), whole; or a bzImage.
 * image: an MBR whose first partition holds an ext4 of 4 KiB blocks with a journal, whole (see
 * deploy/guest/build-image). Both: the same as in GUEST_SUMS, if that names them. `facts` keeps the answer
 * until the file or GUEST_SUMS changes; zeroed: nothing is known yet. What is wrong is -ENOEXEC (kernel),
 * -EUCLEAN (image, sums), or an errno of the file itself.
 */
int guest_kernel_check(const char *path, struct vmm_file_facts *facts, struct err *err);
int guest_image_check(const char *path, struct vmm_file_facts *facts, struct err *err);

/* The file as it is now; untouched where there is none. */
void guest_file_id(const char *path, struct vmm_file_id *ret_id);
bool guest_same_file(const struct vmm_file_id *a, const struct vmm_file_id *b);

#endif

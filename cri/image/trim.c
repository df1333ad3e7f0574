/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/image_internal.h"

#include "base/util.h"

#include <link.h>
#include <sys/mman.h>

/*
 * What a pull alone runs. Their code stays mapped and in the page cache; it only stops counting as this
 * process's memory until it is needed again: 4 to 5 MB of an idle server's 20.
 */
static const char *const libraries[] = {"/libcrypto.so", "/libssl.so", "/libcurl.so", "/libarchive.so",
					"/libzstd.so"};

static bool is_ours(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(libraries); i++) {
		if (strstr(name, libraries[i]))
			return true;
	}
	return false;
}

/*
 * Pages that were never written can go: they come back from the file. Writable segments, relocations
 * included, stay.
 */
static int release(struct dl_phdr_info *info, size_t size, void *arg)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	(void)size;
	(void)arg;
	if (!info->dlpi_name || !is_ours(info->dlpi_name))
		return 0;
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t begin = (info->dlpi_addr + p->p_vaddr) & ~(page - 1);
		uintptr_t end = (info->dlpi_addr + p->p_vaddr + p->p_memsz + page - 1) & ~(page - 1);

		if (p->p_type == PT_LOAD && !(p->p_flags & PF_W))
			(void)madvise((void *)begin, end - begin,
				      MADV_DONTNEED); /* NOLINT(performance-no-int-to-ptr) */
	}
	return 0;
}

void images_trim(void)
{
	dl_iterate_phdr(release, NULL);
}

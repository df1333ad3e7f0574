/* SPDX-License-Identifier: Apache-2.0 */
/* check_memory.c: whether a pod's VM finds its memory here. */
#include "cri/health/check.h"

#include "base/util.h"
#include "base/meminfo.h"
#include "cri/health/readiness.h"

#include <inttypes.h>

#define MIB (UINT64_C(1) << 20)

/*
 * The guest's memory is taken page by page as the guest touches it, so what is available now is no bound;
 * what there is at all is one for the server (readiness.c), because such a guest would drive the host out of
 * memory.
 */
static void check_size(struct check *check, const char *meminfo)
{
	uint64_t vm = check->config->hypervisor.memory_bytes, total = meminfo_bytes(meminfo, "MemTotal");
	uint64_t available = meminfo_bytes(meminfo, "MemAvailable");
	struct err err = ERR_INIT;

	if (readiness_memory(vm, &err) < 0)
		check_add(check, "memory", CHECK_MISSING,
			  "lower [hypervisor] memory_in_mb, or give all pods limits", "%s", err.msg);
	else if (vm > available)
		check_add(check, "memory", CHECK_NOTE, "end something, or lower [hypervisor] memory_in_mb",
			  "a pod without limits gets a VM of %" PRIu64 " MiB, and %" PRIu64 " of %" PRIu64
			  " MiB are available",
			  vm / MIB, available / MIB, total / MIB);
	else
		check_ok(check, "memory",
			 "%" PRIu64 " of %" PRIu64
			 " MiB available; a pod without limits gets a VM of %" PRIu64 " MiB",
			 available / MIB, total / MIB, vm / MIB);
}

/*
 * vm.overcommit_memory=2 (overcommit-accounting.rst): the kernel counts what is mapped, and a VMM maps far
 * more than it uses; a guest's page that cannot be counted any more is a SIGBUS for its VMM.
 */
static void check_overcommit(struct check *check, const char *meminfo)
{
	uint64_t limit = meminfo_bytes(meminfo, "CommitLimit"), used = meminfo_bytes(meminfo, "Committed_AS");
	uint64_t left = limit > used ? limit - used : 0, mode;

	if (check_read_number(check, "/proc/sys/vm/overcommit_memory", &mode) < 0)
		return;
	if (mode == 2)
		check_add(check, "overcommit",
			  left < check->config->hypervisor.memory_bytes ? CHECK_MISSING : CHECK_NOTE,
			  "sysctl -w vm.overcommit_memory=1 (what kubelet sets too), or a larger "
			  "vm.overcommit_ratio",
			  "vm.overcommit_memory is 2: %" PRIu64
			  " MiB can still be committed, and a VM whose guest needs more dies",
			  left / MIB);
	else
		check_ok(check, "overcommit", "vm.overcommit_memory is %" PRIu64, mode);
}

static void check_hugepages(struct check *check, const char *meminfo)
{
	uint64_t vm = check->config->hypervisor.memory_bytes, page = meminfo_bytes(meminfo, "Hugepagesize");
	uint64_t total = meminfo_count(meminfo, "HugePages_Total"),
		 free_pages = meminfo_count(meminfo, "HugePages_Free");
	uint64_t reserved = meminfo_count(meminfo, "HugePages_Rsvd"),
		 want = page ? (vm + page - 1) / page : 0;
	char *fix CLEANUP_FREE = NULL;

	if (!check->config->hypervisor.hugepages)
		return;
	if (!page) {
		check_add(check, "hugepages", CHECK_MISSING, "[hypervisor] hugepages = false",
			  "this kernel has no huge pages, and [hypervisor] hugepages is on");
		return;
	}
	free_pages = free_pages > reserved ? free_pages - reserved : 0;
	fix = xasprintf("sysctl -w vm.nr_hugepages=%" PRIu64
			" for one VM, as many times as there are pods; or "
			"[hypervisor] hugepages = false",
			want);
	if (!fix)
		check->oom = true;
	else if (free_pages < want)
		/* Where they are enough for a VM, those that run may have taken them. */
		check_add(check, "hugepages", total < want ? CHECK_MISSING : CHECK_NOTE, fix,
			  "%" PRIu64 " huge pages of %" PRIu64 " KiB are free, of %" PRIu64
			  "; a VM of %" PRIu64 " MiB takes %" PRIu64,
			  free_pages, page / 1024, total, vm / MIB, want);
	else
		check_ok(check, "hugepages", "%" PRIu64 " of %" PRIu64 " KiB are free; a VM takes %" PRIu64,
			 free_pages, page / 1024, want);
}

void check_memory(struct check *check)
{
	char *meminfo CLEANUP_FREE = NULL;
	int r = check_read(check, "/proc/meminfo", &meminfo);

	if (r < 0) {
		check_add(check, "memory", CHECK_NOTE, "mount -t proc proc /proc",
			  "unknown: /proc/meminfo cannot be read (%s)", strerrordesc_np(-r));
		return;
	}
	check_size(check, meminfo);
	check_hugepages(check, meminfo);
	check_overcommit(check, meminfo);
}

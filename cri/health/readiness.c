/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/health/readiness.h"

#include "base/log.h"
#include "base/util.h"
#include "base/meminfo.h"

#include <inttypes.h>
#include <pthread.h>
#include <sys/sysinfo.h>
#include <sys/statvfs.h>

#define MIB	     (UINT64_C(1) << 20)
#define ROOM_WANTED  (16 * MIB) /* below, a pod could be begun and not be recorded */
#define MEMINFO_MAX  (64 * 1024)
#define FILES_WANTED 256 /* directory entries that a pod and its containers need, with a margin */

struct health {
	const struct config *config;
	pthread_mutex_t lock;
	struct vmm_known known;	  /* lock */
	struct vmm_choice choice; /* lock: the last that was good */
};

int health_new(const struct config *config, struct health **ret_health, struct err *err)
{
	struct health *health = calloc(1, sizeof(*health));

	if (!health)
		return err_oom(err);
	health->config = config;
	pthread_mutex_init(&health->lock, NULL);
	*ret_health = health;
	return 0;
}

/* The VMM driver for new pods. Another one than the last time is logged. */
static int health_vmm_choice(struct health *health, struct vmm_choice *ret_choice, struct err *err)
{
	struct vmm_choice choice = {0};
	struct vmm_known known;
	bool news;
	int r;

	/* Not under the lock: the first look reads files. Two looks at once learn the same. */
	pthread_mutex_lock(&health->lock);
	known = health->known;
	pthread_mutex_unlock(&health->lock);
	r = vmm_choose(&health->config->hypervisor, &known, &choice, err);
	pthread_mutex_lock(&health->lock);
	health->known = known;
	news = r == 0 &&
	       (!str_eq(health->choice.driver, choice.driver) || !str_eq(health->choice.path, choice.path) ||
		!str_eq(health->choice.accel, choice.accel) ||
		!str_eq(health->choice.version, choice.version));
	if (r == 0)
		health->choice = choice;
	pthread_mutex_unlock(&health->lock);
	if (r < 0)
		return r;
	if (news)
		log_line(LOG_LEVEL_INFO,
			 LOG_FIELDS("driver", choice.driver, "path", choice.path, "accel", choice.accel,
				    "version", choice.version),
			 "VMM: %s", choice.reason);
	*ret_choice = choice;
	return 0;
}

/* What root can still use: the server, its CNI plugins and the VMMs run as root. */
int readiness_room(const char *key, const char *dir, struct err *err)
{
	struct statvfs st;
	uint64_t room;

	if (statvfs(dir, &st) < 0)
		return err_set_status(err, -errno, ERR_FAILED_PRECONDITION, "%s %s: %s", key, dir,
				      strerrordesc_np(errno));
	if (st.f_flag & ST_RDONLY)
		return err_set_status(err, -EROFS, ERR_FAILED_PRECONDITION,
				      "the file system of %s %s is read-only", key, dir);
	room = (uint64_t)st.f_bfree * st.f_frsize;
	if (room < ROOM_WANTED)
		return err_set_status(err, -ENOSPC, ERR_RESOURCE_EXHAUSTED,
				      "the file system of %s %s is full: %" PRIu64
				      " MiB are free, new pods need %" PRIu64,
				      key, dir, room / MIB, (uint64_t)(ROOM_WANTED / MIB));
	/* Some file systems make inodes as they need them and count none. */
	if (st.f_files > 0 && st.f_ffree < FILES_WANTED)
		return err_set_status(err, -ENOSPC, ERR_RESOURCE_EXHAUSTED,
				      "the file system of %s %s has no inodes left: %" PRIu64
				      " are free, new pods need %d",
				      key, dir, (uint64_t)st.f_ffree, FILES_WANTED);
	return 0;
}

/* It need not all be free: guests take their memory as they use it. But one that may want more than there is
 * ends in the OOM killer. */
int readiness_memory(uint64_t memory_bytes, struct err *err)
{
	struct sysinfo host;
	uint64_t total;

	if (sysinfo(&host) < 0)
		return err_set_errno(err, -errno, "asking for the host's memory");
	total = (uint64_t)host.totalram * host.mem_unit;
	if (memory_bytes <= total)
		return 0;
	return err_set_status(err, -ENOMEM, ERR_RESOURCE_EXHAUSTED,
			      "a VM of %" PRIu64 " MiB does not fit into this host, which has %" PRIu64
			      " MiB in all: lower [hypervisor] memory_in_mb, or the pod's limit",
			      memory_bytes / MIB, total / MIB);
}

/*
 * The pages must be there when the guest touches them, or its VMM dies of a bus error. free: as many as are
 * not promised to others now; else as many as there are at all, for that is what the host's state, rather
 * than its load, comes to.
 */
static int check_hugepages(uint64_t memory_bytes, bool free_now, struct err *err)
{
	char *meminfo CLEANUP_FREE = NULL;
	uint64_t page, have, want, reserved;
	int r = read_file("/proc/meminfo", MEMINFO_MAX, &meminfo, NULL);

	if (r < 0)
		return err_set_errno(err, r, "reading /proc/meminfo");
	page = meminfo_bytes(meminfo, "Hugepagesize");
	if (page == 0)
		return err_set_status(err, -ENOMEM, ERR_FAILED_PRECONDITION,
				      "[hypervisor] hugepages is on, and this kernel has no huge pages");
	want = memory_bytes / page + (memory_bytes % page != 0);
	have = meminfo_count(meminfo, free_now ? "HugePages_Free" : "HugePages_Total");
	reserved = free_now ? meminfo_count(meminfo, "HugePages_Rsvd") : 0;
	have = have > reserved ? have - reserved : 0;
	if (have >= want)
		return 0;
	return err_set_status(
		err, -ENOMEM, ERR_RESOURCE_EXHAUSTED,
		"a VM of %" PRIu64 " MiB takes %" PRIu64 " huge pages of %" PRIu64 " MiB, and %" PRIu64
		" are %s: reserve more (sysctl vm.nr_hugepages), or set [hypervisor] hugepages = false",
		memory_bytes / MIB, want, page / MIB, have, free_now ? "free" : "there");
}

int health_fits_now(struct health *health, uint64_t memory_bytes, struct err *err)
{
	return health->config->hypervisor.hugepages ? check_hugepages(memory_bytes, true, err) : 0;
}

int health_ready(struct health *health, uint64_t memory_bytes, struct vmm_choice *ret_choice,
		 const char **ret_reason, struct err *err)
{
	const struct config *config = health->config;
	int r = health_vmm_choice(health, ret_choice, err);

	if (r < 0) {
		*ret_reason = "HypervisorNotReady";
		return err_wrap(err, "no VMM to run pods");
	}
	r = readiness_room("state_dir", config->server.state_dir, err);
	if (r == 0)
		r = readiness_room("run_dir", config->server.run_dir, err);
	if (r < 0) {
		*ret_reason = "NoSpace";
		return r;
	}
	r = readiness_memory(memory_bytes, err);
	if (r == 0 && config->hypervisor.hugepages)
		r = check_hugepages(memory_bytes, false, err);
	if (r < 0)
		*ret_reason = "NotEnoughMemory";
	return r;
}

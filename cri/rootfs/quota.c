/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/rootfs/quota_internal.h"

#include "base/util.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/dqblk_xfs.h>
#include <linux/fs.h>
#include <linux/quota.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define BLOCK 512 /* the unit of struct fs_disk_quota */
#define TRIES 4096

/* ---- the file system's calls --------------------------------------------------------------------------- */

/* The XFS commands; Linux serves them for ext4 too. */
static int quota_call(int fd, unsigned int cmd, uint32_t id, void *data)
{
	return syscall(SYS_quotactl_fd, fd, QCMD(cmd, PRJQUOTA), id, data) < 0 ? -errno : 0;
}

static bool is_ours(uint32_t project)
{
	return project >= QUOTA_FIRST && project - QUOTA_FIRST < QUOTA_COUNT;
}

static int project_of(int dir, uint32_t *ret_project)
{
	struct fsxattr attr;

	if (ioctl(dir, FS_IOC_FSGETXATTR, &attr) < 0)
		return -errno;
	*ret_project = attr.fsx_projid;
	return 0;
}

/* What is made below it belongs to the project too. */
static int set_project(int dir, uint32_t project)
{
	struct fsxattr attr;

	if (ioctl(dir, FS_IOC_FSGETXATTR, &attr) < 0)
		return -errno;
	attr.fsx_projid = project;
	attr.fsx_xflags |= FS_XFLAG_PROJINHERIT;
	return ioctl(dir, FS_IOC_FSSETXATTR, &attr) < 0 ? -errno : 0;
}

static int set_limits(int dir, uint32_t project, const struct rootfs_limit *limit)
{
	struct fs_disk_quota q = {
		.d_version = FS_DQUOT_VERSION,
		.d_flags = FS_PROJ_QUOTA,
		.d_id = project,
		.d_fieldmask = FS_DQ_BSOFT | FS_DQ_BHARD | FS_DQ_ISOFT | FS_DQ_IHARD,
		.d_blk_hardlimit = limit->bytes / BLOCK,
		.d_ino_hardlimit = limit->inodes,
	};

	return quota_call(dir, Q_XSETQLIM, project, &q);
}

bool quota_enforced(int dir)
{
	struct fs_quota_stat state = {.qs_version = FS_QSTAT_VERSION};

	return quota_call(dir, Q_XGETQSTAT, 0, &state) == 0 && (state.qs_flags & FS_QUOTA_PDQ_ENFD);
}

/* ---- one layer's project ------------------------------------------------------------------------------- */

static bool holds_files(int dir)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	unsigned int n = 0;

	if (!d) {
		close_fd(fd);
		return true;
	}
	while (n <= 2 && readdir(d))
		n++;
	closedir(d);
	return n > 2; /* "." and ".." */
}

static bool is_free(int dir, uint32_t project)
{
	struct fs_disk_quota q = {0};
	int r = quota_call(dir, Q_XGETQUOTA, project, &q);

	return r == -ENOENT || (r == 0 && q.d_blk_hardlimit == 0 && q.d_ino_hardlimit == 0 &&
				q.d_bcount == 0 && q.d_icount == 0);
}

static uint32_t hash(const char *name)
{
	uint32_t h = 2166136261u; /* FNV-1a */

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 16777619u;
	return h;
}

static int find_free(int dir, const char *name, uint32_t *ret_project)
{
	uint32_t at = hash(name);

	for (unsigned int i = 0; i < TRIES; i++) {
		*ret_project = QUOTA_FIRST + (at + i) % QUOTA_COUNT;
		if (is_free(dir, *ret_project))
			return 0;
	}
	return -ENOSPC;
}

/* 0: all are without a project and empty. 1: all have *ret_project. */
static int look(const int *dirs, size_t n, uint32_t *ret_project)
{
	uint32_t first = 0;

	for (size_t i = 0; i < n; i++) {
		uint32_t project = 0;
		int r = project_of(dirs[i], &project);

		if (r < 0)
			return r;
		if (i == 0)
			first = project;
		if (project != first || (project != 0 && !is_ours(project)) ||
		    (project == 0 && holds_files(dirs[i])))
			return -EEXIST;
	}
	*ret_project = first;
	return first != 0;
}

/* The directories count as the project's files from here on, so nobody else takes it. */
static int take_free(const int *dirs, size_t n, const char *name, uint32_t *ret_project)
{
	int r = find_free(dirs[0], name, ret_project);

	for (size_t i = 0; i < n && r == 0; i++)
		r = set_project(dirs[i], *ret_project);
	return r;
}

int quota_begin(const int *dirs, size_t n, const char *name, const struct rootfs_limit *limit,
		struct err *err)
{
	static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
	uint32_t project = 0;
	int r;

	pthread_mutex_lock(&one);
	r = look(dirs, n, &project);
	if (r == 0)
		r = take_free(dirs, n, name, &project);
	if (r >= 0)
		r = set_limits(dirs[0], project, limit);
	pthread_mutex_unlock(&one);
	if (r == -EEXIST)
		return r;
	return r < 0 ? err_set_errno(err, r, "the quota of a container's writable layer") : 0;
}

int quota_usage(int dir, uint64_t *ret_bytes, uint64_t *ret_inodes)
{
	struct fs_disk_quota q = {0};
	uint32_t project = 0;
	int r = project_of(dir, &project);

	if (r < 0 || !is_ours(project))
		return -ENODATA;
	r = quota_call(dir, Q_XGETQUOTA, project, &q);
	if (r < 0)
		return -ENODATA;
	*ret_bytes = q.d_bcount * BLOCK;
	*ret_inodes = q.d_icount;
	return 0;
}

void quota_end(int dir)
{
	static const struct rootfs_limit none;
	uint32_t project = 0;

	if (project_of(dir, &project) == 0 && is_ours(project))
		(void)set_limits(dir, project, &none);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "cri/store/store_internal.h"

#include <fcntl.h>
#include <sys/statvfs.h>

/* Enough for the write-ahead log and the checkpoint of a good many deletes. */
#define RESERVE_BYTES	 (512 * 1024)
#define RESERVE_RETRY_NS (10 * NS_PER_SEC)

bool store_reserve_needed(const struct store *store)
{
	struct statvfs st;

	return statvfs(store->path, &st) == 0 && st.f_bavail * st.f_frsize < 2UL * RESERVE_BYTES;
}

/*
 * Removing things must work on a full disk, or the disk stays full; and SQLite needs room even to delete. So
 * a file of zeros is kept, and given up when a change that only removes finds no room. It is made again when
 * there is some.
 */
void store_reserve_keep(struct store *store)
{
	int64_t now = now_monotonic_ns();
	int fd;

	if (store->reserve_kept ||
	    (store->reserve_tried_ns && now - store->reserve_tried_ns < RESERVE_RETRY_NS))
		return;
	store->reserve_tried_ns = now;
	if (store_reserve_needed(store))
		return;
	fd = open(store->reserve_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	store->reserve_kept = posix_fallocate(fd, 0, RESERVE_BYTES) == 0;
	close_fd(fd);
	if (!store->reserve_kept)
		unlink(store->reserve_path);
}

/*
 * A log that was written back to the database begins anew in the room that it has, so that comes first: the
 * reserve alone would last for some fifty changes.
 */
int store_step_reserve(struct store *store, sqlite3_stmt *stmt)
{
	int rc = sqlite3_step(stmt);

	for (int way = 0; (rc & 0xff) == SQLITE_FULL && store->depth == 0 && way < 2; way++) {
		sqlite3_reset(stmt);
		if (way == 0)
			(void)sqlite3_wal_checkpoint_v2(store->db, NULL, SQLITE_CHECKPOINT_RESTART, NULL,
							NULL);
		else if (!store_reserve_release(store))
			return rc;
		rc = sqlite3_step(stmt);
	}
	return rc;
}

bool store_reserve_release(struct store *store)
{
	if (!store->reserve_kept)
		return false;
	store->reserve_kept = false;
	store->reserve_tried_ns = now_monotonic_ns();
	return unlink(store->reserve_path) == 0;
}

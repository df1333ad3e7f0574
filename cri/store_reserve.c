#include "base/util.h"
#include "cri/store_priv.h"

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

bool store_reserve_release(struct store *store)
{
	if (!store->reserve_kept)
		return false;
	store->reserve_kept = false;
	store->reserve_tried_ns = now_monotonic_ns();
	return unlink(store->reserve_path) == 0;
}

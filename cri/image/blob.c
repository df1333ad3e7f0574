/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/blob_internal.h"

#include "base/cond.h"
#include "base/util.h"
#include "cri/image/oci/digest.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#define BLOCK_BYTES   (128u << 10)
#define COLLECT_AGE_S 3600
#define RESERVE_BYTES (16ull << 20)

struct flight {
	char digest[IMAGE_DIGEST_LEN + 1];
	struct flight *next;
};

struct blob_store {
	char *dir;
	int dirfd;
	pthread_mutex_t lock; /* guards flights */
	pthread_cond_t landed;
	struct flight *flights;
};

int blob_store_open(const char *images_dir, struct blob_store **ret_store, struct err *err)
{
	struct blob_store *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_oom(err);
	s->dirfd = -1;
	r = cond_init(&s->landed);
	if (r < 0) {
		free(s);
		return err_set_errno(err, r, "the blob store");
	}
	pthread_mutex_init(&s->lock, NULL);
	s->dir = xasprintf("%s/blobs/sha256", images_dir);
	if (!s->dir)
		r = err_oom(err);
	else if ((r = mkdir_p(s->dir, 0700)) < 0)
		err_set_errno(err, r, "%s", s->dir);
	else if ((s->dirfd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		r = err_set_errno(err, -errno, "%s", s->dir);
	if (r < 0) {
		blob_store_close(s);
		return r;
	}
	*ret_store = s;
	return 0;
}

struct blob_store *blob_store_close(struct blob_store *s)
{
	if (!s)
		return NULL;
	close_fd(s->dirfd);
	free(s->dir);
	pthread_cond_destroy(&s->landed);
	pthread_mutex_destroy(&s->lock);
	free(s);
	return NULL;
}

/* A digest's file name is its hex part. */
static const char *name_of(const char *digest)
{
	return digest + 7;
}

bool blob_have(struct blob_store *s, const char *digest, uint64_t *ret_size)
{
	struct stat st;

	if (!image_digest_valid(digest) || fstatat(s->dirfd, name_of(digest), &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    !S_ISREG(st.st_mode))
		return false;
	if (st.st_mtim.tv_sec == 0 || st.st_mtim.tv_sec + COLLECT_AGE_S / 2 < time(NULL))
		utimensat(s->dirfd, name_of(digest), NULL, AT_SYMLINK_NOFOLLOW);
	if (ret_size)
		*ret_size = (uint64_t)st.st_size;
	return true;
}

int blob_open(struct blob_store *s, const char *digest, struct err *err)
{
	int fd;

	if (!image_digest_valid(digest))
		return err_set(err, -EINVAL, "\"%s\" is not a digest", digest);
	fd = openat(s->dirfd, name_of(digest), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return err_set_errno(err, -errno, "blob %s", digest);
	return fd;
}

int blob_read(struct blob_store *s, const char *digest, size_t max_bytes, char **ret_data, size_t *ret_len,
	      struct err *err)
{
	char *data CLEANUP_FREE = NULL;
	char found[IMAGE_DIGEST_LEN + 1];
	size_t len = 0;
	int r;

	if (!image_digest_valid(digest))
		return err_set(err, -EINVAL, "\"%s\" is not a digest", digest);
	r = read_file_at(s->dirfd, name_of(digest), max_bytes, &data, &len);
	if (r < 0)
		return err_set_errno(err, r, "blob %s", digest);
	image_digest_of(data, len, found);
	if (!str_eq(found, digest))
		return err_set_status(err, -EBADMSG, ERR_DATA_LOSS, "blob %s is damaged on disk", digest);
	*ret_data = move_ptr(data);
	*ret_len = len;
	return 0;
}

int blob_put(struct blob_store *s, const void *data, size_t len, char ret_digest[IMAGE_DIGEST_LEN + 1],
	     struct err *err)
{
	char digest[IMAGE_DIGEST_LEN + 1];
	char *path CLEANUP_FREE = NULL;
	uint64_t size;
	int r;

	image_digest_of(data, len, digest);
	if (!blob_have(s, digest, &size) || size != len) {
		path = xasprintf("%s/%s", s->dir, name_of(digest));
		if (!path)
			return err_oom(err);
		r = write_file_atomic(path, data, len, 0600, true);
		if (r < 0)
			return err_set_errno(err, r, "blob %s", digest);
	}
	memcpy(ret_digest, digest, sizeof(digest));
	return 0;
}

/* ---- from a file --------------------------------------------------------------------------------------- */

static int copy_hashed(int from, int to, struct image_digest *hash, uint64_t *ret_size, struct err *err)
{
	char *block CLEANUP_FREE = malloc(BLOCK_BYTES);

	if (!block)
		return err_oom(err);
	*ret_size = 0;
	for (;;) {
		ssize_t n = read_full(from, block, BLOCK_BYTES);
		int r;

		if (n < 0)
			return err_set_errno(err, (int)n, "reading a blob");
		if (n == 0)
			return 0;
		image_digest_update(hash, block, (size_t)n);
		r = write_full(to, block, (size_t)n);
		if (r < 0)
			return err_set_errno(err, r, "writing a blob");
		*ret_size += (uint64_t)n;
	}
}

int blob_put_fd(struct blob_store *s, int fd, const char *digest, char ret_digest[IMAGE_DIGEST_LEN + 1],
		uint64_t *ret_size, struct err *err)
{
	struct image_digest *hash = image_digest_new();
	char suffix[17], name[64], found[IMAGE_DIGEST_LEN + 1];
	int out CLEANUP_CLOSE = -1;
	uint64_t size = 0;
	int r;

	if (!hash || random_hex(8, suffix) < 0) {
		image_digest_free(hash);
		return err_oom(err);
	}
	snprintf(name, sizeof(name), "copy.%s.part", suffix);
	out = openat(s->dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	r = out < 0 ? err_set_errno(err, -errno, "%s/%s", s->dir, name)
		    : copy_hashed(fd, out, hash, &size, err);
	image_digest_final(hash, found);
	image_digest_free(hash);
	if (r == 0 && digest && !str_eq(found, digest))
		r = err_set_status(err, -EBADMSG, ERR_DATA_LOSS, "blob %s: its content has the digest %s",
				   digest, found);
	if (r == 0 && fdatasync(out) < 0)
		r = err_set_errno(err, -errno, "writing blob %s", found);
	if (r == 0 && renameat(s->dirfd, name, s->dirfd, name_of(found)) < 0)
		r = err_set_errno(err, -errno, "writing blob %s", found);
	if (r < 0) {
		unlinkat(s->dirfd, name, 0);
		return r;
	}
	memcpy(ret_digest, found, sizeof(found));
	*ret_size = size;
	return 0;
}

/* ---- from a registry ----------------------------------------------------------------------------------- */

struct part {
	struct blob_store *store;
	const char *digest;
	uint64_t size;
	char name[96];
	int fd;
	uint64_t have;
	struct image_digest *hash;
	_Atomic uint64_t *progress;
	struct call *call;
};

static uint64_t part_have(void *arg)
{
	const struct part *p = arg;

	return p->have;
}

static void part_set(struct part *p, uint64_t have)
{
	if (p->progress)
		atomic_fetch_add(p->progress, have - p->have); /* unsigned: also counts back */
	p->have = have;
}

static int part_restart(void *arg, struct err *err)
{
	struct part *p = arg;

	if (ftruncate(p->fd, 0) < 0 || lseek(p->fd, 0, SEEK_SET) < 0)
		return err_set_errno(err, -errno, "%s/%s", p->store->dir, p->name);
	image_digest_reset(p->hash);
	part_set(p, 0);
	return 0;
}

static int part_data(void *arg, const void *data, size_t len, struct err *err)
{
	struct part *p = arg;
	int r = write_full(p->fd, data, len);

	if (r < 0) {
		/* What was written in part is not counted: drop it. */
		if (ftruncate(p->fd, (off_t)p->have) < 0 || lseek(p->fd, (off_t)p->have, SEEK_SET) < 0)
			unlinkat(p->store->dirfd, p->name, 0);
		return err_set_errno(err, r, "writing blob %s to %s", p->digest, p->store->dir);
	}
	image_digest_update(p->hash, data, len);
	part_set(p, p->have + len);
	return 0;
}

static int part_finish(void *arg, struct err *err)
{
	struct part *p = arg;
	char found[IMAGE_DIGEST_LEN + 1];

	image_digest_final(p->hash, found);
	if (!str_eq(found, p->digest)) {
		struct err ignored = ERR_INIT;

		(void)part_restart(p, &ignored);
		return err_set_status(err, -EBADMSG, ERR_DATA_LOSS,
				      "digest mismatch: blob %s came with the digest %s", p->digest, found);
	}
	if (fdatasync(p->fd) < 0 ||
	    renameat(p->store->dirfd, p->name, p->store->dirfd, name_of(p->digest)) < 0)
		return err_set_errno(err, -errno, "writing blob %s", p->digest);
	return 0;
}

/* Opens and locks a part; -EWOULDBLOCK if another process writes it. */
static int part_lock(struct part *p)
{
	for (;;) {
		struct stat st;

		p->fd = openat(p->store->dirfd, p->name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (p->fd < 0)
			return -errno;
		if (flock(p->fd, LOCK_EX | LOCK_NB) < 0) {
			int r = -errno;

			p->fd = close_fd(p->fd);
			return r;
		}
		if (fstat(p->fd, &st) == 0 && st.st_nlink > 0)
			return 0;
		p->fd = close_fd(p->fd); /* collected between the two calls */
	}
}

/* Hashes what a former attempt left; more than there should be begins anew. */
static int part_resume(struct part *p, struct err *err)
{
	char *block CLEANUP_FREE = malloc(BLOCK_BYTES);
	struct stat st;

	if (!block)
		return err_oom(err);
	if (fstat(p->fd, &st) < 0)
		return err_set_errno(err, -errno, "%s/%s", p->store->dir, p->name);
	if ((uint64_t)st.st_size > p->size)
		return part_restart(p, err);
	for (;;) {
		ssize_t n = read_full(p->fd, block, BLOCK_BYTES);
		int r = call_check(p->call, err);

		if (n < 0)
			return err_set_errno(err, (int)n, "%s/%s", p->store->dir, p->name);
		if (n == 0 || r < 0)
			return r;
		image_digest_update(p->hash, block, (size_t)n);
		part_set(p, p->have + (uint64_t)n);
	}
}

static int part_open(struct part *p, struct err *err)
{
	char suffix[17];
	int r;

	p->hash = image_digest_new();
	if (!p->hash)
		return err_oom(err);
	snprintf(p->name, sizeof(p->name), "%s.part", name_of(p->digest));
	r = part_lock(p);
	if (r == -EWOULDBLOCK && random_hex(8, suffix) == 0) {
		snprintf(p->name, sizeof(p->name), "copy.%s.part", suffix);
		r = part_lock(p);
	}
	if (r < 0)
		return err_set_errno(err, r, "%s/%s", p->store->dir, p->name);
	return part_resume(p, err);
}

static int check_room(struct blob_store *s, uint64_t need, const char *digest, struct err *err)
{
	struct statvfs v;
	uint64_t room;

	if (fstatvfs(s->dirfd, &v) < 0)
		return 0;
	room = (uint64_t)v.f_bavail * v.f_frsize;
	if (need == 0 || room >= need + (need > RESERVE_BYTES ? RESERVE_BYTES : 0))
		return 0;
	return err_set(err, -ENOSPC, "no space left for blob %s: it needs %llu bytes, %s has %llu", digest,
		       (unsigned long long)need, s->dir, (unsigned long long)room);
}

static int fetch(struct blob_store *s, struct registry_client *client, const char *digest, uint64_t size,
		 _Atomic uint64_t *progress, struct call *call, struct err *err)
{
	struct part p = {
		.store = s, .digest = digest, .size = size, .fd = -1, .progress = progress, .call = call};
	struct registry_sink sink = {.size_bytes = size,
				     .have = part_have,
				     .restart = part_restart,
				     .data = part_data,
				     .finish = part_finish,
				     .arg = &p};
	int r = part_open(&p, err);

	if (r == 0)
		r = check_room(s, size - p.have, digest, err);
	if (r == 0)
		r = registry_blob(client, digest, &sink, err);
	/* Nothing to resume from: no file either. A full disk gets its bytes back. */
	if (r < 0 && p.fd >= 0 && (p.have == 0 || r == -ENOSPC || r == -EDQUOT))
		unlinkat(s->dirfd, p.name, 0);
	close_fd(p.fd);
	image_digest_free(p.hash);
	return r;
}

static struct flight **find_flight(struct blob_store *s, const char *digest)
{
	struct flight **f = &s->flights;

	while (*f && !str_eq((*f)->digest, digest))
		f = &(*f)->next;
	return f;
}

/* Waits until nobody in this process fetches the blob, then claims it. */
static int claim(struct blob_store *s, struct flight *mine, struct call *call, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&s->lock);
	while (*find_flight(s, mine->digest) && r == 0) {
		(void)call_wait(call, &s->landed, &s->lock, INT64_MAX);
		r = call_check(call, err);
	}
	if (r == 0) {
		mine->next = s->flights;
		s->flights = mine;
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

static void unclaim(struct blob_store *s, const struct flight *mine)
{
	struct flight **f;

	pthread_mutex_lock(&s->lock);
	f = find_flight(s, mine->digest);
	*f = mine->next;
	pthread_cond_broadcast(&s->landed);
	pthread_mutex_unlock(&s->lock);
}

int blob_fetch(struct blob_store *s, struct registry_client *client, const char *digest, uint64_t size_bytes,
	       _Atomic uint64_t *progress, struct call *call, struct err *err)
{
	struct flight mine = {0};
	uint64_t size = 0;
	int r;

	if (!image_digest_valid(digest))
		return err_set(err, -EINVAL, "\"%s\" is not a digest", digest);
	memcpy(mine.digest, digest, sizeof(mine.digest));
	r = claim(s, &mine, call, err);
	if (r < 0)
		return r;
	if (!blob_have(s, digest, &size))
		r = fetch(s, client, digest, size_bytes, progress, call, err);
	else if (size != size_bytes)
		r = err_set_status(err, -EBADMSG, ERR_DATA_LOSS,
				   "blob %s has %llu bytes, the manifest says %llu", digest,
				   (unsigned long long)size, (unsigned long long)size_bytes);
	else if (progress)
		atomic_fetch_add(progress, size);
	unclaim(s, &mine);
	return r;
}

/* ---- collection ---------------------------------------------------------------------------------------- */

void blob_release(struct blob_store *s, const char *digest)
{
	const struct timespec never[2] = {{.tv_nsec = 0}, {.tv_nsec = 0}};

	if (image_digest_valid(digest))
		utimensat(s->dirfd, name_of(digest), never, AT_SYMLINK_NOFOLLOW);
}

static bool being_written(struct blob_store *s, const char *name)
{
	int fd = openat(s->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	bool busy = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0;

	close_fd(fd);
	return busy;
}

static bool removable(struct blob_store *s, const char *name, bool (*keep)(void *arg, const char *digest),
		      void *arg)
{
	char digest[IMAGE_DIGEST_LEN + 1];
	struct stat st;

	if (fstatat(s->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return false;
	if (strlen(name) == 64) {
		snprintf(digest, sizeof(digest), "sha256:%.64s", name);
		if (image_digest_valid(digest) && keep(arg, digest))
			return false;
	}
	if (st.st_mtim.tv_sec != 0 && st.st_mtim.tv_sec + COLLECT_AGE_S > time(NULL))
		return false;
	return !str_ends(name, ".part") || !being_written(s, name);
}

int blob_collect(struct blob_store *s, bool (*keep)(void *arg, const char *digest), void *arg,
		 struct err *err)
{
	DIR *dir = opendir(s->dir);
	const struct dirent *de;
	int r = 0;

	if (!dir)
		return err_set_errno(err, -errno, "%s", s->dir);
	while ((de = readdir(dir))) {
		if (de->d_name[0] == '.' || !removable(s, de->d_name, keep, arg))
			continue;
		if (unlinkat(s->dirfd, de->d_name, 0) < 0 && errno != ENOENT && r == 0)
			r = err_set_errno(err, -errno, "%s/%s", s->dir, de->d_name);
	}
	closedir(dir);
	return r;
}

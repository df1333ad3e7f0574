/* SPDX-License-Identifier: Apache-2.0 */
/* The log in the CRI format, and beside it the position up to which it is complete. */
#include "cri/logs/file_internal.h"

#include "base/util.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <sys/stat.h>
#include <time.h>

#define POS_MAGIC UINT64_C(0x6c6f67706f733031) /* "logpos01" */
#define POS_SLOT  65536			       /* two slots, written in turn */

/* The start of an unfinished line. */
struct held {
	char *data; /* LOG_LINE_BYTES, allocated when first needed */
	size_t len;
};

struct log_file {
	char *path;
	int fd, pos_fd;
	uint64_t offset; /* of the next byte */
	uint64_t size;	 /* of the log */
	uint64_t seq;
	bool unsaved;	     /* the position on disk is not the one of here */
	bool torn;	     /* the log holds bytes beyond size: part of a write that failed */
	struct held held[2]; /* stdout, stderr */
};

struct pos {
	uint64_t magic, sum, seq, offset, size, ino;
	uint32_t held_len[2];
};

struct slot {
	struct pos pos;
	char held[2 * LOG_LINE_BYTES];
};

/* FNV-1a, 64 bits: tells a slot that was only partly written. */
static uint64_t checksum(const struct slot *slot)
{
	const unsigned char *p = (const unsigned char *)slot;
	size_t len = sizeof(slot->pos) + slot->pos.held_len[0] + slot->pos.held_len[1];
	size_t skip = offsetof(struct pos, sum);
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < len; i++) {
		if (i >= skip && i < skip + sizeof(slot->pos.sum))
			continue;
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	}
	return h;
}

static int held_put(struct held *held, const char *data, size_t len)
{
	if (!held->data) {
		held->data = malloc(LOG_LINE_BYTES);
		if (!held->data)
			return -ENOMEM;
	}
	memcpy(held->data + held->len, data, len);
	held->len += len;
	return 0;
}

static int pos_save(struct log_file *file, struct err *err)
{
	struct slot *slot;
	struct stat st = {0};
	size_t len = 0;
	ssize_t n;

	if (file->fd >= 0 && fstat(file->fd, &st) < 0)
		return err_set_errno(err, -errno, "log %s", file->path);
	slot = calloc(1, sizeof(*slot));
	if (!slot)
		return err_oom(err);
	slot->pos = (struct pos){.magic = POS_MAGIC,
				 .seq = file->seq + 1,
				 .offset = file->offset,
				 .size = file->size,
				 .ino = st.st_ino};
	for (int i = 0; i < 2; i++) {
		slot->pos.held_len[i] = (uint32_t)file->held[i].len;
		if (file->held[i].len > 0)
			memcpy(slot->held + len, file->held[i].data, file->held[i].len);
		len += file->held[i].len;
	}
	slot->pos.sum = checksum(slot);
	n = pwrite(file->pos_fd, slot, sizeof(slot->pos) + len, (off_t)((file->seq + 1) % 2 * POS_SLOT));
	free(slot);
	if (n != (ssize_t)(sizeof(struct pos) + len))
		return err_set_errno(err, n < 0 ? -errno : -ENOSPC, "remembering the position in log %s",
				     file->path);
	file->seq++;
	file->unsaved = false;
	return 0;
}

/* The newer of the two slots that are whole: 1, or 0 if there is none. */
static int pos_load(int fd, struct slot *ret_slot)
{
	struct slot slot;
	int found = 0;

	for (int i = 0; i < 2; i++) {
		ssize_t n = pread(fd, &slot, sizeof(slot), (off_t)i * POS_SLOT);

		if (n < (ssize_t)sizeof(slot.pos) || slot.pos.magic != POS_MAGIC ||
		    slot.pos.held_len[0] > LOG_LINE_BYTES || slot.pos.held_len[1] > LOG_LINE_BYTES ||
		    n < (ssize_t)(sizeof(slot.pos) + slot.pos.held_len[0] + slot.pos.held_len[1]) ||
		    slot.pos.sum != checksum(&slot))
			continue;
		if (!found || slot.pos.seq > ret_slot->pos.seq)
			*ret_slot = slot;
		found = 1;
	}
	return found;
}

/* Opens the file with this inode in the log's directory: the log itself, or what a rotation renamed it to. */
static int open_inode(const char *path, uint64_t ino)
{
	char *copy CLEANUP_FREE = strdup(path);
	DIR *dir = copy ? opendir(dirname(copy)) : NULL;
	struct dirent *de;
	int fd = -1;

	while (dir && fd < 0 && (de = readdir(dir))) {
		if (de->d_ino == ino && de->d_type == DT_REG)
			fd = openat(dirfd(dir), de->d_name, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
	}
	if (dir)
		closedir(dir);
	return fd;
}

static int open_log(struct log_file *file, int flags, struct err *err)
{
	char *copy CLEANUP_FREE = strdup(file->path);
	int r;

	if (!copy)
		return err_oom(err);
	r = mkdir_p(dirname(copy), 0755);
	if (r < 0)
		return err_set_errno(err, r, "making the directory of log %s", file->path);
	file->fd = open(file->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | flags, 0640);
	if (file->fd < 0)
		return err_set_errno(err, -errno, "opening log %s", file->path);
	return 0;
}

static int resume_from(struct log_file *file, const struct slot *slot, struct err *err)
{
	const char *held = slot->held;
	struct stat st;
	int old CLEANUP_CLOSE = -1;

	file->offset = slot->pos.offset;
	file->seq = slot->pos.seq;
	for (int i = 0; i < 2; i++) {
		if (slot->pos.held_len[i] > 0 && held_put(&file->held[i], held, slot->pos.held_len[i]) < 0)
			return err_oom(err);
		held += slot->pos.held_len[i];
	}
	if (file->fd < 0)
		return 0;
	if (fstat(file->fd, &st) < 0)
		return err_set_errno(err, -errno, "log %s", file->path);
	if (st.st_ino == slot->pos.ino) {
		if ((uint64_t)st.st_size > slot->pos.size && ftruncate(file->fd, (off_t)slot->pos.size) < 0)
			return err_set_errno(err, -errno, "log %s", file->path);
		file->size = (uint64_t)st.st_size < slot->pos.size ? (uint64_t)st.st_size : slot->pos.size;
		return 0;
	}
	/* Rotated while no server ran: the tail beyond the position is in the renamed file. */
	old = open_inode(file->path, slot->pos.ino);
	if (old >= 0 && fstat(old, &st) == 0 && (uint64_t)st.st_size > slot->pos.size &&
	    ftruncate(old, (off_t)slot->pos.size) < 0)
		return err_set_errno(err, -errno, "the rotated log of %s", file->path);
	file->size = fstat(file->fd, &st) == 0 ? (uint64_t)st.st_size : 0;
	return 0;
}

struct log_file *log_file_close(struct log_file *file)
{
	if (!file)
		return NULL;
	close_fd(file->fd);
	close_fd(file->pos_fd);
	free(file->held[0].data);
	free(file->held[1].data);
	free(file->path);
	free(file);
	return NULL;
}
DEFINE_CLEANUP(log_file, struct log_file, log_file_close)

int log_file_open(const char *path, const char *pos_path, bool resume, struct log_file **ret_file,
		  uint64_t *ret_offset, struct err *err)
{
	struct log_file *file CLEANUP(log_file_cleanup) = calloc(1, sizeof(*file));
	struct slot *slot CLEANUP_FREE = NULL;
	int r = 0;

	if (!file)
		return err_oom(err);
	file->fd = file->pos_fd = -1;
	file->path = strdup(path ? path : "");
	slot = malloc(sizeof(*slot));
	if (!file->path || !slot)
		return err_oom(err);
	file->pos_fd = open(pos_path, O_RDWR | O_CREAT | O_CLOEXEC | (resume ? 0 : O_TRUNC), 0600);
	if (file->pos_fd < 0)
		return err_set_errno(err, -errno, "opening %s", pos_path);
	if (*file->path)
		r = open_log(file, 0, err);
	if (r == 0 && resume && pos_load(file->pos_fd, slot)) {
		r = resume_from(file, slot, err);
	} else if (r == 0 && file->fd >= 0) {
		struct stat st;

		file->size = fstat(file->fd, &st) == 0 ? (uint64_t)st.st_size : 0;
	}
	if (r == 0)
		r = pos_save(file, err);
	if (r < 0)
		return r;
	*ret_offset = file->offset;
	*ret_file = move_ptr(file);
	return 0;
}

/* The lines that a batch gives, and what it leaves unfinished; taken over only once the lines are on file. */
struct batch {
	FILE *out;
	char stamp[40];
	struct held held[2];
};

static void stamp_now(char *buf, size_t size)
{
	struct timespec ts;
	struct tm tm;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	n = strftime(buf, size, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf + n, size - n, ".%09ldZ", ts.tv_nsec);
}

static void emit(struct batch *batch, int stream, char tag, const char *data, size_t len)
{
	struct held *held = &batch->held[stream];

	fprintf(batch->out, "%s %s %c ", batch->stamp, stream ? "stderr" : "stdout", tag);
	if (held->len > 0)
		fwrite(held->data, 1, held->len, batch->out);
	fwrite(data, 1, len, batch->out);
	fputc('\n', batch->out);
	held->len = 0;
}

static int split(struct batch *batch, int stream, const char *data, size_t len)
{
	struct held *held = &batch->held[stream];

	while (len > 0) {
		size_t room = LOG_LINE_BYTES - held->len;
		const char *nl = memchr(data, '\n', len < room + 1 ? len : room + 1);
		size_t n = nl ? (size_t)(nl - data) : len;

		if (nl) {
			emit(batch, stream, 'F', data, n);
			n++;
		} else if (n > room) { /* more follows, so the line is too long for sure */
			n = room;
			emit(batch, stream, 'P', data, n);
		} else if (held_put(held, data, n) < 0) {
			return -ENOMEM;
		}
		data += n;
		len -= n;
	}
	return 0;
}

/* Cuts off what a failed write has left. */
static int cut_torn(struct log_file *file, struct err *err)
{
	if (!file->torn)
		return 0;
	if (ftruncate(file->fd, (off_t)file->size) < 0)
		return errno == EINVAL
			       ? 0
			       : err_set_errno(err, -errno, "cutting off the unfinished line of log %s",
					       file->path);
	file->torn = false;
	return 0;
}

static int append(struct log_file *file, const char *text, size_t len, struct err *err)
{
	int r = cut_torn(file, err);

	if (r < 0 || file->fd < 0 || len == 0)
		return r;
	r = write_full(file->fd, text, len);
	if (r < 0) {
		file->torn = true;
		(void)cut_torn(file, NULL);
		return err_set_errno(err, r, "writing log %s", file->path);
	}
	file->size += len;
	return 0;
}

static int batch_copy_held(struct batch *batch, const struct log_file *file)
{
	for (int i = 0; i < 2; i++) {
		if (file->held[i].len > 0 &&
		    held_put(&batch->held[i], file->held[i].data, file->held[i].len) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* What is unfinished stays so: its rest is among what is missing. */
static void emit_missing(struct batch *batch, uint64_t missing)
{
	for (int i = 0; i < 2; i++) {
		if (batch->held[i].len > 0)
			emit(batch, i, 'F', "", 0);
	}
	fprintf(batch->out,
		"%s stderr F crivisor: the position of this log was lost, up to %" PRIu64
		" bytes of output are missing here\n",
		batch->stamp, missing);
}

/* First what is missing, then the records. */
static int run_batch(struct log_file *file, uint64_t missing, const struct log_record *records, size_t n,
		     bool finish, struct err *err)
{
	struct batch batch = {0};
	char *text CLEANUP_FREE = NULL;
	size_t len = 0;
	uint64_t bytes = missing;
	int r;

	batch.out = open_memstream(&text, &len);
	if (!batch.out)
		return err_oom(err);
	stamp_now(batch.stamp, sizeof(batch.stamp));
	r = batch_copy_held(&batch, file);
	if (r == 0 && missing > 0)
		emit_missing(&batch, missing);
	for (size_t i = 0; i < n && r == 0; i++) {
		r = split(&batch, records[i].is_stderr, records[i].data, records[i].len);
		bytes += records[i].len;
	}
	for (int i = 0; finish && i < 2 && r == 0; i++) {
		if (batch.held[i].len > 0)
			emit(&batch, i, 'P', "", 0);
	}
	if (fclose(batch.out) != 0 && r == 0)
		r = -ENOMEM;
	r = r < 0 ? err_oom(err) : append(file, text, len, err);
	if (r == 0) {
		for (int i = 0; i < 2; i++) {
			struct held old = file->held[i];

			file->held[i] = batch.held[i];
			if (file->held[i].len == 0 && file->held[i].data) { /* keep idle logs small */
				free(file->held[i].data);
				file->held[i].data = NULL;
			}
			batch.held[i] = old;
		}
		file->offset += bytes;
		file->unsaved = true;
	}
	free(batch.held[0].data);
	free(batch.held[1].data);
	return r;
}

int log_file_save(struct log_file *file, struct err *err)
{
	return file->unsaved ? pos_save(file, err) : 0;
}

int log_file_write(struct log_file *file, const struct log_record *records, size_t n, struct err *err)
{
	int r = log_file_save(file, err);

	return r < 0 ? r : run_batch(file, 0, records, n, false, err);
}

int log_file_skip(struct log_file *file, uint64_t bytes, struct err *err)
{
	int r = log_file_save(file, err);

	return r < 0 ? r : run_batch(file, bytes, NULL, 0, false, err);
}

int log_file_finish(struct log_file *file, struct err *err)
{
	int r = log_file_save(file, err);

	return r < 0 ? r : run_batch(file, 0, NULL, 0, true, err);
}

/* What a failed reopening has changed is changed back. */
static void undo_reopen(struct log_file *file, int old_fd, uint64_t old_size, bool made)
{
	close_fd(file->fd);
	file->fd = old_fd;
	file->size = old_size;
	if (made)
		(void)unlink(file->path);
}

int log_file_reopen(struct log_file *file, struct err *err)
{
	struct stat st;
	uint64_t old_size = file->size;
	int old = file->fd;
	bool made = true;
	int r;

	if (!*file->path)
		return 0;
	/*
	 * The old file ends at a saved position, or lines of it would be written a second time after a crash.
	 */
	r = cut_torn(file, err);
	if (r == 0)
		r = log_file_save(file, err);
	if (r < 0)
		return r;
	r = open_log(file, O_EXCL, err);
	if (r == -EEXIST) {
		made = false;
		r = open_log(file, 0, err);
	}
	if (r < 0) {
		file->fd = old;
		return r;
	}
	if (fstat(file->fd, &st) < 0)
		r = err_set_errno(err, -errno, "log %s", file->path);
	file->size = r == 0 ? (uint64_t)st.st_size : 0;
	if (r == 0)
		r = pos_save(file, err);
	if (r < 0)
		undo_reopen(file, old, old_size, made);
	else
		close_fd(old);
	return r;
}

uint64_t log_file_offset(const struct log_file *file)
{
	return file->offset;
}

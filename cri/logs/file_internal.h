/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file_internal.h: a container's log in the CRI format, written exactly once.
 *
 * Purpose:   turns records of raw output into lines `<RFC3339Nano> stdout|stderr P|F <data>`, splits lines at
 *            LOG_LINE_BYTES (P: partial), and remembers beside the log how far it came. A server that is
 *            killed at any moment neither loses nor repeats a byte: on opening again, what was written after
 *            the last remembered position is cut off and is read again from the agent.
 * Source:    kubernetes design "CRI logging format"; the split and the final P are those of containerd.
 * Threads:   one at a time; the pump sees to it. All functions but log_file_offset block on the file system.
 * Ownership: the position file holds no secrets but may hold output (an unfinished line).
 * Errors:    a failed write (disk full) leaves log and position as they were: try again later.
 */
#ifndef CRI_LOGS_FILE_INTERNAL_H
#define CRI_LOGS_FILE_INTERNAL_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOG_LINE_BYTES 16384

struct log_file;

struct log_record {
	bool is_stderr;
	const void *data;
	size_t len;
};

/*
 * Opens (or, with `resume`, continues) the log; without a position that can be read, from the start. path
 * NULL or "": output is counted and dropped. *ret_offset is the offset of the first byte not yet written. The
 * directory of path is made. The position is saved.
 */
int log_file_open(const char *path, const char *pos_path, bool resume, struct log_file **ret_file,
		  uint64_t *ret_offset, struct err *err);
/*
 * Appends records, the first of which begins at the current offset. What is written counts only once
 * log_file_save has succeeded: before that it is written again after a crash, so its source must keep it. A
 * write saves first what is not saved yet; on failure nothing of its own records is written.
 */
int log_file_write(struct log_file *file, const struct log_record *records, size_t n, struct err *err);
/*
 * Goes on `bytes` later: its source does not have them any more. A line says how many are missing. As
 * log_file_write.
 */
int log_file_skip(struct log_file *file, uint64_t bytes, struct err *err);
/* Writes what is left of unfinished lines as P. As log_file_write. */
int log_file_finish(struct log_file *file, struct err *err);
/* Remembers the position. Nothing to do: success. */
int log_file_save(struct log_file *file, struct err *err);
/*
 * After a rotation by rename: creates path anew and goes on there. On error the old file stays in use and no
 * file is made.
 */
int log_file_reopen(struct log_file *file, struct err *err);
uint64_t log_file_offset(const struct log_file *file);
struct log_file *log_file_close(struct log_file *file);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.h: untrusted directory trees.
 *
 * Purpose:   opens beneath a root as if chrooted there (openat2, RESOLVE_IN_ROOT), cleans archive names, and
 *            counts what a tree takes.
 * Threads:   no shared state.
 * Ownership: fds are the caller's, CLOEXEC.
 * Errors:    negative errno.
 * Source:    openat2(2).
 */
#ifndef BASE_TREE_H
#define BASE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TREE_PATH_MAX  4095
#define TREE_DEPTH_MAX 200

/* Opens path with the root as "/"; symlinks may lead anywhere, but never out; no mount is crossed. */
int path_open_in(int root, const char *path, int flags);
/*
 * Cleans an archive's name in place: leading "/" and "./" go, as do empty and "." parts and slashes at the
 * end. The root itself becomes "". -EINVAL for a ".." part, -ENAMETOOLONG for too long or too deep.
 */
int path_clean(char *name);
/* Splits a clean, non-empty path in place: the parent ("" for the root) and the last part. */
void path_split(char *path, const char **ret_parent, const char **ret_base);

/* What a tree takes on disk. A file with several names counts as its share for each of them. */
struct tree_usage {
	uint64_t bytes, inodes;
	bool deep; /* directories lie deeper than TREE_DEPTH_MAX: what they hold is not counted */
};
/*
 * Adds what lies below a directory; a missing one, and what cannot be read or lies TREE_DEPTH_MAX deep,
 * counts nothing.
 */
void tree_usage_add(int dirfd, const char *path, struct tree_usage *usage);

/* ---- removal ------------------------------------------------------------------------------------------- */

#define REMOVE_TREE_NS                                                                                       \
	(120LL * 1000 * 1000 * 1000) /* what remove_tree and remove_tree_at (util.h) take at most */
/*
 * As remove_tree_at, at most until deadline_ns (CLOCK_MONOTONIC): others may go on to write there, a guest
 * for one. -EBUSY where they do, or where it is not done in time; what is removed by then stays removed.
 */
int remove_tree_until(int dirfd, const char *path, int64_t deadline_ns);

#endif

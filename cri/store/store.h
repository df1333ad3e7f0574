/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h: the metadata that outlives the server: one SQLite database (WAL) in state_dir, and the journal of
 * steps.
 *
 * Purpose:   rows of pods, containers, images and their uses; and a journal in which every step that
 *            leaves something behind on the host is written before it is taken, so that after a crash it can
 *            be undone.
 * Threads:   every function from any thread; one connection, one mutex, held for a statement or a
 *            transaction, never across anything outside SQLite.
 * Ownership: rows are handed out as copies; the caller frees.
 * Errors:    SQLite's words; a full disk is -ENOSPC (ResourceExhausted), but for changes that only remove or
 *            replace what is there, a damaged file -EUCLEAN (DataLoss). A database written by a newer version
 *            is refused.
 * Durable:   what has returned 0 survives a kill -9 of the server. A power cut may take the last commits,
 *            never the consistency (WAL, synchronous=NORMAL): the processes, mounts and namespaces that they
 *            named are gone with it.
 * Secrets:   credentials for registries are never stored. A container's row holds its environment, which may
 *            hold secrets: the database is for root alone (0600).
 */
#ifndef CRI_STORE_STORE_H
#define CRI_STORE_STORE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;

/*
 * Opens or creates <state_dir>/crivisor.db and migrates it. Several processes may have it open (a server and
 * `crivisor image …`); the server makes sure that it is the only server.
 */
int store_open(const char *state_dir, struct store **ret_store, struct err *err);
struct store *store_close(struct store *store);

/*
 * Objects: kind "pod", "container", "image", …; id; a value of bytes (the owner's own encoding, checked when
 * read); and a unique name within the kind (NULL: none) that reserves pod and container names: a second put
 * of the same name under another id fails with -EEXIST, the message naming the id that holds it.
 */
int store_put(struct store *store, const char *kind, const char *id, const char *name, const void *value,
	      size_t len, struct err *err);
/* -ENOENT if missing. *ret_value is malloc'ed, NUL-terminated beyond its length. */
int store_get(struct store *store, const char *kind, const char *id, void **ret_value, size_t *ret_len,
	      struct err *err);
/* Missing: success. */
int store_delete(struct store *store, const char *kind, const char *id, struct err *err);
/* Calls fn for each in the order of creation; a non-zero result stops and is returned. fn may read from the
 * store, not change it. */
typedef int store_each_fn(void *arg, const char *id, const char *name, const void *value, size_t len);
int store_each(struct store *store, const char *kind, store_each_fn *fn, void *arg, struct err *err);
/*
 * Several changes as one: fn runs inside a transaction (the same thread may call store_put… and journal_…
 * inside, and store_transaction again); rolled back if it fails.
 */
int store_transaction(struct store *store, int (*fn)(struct store *store, void *arg, struct err *err),
		      void *arg, struct err *err);

/*
 * The journal. A step belongs to an owner (a pod or container id), has a kind ("netns", "cgroup", "share",
 * …) and one argument string (a path, a name, or JSON). journal_begin is durable when it returns and must
 * come before the step is taken; the step's undo must be idempotent and succeed where the step was never
 * taken.
 */
int journal_begin(struct store *store, const char *owner, const char *kind, const char *arg,
		  int64_t *ret_step, struct err *err);
/* The step was undone, or its effect is gone. An unknown step: success. */
int journal_end(struct store *store, int64_t step, struct err *err);
typedef int journal_undo_fn(void *ctx, const char *owner, const char *kind, const char *arg, struct err *err);
/*
 * Undoes the steps of an owner, last first, ending each as its undo succeeds. Goes on past a failing one and
 * returns the first error; what failed stays in the journal for the next try.
 */
int journal_undo_owner(struct store *store, const char *owner, journal_undo_fn *undo, void *ctx,
		       struct err *err);
/*
 * Calls fn for the open steps of a kind, of all owners. fn does not use the store. A non-zero result stops.
 */
typedef int journal_each_fn(void *arg, const char *owner, const char *step_arg);
int journal_each(struct store *store, const char *kind, journal_each_fn *fn, void *arg, struct err *err);
/* Owners that have open steps: a NULL-terminated vector (strv_free). */
int journal_owners(struct store *store, char ***ret_owners, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_internal.h: what the store's files share.
 *
 * Threads:   every function below with store_lock held, except store_lock itself. The lock is recursive, so
 *            that a transaction's function may call the store.
 */
#ifndef CRI_STORE_STORE_INTERNAL_H
#define CRI_STORE_STORE_INTERNAL_H

#include "cri/store/store.h"

#include <pthread.h>
#include <sqlite3.h>

enum store_stmt {
	STMT_PUT,
	STMT_HOLDER,
	STMT_GET,
	STMT_DELETE,
	STMT_STEP_BEGIN,
	STMT_STEP_END,
	STMT_STEP_OF_OWNER,
	STMT_STEP_OWNERS,
	STMT_STEP_OF_KIND,
	STMT_COUNT,
};

struct store {
	uint32_t magic;
	sqlite3 *db;
	char *path;
	pthread_mutex_t lock;
	unsigned int depth; /* of transactions */
	bool adds;	    /* the transaction does not only remove */
	char *reserve_path;
	bool reserve_kept;
	int64_t reserve_tried_ns;
	sqlite3_stmt *stmts[STMT_COUNT];
};

void store_lock(struct store *store);
void store_unlock(struct store *store);
/* The cached statement, prepared at first use. */
int store_stmt(struct store *store, enum store_stmt which, sqlite3_stmt **ret_stmt, struct err *err);
/* Makes it ready for its next use. */
void store_stmt_done(sqlite3_stmt *stmt);
/* The text must live until store_stmt_done. NULL binds NULL. */
void store_bind_text(sqlite3_stmt *stmt, int at, const char *text);
/* Runs a statement that answers no rows, and is done with it. One that only removes may use the reserve. */
int store_run_add(struct store *store, sqlite3_stmt *stmt, const char *what, struct err *err);
int store_run_remove(struct store *store, sqlite3_stmt *stmt, const char *what, struct err *err);
/* SQLite's words as an error. */
int store_fail(struct store *store, int rc, const char *what, struct err *err);

/*
 * reserve.c: room for removals, and for changes of what is there, on a full disk. needed: the disk is
 * as good as full; keep: makes the file if it is missing and there is room; release: true if it gave some.
 */
bool store_reserve_needed(const struct store *store);
void store_reserve_keep(struct store *store);
bool store_reserve_release(struct store *store);
/*
 * sqlite3_step for a change that must not fail on a full disk: finds room in the log, then gives the reserve
 * up.
 */
int store_step_reserve(struct store *store, sqlite3_stmt *stmt);

#endif

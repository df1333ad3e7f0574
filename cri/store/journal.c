/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fault.h"
#include "base/util.h"
#include "cri/store/store_internal.h"

struct step {
	int64_t step;
	char *kind, *arg;
};

struct steps {
	struct step *list;
	size_t n;
};

static void steps_done(struct steps *steps)
{
	for (size_t i = 0; i < steps->n; i++) {
		free(steps->list[i].kind);
		free(steps->list[i].arg);
	}
	free(steps->list);
}

int journal_begin(struct store *store, const char *owner, const char *kind, const char *arg,
		  int64_t *ret_step, struct err *err)
{
	sqlite3_stmt *stmt;
	int r;

	store_lock(store);
	r = store_stmt(store, STMT_STEP_BEGIN, &stmt, err);
	if (r == 0) {
		store_bind_text(stmt, 1, owner);
		store_bind_text(stmt, 2, kind);
		store_bind_text(stmt, 3, arg ? arg : "");
		r = store_run_add(store, stmt, "journal", err);
	}
	if (r == 0 && ret_step)
		*ret_step = sqlite3_last_insert_rowid(store->db);
	store_unlock(store);
	if (r == 0)
		fault_kill_in("journal", kind);
	return r;
}

int journal_end(struct store *store, int64_t step, struct err *err)
{
	sqlite3_stmt *stmt;
	int r;

	store_lock(store);
	r = store_stmt(store, STMT_STEP_END, &stmt, err);
	if (r == 0) {
		sqlite3_bind_int64(stmt, 1, step);
		r = store_run_remove(store, stmt, "journal", err);
	}
	store_unlock(store);
	return r;
}

static int add_step(struct steps *steps, sqlite3_stmt *stmt)
{
	struct step *grown = reallocarray(steps->list, steps->n + 1, sizeof(*grown));
	struct step *s;

	if (!grown)
		return -ENOMEM;
	steps->list = grown;
	s = &grown[steps->n++];
	s->step = sqlite3_column_int64(stmt, 0);
	s->kind = strdup((const char *)sqlite3_column_text(stmt, 1));
	s->arg = strdup((const char *)sqlite3_column_text(stmt, 2));
	return s->kind && s->arg ? 0 : -ENOMEM;
}

static int load_steps(struct store *store, const char *owner, struct steps *steps, struct err *err)
{
	sqlite3_stmt *stmt;
	int r, rc = SQLITE_DONE;

	store_lock(store);
	r = store_stmt(store, STMT_STEP_OF_OWNER, &stmt, err);
	if (r == 0) {
		store_bind_text(stmt, 1, owner);
		while (r == 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
			r = add_step(steps, stmt);
		if (r < 0)
			err_oom(err);
		else if (rc != SQLITE_DONE)
			r = store_fail(store, rc, "journal", err);
		store_stmt_done(stmt);
	}
	store_unlock(store);
	return r;
}

int journal_undo_owner(struct store *store, const char *owner, journal_undo_fn *undo, void *ctx,
		       struct err *err)
{
	struct steps steps = {0};
	int first = load_steps(store, owner, &steps, err);

	if (first < 0) {
		steps_done(&steps);
		return first;
	}
	/* No lock is held across undo. */
	for (size_t i = 0; i < steps.n; i++) {
		struct err e = ERR_INIT;
		int r = undo(ctx, owner, steps.list[i].kind, steps.list[i].arg, &e);

		if (r >= 0)
			r = journal_end(store, steps.list[i].step, &e);
		if (r < 0 && first == 0) {
			first = r;
			err_copy(err, &e);
			err_wrap(err, "undo of %s %s", steps.list[i].kind, steps.list[i].arg);
		}
	}
	steps_done(&steps);
	return first;
}

int journal_each(struct store *store, const char *kind, journal_each_fn *fn, void *arg, struct err *err)
{
	sqlite3_stmt *stmt;
	int r, rc = SQLITE_DONE;

	store_lock(store);
	r = store_stmt(store, STMT_STEP_OF_KIND, &stmt, err);
	if (r == 0) {
		store_bind_text(stmt, 1, kind);
		while (r == 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
			r = fn(arg, (const char *)sqlite3_column_text(stmt, 0),
			       (const char *)sqlite3_column_text(stmt, 1));
		if (r == 0 && rc != SQLITE_DONE)
			r = store_fail(store, rc, "journal", err);
		store_stmt_done(stmt);
	}
	store_unlock(store);
	return r;
}

int journal_owners(struct store *store, char ***ret_owners, struct err *err)
{
	char **owners CLEANUP_STRV = calloc(1, sizeof(*owners));
	sqlite3_stmt *stmt;
	int r, rc = SQLITE_DONE;

	if (!owners)
		return err_oom(err);
	store_lock(store);
	r = store_stmt(store, STMT_STEP_OWNERS, &stmt, err);
	if (r == 0) {
		while (r == 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
			r = strv_add(&owners, (const char *)sqlite3_column_text(stmt, 0));
		if (r < 0)
			err_oom(err);
		else if (rc != SQLITE_DONE)
			r = store_fail(store, rc, "journal", err);
		store_stmt_done(stmt);
	}
	store_unlock(store);
	if (r == 0)
		*ret_owners = move_ptr(owners);
	return r;
}

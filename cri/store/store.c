/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/store/store.h"

#include "base/fault.h"
#include "base/util.h"
#include "cri/store/store_internal.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

#define STORE_MAGIC    0x5704e000U
#define APPLICATION_ID 0x43525653 /* "CRVS" */
#define BUSY_MS	       5000	  /* `crivisor image …` may hold the database for a moment */
#define VALUE_MAX      (32 << 20)

/*
 * What migrations[n] does takes schema n to schema n + 1. Written once, never changed afterwards.
 * seq gives the order of creation; a name is unique within its kind.
 */
static const char *const migrations[] = {
	("CREATE TABLE object (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, name TEXT,"
	 " value BLOB NOT NULL, UNIQUE (kind, id));"
	 "CREATE UNIQUE INDEX object_name ON object (kind, name) WHERE name IS NOT NULL;"
	 "CREATE TABLE step (step INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, kind TEXT NOT NULL,"
	 " arg TEXT NOT NULL);"
	 "CREATE INDEX step_owner ON step (owner);"),
};
#define SCHEMA ((int)ARRAY_SIZE(migrations))

static const char *const statements[STMT_COUNT] = {
	[STMT_PUT] = ("INSERT INTO object (kind, id, name, value) VALUES (?1, ?2, ?3, ?4)"
		      " ON CONFLICT (kind, id) DO UPDATE SET name = excluded.name, value = excluded.value"),
	[STMT_HOLDER] = "SELECT id FROM object WHERE kind = ?1 AND name = ?2",
	[STMT_GET] = "SELECT value FROM object WHERE kind = ?1 AND id = ?2",
	[STMT_DELETE] = "DELETE FROM object WHERE kind = ?1 AND id = ?2",
	[STMT_STEP_BEGIN] = "INSERT INTO step (owner, kind, arg) VALUES (?1, ?2, ?3)",
	[STMT_STEP_END] = "DELETE FROM step WHERE step = ?1",
	[STMT_STEP_OF_OWNER] = "SELECT step, kind, arg FROM step WHERE owner = ?1 ORDER BY step DESC",
	[STMT_STEP_OF_KIND] = "SELECT owner, arg FROM step WHERE kind = ?1 ORDER BY step",
	[STMT_STEP_OWNERS] = "SELECT owner FROM step GROUP BY owner ORDER BY min(step)",
};

/* ---- errors -------------------------------------------------------------------------------------------- */

static int code_of(sqlite3 *db, int rc, enum err_status *ret_status)
{
	int os = db ? sqlite3_system_errno(db) : 0;

	switch (rc & 0xff) {
	case SQLITE_FULL:
		*ret_status = ERR_RESOURCE_EXHAUSTED;
		return -ENOSPC;
	case SQLITE_NOMEM:
		*ret_status = ERR_RESOURCE_EXHAUSTED;
		return -ENOMEM;
	case SQLITE_TOOBIG:
		*ret_status = ERR_RESOURCE_EXHAUSTED;
		return -E2BIG;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		*ret_status = ERR_UNAVAILABLE;
		return -EBUSY;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		*ret_status = ERR_DATA_LOSS;
		return -EUCLEAN;
	case SQLITE_READONLY:
		*ret_status = ERR_FAILED_PRECONDITION;
		return -EROFS;
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
		if (os == ENOSPC || os == EDQUOT) {
			*ret_status = ERR_RESOURCE_EXHAUSTED;
			return -ENOSPC;
		}
		*ret_status = ERR_INTERNAL;
		return os > 0 ? -os : -EIO;
	default:
		*ret_status = ERR_INTERNAL;
		return -EIO;
	}
}

int store_fail(struct store *store, int rc, const char *what, struct err *err)
{
	enum err_status status;
	int code = code_of(store->db, rc, &status);

	return err_set_status(err, code, status, "state database %s: %s: %s", store->path, what,
			      store->db ? sqlite3_errmsg(store->db) : sqlite3_errstr(rc));
}

/* ---- statements ---------------------------------------------------------------------------------------- */

void store_lock(struct store *store)
{
	assert(store && store->magic == STORE_MAGIC);
	pthread_mutex_lock(&store->lock);
}

void store_unlock(struct store *store)
{
	pthread_mutex_unlock(&store->lock);
}

int store_stmt(struct store *store, enum store_stmt which, sqlite3_stmt **ret_stmt, struct err *err)
{
	sqlite3_stmt **slot = &store->stmts[which];

	if (!*slot) {
		int rc = sqlite3_prepare_v3(store->db, statements[which], -1, SQLITE_PREPARE_PERSISTENT, slot,
					    NULL);

		if (rc != SQLITE_OK)
			return store_fail(store, rc, "prepare", err);
	}
	*ret_stmt = *slot;
	return 0;
}

void store_stmt_done(sqlite3_stmt *stmt)
{
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
}

void store_bind_text(sqlite3_stmt *stmt, int at, const char *text)
{
	/* Static: the caller's strings outlive the step. Fails only for an `at` out of range. */
	if (text)
		sqlite3_bind_text(stmt, at, text, -1, SQLITE_STATIC);
	else
		sqlite3_bind_null(stmt, at);
}

static int exec(struct store *store, const char *sql, const char *what, struct err *err)
{
	int rc = sqlite3_exec(store->db, sql, NULL, NULL, NULL);

	return rc == SQLITE_OK ? 0 : store_fail(store, rc, what, err);
}

/* Fault points on both sides of a change that is a transaction of its own. */
static void before_commit(const struct store *store)
{
	if (store->depth == 0)
		fault_kill("store.before");
}

static void after_commit(const struct store *store)
{
	if (store->depth == 0)
		fault_kill("store.after");
}

int store_run_add(struct store *store, sqlite3_stmt *stmt, const char *what, struct err *err)
{
	int rc, r;

	before_commit(store);
	rc = sqlite3_step(stmt);
	r = rc == SQLITE_DONE ? 0 : store_fail(store, rc, what, err);
	store->adds = true;
	store_stmt_done(stmt);
	after_commit(store);
	return r;
}

int store_run_remove(struct store *store, sqlite3_stmt *stmt, const char *what, struct err *err)
{
	int rc, r;

	before_commit(store);
	rc = store_step_reserve(store, stmt);
	r = rc == SQLITE_DONE ? 0 : store_fail(store, rc, what, err);
	store_stmt_done(stmt);
	after_commit(store);
	if (r == 0 && store->depth == 0)
		store_reserve_keep(store);
	return r;
}

/* ---- open and close ------------------------------------------------------------------------------------ */

static int query_int(struct store *store, const char *sql, int *ret_value, struct err *err)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(store->db, sql, -1, &stmt, NULL);

	if (rc == SQLITE_OK) {
		rc = sqlite3_step(stmt);
		if (rc == SQLITE_ROW)
			*ret_value = sqlite3_column_int(stmt, 0);
		sqlite3_finalize(stmt);
	}
	return rc == SQLITE_ROW ? 0 : store_fail(store, rc, sql, err);
}

static int damaged(struct store *store, const char *detail, struct err *err)
{
	return err_set_status(
		err, -EUCLEAN, ERR_DATA_LOSS,
		"state database %s is damaged: %s; move it away to start with an empty one, which forgets"
		" the pods and images recorded in it",
		store->path, detail);
}

static int check_integrity(struct store *store, struct err *err)
{
	sqlite3_stmt *stmt = NULL;
	char first[256] = "";
	int rc = sqlite3_prepare_v2(store->db, "PRAGMA quick_check(1)", -1, &stmt, NULL);

	if (rc == SQLITE_OK) {
		rc = sqlite3_step(stmt);
		if (rc == SQLITE_ROW)
			snprintf(first, sizeof(first), "%s", (const char *)sqlite3_column_text(stmt, 0));
		sqlite3_finalize(stmt);
	}
	if (rc != SQLITE_ROW && (rc & 0xff) != SQLITE_CORRUPT)
		return store_fail(store, rc, "check", err);
	return str_eq(first, "ok") ? 0 : damaged(store, *first ? first : sqlite3_errmsg(store->db), err);
}

/* Inside a transaction, so that of two processes one migrates and the other finds it done. */
static int migrate(struct store *store, void *arg, struct err *err)
{
	char set[64];
	int schema = 0, application = 0, r;

	(void)arg;
	r = query_int(store, "PRAGMA user_version", &schema, err);
	if (r == 0)
		r = query_int(store, "PRAGMA application_id", &application, err);
	if (r < 0)
		return r;
	if (application != 0 && application != APPLICATION_ID)
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
				      "%s is a database of another program (application id %#x)", store->path,
				      (unsigned int)application);
	if (schema > SCHEMA)
		return err_set_status(
			err, -EOPNOTSUPP, ERR_FAILED_PRECONDITION,
			"state database %s was written by a newer crivisor (schema %d, this one knows %d)",
			store->path, schema, SCHEMA);
	if (schema == SCHEMA)
		return 0;
	for (int i = schema; i < SCHEMA && r == 0; i++)
		r = exec(store, migrations[i], "migrate", err);
	snprintf(set, sizeof(set), "PRAGMA user_version = %d; PRAGMA application_id = %d", SCHEMA,
		 APPLICATION_ID);
	return r == 0 ? exec(store, set, "migrate", err) : r;
}

/*
 * NORMAL: a commit is in the kernel's hands when it returns, so it survives a kill -9 of the server. A power
 * cut may take the last commits (never the consistency); what they were about goes with the boot, or
 * state_sweep finds it. cache_size in KiB; the write-ahead log keeps its (small) file, so that deletes work
 * on a full disk.
 */
static const char settings[] = "PRAGMA journal_mode = WAL;"
			       "PRAGMA synchronous = NORMAL;"
			       "PRAGMA cache_size = -256;"
			       "PRAGMA temp_store = MEMORY;"
			       "PRAGMA wal_autocheckpoint = 256;"
			       "PRAGMA journal_size_limit = 4194304;"
			       "PRAGMA trusted_schema = OFF;";

/*
 * SQLite does not wait where it might wait for ever: of two that put a new database in WAL mode at once, each
 * with a lock that the other wants, one hears BUSY at once. It has changed nothing then, so it tries again.
 */
static int apply_settings(struct store *store, struct err *err)
{
	int64_t deadline = now_monotonic_ns() + BUSY_MS * NS_PER_MS;
	const struct timespec pause = {.tv_nsec = 5 * NS_PER_MS};
	int r;

	while ((r = exec(store, settings, "open", err)) == -EBUSY && now_monotonic_ns() < deadline)
		nanosleep(&pause, NULL);
	return r;
}

static int open_db(struct store *store, struct err *err)
{
	int rc, fd, r;

	/* Made here for the mode; -wal and -shm take it over. */
	fd = open(store->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_set_errno(err, -errno, "state database %s", store->path);
	close_fd(fd);
	rc = sqlite3_open_v2(store->path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc != SQLITE_OK)
		return store_fail(store, rc, "open", err);
	sqlite3_extended_result_codes(store->db, 1);
	sqlite3_busy_timeout(store->db, BUSY_MS);
	sqlite3_limit(store->db, SQLITE_LIMIT_LENGTH, VALUE_MAX);
	sqlite3_db_config(store->db, SQLITE_DBCONFIG_LOOKASIDE, NULL, 128, 64);
	r = apply_settings(store, err);
	if (r == -EUCLEAN)
		return damaged(store, sqlite3_errmsg(store->db), err);
	if (r == 0)
		r = check_integrity(store, err);
	return r == 0 ? store_transaction(store, migrate, NULL, err) : r;
}

int store_open(const char *state_dir, struct store **ret_store, struct err *err)
{
	struct store *store = calloc(1, sizeof(*store));
	pthread_mutexattr_t attr;
	int r;

	if (!store)
		return err_oom(err);
	store->magic = STORE_MAGIC;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&store->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	r = mkdir_p(state_dir, 0711);
	if (r < 0)
		err_set_errno(err, r, "state directory %s", state_dir);
	store->path = xasprintf("%s/crivisor.db", state_dir);
	store->reserve_path = xasprintf("%s/reserve", state_dir);
	if (r == 0 && (!store->path || !store->reserve_path))
		r = err_oom(err);
	if (r == 0)
		r = open_db(store, err);
	if (r < 0) {
		store_close(store);
		return r;
	}
	store_reserve_keep(store);
	*ret_store = store;
	return 0;
}

struct store *store_close(struct store *store)
{
	if (!store)
		return NULL;
	for (size_t i = 0; i < STMT_COUNT; i++)
		sqlite3_finalize(store->stmts[i]);
	sqlite3_close(store->db);
	pthread_mutex_destroy(&store->lock);
	free(store->path);
	free(store->reserve_path);
	store->magic = 0;
	free(store);
	return NULL;
}

/* ---- transactions -------------------------------------------------------------------------------------- */

static void rollback(struct store *store, const char *sql)
{
	/* SQLite has done so itself after some errors. */
	if (!sqlite3_get_autocommit(store->db))
		sqlite3_exec(store->db, sql, NULL, NULL, NULL);
}

static int commit(struct store *store, struct err *err)
{
	int r;

	/* A COMMIT that fails for room has rolled back: look before. */
	if (!store->adds && store_reserve_needed(store))
		store_reserve_release(store);
	before_commit(store);
	r = exec(store, "COMMIT", "commit", err);
	after_commit(store);
	if (r == 0 && !store->adds)
		store_reserve_keep(store);
	return r;
}

int store_transaction(struct store *store, int (*fn)(struct store *store, void *arg, struct err *err),
		      void *arg, struct err *err)
{
	bool outer;
	int r;

	store_lock(store);
	outer = store->depth == 0;
	r = exec(store, outer ? "BEGIN IMMEDIATE" : "SAVEPOINT inner_one", "begin", err);
	if (r == 0) {
		store->adds = store->adds && !outer;
		store->depth++;
		r = fn(store, arg, err);
		store->depth--;
		if (r >= 0)
			r = outer ? commit(store, err) : exec(store, "RELEASE inner_one", "commit", err);
		if (r < 0)
			rollback(store, outer ? "ROLLBACK" : "ROLLBACK TO inner_one; RELEASE inner_one");
	}
	store_unlock(store);
	return r;
}

/* ---- objects ------------------------------------------------------------------------------------------- */

/* Lock held. Says who holds the name that a put wanted. */
static int name_taken(struct store *store, const char *kind, const char *name, struct err *err)
{
	sqlite3_stmt *stmt = NULL;
	int r = store_stmt(store, STMT_HOLDER, &stmt, err);

	if (r < 0)
		return r;
	store_bind_text(stmt, 1, kind);
	store_bind_text(stmt, 2, name);
	if (sqlite3_step(stmt) == SQLITE_ROW)
		r = err_set(err, -EEXIST, "%s name \"%s\" is reserved for \"%s\"", kind, name,
			    (const char *)sqlite3_column_text(stmt, 0));
	else
		r = err_set(err, -EEXIST, "%s name \"%s\" is reserved", kind, name);
	store_stmt_done(stmt);
	return r;
}

static bool exists_locked(struct store *store, const char *kind, const char *id)
{
	sqlite3_stmt *stmt = NULL;
	bool found;

	if (store_stmt(store, STMT_GET, &stmt, NULL) < 0)
		return false;
	store_bind_text(stmt, 1, kind);
	store_bind_text(stmt, 2, id);
	found = sqlite3_step(stmt) == SQLITE_ROW;
	store_stmt_done(stmt);
	return found;
}

static int put_locked(struct store *store, const char *kind, const char *id, const char *name,
		      const void *value, size_t len, struct err *err)
{
	sqlite3_stmt *stmt = NULL;
	int r = store_stmt(store, STMT_PUT, &stmt, err);
	int rc;

	if (r < 0)
		return r;
	store_bind_text(stmt, 1, kind);
	store_bind_text(stmt, 2, id);
	store_bind_text(stmt, 3, name);
	rc = sqlite3_bind_blob64(stmt, 4, value ? value : "", len, SQLITE_STATIC);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	/*
	 * The end of a pod or of a container must be written down on a full disk too, or neither can be
	 * removed.
	 */
	if ((rc & 0xff) == SQLITE_FULL && exists_locked(store, kind, id)) {
		sqlite3_reset(stmt);
		rc = store_step_reserve(store, stmt);
	}
	store->adds = true;
	store_stmt_done(stmt);
	if (rc == SQLITE_DONE)
		return 0;
	if (rc == SQLITE_CONSTRAINT_UNIQUE && name)
		return name_taken(store, kind, name, err);
	return store_fail(store, rc, "put", err);
}

int store_put(struct store *store, const char *kind, const char *id, const char *name, const void *value,
	      size_t len, struct err *err)
{
	int r;

	store_lock(store);
	r = put_locked(store, kind, id, name, value, len, err);
	store_unlock(store);
	return r;
}

static int copy_column(sqlite3_stmt *stmt, int at, void **ret_value, size_t *ret_len)
{
	const void *blob = sqlite3_column_blob(stmt, at);
	size_t len = (size_t)sqlite3_column_bytes(stmt, at);
	char *copy = malloc(len + 1);

	if (!copy)
		return -ENOMEM;
	if (len)
		memcpy(copy, blob, len);
	copy[len] = 0;
	*ret_value = copy;
	if (ret_len)
		*ret_len = len;
	return 0;
}

static int get_locked(struct store *store, const char *kind, const char *id, void **ret_value,
		      size_t *ret_len, struct err *err)
{
	sqlite3_stmt *stmt = NULL;
	int r = store_stmt(store, STMT_GET, &stmt, err);
	int rc;

	if (r < 0)
		return r;
	store_bind_text(stmt, 1, kind);
	store_bind_text(stmt, 2, id);
	rc = sqlite3_step(stmt);
	if (rc == SQLITE_DONE)
		r = err_set(err, -ENOENT, "no %s \"%s\"", kind, id);
	else if (rc != SQLITE_ROW)
		r = store_fail(store, rc, "get", err);
	else if (copy_column(stmt, 0, ret_value, ret_len) < 0)
		r = err_oom(err);
	store_stmt_done(stmt);
	return r;
}

int store_get(struct store *store, const char *kind, const char *id, void **ret_value, size_t *ret_len,
	      struct err *err)
{
	int r;

	store_lock(store);
	r = get_locked(store, kind, id, ret_value, ret_len, err);
	store_unlock(store);
	return r;
}

int store_delete(struct store *store, const char *kind, const char *id, struct err *err)
{
	sqlite3_stmt *stmt = NULL;
	int r;

	store_lock(store);
	r = store_stmt(store, STMT_DELETE, &stmt, err);
	if (r == 0) {
		store_bind_text(stmt, 1, kind);
		store_bind_text(stmt, 2, id);
		r = store_run_remove(store, stmt, "delete", err);
	}
	store_unlock(store);
	return r;
}

int store_each(struct store *store, const char *kind, store_each_fn *fn, void *arg, struct err *err)
{
	static const char sql[] = "SELECT id, name, value FROM object WHERE kind = ?1 ORDER BY seq";
	sqlite3_stmt *stmt = NULL;
	int r = 0, rc;

	store_lock(store);
	rc = sqlite3_prepare_v2(store->db, sql, -1, &stmt, NULL);
	if (rc == SQLITE_OK) {
		store_bind_text(stmt, 1, kind);
		while (r == 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
			const void *value = sqlite3_column_blob(stmt, 2);

			r = fn(arg, (const char *)sqlite3_column_text(stmt, 0),
			       (const char *)sqlite3_column_text(stmt, 1), value ? value : "",
			       (size_t)sqlite3_column_bytes(stmt, 2));
		}
	}
	if (r == 0 && rc != SQLITE_DONE)
		r = store_fail(store, rc, "list", err);
	sqlite3_finalize(stmt);
	store_unlock(store);
	return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "cri/store/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

struct fixture {
	char dir[64];
	struct store *store;
	struct err err;
};

static void open_store(struct fixture *f)
{
	if (store_open(f->dir, &f->store, &f->err) < 0)
		fail_msg("%s", f->err.msg);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/crv-store-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	open_store(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	store_close(f->store);
	assert_int_equal(remove_tree(f->dir), 0);
	free(f);
	return 0;
}

static int put(struct fixture *f, const char *kind, const char *id, const char *name, const char *value)
{
	return store_put(f->store, kind, id, name, value, strlen(value), &f->err);
}

static void assert_value(struct fixture *f, const char *kind, const char *id, const char *want)
{
	void *value;
	size_t len;

	assert_int_equal(store_get(f->store, kind, id, &value, &len, &f->err), 0);
	assert_int_equal(len, strlen(want));
	assert_string_equal(value, want);
	free(value);
}

/* ---- objects ------------------------------------------------------------------------------------------- */

static void put_and_get_return_the_same_bytes(void **state)
{
	struct fixture *f = *state;
	const char bytes[] = "a\0b\xff";
	void *value;
	size_t len;

	assert_int_equal(store_put(f->store, "pod", "p1", NULL, bytes, sizeof(bytes), &f->err), 0);
	assert_int_equal(store_get(f->store, "pod", "p1", &value, &len, &f->err), 0);
	assert_int_equal(len, sizeof(bytes));
	assert_memory_equal(value, bytes, len);
	free(value);
	assert_int_equal(store_put(f->store, "pod", "p1", NULL, NULL, 0, &f->err), 0);
	assert_value(f, "pod", "p1", "");
}

static void get_of_missing_is_enoent_and_names_it(void **state)
{
	struct fixture *f = *state;
	void *value;

	assert_int_equal(store_get(f->store, "pod", "nope", &value, NULL, &f->err), -ENOENT);
	assert_int_equal(f->err.status, ERR_NOT_FOUND);
	assert_non_null(strstr(f->err.msg, "nope"));
}

static void put_of_taken_name_is_eexist_and_names_the_holder(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(put(f, "pod", "p1", "web_default", "1"), 0);
	assert_int_equal(put(f, "pod", "p2", "web_default", "2"), -EEXIST);
	assert_int_equal(f->err.status, ERR_ALREADY_EXISTS);
	assert_non_null(strstr(f->err.msg, "p1"));
	assert_non_null(strstr(f->err.msg, "web_default"));
	/* another kind may have it; and it is free again once the holder has gone */
	assert_int_equal(put(f, "container", "c1", "web_default", "3"), 0);
	assert_int_equal(store_delete(f->store, "pod", "p1", &f->err), 0);
	assert_int_equal(put(f, "pod", "p2", "web_default", "2"), 0);
	/* an update keeps its own name */
	assert_int_equal(put(f, "pod", "p2", "web_default", "22"), 0);
	assert_value(f, "pod", "p2", "22");
}

static void delete_of_missing_succeeds(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(store_delete(f->store, "pod", "nope", &f->err), 0);
}

struct seen {
	char ids[64];
	int stop_after;
};

static int see(void *arg, const char *id, const char *name, const void *value, size_t len)
{
	struct seen *seen = arg;

	(void)value;
	(void)len;
	strcat(seen->ids, id);
	if (name)
		strcat(seen->ids, name);
	return --seen->stop_after == 0 ? -ECANCELED : 0;
}

static void each_goes_in_order_of_creation_and_stops_when_told(void **state)
{
	struct fixture *f = *state;
	struct seen seen = {.stop_after = 100};

	assert_int_equal(put(f, "pod", "c", NULL, "1"), 0);
	assert_int_equal(put(f, "pod", "a", "N", "1"), 0);
	assert_int_equal(put(f, "other", "x", NULL, "1"), 0);
	assert_int_equal(put(f, "pod", "b", NULL, "1"), 0);
	assert_int_equal(put(f, "pod", "c", NULL, "2"), 0);
	assert_int_equal(store_each(f->store, "pod", see, &seen, &f->err), 0);
	assert_string_equal(seen.ids, "caNb");
	seen = (struct seen){.stop_after = 2};
	assert_int_equal(store_each(f->store, "pod", see, &seen, &f->err), -ECANCELED);
	assert_string_equal(seen.ids, "caN");
}

/* ---- transactions -------------------------------------------------------------------------------------- */

static int put_two_then(struct store *store, void *arg, struct err *err)
{
	int r = store_put(store, "pod", "p1", NULL, "x", 1, err);

	if (r == 0)
		r = journal_begin(store, "p1", "netns", "/n", NULL, err);
	return r < 0 ? r : *(int *)arg;
}

static void transaction_that_fails_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	int result = -EIO;
	void *value;
	char **owners;

	assert_int_equal(store_transaction(f->store, put_two_then, &result, &f->err), -EIO);
	assert_int_equal(store_get(f->store, "pod", "p1", &value, NULL, &f->err), -ENOENT);
	assert_int_equal(journal_owners(f->store, &owners, &f->err), 0);
	assert_int_equal(strv_len(owners), 0);
	strv_free(owners);
	result = 0;
	assert_int_equal(store_transaction(f->store, put_two_then, &result, &f->err), 0);
	assert_value(f, "pod", "p1", "x");
}

static int outer_ignores_inner(struct store *store, void *arg, struct err *err)
{
	int inner = -EIO;

	(void)arg;
	assert_int_equal(store_put(store, "pod", "outer", NULL, "o", 1, err), 0);
	assert_int_equal(store_transaction(store, put_two_then, &inner, err), -EIO);
	return 0;
}

static void transaction_inside_another_rolls_back_alone(void **state)
{
	struct fixture *f = *state;
	void *value;

	assert_int_equal(store_transaction(f->store, outer_ignores_inner, NULL, &f->err), 0);
	assert_value(f, "pod", "outer", "o");
	assert_int_equal(store_get(f->store, "pod", "p1", &value, NULL, &f->err), -ENOENT);
}

static void *hammer(void *arg)
{
	struct fixture *f = arg;
	static _Atomic int number;
	char id[16];
	struct err err = ERR_INIT;
	void *value;

	snprintf(id, sizeof(id), "t%d", number++);
	for (int i = 0; i < 200; i++) {
		int64_t step;

		assert_int_equal(store_put(f->store, "pod", id, id, &i, sizeof(i), &err), 0);
		assert_int_equal(store_get(f->store, "pod", id, &value, NULL, &err), 0);
		assert_int_equal(*(int *)value, i);
		free(value);
		assert_int_equal(journal_begin(f->store, id, "k", "a", &step, &err), 0);
		assert_int_equal(journal_end(f->store, step, &err), 0);
	}
	return NULL;
}

static void many_threads_keep_their_rows_apart(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[6];

	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_create(&threads[i], NULL, hammer, f);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
}

/* ---- the journal --------------------------------------------------------------------------------------- */

struct undone {
	char log[256];
	const char *failing;
};

static int undo(void *ctx, const char *owner, const char *kind, const char *arg, struct err *err)
{
	struct undone *u = ctx;
	size_t len = strlen(u->log);

	if (str_eq(kind, u->failing))
		return err_set(err, -EBUSY, "still mounted");
	snprintf(u->log + len, sizeof(u->log) - len, "%s:%s=%s ", owner, kind, arg);
	return 0;
}

static void undo_owner_goes_backwards_and_ends_each_step(void **state)
{
	struct fixture *f = *state;
	struct undone u = {.failing = "none"};
	int64_t step;
	char **owners;

	assert_int_equal(journal_begin(f->store, "p1", "netns", "n1", &step, &f->err), 0);
	assert_int_equal(journal_begin(f->store, "p2", "netns", "n2", NULL, &f->err), 0);
	assert_int_equal(journal_begin(f->store, "p1", "cgroup", "c1", NULL, &f->err), 0);
	assert_int_equal(journal_begin(f->store, "p1", "dir", NULL, NULL, &f->err), 0);
	assert_int_equal(journal_end(f->store, step, &f->err), 0);
	assert_int_equal(journal_owners(f->store, &owners, &f->err), 0);
	assert_int_equal(strv_len(owners), 2);
	assert_string_equal(owners[0], "p2");
	strv_free(owners);
	assert_int_equal(journal_undo_owner(f->store, "p1", undo, &u, &f->err), 0);
	assert_string_equal(u.log, "p1:dir= p1:cgroup=c1 ");
	u.log[0] = 0;
	assert_int_equal(journal_undo_owner(f->store, "p1", undo, &u, &f->err), 0);
	assert_string_equal(u.log, "");
	assert_int_equal(journal_undo_owner(f->store, "p2", undo, &u, &f->err), 0);
	assert_string_equal(u.log, "p2:netns=n2 ");
	assert_int_equal(journal_owners(f->store, &owners, &f->err), 0);
	assert_int_equal(strv_len(owners), 0);
	strv_free(owners);
}

static void undo_owner_goes_past_a_failure_and_keeps_it(void **state)
{
	struct fixture *f = *state;
	struct undone u = {.failing = "mount"};

	journal_begin(f->store, "p1", "netns", "n", NULL, &f->err);
	journal_begin(f->store, "p1", "mount", "m", NULL, &f->err);
	journal_begin(f->store, "p1", "dir", "d", NULL, &f->err);
	assert_int_equal(journal_undo_owner(f->store, "p1", undo, &u, &f->err), -EBUSY);
	assert_string_equal(f->err.msg, "undo of mount m: still mounted");
	assert_string_equal(u.log, "p1:dir=d p1:netns=n ");
	u = (struct undone){.failing = "none"};
	assert_int_equal(journal_undo_owner(f->store, "p1", undo, &u, &f->err), 0);
	assert_string_equal(u.log, "p1:mount=m ");
}

static void journal_begun_survives_kill_9(void **state)
{
	struct fixture *f = *state;
	struct undone u = {.failing = "none"};
	int status;
	pid_t pid;

	f->store = store_close(f->store);
	pid = fork();
	if (pid == 0) {
		struct store *store;

		if (store_open(f->dir, &store, NULL) < 0)
			_exit(1);
		if (journal_begin(store, "p1", "netns", "n", NULL, NULL) < 0)
			_exit(2);
		if (store_put(store, "pod", "p1", NULL, "v", 1, NULL) < 0)
			_exit(3);
		raise(SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	open_store(f);
	assert_int_equal(journal_undo_owner(f->store, "p1", undo, &u, &f->err), 0);
	assert_string_equal(u.log, "p1:netns=n ");
	assert_value(f, "pod", "p1", "v");
}

/* ---- files --------------------------------------------------------------------------------------------- */

static void sql(struct fixture *f, const char *text)
{
	char path[128];
	sqlite3 *db;

	snprintf(path, sizeof(path), "%s/crivisor.db", f->dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

static void open_of_newer_schema_is_refused(void **state)
{
	struct fixture *f = *state;

	f->store = store_close(f->store);
	sql(f, "PRAGMA user_version = 99");
	assert_true(store_open(f->dir, &f->store, &f->err) < 0);
	assert_int_equal(f->err.status, ERR_FAILED_PRECONDITION);
	assert_non_null(strstr(f->err.msg, "newer"));
	assert_non_null(strstr(f->err.msg, "99"));
}

static void open_of_foreign_database_is_refused(void **state)
{
	struct fixture *f = *state;

	f->store = store_close(f->store);
	sql(f, "PRAGMA application_id = 77");
	assert_true(store_open(f->dir, &f->store, &f->err) < 0);
	assert_non_null(strstr(f->err.msg, "another program"));
}

static void overwrite(struct fixture *f, off_t at, const char *with, size_t len)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/crivisor.db", f->dir);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, with, len, at), len);
	close(fd);
}

static void open_of_damaged_file_says_so(void **state)
{
	struct fixture *f = *state;
	char junk[4096];

	for (int i = 0; i < 200; i++) {
		char id[16];

		snprintf(id, sizeof(id), "p%d", i);
		assert_int_equal(put(f, "pod", id, id, "some value that takes room in the file"), 0);
	}
	f->store = store_close(f->store);
	memset(junk, 0x5a, sizeof(junk));
	overwrite(f, 4096, junk, sizeof(junk));
	assert_int_equal(store_open(f->dir, &f->store, &f->err), -EUCLEAN);
	assert_int_equal(f->err.status, ERR_DATA_LOSS);
	assert_non_null(strstr(f->err.msg, "damaged"));
	overwrite(f, 0, junk, sizeof(junk));
	assert_int_equal(store_open(f->dir, &f->store, &f->err), -EUCLEAN);
	assert_non_null(strstr(f->err.msg, "damaged"));
}

static void files_are_private(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = {"crivisor.db", "crivisor.db-wal", "crivisor.db-shm"};

	assert_int_equal(put(f, "pod", "p", NULL, "v"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char path[128];
		struct stat st;

		snprintf(path, sizeof(path), "%s/%s", f->dir, names[i]);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
	}
}

static void two_processes_may_write(void **state)
{
	struct fixture *f = *state;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct store *store;

		if (store_open(f->dir, &store, NULL) < 0)
			_exit(1);
		for (int i = 0; i < 50; i++)
			if (store_put(store, "image", "child", NULL, &i, sizeof(i), NULL) < 0)
				_exit(2);
		store_close(store);
		_exit(0);
	}
	for (int i = 0; i < 50; i++)
		assert_int_equal(store_put(f->store, "image", "parent", NULL, &i, sizeof(i), &f->err), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/*
 * As the server's first start beside `crivisor image …`: both make the database, and both put it in WAL mode.
 */
static void many_processes_may_open_it_first(void **state)
{
	struct fixture *f = *state;

	for (int round = 0; round < 20; round++) {
		pid_t pids[6];
		int go[2];

		f->store = store_close(f->store);
		assert_int_equal(remove_tree(f->dir), 0);
		assert_int_equal(mkdir(f->dir, 0700), 0);
		assert_int_equal(pipe(go), 0);
		for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
			pids[i] = fork();
			if (pids[i] == 0) {
				struct store *store;
				char byte;

				close(go[1]);
				(void)!read(go[0], &byte, 1);
				if (store_open(f->dir, &store, &f->err) < 0) {
					fprintf(stderr, "%s\n", f->err.msg);
					_exit(1);
				}
				store_close(store);
				_exit(0);
			}
		}
		close(go[0]);
		close(go[1]); /* all at once */
		for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
			int status;

			assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
			assert_int_equal(status, 0);
		}
		open_store(f);
	}
}

static int delete_one(struct store *store, void *arg, struct err *err)
{
	return store_delete(store, "pod", arg, err);
}

static int fill_and_delete(const char *dir)
{
	struct store *store;
	struct err err = ERR_INIT;
	char *big = calloc(1, 16384);
	int r = store_open(dir, &store, &err), i = 0;

	while (r == 0) {
		char id[16];

		snprintf(id, sizeof(id), "p%d", i++);
		r = store_put(store, "pod", id, NULL, big, 16384, &err);
	}
	if (r != -ENOSPC || err.status != ERR_RESOURCE_EXHAUSTED)
		return 10;
	/*
	 * What is there can still be changed, any number of times, and deleted; then there is room
	 * again.
	 */
	for (int k = 0; k < 500; k++) {
		if (store_put(store, "pod", "p0", NULL, memset(big, k, 16384), 16384, &err) < 0) {
			fprintf(stderr, "change %d: %s\n", k, err.msg);
			return 13;
		}
	}
	free(big);
	for (int k = 0; k < i - 1; k++) {
		char id[16];

		snprintf(id, sizeof(id), "p%d", k);
		if ((k % 2 ? store_delete(store, "pod", id, &err)
			   : store_transaction(store, delete_one, id, &err)) < 0) {
			fprintf(stderr, "delete %d of %d: %s\n", k, i, err.msg);
			return 11;
		}
	}
	if (store_put(store, "pod", "again", NULL, "v", 1, &err) < 0)
		return 12;
	store_close(store);
	return 0;
}

static void full_disk_is_enospc_and_deletes_still_work(void **state)
{
	struct fixture *f = *state;
	int status;
	pid_t pid;

	f->store = store_close(f->store);
	pid = fork();
	if (pid == 0) {
		/* A small disk of its own, in a mount namespace that ends with the child. */
		if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		    mount("tmpfs", f->dir, "tmpfs", 0, "size=2m") < 0)
			_exit(errno == EPERM ? 77 : 1);
		_exit(fill_and_delete(f->dir));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(put_and_get_return_the_same_bytes),
		T(get_of_missing_is_enoent_and_names_it),
		T(put_of_taken_name_is_eexist_and_names_the_holder),
		T(delete_of_missing_succeeds),
		T(each_goes_in_order_of_creation_and_stops_when_told),
		T(transaction_that_fails_leaves_nothing),
		T(transaction_inside_another_rolls_back_alone),
		T(many_threads_keep_their_rows_apart),
		T(undo_owner_goes_backwards_and_ends_each_step),
		T(undo_owner_goes_past_a_failure_and_keeps_it),
		T(journal_begun_survives_kill_9),
		T(open_of_newer_schema_is_refused),
		T(open_of_foreign_database_is_refused),
		T(open_of_damaged_file_says_so),
		T(files_are_private),
		T(two_processes_may_write),
		T(many_processes_may_open_it_first),
		T(full_disk_is_enospc_and_deletes_still_work),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The users of VMs. Needs root where a process runs as one of them. */
#include "base/util.h"
#include "cri/sandbox/uids_internal.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define FIRST 1987650000

struct fixture {
	char dir[64];
	struct store *store;
	struct uids uids;
	struct err err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/crv-uids-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(store_open(f->dir, &f->store, &f->err), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	uids_done(&f->uids);
	store_close(f->store);
	remove_tree(f->dir);
	free(f);
	return 0;
}

static uid_t take(struct fixture *f)
{
	uid_t uid = 0;

	if (uids_take(&f->uids, &uid, &f->err) < 0)
		fail_msg("%s", f->err.msg);
	assert_in_range(uid, f->uids.first, f->uids.first + f->uids.count - 1);
	return uid;
}

/* fault I: no two sandboxes have the same user, and one that is given back is used again. */
static void uids_take_gives_each_once(void **state)
{
	struct fixture *f = *state;
	bool seen[9] = {false};
	uid_t uid = 0;

	assert_int_equal(uids_init(&f->uids, FIRST, 9, f->store, &f->err), 0);
	for (int i = 0; i < 9; i++) {
		uid = take(f);
		assert_false(seen[uid - FIRST]);
		seen[uid - FIRST] = true;
	}
	assert_int_equal(uids_take(&f->uids, &uid, &f->err), -EAGAIN);
	assert_int_equal(f->err.status, ERR_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(f->err.msg, "uid_range"));
	uids_give(&f->uids, FIRST + 9);
	uids_give(&f->uids, FIRST - 1);
	assert_int_equal(uids_take(&f->uids, &uid, NULL), -EAGAIN);
	uids_give(&f->uids, FIRST + 4);
	assert_int_equal(take(f), FIRST + 4);
}

/* fault I: those of sandboxes that an earlier server made are taken; steps of no number or range are not. */
static void uids_init_reads_the_journal(void **state)
{
	static const char *const args[] = {"1987650000", "1987650002", "1987650003", "1000", "x", ""};
	struct fixture *f = *state;
	uid_t uid;

	for (size_t i = 0; i < ARRAY_SIZE(args); i++)
		assert_int_equal(journal_begin(f->store, "a", "uid", args[i], NULL, &f->err), 0);
	assert_int_equal(journal_begin(f->store, "b", "other", "1987650001", NULL, &f->err), 0);
	assert_int_equal(uids_init(&f->uids, FIRST, 3, f->store, &f->err), 0);
	assert_int_equal(take(f), FIRST + 1);
	assert_int_equal(uids_take(&f->uids, &uid, NULL), -EAGAIN);
}

static pid_t process_of(uid_t uid)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		if (setresuid(uid, uid, uid) < 0)
			_exit(1);
		raise(SIGSTOP);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, NULL, WUNTRACED), pid);
	return pid;
}

/* fault I: a user as whom something else runs is passed over. */
static void uids_take_passes_over_a_user_that_runs(void **state)
{
	struct fixture *f = *state;
	pid_t pid;
	uid_t uid;

	if (geteuid() != 0)
		skip();
	assert_int_equal(uids_init(&f->uids, FIRST, 2, f->store, &f->err), 0);
	assert_false(uids_runs(FIRST));
	pid = process_of(FIRST);
	assert_true(uids_runs(FIRST));
	assert_int_equal(take(f), FIRST + 1);
	assert_int_equal(uids_take(&f->uids, &uid, NULL), -EAGAIN);
	/* One that has ended runs no more, reaped or not. */
	kill(pid, SIGKILL);
	assert_int_equal(waitid(P_PID, (id_t)pid, &(siginfo_t){0}, WEXITED | WNOWAIT), 0);
	assert_false(uids_runs(FIRST));
	waitpid(pid, NULL, 0);
	assert_false(uids_runs(FIRST));
	assert_int_equal(take(f), FIRST);
}

/*
 * Makes a PID namespace with an init of that user, and beside it another process, which is a child of this
 * one.
 */
static void namespace_of(uid_t uid, pid_t ret_pids[2])
{
	int fds[2];
	pid_t pid;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		pid_t pids[2];

		if (unshare(CLONE_NEWPID) < 0)
			_exit(1);
		pids[0] = fork();
		if (pids[0] == 0 && setresuid(uid, uid, uid) == 0) {
			pause();
			_exit(0);
		}
		pids[1] = (pid_t)syscall(SYS_clone, CLONE_PARENT, NULL, NULL, NULL, NULL);
		if (pids[1] == 0) {
			pause();
			_exit(0);
		}
		_exit(write(fds[1], pids, sizeof(pids)) == sizeof(pids) ? 0 : 1);
	}
	close_fd(fds[1]);
	assert_int_equal(read(fds[0], ret_pids, 2 * sizeof(pid_t)), 2 * sizeof(pid_t));
	close_fd(fds[0]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* fault I: the init of a namespace whose program is not reaped yet is ending, and no user of anything. */
static void uids_runs_overlooks_an_init_that_ends(void **state)
{
	int64_t until = now_monotonic_ns() + 30 * NS_PER_SEC;
	pid_t pids[2];

	(void)state;
	if (geteuid() != 0)
		skip();
	namespace_of(FIRST, pids);
	while (!uids_runs(FIRST))
		assert_true(now_monotonic_ns() < until);
	assert_int_equal(kill(pids[1], SIGKILL), 0);
	assert_int_equal(waitid(P_PID, (id_t)pids[1], &(siginfo_t){0}, WEXITED | WNOWAIT), 0);
	assert_true(uids_runs(FIRST));
	assert_int_equal(kill(pids[0], SIGKILL), 0);
	while (uids_runs(FIRST))
		assert_true(now_monotonic_ns() < until);
	assert_int_equal(kill(pids[0], 0), 0); /* it is there yet */
	assert_int_equal(waitpid(pids[1], NULL, 0), pids[1]);
}

static void uids_init_refuses_too_many(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(uids_init(&f->uids, FIRST, UIDS_MAX + 1, f->store, &f->err), -EINVAL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(uids_take_gives_each_once),
		TEST(uids_init_reads_the_journal),
		TEST(uids_take_passes_over_a_user_that_runs),
		TEST(uids_runs_overlooks_an_init_that_ends),
		TEST(uids_init_refuses_too_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

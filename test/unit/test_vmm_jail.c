/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a program sees and may do that crivisor-spawn runs as a user of its own, and what the server does with
 * files that such a program puts in its way. Needs root.
 */
#include "base/util.h"
#include "vmm/driver_internal.h"
#include "vmm/wait_internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define USER 1987654320
#define LONG (now_monotonic_ns() + 60 * NS_PER_SEC)

struct fixture {
	char dir[64], home[80], log[80];
	char helper[PATH_MAX];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct vmm_config config = {0};

	snprintf(f->dir, sizeof(f->dir), "/tmp/crv-jail-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->home, sizeof(f->home), "%s/home", f->dir);
	snprintf(f->log, sizeof(f->log), "%s/log", f->dir);
	assert_int_equal(mkdir(f->home, 0700), 0);
	assert_int_equal(chown(f->home, USER, USER), 0);
	assert_int_equal(find_spawn_helper(&config, f->helper, sizeof(f->helper), NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	remove_tree(f->dir);
	free(f);
	return 0;
}

/* Runs a script of the shell in the jail; its output and its status. */
static char *run_status(struct fixture *f, char *script, char *const *paths, int *ret_status)
{
	char *argv[] = {(char *)(uintptr_t) "/bin/sh", (char *)(uintptr_t) "-c", script, NULL};
	struct child_spec spec = {.helper = f->helper,
				  .argv = argv,
				  .log = f->log,
				  .uid = USER,
				  .home = f->home,
				  .paths = paths};
	struct err err = ERR_INIT;
	struct child c;
	char *text = NULL;

	unlink(f->log);
	if (child_spawn(&c, &spec, &err) < 0 || child_confirm(&c, LONG, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(child_wait(&c, LONG), 0);
	*ret_status = c.status;
	child_done(&c);
	assert_int_equal(read_file(f->log, 1 << 16, &text, NULL), 0);
	return text;
}

static char *run(struct fixture *f, char *script, char *const *paths)
{
	int status;

	return run_status(f, script, paths, &status);
}

static void assert_says(struct fixture *f, const char *script, char *const *paths, const char *want)
{
	char *copy CLEANUP_FREE = strdup(script);
	char *text CLEANUP_FREE = run(f, copy, paths);

	assert_string_equal(text, want);
}

/* fault I: the program is its own user and group, alone, and cannot become another. */
static void program_is_nobody_else(void **state)
{
	assert_says(*state, "id -u; id -g; id -G; umask", NULL, "1987654320\n1987654320\n1987654320\n0077\n");
}

/* fault I: of the host's files there are the system's programs, its own directory, and what it was given. */
static void program_sees_what_it_was_given_alone(void **state)
{
	struct fixture *f = *state;
	char file[96], alias[96], secret[96];
	char *paths[] = {file, alias, (char *)(uintptr_t) "/dev/zero", NULL};
	char *script CLEANUP_FREE = NULL;

	snprintf(file, sizeof(file), "%s/file", f->dir);
	snprintf(alias, sizeof(alias), "%s/link", f->dir);
	snprintf(secret, sizeof(secret), "%s/secret", f->dir);
	assert_int_equal(write_file(file, "given\n", 6, 0644), 0);
	assert_int_equal(write_file(secret, "secret\n", 7, 0644), 0);
	assert_int_equal(symlink(file, alias), 0);
	script = xasprintf("cat %s %s; ls %s; cd /; for i in proc sys root home var run boot etc/passwd; do "
			   "test -e $i && echo $i; done; ls /dev; head -c1 /dev/zero | wc -c",
			   file, alias, f->dir);
	assert_says(f, script, paths, "given\ngiven\nfile\nhome\nlink\nnull\nurandom\nzero\n1\n");
}

/* fault I: it writes into its own directory, runs nothing from there, and changes nothing else. */
static void program_writes_its_own_directory_alone(void **state)
{
	struct fixture *f = *state;
	char file[96];
	char *paths[] = {file, NULL};
	char *script CLEANUP_FREE = NULL;

	snprintf(file, sizeof(file), "%s/file", f->dir);
	assert_int_equal(write_file(file, "given\n", 6, 0666), 0);
	assert_int_equal(chmod(file, 0666), 0);
	script = xasprintf("cd %s && cp /usr/bin/env x && echo written; ./x echo run 2>&- || echo refused\n"
			   "for i in / /usr /dev /etc %s; do mkdir $i/new 2>&- && echo made $i; done\n"
			   "(echo x > %s) 2>&- || echo kept; rm %s 2>&- || echo held\n"
			   "mount -t tmpfs none %s 2>&- || echo unmounted\n",
			   f->home, f->dir, file, file, f->home);
	assert_says(f, script, paths, "written\nrefused\nkept\nheld\nunmounted\n");
}

static int processes_of_user(pid_t ret_pids[8])
{
	const struct dirent *de;
	DIR *proc = opendir("/proc");
	int n = 0;

	assert_non_null(proc);
	while ((de = readdir(proc))) {
		char path[300];
		struct stat st;
		char *text CLEANUP_FREE = NULL;

		/* A process that may not be traced belongs to root here: the status says whose it is. */
		snprintf(path, sizeof(path), "/proc/%s/status", de->d_name);
		if (de->d_name[0] < '1' || de->d_name[0] > '9' || stat(path, &st) < 0 ||
		    read_file(path, 1 << 16, &text, NULL) < 0)
			continue;
		if (strstr(text, "\nUid:\t1987654320\t") && n < 8)
			ret_pids[n++] = (pid_t)atoi(de->d_name);
	}
	closedir(proc);
	return n;
}

static void assert_no_process_of_user(void)
{
	int64_t deadline = LONG;
	pid_t pids[8];

	while (processes_of_user(pids) > 0) {
		if (now_monotonic_ns() > deadline)
			fail_msg("process %d of the user is left", (int)pids[0]);
		usleep(10000);
	}
}

/*
 * fault I: the program is the second process of a PID namespace; it can name no process but itself and init.
 */
static void program_has_a_pid_namespace(void **state)
{
	assert_says(*state,
		    "echo $$; i=1; while [ $i -lt 300 ]; do kill -0 $i 2>&- && echo $i; i=$((i+1)); done;"
		    "kill -9 1; kill -TERM 1; echo alive",
		    NULL, "2\n1\n2\nalive\n");
	assert_no_process_of_user();
}

/* fault I, row A12: the program's end is its own: exit status, and signals, abort() among them. */
static void program_ends_with_its_true_status(void **state)
{
	static const struct {
		const char *script;
		int status;
	} ends[] = {{"exit 0", 0},	    {"exit 7", 7},	    {"kill -ABRT $$", 128 + SIGABRT},
		    {"kill -SEGV $$", 139}, {"kill -KILL $$", 137}, {"kill -TERM $$", 143}};

	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		char *script CLEANUP_FREE = strdup(ends[i].script);
		int status;
		char *text CLEANUP_FREE = run_status(*state, script, NULL, &status);

		assert_int_equal(status, ends[i].status);
	}
	assert_no_process_of_user();
}

/* What the program leaves in its namespace ends with it, whatever session it is in. */
static void nothing_outlives_the_program(void **state)
{
	assert_says(*state, "setsid sleep 1000 & sleep 1000 & echo ready", NULL, "ready\n");
	assert_no_process_of_user();
}

/* init is as confined as the program, holds none of its files, and takes it with it. */
static void init_ends_with_its_program(void **state)
{
	struct fixture *f = *state;
	char *argv[] = {(char *)(uintptr_t) "/bin/sleep", (char *)(uintptr_t) "1000", NULL};
	struct child_spec spec = {
		.helper = f->helper, .argv = argv, .log = f->log, .uid = USER, .home = f->home};
	struct err err = ERR_INIT;
	char path[64], target[PATH_MAX];
	const struct dirent *de;
	pid_t pids[8], init;
	struct child c;
	int files = 0;
	DIR *fds;

	if (child_spawn(&c, &spec, &err) < 0 || child_confirm(&c, LONG, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(processes_of_user(pids), 2);
	init = pids[0] == c.pid ? pids[1] : pids[0];
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)init);
	fds = opendir(path);
	assert_non_null(fds);
	while ((de = readdir(fds)))
		files += de->d_name[0] != '.';
	closedir(fds);
	assert_int_equal(files, 2); /* what it waits at: the gate and the program */
	snprintf(path, sizeof(path), "/proc/%d/root/proc", (int)init);
	assert_true(readlink(path, target, sizeof(target)) < 0 && errno == ENOENT);
	assert_int_equal(kill(init, SIGKILL), 0);
	assert_int_equal(child_wait(&c, LONG), 0);
	assert_int_equal(c.status, 128 + SIGKILL);
	child_done(&c);
	assert_no_process_of_user();
}

/* The paths that a program is given must exist; the error names the one that does not. */
static void missing_path_is_named(void **state)
{
	struct fixture *f = *state;
	char *argv[] = {(char *)(uintptr_t) "/bin/true", NULL};
	char *paths[] = {(char *)(uintptr_t) "/does/not/exist", NULL};
	struct child_spec spec = {
		.helper = f->helper, .argv = argv, .uid = USER, .home = f->home, .paths = paths};
	struct err err = ERR_INIT;
	struct child c;

	assert_true(child_spawn(&c, &spec, &err) < 0);
	assert_int_equal(c.pid, 0);
	assert_non_null(strstr(err.msg, "/does/not/exist: No such file"));
}

/*
 * fault I: recovery tells a program in a root of its own by device and inode, whatever its path is now.
 */
static void adopt_compares_device_and_inode(void **state)
{
	struct fixture *f = *state;
	char program[96], other[96];
	char *argv[] = {program, (char *)(uintptr_t) "60", NULL};
	struct child_spec spec = {.helper = f->helper, .argv = argv, .uid = USER, .home = f->home};
	struct child c, again;
	struct child_exe exe;
	struct err err = ERR_INIT;
	char *cp CLEANUP_FREE = NULL;
	struct stat st;

	snprintf(program, sizeof(program), "%s/program", f->dir);
	snprintf(other, sizeof(other), "%s/other", f->dir);
	cp = xasprintf("cp /bin/sleep %s && cp /bin/sleep %s", program, other);
	assert_int_equal(system(cp), 0);
	assert_int_equal(stat(program, &st), 0);
	if (child_spawn(&c, &spec, &err) < 0 || child_confirm(&c, LONG, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(c.exe.device, st.st_dev);
	assert_int_equal(c.exe.inode, st.st_ino);
	/* An upgrade replaces the file while the program runs. */
	assert_int_equal(rename(other, program), 0);
	if (child_adopt(&again, c.pid, c.start_time, &c.exe, &err) < 0)
		fail_msg("%s", err.msg);
	child_done(&again);
	exe = (struct child_exe){.name = "sleep", .device = c.exe.device, .inode = c.exe.inode + 1};
	assert_int_equal(child_adopt(&again, c.pid, c.start_time, &exe, &err), -ESRCH);
	exe = c.exe;
	exe.device++;
	assert_int_equal(child_adopt(&again, c.pid, c.start_time, &exe, &err), -ESRCH);
	exe = (struct child_exe){0};
	assert_int_equal(child_adopt(&again, c.pid, c.start_time, &exe, &err), 0);
	child_done(&again);
	child_kill_family(&c);
	assert_int_equal(child_wait(&c, LONG), 0);
	child_done(&c);
}

/* What earlier versions have saved of a program is its name. */
static void adopt_of_an_earlier_version_s_child_compares_names(void **state)
{
	struct fixture *f = *state;
	char *argv[] = {(char *)(uintptr_t) "/bin/sleep", (char *)(uintptr_t) "60", NULL};
	struct child_spec spec = {.helper = f->helper, .argv = argv};
	struct child_exe exe = {.name = "another"};
	struct err err = ERR_INIT;
	struct child c, again;

	if (child_spawn(&c, &spec, &err) < 0 || child_confirm(&c, LONG, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(child_adopt(&again, c.pid, c.start_time, &exe, &err), -ESRCH);
	exe = (struct child_exe){.name = "sleep"};
	assert_int_equal(child_adopt(&again, c.pid, c.start_time, &exe, &err), 0);
	child_done(&again);
	child_kill_family(&c);
	assert_int_equal(child_wait(&c, LONG), 0);
	child_done(&c);
}

/* fault I: a symlink where the server expects a VM's socket does not lead it to another's. */
static void socket_behind_a_symlink_is_refused(void **state)
{
	struct fixture *f = *state;
	char real[96], alias[96];
	struct sockaddr_un a;
	struct err err = ERR_INIT;
	int listener, fd;

	snprintf(real, sizeof(real), "%s/real.sock", f->home);
	snprintf(alias, sizeof(alias), "%s/link.sock", f->home);
	listener = sock_listen(real, &err);
	assert_true(listener >= 0);
	assert_int_equal(symlink(real, alias), 0);
	assert_int_equal(sock_target(alias, &a), -ENOTSOCK);
	assert_int_equal(sock_connect(alias, LONG, -1, NULL, &err), -ENOTSOCK);
	assert_int_equal(vsock_dial_hybrid(alias, 1, -1, -1, LONG, &err), -ENOTSOCK);
	fd = sock_connect(real, LONG, -1, NULL, &err);
	assert_true(fd >= 0);
	close_fd(fd);
	close_fd(listener);
}

/* fault I: a log that is another's file under a second name is not trimmed. */
static void trim_leaves_a_linked_file_alone(void **state)
{
	struct fixture *f = *state;
	char own[96], other[96], name[96];
	struct stat st;
	char *data CLEANUP_FREE = calloc(1, 1 << 20);

	snprintf(own, sizeof(own), "%s/own", f->home);
	snprintf(other, sizeof(other), "%s/other", f->home);
	snprintf(name, sizeof(name), "%s/link", f->home);
	memset(data, 'x', 1 << 20);
	assert_int_equal(write_file(own, data, 1 << 20, 0600), 0);
	assert_int_equal(write_file(other, data, 1 << 20, 0600), 0);
	assert_int_equal(linkat(AT_FDCWD, other, AT_FDCWD, name, 0), 0);
	assert_int_equal(trim_file(name, 1 << 20), -EINVAL);
	assert_int_equal(stat(other, &st), 0);
	assert_true(st.st_blocks >= (1 << 20) / 512);
	assert_int_equal(trim_file(own, 1 << 20), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(program_is_nobody_else),
		TEST(program_sees_what_it_was_given_alone),
		TEST(program_writes_its_own_directory_alone),
		TEST(program_has_a_pid_namespace),
		TEST(program_ends_with_its_true_status),
		TEST(nothing_outlives_the_program),
		TEST(init_ends_with_its_program),
		TEST(missing_path_is_named),
		TEST(adopt_compares_device_and_inode),
		TEST(adopt_of_an_earlier_version_s_child_compares_names),
		TEST(socket_behind_a_symlink_is_refused),
		TEST(trim_leaves_a_linked_file_alone),
	};

	if (geteuid() != 0) {
		fprintf(stderr, "skipped: vmm_jail: needs root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

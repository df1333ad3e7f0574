/* SPDX-License-Identifier: Apache-2.0 */
/* Programs started by process_spawn. */
#include "base/process.h"

#include "base/util.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <cmocka.h>
#include <sys/wait.h>

/* What a shell script writes to its standard output, and its exit status. */
static int run_script(struct process_spec spec, const char *script, char *out, size_t size)
{
	char *argv[] = {"sh", "-c", (char *)(uintptr_t)script, NULL};
	int fds[2], status, pidfd;
	pid_t pid;
	ssize_t n;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	spec.path = "sh";
	spec.argv = argv;
	spec.stdio[1] = fds[1];
	assert_int_equal(process_spawn(&spec, &pid, &pidfd), 0);
	close_fd(fds[1]);
	n = read_full(fds[0], out, size - 1);
	assert_true(n >= 0);
	out[n] = 0;
	assert_int_equal(poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, 10000), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close_fd(fds[0]);
	close_fd(pidfd);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static const struct process_spec no_streams = {.stdio = {-1, -1, -1}};

static void process_spawn_plain_child_is_in_the_root_with_the_usual_environment(void **state)
{
	char out[256];

	(void)state;
	assert_int_equal(run_script(no_streams, "pwd; echo $LANG $HOME; exit 3", out, sizeof(out)), 3);
	assert_string_equal(out, "/\nC /\n");
}

static void process_spawn_child_has_no_other_descriptor(void **state)
{
	struct process_spec spec = no_streams;
	int leak = open("/", O_RDONLY | O_DIRECTORY); /* not CLOEXEC */
	int low = fcntl(leak, F_DUPFD_CLOEXEC, 0), fds[] = {leak, low};
	char out[256];

	(void)state;
	assert_true(leak >= 0 && low >= 0);
	/* The glob opens a descriptor of its own; a test of the fd alone does not. */
	assert_int_equal(
		run_script(spec, "for i in 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$i ] && echo $i; done; true",
			   out, sizeof(out)),
		0);
	assert_string_equal(out, "");
	spec.fds = fds;
	spec.n_fds = 2;
	assert_int_equal(
		run_script(spec, "for i in 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$i ] && echo $i; done; true",
			   out, sizeof(out)),
		0);
	assert_string_equal(out, "3\n4\n");
	close_fd(leak);
	close_fd(low);
}

static void process_spawn_streams_may_be_each_others_numbers(void **state)
{
	struct process_spec spec = no_streams;
	char *argv[] = {"sh", "-c", "read x; echo out $x; echo err >&2", NULL};
	int in[2], out[2];
	char text[64];
	pid_t pid;
	ssize_t n;

	(void)state;
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	assert_int_equal(write_full(in[1], "word\n", 5), 0);
	spec.path = "/bin/sh";
	spec.argv = argv;
	spec.stdio[0] = in[0];
	spec.stdio[1] = spec.stdio[2] = out[1];
	assert_int_equal(process_spawn(&spec, &pid, NULL), 0);
	close_fd(out[1]);
	n = read_full(out[0], text, sizeof(text) - 1);
	assert_true(n >= 0);
	text[n] = 0;
	assert_string_equal(text, "out word\nerr\n");
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close_fd(in[0]);
	close_fd(in[1]);
	close_fd(out[0]);
}

static void process_spawn_signals_are_as_at_boot(void **state)
{
	sigset_t set, old;
	char out[256];
	char *mask;

	(void)state;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	assert_int_equal(sigprocmask(SIG_BLOCK, &set, &old), 0);
	assert_ptr_not_equal(signal(SIGPIPE, SIG_IGN), SIG_ERR);
	assert_int_equal(
		run_script(no_streams, "grep -E '^Sig(Blk|Ign)' /proc/self/status", out, sizeof(out)), 0);
	signal(SIGPIPE, SIG_DFL);
	assert_int_equal(sigprocmask(SIG_SETMASK, &old, NULL), 0);
	mask = strstr(out, "SigBlk:");
	assert_non_null(mask);
	assert_int_equal(strtoull(mask + 7, NULL, 16), 0);
	mask = strstr(out, "SigIgn:");
	assert_non_null(mask);
	/* The C library keeps 32 and 33 for itself. */
	assert_int_equal(strtoull(mask + 7, NULL, 16) & ~(3ULL << 31), 0);
}

static void process_spawn_group_is_its_own(void **state)
{
	struct process_spec spec = no_streams;
	char out[64];

	(void)state;
	spec.group = true;
	assert_int_equal(run_script(spec, "read a b c d pgrp rest </proc/self/stat; [ $pgrp = $$ ]; echo $?",
				    out, sizeof(out)),
			 0);
	assert_string_equal(out, "0\n");
}

static void process_spawn_missing_program_is_an_error(void **state)
{
	struct process_spec spec = no_streams;
	int many[PROCESS_FDS_MAX + 1] = {0};
	pid_t pid = 0;

	(void)state;
	spec.path = "/nonexistent/program";
	assert_int_equal(process_spawn(&spec, &pid, NULL), -ENOENT);
	spec.path = "/bin/true";
	spec.cwd = "/nonexistent";
	assert_int_equal(process_spawn(&spec, &pid, NULL), -ENOENT);
	spec.cwd = NULL;
	spec.fds = many;
	spec.n_fds = PROCESS_FDS_MAX + 1;
	assert_int_equal(process_spawn(&spec, &pid, NULL), -E2BIG);
	assert_int_equal(pid, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(process_spawn_plain_child_is_in_the_root_with_the_usual_environment),
		cmocka_unit_test(process_spawn_child_has_no_other_descriptor),
		cmocka_unit_test(process_spawn_streams_may_be_each_others_numbers),
		cmocka_unit_test(process_spawn_signals_are_as_at_boot),
		cmocka_unit_test(process_spawn_group_is_its_own),
		cmocka_unit_test(process_spawn_missing_program_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

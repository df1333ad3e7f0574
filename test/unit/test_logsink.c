/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"
#include "base/util.h"
#include "cri/command/logsink.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

static void set_stream(int fd, ino_t off)
{
	char value[64];
	struct stat st;

	fstat(fd, &st);
	snprintf(value, sizeof(value), "%lu:%lu", (unsigned long)st.st_dev, (unsigned long)(st.st_ino + off));
	setenv("JOURNAL_STREAM", value, 1);
}

static void stderr_that_is_no_journal_is_kept(void **state)
{
	(void)state;
	unsetenv("JOURNAL_STREAM");
	assert_false(logsink_init());
	set_stream(STDERR_FILENO, 1);
	assert_false(logsink_init());
	setenv("JOURNAL_STREAM", "nonsense", 1);
	assert_false(logsink_init());
	unsetenv("JOURNAL_STREAM");
}

/* A journal of our own at its well-known address, in a mount namespace that ends with the child. */
static int write_to_a_journal(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX, .sun_path = "/run/systemd/journal/socket"};
	struct pollfd pfd = {.events = POLLIN};
	char got[2048];
	ssize_t n;
	int stream[2];

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0)
		return errno == EPERM ? 77 : 1;
	pfd.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (mkdir_p("/run/systemd/journal", 0755) < 0 ||
	    bind(pfd.fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return 2;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, stream) < 0 || dup2(stream[0], STDERR_FILENO) < 0)
		return 3;
	set_stream(STDERR_FILENO, 0);
	if (!logsink_init())
		return 4;
	log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", "p1"), "two\nlines");
	if (poll(&pfd, 1, 5000) != 1)
		return 5;
	n = recv(pfd.fd, got, sizeof(got) - 1, 0);
	if (n <= 0)
		return 6;
	got[n] = 0;
	if (!strstr(got, "MESSAGE=level=warn msg=\"two\\nlines\" pod=p1\n") || !strstr(got, "PRIORITY=4\n") ||
	    !strstr(got, "SYSLOG_IDENTIFIER=crivisor\n"))
		return 7;
	return 0;
}

static void stderr_that_is_the_journal_sends_lines_with_their_priority(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		_exit(write_to_a_journal());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stderr_that_is_no_journal_is_kept),
		cmocka_unit_test(stderr_that_is_the_journal_sends_lines_with_their_priority),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn_pidns.c: a PID namespace whose first process is an init of ours, so that the program is an ordinary
 * process in it: abort(3) and other signals end it with their true status, which PID 1 would ignore.
 *
 *   server ── helper (ends here)
 *      │         └─ init: PID 1; waits for the program's end, and ends
 *      └─ program: PID 2, made with CLONE_PARENT, so that the server waits for it
 *
 * When init ends, the kernel kills whatever the program has left in the namespace; if init is killed, the
 * program ends with it.
 */
#include "vmm/spawn_internal.h"

#include "base/util.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <linux/close_range.h>

#define PROGRAM_PID 2 /* in the namespace: its second process */

/* In the new process 0, as of fork(2); its parent is this one's if flags have CLONE_PARENT. */
static pid_t clone_self(unsigned long flags)
{
	return (pid_t)syscall(SYS_clone, flags, NULL, NULL, NULL, NULL);
}

/* One byte; false at EOF: the helper was killed before it told the server of the program. */
static bool is_told(int fd)
{
	char byte;
	ssize_t n;

	do
		n = read(fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	return n == 1;
}

/* The command line that /proc shows would be that of the program otherwise. */
static void rename_self(int argc, char **argv)
{
	size_t size = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) + 1 - argv[0]);

	memset(argv[0], 0, size);
	snprintf(argv[0], size, "crivisor-spawn: init");
	prctl(PR_SET_NAME, "crivisor-init", 0, 0, 0);
}

__attribute__((noreturn)) static void be_init(int gate, int argc, char **argv)
{
	struct pollfd program = {.events = POLLIN};

	rename_self(argc, argv);
	setsid();
	/* It keeps nothing of the program's open, least of all the status fd. */
	if (dup2(gate, STDIN_FILENO) < 0 || close_range(1, ~0U, 0) < 0 || !is_told(STDIN_FILENO))
		_exit(127);
	program.fd = pidfd_open(PROGRAM_PID, 0);
	while (program.fd >= 0 && poll(&program, 1, -1) < 0 && errno == EINTR)
		;
	_exit(0);
}

void spawn_pidns_make(void)
{
	if (unshare(CLONE_NEWPID) < 0)
		spawn_die("making a PID namespace");
}

void spawn_pidns_enter(int status_fd, int argc, char **argv)
{
	char text[24];
	pid_t pid;
	int gate[2];

	if (pipe2(gate, O_CLOEXEC) < 0)
		spawn_die("pipe");
	pid = clone_self(SIGCHLD);
	if (pid < 0)
		spawn_die("starting init");
	if (pid == 0) {
		close_fd(gate[1]);
		be_init(gate[0], argc, argv);
	}
	pid = clone_self(CLONE_PARENT);
	if (pid < 0)
		spawn_die("starting the program");
	if (pid == 0) {
		close_fd(gate[1]);
		if (!is_told(gate[0]))
			_exit(127);
		close_fd(gate[0]);
		setsid();
		return;
	}
	/* The server first: from then on it answers for the program. */
	snprintf(text, sizeof(text), "%c%d\n", SPAWN_PID_MARK, (int)pid);
	if (write_full(status_fd, text, strlen(text)) < 0 || write_full(gate[1], "go", 2) < 0)
		_exit(127);
	_exit(0);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reads_at_term.c FILE: maps FILE, says `ready`, and reads from it at SIGTERM, for ever.
 *
 * It runs from memory, and FILE is closed: nothing that a process that is killed waits for at its end is in
 * the share, and its read is in flight.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void run_from_memory(char *file)
{
	char *const args[] = {"reads_at_term", file, "in memory", NULL};
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC),
	    to = memfd_create("reads_at_term", MFD_CLOEXEC);
	struct stat st;

	if (from < 0 || to < 0 || fstat(from, &st) < 0 ||
	    sendfile(to, from, NULL, (size_t)st.st_size) != st.st_size)
		fail("copying itself");
	fexecve(to, args, environ);
	fail("fexecve");
}

int main(int argc, char **argv)
{
	const volatile char *map;
	struct stat st;
	sigset_t set;
	int fd, sig;

	if (argc < 2)
		return 2;
	if (argc == 2)
		run_from_memory(argv[1]);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		fail(argv[1]);
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED || close(fd) < 0)
		fail("mmap");
	puts("ready");
	fflush(stdout);
	sigwait(&set, &sig);
	for (off_t at = 0; at < st.st_size; at += 4096)
		(void)map[at];
	pause();
	return 0;
}

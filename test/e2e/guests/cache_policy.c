/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache_policy.c: what a container sees of a volume, and what the volume's use costs.
 *
 * write FILE: prints "ready" after a first round, then opens FILE for appending (making it where it is
 * missing), writes one byte and closes it, every 5 ms, until it is killed.
 *
 * map FILE: prints "shared" if what is written into a shared mapping of FILE is read back through read(2).
 *
 * small DIR COUNT: makes COUNT files of 4 KiB in DIR, then reads each; prints the milliseconds of both.
 *
 * read FILE BYTES: reads FILE twice, by BYTES at a time; prints the milliseconds of both.
 *
 * random FILE COUNT: reads COUNT pieces of 4 KiB here and there of one open FILE; prints the milliseconds.
 *
 * start COUNT PROGRAM: runs PROGRAM COUNT times, one after the other; prints the milliseconds of all.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char block[1 << 20];

static void must(int ok, const char *what)
{
	if (ok)
		return;
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void write_for_ever(const char *path)
{
	for (int round = 0;; round++) {
		int fd = open(path, O_WRONLY | O_APPEND | O_CREAT, 0644);

		must(fd >= 0, path);
		must(write(fd, "x", 1) == 1, path);
		close(fd);
		if (round == 0)
			puts("ready");
		usleep(5000);
	}
}

static void map(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT, 0644);
	char byte = 0;
	char *p;

	must(fd >= 0 && ftruncate(fd, 4096) == 0, path);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(p != MAP_FAILED, "mmap");
	p[7] = 'm';
	must(msync(p, 4096, MS_SYNC) == 0, "msync");
	must(pread(fd, &byte, 1, 7) == 1, "read");
	puts(byte == 'm' ? "shared" : "WRONG");
}

static long each(const char *dir, int count, int flags)
{
	long began = now_ms();
	char path[4096];

	for (int i = 0; i < count; i++) {
		int fd;
		ssize_t n;

		snprintf(path, sizeof(path), "%s/f%d", dir, i);
		fd = open(path, flags, 0644);
		must(fd >= 0, path);
		n = flags & O_CREAT ? write(fd, block, 4096) : read(fd, block, 4096);
		must(n == 4096, path);
		close(fd);
	}
	return now_ms() - began;
}

static long read_all(const char *path, size_t size)
{
	long began = now_ms();
	int fd = open(path, O_RDONLY);
	ssize_t n;

	must(fd >= 0, path);
	while ((n = read(fd, block, size)) > 0)
		;
	must(n == 0, path);
	close(fd);
	return now_ms() - began;
}

static long read_random(const char *path, int count)
{
	long began = now_ms();
	int fd = open(path, O_RDONLY);
	off_t pages = fd < 0 ? 0 : lseek(fd, 0, SEEK_END) / 4096;

	must(fd >= 0 && pages > 0, path);
	for (off_t i = 1; i <= count; i++)
		must(pread(fd, block, 4096, i * 7919 % pages * 4096) == 4096, path);
	close(fd);
	return now_ms() - began;
}

static long start(int count, char *program)
{
	char *argv[] = {program, NULL}, *env[] = {NULL};
	long began = now_ms();

	for (int i = 0; i < count; i++) {
		int status;
		pid_t pid;

		errno = posix_spawn(&pid, program, NULL, NULL, argv, env);
		must(errno == 0, program);
		must(waitpid(pid, &status, 0) == pid && status == 0, program);
	}
	return now_ms() - began;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 3 && !strcmp(what, "write"))
		write_for_ever(argv[2]);
	else if (argc == 3 && !strcmp(what, "map"))
		map(argv[2]);
	else if (argc == 4 && !strcmp(what, "small")) {
		long made = each(argv[2], atoi(argv[3]), O_WRONLY | O_CREAT | O_EXCL);

		printf("%ld %ld\n", made, each(argv[2], atoi(argv[3]), O_RDONLY));
	} else if (argc == 4 && !strcmp(what, "read")) {
		size_t size = (size_t)atoi(argv[3]);
		long first;

		must(size > 0 && size <= sizeof(block), "size");
		first = read_all(argv[2], size);
		printf("%ld %ld\n", first, read_all(argv[2], size));
	} else if (argc == 4 && !strcmp(what, "random"))
		printf("%ld\n", read_random(argv[2], atoi(argv[3])));
	else if (argc == 4 && !strcmp(what, "start"))
		printf("%ld\n", start(atoi(argv[2]), argv[3]));
	else
		must(0, "usage");
	return 0;
}

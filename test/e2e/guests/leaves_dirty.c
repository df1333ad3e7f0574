/* SPDX-License-Identifier: Apache-2.0 */
/*
 * leaves_dirty.c FILE…: fills each FILE, one half by write() and one half through a shared mapping, prints
 * "written", and waits. It calls neither fsync() nor msync() and unmaps nothing.
 *
 * Each 8-byte word of a file holds its own offset, so a reader can tell which parts are missing.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define HALF ((size_t)8 << 20)

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void fill(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	uint64_t words[512];
	uint64_t *map;

	if (fd < 0 || ftruncate(fd, 2 * HALF) < 0)
		fail(path);
	for (size_t at = 0; at < HALF; at += sizeof(words)) {
		for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
			words[i] = at + 8 * i;
		if (pwrite(fd, words, sizeof(words), (off_t)at) != (ssize_t)sizeof(words))
			fail("pwrite");
	}
	map = mmap(NULL, HALF, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)HALF);
	if (map == MAP_FAILED)
		fail("mmap");
	for (size_t i = 0; i < HALF / 8; i++)
		map[i] = HALF + 8 * i;
}

int main(int argc, char **argv)
{
	sigset_t none;

	for (int i = 1; i < argc; i++)
		fill(argv[i]);
	puts("written");
	fflush(stdout);
	sigemptyset(&none);
	for (;;)
		sigsuspend(&none);
}

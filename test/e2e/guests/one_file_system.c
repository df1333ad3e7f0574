/* SPDX-License-Identifier: Apache-2.0 */
/*
 * one_file_system.c: shows that two containers have one file system in a volume.
 *
 * hold DIR: makes a socket, a FIFO, locks, a shared mapping and an inotify watch in DIR, prints "ready" and
 * answers one probe.
 *
 * probe DIR: uses them from another container, prints "<what> ok" or "<what> WRONG" for each, and ends with 0
 * only if all are right.
 *
 * lock FILE: takes its flock, prints "locked" and waits.
 *
 * try FILE: prints "locked" or "excluded".
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void must(int ok, const char *what)
{
	if (ok)
		return;
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_here(const char *name, int flags)
{
	int fd = open(name, flags, 0644);

	must(fd >= 0, name);
	return fd;
}

static struct flock whole_file(void)
{
	return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
}

static volatile char *map_file(void)
{
	int fd = open_here("map", O_RDWR | O_CREAT);
	char *map;

	must(ftruncate(fd, 4096) == 0, "map");
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(map != MAP_FAILED, "map");
	return map;
}

static int new_socket(struct sockaddr_un *addr)
{
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	must(s >= 0, "socket");
	*addr = (struct sockaddr_un){.sun_family = AF_UNIX, .sun_path = "socket"};
	return s;
}

static int hold(void)
{
	struct sockaddr_un addr;
	struct flock lock = whole_file();
	volatile char *map = map_file();
	int listener = new_socket(&addr), watch = inotify_init(), posix, fifo, s;
	char event[4096], text[16] = "";

	map[0] = 'a';
	must(flock(open_here("flock", O_RDWR | O_CREAT), LOCK_EX) == 0, "flock");
	posix = open_here("fcntl", O_RDWR | O_CREAT);
	must(fcntl(posix, F_SETLK, &lock) == 0, "fcntl");
	must(mkdir("watched", 0755) == 0 && inotify_add_watch(watch, "watched", IN_CREATE) >= 0, "inotify");
	must(mkfifo("fifo", 0644) == 0, "fifo");
	fifo = open_here("fifo", O_RDWR);
	must(bind(listener, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(listener, 1) == 0,
	     "socket");
	puts("ready");
	fflush(stdout);
	s = accept(listener, NULL, NULL);
	must(s >= 0, "accept");
	/* "m": the mapping has the other's byte; "f": the FIFO's text; "i": the watch's event. */
	must(read(s, text, 1) == 1, "read");
	must(write(s, map[0] == 'b' ? "y" : "n", 1) == 1, "write");
	map[1] = 'c';
	must(read(s, text, 1) == 1, "read");
	must(read(fifo, text, sizeof(text)) > 0 && write(s, text, 1) == 1, "fifo");
	must(read(s, text, 1) == 1, "read");
	must(read(watch, event, sizeof(event)) > 0 && write(s, "y", 1) == 1, "inotify");
	return 0;
}

static int wrong;

static void check(int ok, const char *what)
{
	printf("%s %s\n", what, ok ? "ok" : "WRONG");
	wrong |= !ok;
}

static char ask(int s, const char *question)
{
	char answer = 0;

	return write(s, question, 1) == 1 && read(s, &answer, 1) == 1 ? answer : 0;
}

static int probe(void)
{
	struct sockaddr_un addr;
	struct flock lock = whole_file();
	volatile char *map = map_file();
	int s = new_socket(&addr), fd;

	alarm(60);
	check(flock(open_here("flock", O_RDWR), LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK, "flock");
	check(fcntl(open_here("fcntl", O_RDWR), F_SETLK, &lock) < 0 && (errno == EAGAIN || errno == EACCES),
	      "fcntl");
	fd = connect(s, (struct sockaddr *)&addr, sizeof(addr));
	check(fd == 0, "socket");
	if (fd < 0)
		return 1;
	check(map[0] == 'a', "mapping of the other's byte");
	map[0] = 'b';
	check(ask(s, "m") == 'y', "mapping, seen by the other");
	fd = open("fifo", O_WRONLY | O_NONBLOCK);
	check(fd >= 0 && write(fd, "x", 1) == 1 && ask(s, "f") == 'x', "fifo");
	check(map[1] == 'c', "mapping, written by the other");
	open_here("watched/new", O_WRONLY | O_CREAT);
	check(ask(s, "i") == 'y', "inotify");
	return wrong;
}

/* The whole file, as long as this runs. */
static int lock(const char *file, int flags)
{
	if (flock(open_here(file, O_RDWR), LOCK_EX | flags) < 0)
		return puts("excluded") < 0;
	puts("locked");
	fflush(stdout);
	return flags ? 0 : pause();
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "lock") == 0)
		return lock(argv[2], 0);
	if (argc == 3 && strcmp(argv[1], "try") == 0)
		return lock(argv[2], LOCK_NB);
	if (argc != 3 || chdir(argv[2]) < 0)
		return 2;
	return strcmp(argv[1], "hold") == 0 ? hold() : probe();
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trim.c: bounds the files that a VM's processes write into run_dir.
 *
 * Guest and programs write as much as they like, and neither VMM offers a ring. So the front of a file that
 * has grown is given back to the file system as a hole (fallocate(2), FALLOC_FL_PUNCH_HOLE): the writer keeps
 * its offset and never sees an error, and a reader finds the end where it was. The file's size says how much
 * was ever written; its blocks are bounded.
 */
#include "vmm/vm_internal.h"

#include "base/util.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#define BLOCK	      4096 /* a hole is made of whole pages */
#define REST_NS	      (50 * NS_PER_MS)
#define REST_BLIND_NS NS_PER_SEC /* without inotify */

/* What processes append to and nobody reads but for its end. */
static const char *const logs[] = {VM_FILE_CONSOLE, VM_FILE_SERIAL, VM_FILE_CPU,   VM_FILE_LOG,
				   VM_FILE_FS_LOG,  VM_FILE_VS_LOG, VM_FILE_CH_LOG};

int trim_file(const char *path, off_t end)
{
	int fd CLEANUP_CLOSE = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	/* The VMM may put any file of its user there, and a link to another's where the host lets it. */
	if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
		return -EINVAL;
	if (end > st.st_size)
		end = st.st_size;
	end -= end % BLOCK;
	if (end > 0 && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, end) < 0)
		return -errno;
	return 0;
}

static void trim_logs(const struct vm *vm)
{
	for (size_t i = 0; i < ARRAY_SIZE(logs); i++) {
		char path[256];
		struct stat st;

		if (vm_path(vm, logs[i], path, sizeof(path), NULL) == 0 && lstat(path, &st) == 0 &&
		    st.st_blocks > TRIM_MAX_BYTES / 512)
			trim_file(path, st.st_size - TRIM_KEEP_BYTES);
	}
}

void trim_init(struct vm *vm)
{
	vm->files_watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	vm->files_timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (vm->files_watch >= 0 && inotify_add_watch(vm->files_watch, vm->run_dir, IN_MODIFY) < 0)
		vm->files_watch = close_fd(vm->files_watch);
	trim_logs(vm); /* of an adopted VM: they have grown meanwhile */
}

void trim_done(struct vm *vm)
{
	vm->files_watch = close_fd(vm->files_watch);
	vm->files_timer = close_fd(vm->files_timer);
}

/*
 * With lock held: the watch is left alone for a while, so that a guest that never stops writing costs little.
 */
static void rest(struct vm *vm, bool resting)
{
	int64_t ns = vm->files_watch < 0 ? REST_BLIND_NS : resting ? REST_NS : 0;
	const struct itimerspec t = {
		.it_value = {.tv_sec = ns / NS_PER_SEC, .tv_nsec = ns % NS_PER_SEC},
	};
	struct epoll_event e = {.events = resting ? 0 : EPOLLIN};

	if (!vm->watching)
		return;
	timerfd_settime(vm->files_timer, 0, &t, NULL);
	if (vm->files_watch >= 0)
		epoll_ctl(vm->epoll_fd, EPOLL_CTL_MOD, vm->files_watch, &e);
}

int trim_watch(struct vm *vm)
{
	struct epoll_event e = {.events = EPOLLIN};

	if (vm->files_timer < 0 || epoll_ctl(vm->epoll_fd, EPOLL_CTL_ADD, vm->files_timer, &e) < 0)
		return vm->files_timer < 0 ? -EMFILE : -errno;
	if (vm->files_watch >= 0 && epoll_ctl(vm->epoll_fd, EPOLL_CTL_ADD, vm->files_watch, &e) < 0)
		return -errno;
	rest(vm, false);
	return 0;
}

void trim_service(struct vm *vm)
{
	bool changed = false, rested;
	char drop[4096];
	uint64_t n;

	while (vm->files_watch >= 0 && read(vm->files_watch, drop, sizeof(drop)) > 0)
		changed = true;
	rested = read(vm->files_timer, &n, sizeof(n)) > 0;
	if (!changed && !rested)
		return;
	trim_logs(vm);
	pthread_mutex_lock(&vm->lock);
	rest(vm, changed);
	pthread_mutex_unlock(&vm->lock);
}

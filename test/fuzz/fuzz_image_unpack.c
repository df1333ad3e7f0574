/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A layer on top of another one: whatever it says, nothing outside the target changes. Two files stand beside
 * the target, which an escape would touch first; "made-outside" must not appear.
 */
#include "base/util.h"
#include "base/tree.h"
#include "cri/image/unpack/unpack.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/dev/shm/fuzz_image_unpack.XXXXXX";
static int dirfd;

static void leave(void)
{
	remove_tree(dir);
}

static void set_up(void)
{
	static const char *const dirs[] = {"lower", "lower/d", "lower/d/e"};

	if (!mkdtemp(dir))
		abort();
	atexit(leave);
	dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		mkdirat(dirfd, dirs[i], 0755);
	close_fd(openat(dirfd, "lower/f", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	close_fd(openat(dirfd, "outside", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

static void check_outside(void)
{
	struct stat st;

	if (fstatat(dirfd, "outside", &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_size != 0 || st.st_nlink != 1 ||
	    (st.st_mode & 07777) != 0600)
		__builtin_trap();
	if (fstatat(dirfd, "lower/f", &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_size != 0 || st.st_nlink != 1 ||
	    (st.st_mode & 07777) != 0644)
		__builtin_trap();
	if (faccessat(dirfd, "made-outside", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char target[64], lower[64];
	char *parents[] = {lower, NULL};
	struct unpack_options opt = {
		.target = target,
		.parents = parents,
		.limits = {.bytes = 4 << 20, .ratio_bytes = 1 << 20, .ratio = 50, .entries = 200}};
	struct err err = ERR_INIT;

	if (!dirfd)
		set_up();
	snprintf(target, sizeof(target), "%s/target", dir);
	snprintf(lower, sizeof(lower), "%s/lower", dir);
	opt.fd = memfd_create("layer", MFD_CLOEXEC);
	if (opt.fd < 0 || mkdir(target, 0755) < 0 || write_full(opt.fd, data, size) < 0)
		abort();
	if (image_unpack(&opt, &err) < 0 && !err.msg[0])
		__builtin_trap();
	close_fd(opt.fd);
	check_outside();
	if (remove_tree(target) < 0)
		__builtin_trap();
	return 0;
}

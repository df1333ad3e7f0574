/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image's passwd and group files: the input up to its first NUL byte is a user, then comes one file that
 * serves as both. What is found is never an id that chown(2) would leave alone.
 */
#include "base/util.h"
#include "cri/spec/spec.h"

#include <fcntl.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char root[] = "/dev/shm/fuzz_spec_user.XXXXXX";

static void leave(void)
{
	remove_tree(root);
}

static void set_up(void)
{
	char *etc CLEANUP_FREE = NULL, *passwd CLEANUP_FREE = NULL, *group CLEANUP_FREE = NULL;

	if (!mkdtemp(root))
		abort();
	atexit(leave);
	etc = xasprintf("%s/etc", root);
	passwd = xasprintf("%s/etc/passwd", root);
	group = xasprintf("%s/etc/group", root);
	if (!etc || !passwd || !group || mkdir(etc, 0755) < 0 || write_file(passwd, "", 0, 0644) < 0 ||
	    link(passwd, group) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *user CLEANUP_FREE = strndup((const char *)data, size);
	char *path CLEANUP_FREE = NULL;
	struct spec_user found = {0};
	size_t skip;

	if (root[strlen(root) - 1] == 'X')
		set_up();
	path = xasprintf("%s/etc/passwd", root);
	if (!user || !path)
		return 0;
	skip = strlen(user) < size ? strlen(user) + 1 : size;
	if (write_file(path, data + skip, size - skip, 0644) < 0)
		abort();
	if (spec_user_lookup(root, user, &found, NULL) == 0) {
		if (found.uid == UINT32_MAX || found.gid == UINT32_MAX)
			__builtin_trap();
		for (size_t i = 0; i < found.n_groups; i++) {
			if (found.groups[i] == UINT32_MAX)
				__builtin_trap();
		}
		free(found.groups);
	} else if (found.groups) {
		__builtin_trap();
	}
	return 0;
}

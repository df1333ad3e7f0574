/* SPDX-License-Identifier: Apache-2.0 */
/* Containers' places: what the host publishes to the guest. */
#include "cri/sandbox/sandbox_internal.h"

#include "api/agent/guest_abi.h"

static int check_id(const char *id, struct err *err)
{
	size_t len = strlen(id);

	if (len == 0 || len >= SANDBOX_ID_MAX || strspn(id, "0123456789abcdef") != len)
		return err_set(err, -EINVAL, "\"%.64s\" is not a valid container id", id);
	return 0;
}

int sandbox_place(const struct sandbox *sandbox, const char *container_id, struct sandbox_place *ret_place,
		  struct err *err)
{
	int r = check_id(container_id, err);

	if (r < 0)
		return r;
	if (snprintf(ret_place->dir, sizeof(ret_place->dir), "%s/mounts/%s", sandbox->dir, container_id) >=
		    (int)sizeof(ret_place->dir) ||
	    snprintf(ret_place->rootfs, sizeof(ret_place->rootfs), "%s/mounts/%s/rootfs", sandbox->dir,
		     container_id) >= (int)sizeof(ret_place->rootfs))
		return err_set(err, -ENAMETOOLONG, "run_dir is too long");
	snprintf(ret_place->bundle, sizeof(ret_place->bundle), GUEST_SHARE_DIR "/%s", container_id);
	return 0;
}

int sandbox_place_make(struct sandbox *sandbox, const char *container_id, struct err *err)
{
	int r = check_id(container_id, err);

	return r < 0 ? r : sandbox->driver->place_make(sandbox, container_id, err);
}

int sandbox_place_write(struct sandbox *sandbox, const char *container_id, const char *name, const char *text,
			struct err *err)
{
	char path[SANDBOX_PATH_MAX];
	struct sandbox_place place;
	int r = sandbox_place(sandbox, container_id, &place, err);

	if (r < 0)
		return r;
	if (str_empty(name) || name[0] == '.' || strchr(name, '/') ||
	    snprintf(path, sizeof(path), "%s/%s", place.dir, name) >= (int)sizeof(path))
		return err_set(err, -EINVAL, "\"%s\" is not a valid file name", name);
	r = write_file(path, text, strlen(text), 0600);
	return r < 0 ? err_set_errno(err, r, "writing %s", path) : 0;
}

int sandbox_bind(struct sandbox *sandbox, const char *container_id, const char *source, bool read_only,
		 bool recursive_ro, char ret_guest[SANDBOX_PATH_MAX], struct err *err)
{
	struct volume volume = {.source = source, .read_only = read_only, .recursive_ro = recursive_ro};
	char path[VOLUMES_NAME];
	int r = check_id(container_id, err);

	if (r == 0)
		r = sandbox->driver->bind(sandbox, container_id, &volume, path, err);
	if (r == 0)
		snprintf(ret_guest, SANDBOX_PATH_MAX, GUEST_SHARE_DIR "/%s", path);
	return r;
}

int sandbox_place_remove(struct sandbox *sandbox, const char *container_id, bool lazy, struct err *err)
{
	struct sandbox_place place;
	int r = sandbox_place(sandbox, container_id, &place, err);

	if (r < 0)
		return r;
	return sandbox->driver->undo(sandbox->room, "cdir", place.dir, lazy || sandbox_is_dead(sandbox), err);
}

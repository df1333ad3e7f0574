/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/spec/spec.h"

#include "base/tree.h"
#include "base/util.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>

/* The image is not trusted: its files and their lines have limits. */
#define DB_MAX_BYTES	(4u << 20)
#define LINE_MAX_BYTES	(1u << 20) /* of a line and of the pointers to its members */
#define LINE_ROOM_BYTES 1024u
#define GROUPS_MAX	65536

/* An id of 32 bits but for -1, which chown(2) gives another meaning. */
static bool parse_id(const char *text, uint32_t *ret)
{
	uint64_t v;

	if (parse_u64(text, &v) < 0 || v >= UINT32_MAX)
		return false;
	*ret = (uint32_t)v;
	return true;
}

/* ---- the files ----------------------------------------------------------------------------------------- */

struct db {
	const char *path;
	FILE *f; /* NULL: the image has no such file */
	char *line;
	size_t room;
};

static void db_done(struct db *db)
{
	if (db->f)
		fclose(db->f);
	free(db->line);
}

static int db_open(struct db *db, int root, const char *path, struct err *err)
{
	int fd CLEANUP_CLOSE = path_open_in(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	*db = (struct db){.path = path};
	if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
		return 0;
	if (fd < 0)
		return err_set_errno(err, fd, "the image's /%s", path);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "the image's /%s is not a regular file", path);
	if (st.st_size > (off_t)DB_MAX_BYTES)
		return err_set(err, -EFBIG, "the image's /%s is larger than %u bytes", path, DB_MAX_BYTES);
	db->f = fdopen(fd, "r");
	if (!db->f)
		return err_set_errno(err, -errno, "the image's /%s", path);
	(void)move_fd(fd);
	return 0;
}

static int db_grow(struct db *db, struct err *err)
{
	size_t room = db->room ? db->room * 2 : LINE_ROOM_BYTES;
	char *grown;

	if (room > LINE_MAX_BYTES)
		return err_set(err, -E2BIG, "the image's /%s has a line that is too long", db->path);
	grown = realloc(db->line, room);
	if (!grown)
		return err_oom(err);
	db->line = grown;
	db->room = room;
	return 0;
}

/*
 * Lines that name no user of this file: NIS's "+name" and "-name", which libc reads as uid 0 where fields are
 * missing, and ids that chown(2) has no use for.
 */
static bool usable(const char *name, uint32_t id)
{
	return name[0] != '+' && name[0] != '-' && id != UINT32_MAX;
}

/* 1: an entry, 0: the end, or a negative errno. What libc cannot read is left out. */
static int next_passwd(struct db *db, struct passwd *ret, struct err *err)
{
	struct passwd *e;
	int r = db->f && db->room == 0 ? db_grow(db, err) : 0;

	while (r == 0 && db->f) {
		r = -fgetpwent_r(db->f, ret, db->line, db->room, &e);
		if (r == 0 && usable(ret->pw_name, ret->pw_uid) && ret->pw_gid != UINT32_MAX)
			return 1;
		if (r == -ENOENT)
			return 0;
		/* Then the stream stands at the start of the line again. */
		if (r == -ERANGE)
			r = db_grow(db, err);
		else if (r < 0)
			err_set_errno(err, r, "the image's /%s", db->path);
	}
	return r;
}

static int next_group(struct db *db, struct group *ret, struct err *err)
{
	struct group *e;
	int r = db->f && db->room == 0 ? db_grow(db, err) : 0;

	while (r == 0 && db->f) {
		r = -fgetgrent_r(db->f, ret, db->line, db->room, &e);
		if (r == 0 && usable(ret->gr_name, ret->gr_gid))
			return 1;
		if (r == -ENOENT)
			return 0;
		if (r == -ERANGE)
			r = db_grow(db, err);
		else if (r < 0)
			err_set_errno(err, r, "the image's /%s", db->path);
	}
	return r;
}

/* ---- look-up ------------------------------------------------------------------------------------------- */

/*
 * By name first, as container runtimes do, then by number. ret_name: the entry's; NULL if there is none, and
 * then uid and gid are as they were.
 */
static int find_passwd(struct db *db, const char *name, struct spec_user *user, char **ret_name,
		       struct err *err)
{
	char *found CLEANUP_FREE = NULL;
	uint32_t wanted = 0;
	bool number = parse_id(name, &wanted);
	struct passwd e;
	int r;

	while ((r = next_passwd(db, &e, err)) > 0) {
		bool same = str_eq(e.pw_name, name);

		if (!same && (!number || found || e.pw_uid != wanted))
			continue;
		user->uid = e.pw_uid;
		user->gid = e.pw_gid;
		if (str_set(&found, e.pw_name) < 0)
			return err_oom(err);
		if (same)
			break;
	}
	if (r < 0)
		return r;
	*ret_name = move_ptr(found);
	return 0;
}

static bool lists_member(char *const *members, const char *name)
{
	for (; *members; members++) {
		if (str_eq(*members, name))
			return true;
	}
	return false;
}

static int add_group(struct spec_user *user, uint32_t gid)
{
	uint32_t *grown;

	for (size_t i = 0; i < user->n_groups; i++) {
		if (user->groups[i] == gid)
			return 0;
	}
	if (user->n_groups >= GROUPS_MAX)
		return -E2BIG;
	grown = reallocarray(user->groups, user->n_groups + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	user->groups = grown;
	user->groups[user->n_groups++] = gid;
	return 0;
}

/* The gid of `group` (NULL: not asked for) and the groups that list `name` (NULL: none do). */
static int read_groups(struct db *db, const char *group, const char *name, struct spec_user *user,
		       bool *ret_found, struct err *err)
{
	struct group e;
	int r;

	while ((r = next_group(db, &e, err)) > 0) {
		int added;

		if (group && !*ret_found && str_eq(e.gr_name, group)) {
			user->gid = e.gr_gid;
			*ret_found = true;
		}
		if (!name || !lists_member(e.gr_mem, name))
			continue;
		added = add_group(user, e.gr_gid);
		if (added < 0)
			return err_set_errno(err, added, "the image's /%s", db->path);
	}
	return r;
}

static int lookup(struct db *passwd, struct db *groups, const char *name, const char *group,
		  struct spec_user *user, struct err *err)
{
	char *entry CLEANUP_FREE = NULL;
	bool group_found = false;
	int r = find_passwd(passwd, name, user, &entry, err);

	if (r < 0)
		return r;
	if (!entry && !parse_id(name, &user->uid))
		return err_set(err, -EINVAL, "unable to find user %.200s: no matching entries in passwd file",
			       name);
	user->no_entry = !entry;
	r = read_groups(groups, group, entry, user, &group_found, err);
	if (r < 0)
		return r;
	if (group && !group_found && !parse_id(group, &user->gid))
		return err_set(err, -EINVAL, "unable to find group %.200s: no matching entries in group file",
			       group);
	return 0;
}

int spec_user_lookup(const char *rootfs, const char *user, struct spec_user *ret_user, struct err *err)
{
	int root CLEANUP_CLOSE = open(rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
	char *name CLEANUP_FREE = strdup(str_empty(user) ? "0" : user);
	struct db passwd = {.f = NULL}, groups = {.f = NULL};
	struct spec_user found = {0};
	char *group;
	int r;

	if (root < 0)
		return err_set_errno(err, -errno, "%s", rootfs);
	if (!name)
		return err_oom(err);
	group = strchr(name, ':');
	if (group)
		*group++ = 0;
	r = db_open(&passwd, root, "etc/passwd", err);
	if (r == 0)
		r = db_open(&groups, root, "etc/group", err);
	if (r == 0)
		r = lookup(&passwd, &groups, *name ? name : "0", str_empty(group) ? NULL : group, &found,
			   err);
	db_done(&passwd);
	db_done(&groups);
	if (r < 0) {
		free(found.groups);
		return r;
	}
	*ret_user = found;
	return 0;
}

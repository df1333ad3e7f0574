/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/image.h"

#include "base/util.h"
#include "base/tree.h"

#include <fcntl.h>
#include <sys/stat.h>

#define DB_MAX_BYTES (4u << 20)
#define GROUPS_MAX   65536

/* Splits a line of passwd(5) or group(5) in place; the number of fields found. */
static size_t split(char *line, char **fields, size_t max)
{
	size_t n = 0;

	while (n < max) {
		fields[n++] = line;
		line = strchr(line, ':');
		if (!line)
			break;
		*line++ = 0;
	}
	return n;
}

/* An id of 32 bits but for -1, which chown(2) gives another meaning. */
static bool parse_id(const char *text, uint32_t *ret)
{
	uint64_t v;

	if (parse_u64(text, &v) < 0 || v >= UINT32_MAX)
		return false;
	*ret = (uint32_t)v;
	return true;
}

/* A missing file is an empty one: "". */
static int read_db(int root, const char *path, char **ret, struct err *err)
{
	int fd CLEANUP_CLOSE = path_open_in(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	char at[40];
	struct stat st;
	int r;

	if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP) {
		*ret = strdup("");
		return *ret ? 0 : err_oom(err);
	}
	if (fd < 0)
		return err_set_errno(err, fd, "the image's /%s", path);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "the image's /%s is no file", path);
	snprintf(at, sizeof(at), "/proc/self/fd/%d", fd);
	r = read_file(at, DB_MAX_BYTES, ret, NULL);
	return r < 0 ? err_set_errno(err, r, "the image's /%s", path) : 0;
}

static char *next_line(char **at)
{
	char *line = *at;
	char *end;

	if (!*line)
		return NULL;
	end = strchr(line, '\n');
	if (end) {
		*end = 0;
		*at = end + 1;
	} else {
		*at = line + strlen(line);
	}
	return line;
}

struct passwd_entry {
	char *name; /* NULL: the id has no entry */
	uint32_t uid, gid;
};

/* By name first, as everyone does, then by number. */
static bool find_passwd(char *db, const char *name, struct passwd_entry *ret)
{
	uint32_t wanted = 0;
	bool number = parse_id(name, &wanted), found = false;
	char *line;

	while ((line = next_line(&db))) {
		char *f[7];
		struct passwd_entry e;

		if (split(line, f, ARRAY_SIZE(f)) < 4 || !parse_id(f[2], &e.uid) || !parse_id(f[3], &e.gid))
			continue;
		e.name = f[0];
		if (str_eq(f[0], name)) {
			*ret = e;
			return true;
		}
		if (number && !found && e.uid == wanted) {
			*ret = e;
			found = true;
		}
	}
	return found;
}

static bool lists_member(char *members, const char *name)
{
	for (char *save = NULL, *m = strtok_r(members, ",", &save); m; m = strtok_r(NULL, ",", &save)) {
		if (str_eq(m, name))
			return true;
	}
	return false;
}

static int add_group(struct image_user *user, uint32_t gid)
{
	uint32_t *grown;

	for (size_t i = 0; i < user->n_groups; i++) {
		if (user->groups[i] == gid)
			return 0;
	}
	if (user->n_groups >= GROUPS_MAX)
		return -E2BIG;
	grown = realloc(user->groups, (user->n_groups + 1) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	user->groups = grown;
	user->groups[user->n_groups++] = gid;
	return 0;
}

/* The gid of `group` (NULL: not asked for) and the groups that list `name` (NULL: none do). */
static int read_groups(char *db, const char *group, const char *name, struct image_user *user,
		       bool *ret_found)
{
	char *line;

	while ((line = next_line(&db))) {
		char *f[4];
		uint32_t gid;
		size_t n = split(line, f, ARRAY_SIZE(f));
		int r;

		if (n < 3 || !parse_id(f[2], &gid))
			continue;
		if (group && !*ret_found && str_eq(f[0], group)) {
			user->gid = gid;
			*ret_found = true;
		}
		if (!name || n < 4 || !lists_member(f[3], name))
			continue;
		r = add_group(user, gid);
		if (r < 0)
			return r;
	}
	return 0;
}

static int lookup(char *passwd, char *group_db, const char *name, const char *group, struct image_user *user,
		  struct err *err)
{
	struct passwd_entry e = {0};
	bool group_found = false;
	int r;

	if (find_passwd(passwd, name, &e)) {
		user->uid = e.uid;
		user->gid = e.gid;
	} else if (!parse_id(name, &user->uid)) {
		return err_set(err, -EINVAL, "unable to find user %.200s: no matching entries in passwd file",
			       name);
	}
	r = read_groups(group_db, group, e.name, user, &group_found);
	if (r < 0)
		return err_set_errno(err, r, "the image's /etc/group");
	if (group && !group_found && !parse_id(group, &user->gid))
		return err_set(err, -EINVAL, "unable to find group %.200s: no matching entries in group file",
			       group);
	return 0;
}

int image_user_lookup(const char *rootfs, const char *user, struct image_user *ret_user, struct err *err)
{
	int root CLEANUP_CLOSE = open(rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
	char *name CLEANUP_FREE = strdup(str_empty(user) ? "0" : user);
	char *passwd CLEANUP_FREE = NULL;
	char *groups CLEANUP_FREE = NULL;
	struct image_user found = {0};
	char *group;
	int r;

	if (root < 0)
		return err_set_errno(err, -errno, "%s", rootfs);
	if (!name)
		return err_oom(err);
	group = strchr(name, ':');
	if (group)
		*group++ = 0;
	r = read_db(root, "etc/passwd", &passwd, err);
	if (r == 0)
		r = read_db(root, "etc/group", &groups, err);
	if (r == 0)
		r = lookup(passwd, groups, *name ? name : "0", str_empty(group) ? NULL : group, &found, err);
	if (r < 0) {
		free(found.groups);
		return r;
	}
	*ret_user = found;
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/procfs.h"

#include "base/util.h"

#define STAT_MAX 8192

/* ---- mounts -------------------------------------------------------------------------------------------- */

/* The kernel writes blank, tab, newline and backslash as a backslash and three octal digits. */
static void unescape(char *s)
{
	char *to = s;

	while (*s) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' &&
		    s[3] <= '7') {
			*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = 0;
}

static char *next_word(char **at)
{
	char *word = strsep(at, " ");

	if (word)
		unescape(word);
	return word;
}

/* id parent major:minor root point options [optional…] - type source super */
static int parse_mount(char *line, struct procfs_mount *ret)
{
	char *end = strstr(line, " - ");

	line[strcspn(line, "\n")] = 0;
	if (!end)
		return -EBADMSG;
	*end = 0;
	end += 3;
	for (int i = 0; i < 3; i++)
		strsep(&line, " ");
	ret->root = next_word(&line);
	ret->point = next_word(&line);
	ret->options = next_word(&line);
	ret->type = next_word(&end);
	ret->source = next_word(&end);
	ret->super = next_word(&end);
	return ret->options && ret->super ? 0 : -EBADMSG;
}

int procfs_mounts_of(FILE *f, procfs_mount_fn *fn, void *arg)
{
	char *line CLEANUP_FREE = NULL;
	size_t room = 0;

	errno = 0;
	while (getline(&line, &room, f) > 0) {
		struct procfs_mount mount;
		int r = parse_mount(line, &mount);

		if (r == 0)
			r = fn(&mount, arg);
		if (r != 0)
			return r;
		errno = 0;
	}
	return feof(f) ? 0 : errno ? -errno : -EIO;
}

int procfs_mounts(procfs_mount_fn *fn, void *arg)
{
	FILE *f CLEANUP_FILE = fopen("/proc/self/mountinfo", "re");

	return f ? procfs_mounts_of(f, fn, arg) : -errno;
}

struct below {
	const char *path;
	size_t len;
	char **points;
};

static int take_point(const struct procfs_mount *mount, void *arg)
{
	struct below *below = arg;
	const char *rest = mount->point + below->len;

	if (strncmp(mount->point, below->path, below->len) != 0 || (*rest != '/' && *rest != 0))
		return 0;
	return strv_add(&below->points, mount->point);
}

int procfs_mounts_below(const char *path, char ***ret_points)
{
	struct below below = {.path = path, .len = strlen(path)};
	int r;

	while (below.len > 0 && path[below.len - 1] == '/')
		below.len--;
	r = procfs_mounts(take_point, &below);
	if (r < 0) {
		strv_free(below.points);
		return r;
	}
	*ret_points = below.points;
	return 0;
}

/* ---- the boot ------------------------------------------------------------------------------------------ */

int procfs_boot_id(char out[static PROCFS_BOOT_ID_SIZE])
{
	char *text CLEANUP_FREE = NULL;
	int r = read_file("/proc/sys/kernel/random/boot_id", 128, &text, NULL);

	if (r < 0)
		return r;
	text[strcspn(text, "\n")] = 0;
	if (strlen(text) != PROCFS_BOOT_ID_SIZE - 1)
		return -EBADMSG;
	memcpy(out, text, PROCFS_BOOT_ID_SIZE);
	return 0;
}

/* ---- processes ----------------------------------------------------------------------------------------- */

int procfs_stat_parse(const char *line, struct procfs_stat *ret)
{
	/* The command's name may hold anything, a ')' too: the last one ends it. */
	const char *rest = strrchr(line, ')');
	unsigned long long start;
	unsigned long flags;
	char state;

	if (!rest ||
	    sscanf(rest + 1,
		   " %c %*s %*s %*s %*s %*s %lu %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &state,
		   &flags, &start) != 3)
		return -EBADMSG;
	*ret = (struct procfs_stat){.state = state, .flags = flags, .start_time = start};
	return 0;
}

int procfs_stat(pid_t pid, struct procfs_stat *ret)
{
	char path[64];
	char *line CLEANUP_FREE = NULL;
	int r;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	r = read_file(path, STAT_MAX, &line, NULL);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	return procfs_stat_parse(line, ret);
}

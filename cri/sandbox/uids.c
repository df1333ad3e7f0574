/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/sandbox/uids_internal.h"

#include "base/procfs.h"
#include "base/util.h"

#include <dirent.h>
#include <sys/random.h>
#include <sys/resource.h>

#define STATUS_MAX 65536

static bool is_taken(const struct uids *uids, uint32_t i)
{
	return uids->taken[i / 8] >> (i % 8) & 1;
}

static void mark(struct uids *uids, uint32_t i, bool taken)
{
	uint8_t bit = (uint8_t)(1U << (i % 8));

	if (taken)
		uids->taken[i / 8] |= bit;
	else
		uids->taken[i / 8] &= (uint8_t)~bit;
}

static int take_journalled(void *arg, const char *owner, const char *text)
{
	struct uids *uids = arg;
	uint64_t uid;

	(void)owner;
	if (parse_u64(text, &uid) == 0 && uid >= uids->first && uid - uids->first < uids->count)
		mark(uids, (uint32_t)(uid - uids->first), true);
	return 0;
}

int uids_init(struct uids *uids, uid_t first, uint32_t count, struct store *store, struct err *err)
{
	int r;

	*uids = (struct uids){.first = first, .count = count};
	if (count > UIDS_MAX)
		return err_set(err, -EINVAL, "a range of more than %u users", UIDS_MAX);
	uids->taken = calloc(1, count / 8 + 1);
	if (!uids->taken)
		return err_oom(err);
	pthread_mutex_init(&uids->lock, NULL);
	/* Two servers on one host, which are given the same range by mistake, rarely meet. */
	if (count > 0 && getrandom(&uids->next, sizeof(uids->next), 0) == (ssize_t)sizeof(uids->next))
		uids->next %= count;
	r = count > 0 ? journal_each(store, "uid", take_journalled, uids, err) : 0;
	if (r < 0)
		uids_done(uids);
	return r;
}

void uids_done(struct uids *uids)
{
	if (!uids->taken)
		return;
	free(move_ptr(uids->taken));
	pthread_mutex_destroy(&uids->lock);
}

/* A process whose real user this is, and that does not end. */
static bool lives_as(const char *pid, uid_t uid)
{
	char *path CLEANUP_FREE = xasprintf("/proc/%s/status", pid);
	char *text CLEANUP_FREE = NULL;
	struct procfs_stat stat;
	const char *user;
	unsigned int real;

	if (!path || read_file(path, STATUS_MAX, &text, NULL) < 0)
		return false;
	user = strstr(text, "\nUid:\t");
	if (!user || sscanf(user, "\nUid:\t%u", &real) != 1 || real != uid)
		return false;
	return procfs_stat((pid_t)strtol(pid, NULL, 10), &stat) == 0 && !procfs_stat_ending(&stat);
}

bool uids_runs(uid_t uid)
{
	const struct dirent *de;
	bool runs = false;
	DIR *dir;

	/*
	 * getpriority(2): ESRCH where the user has no process; the usual case, and the kernel knows it at
	 * once. Else it may have ended and wait to be reaped, by another than this server if an earlier one
	 * started it; and the init of a PID namespace ends only after all of the namespace's are reaped.
	 */
	errno = 0;
	if (getpriority(PRIO_USER, uid) == -1 && errno == ESRCH)
		return false;
	dir = opendir("/proc");
	while (dir && !runs && (de = readdir(dir)))
		runs = de->d_name[0] >= '1' && de->d_name[0] <= '9' && lives_as(de->d_name, uid);
	if (dir)
		closedir(dir);
	return runs;
}

int uids_take(struct uids *uids, uid_t *ret_uid, struct err *err)
{
	int r = -EAGAIN;

	pthread_mutex_lock(&uids->lock);
	for (uint32_t n = 0; r < 0 && n < uids->count; n++) {
		uint32_t i = uids->next;

		uids->next = (i + 1) % uids->count;
		if (is_taken(uids, i) || uids_runs(uids->first + i))
			continue;
		mark(uids, i, true);
		*ret_uid = uids->first + i;
		r = 0;
	}
	pthread_mutex_unlock(&uids->lock);
	return r == 0 ? 0
		      : err_set_status(err, r, ERR_RESOURCE_EXHAUSTED,
				       "no user is left for another VM: %u of [sandbox] uid_range are taken",
				       uids->count);
}

void uids_give(struct uids *uids, uid_t uid)
{
	if (uid < uids->first || uid - uids->first >= uids->count)
		return;
	pthread_mutex_lock(&uids->lock);
	mark(uids, uid - uids->first, false);
	pthread_mutex_unlock(&uids->lock);
}

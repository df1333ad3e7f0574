/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sysctls of a namespace that differ from a fresh one's: what a CNI plugin (tuning and others) has set.
 *
 * A thread sees below /proc/sys/net what belongs to the namespace it is in. An interface's values are
 * compared with those that the fresh namespace has for `default`, from which a new interface takes them.
 */
#include "vmm/netview_internal.h"

#include "base/util.h"
#include "vmm/netns_internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#define ROOT	  "/proc/sys/"
#define DEPTH_MAX 6
#define VALUE_MAX 4096

struct values {
	struct vmm_net_sysctl *list;
	size_t n;
};
struct walk {
	const struct vmm_net *net;
	struct values *values;
};

static void values_done(struct values *v)
{
	for (size_t i = 0; i < v->n; i++) {
		free(v->list[i].key);
		free(v->list[i].value);
	}
	free(v->list);
}

/* Made by the kernel from something else, secret, or of no meaning in another kernel. */
static bool is_left_out(const char *key)
{
	static const char *const ends[] = {
		"/mtu",	 "/stable_secret", "/tcp_fastopen_key", "/nf_conntrack_max", "/nf_conntrack_buckets",
		"/flush"};

	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		if (str_ends(key, ends[i]))
			return true;
	}
	return false;
}

static int take_file(const struct walk *w, int dirfd, const char *name, const char *key)
{
	struct vmm_net_sysctl *to;
	char *value CLEANUP_FREE = NULL;
	struct stat st;
	int r = 0;

	/* Some cannot be read in some states (stable_secret); what is read-only cannot have been set. */
	if (fstatat(dirfd, name, &st, 0) < 0 || !(st.st_mode & S_IWUSR) || !(st.st_mode & S_IRUSR) ||
	    is_left_out(key) || read_file_at(dirfd, name, VALUE_MAX, &value, NULL) < 0)
		return 0;
	value[strcspn(value, "\n")] = 0;
	to = netview_append(&w->values->list, &w->values->n, sizeof(*to), &r);
	if (!to)
		return r;
	to->key = strdup(key);
	to->value = move_ptr(value);
	return to->key ? 0 : -ENOMEM;
}

/* Below conf/ and neigh/ there is a directory for each interface. */
static bool is_wanted(const struct walk *w, const char *parent, const char *name)
{
	const struct vmm_net_link *link = w->net ? vmm_net_link_by_name(w->net, name) : NULL;

	if (!str_ends(parent, "/conf") && !str_ends(parent, "/neigh"))
		return true;
	return str_eq(name, "all") || str_eq(name, "default") || str_eq(name, "lo") ||
	       (link && link->flags & IFF_UP);
}

static int walk_dir(const struct walk *w, const char *dir, int depth)
{
	char *path CLEANUP_FREE = xasprintf(ROOT "%s", dir);
	DIR *d = path ? opendir(path) : NULL;
	struct dirent *ent;
	int r = path ? 0 : -ENOMEM;

	if (!d)
		return r;
	while (r == 0 && (ent = readdir(d))) {
		char *key CLEANUP_FREE = NULL;

		if (ent->d_name[0] == '.' || (ent->d_type == DT_DIR && !is_wanted(w, dir, ent->d_name)))
			continue;
		key = xasprintf("%s/%s", dir, ent->d_name);
		if (!key)
			r = -ENOMEM;
		else if (ent->d_type != DT_DIR)
			r = take_file(w, dirfd(d), ent->d_name, key);
		else if (depth < DEPTH_MAX)
			r = walk_dir(w, key, depth + 1);
	}
	closedir(d);
	return r;
}

static int walk_job(void *arg, struct err *err)
{
	int r = walk_dir(arg, "net", 0);

	return r < 0 ? err_set_errno(err, r, "reading " ROOT "net") : 0;
}

static int by_key(const void *a, const void *b)
{
	const struct vmm_net_sysctl *x = a, *y = b;

	return strcmp(x->key, y->key);
}

/* "net/ipv4/conf/eth0/rp_filter" → "net/ipv4/conf/default/rp_filter". */
static int fresh_key(const struct vmm_net *net, const char *key, char *ret, size_t size)
{
	static const char *const dirs[] = {"/conf/", "/neigh/"};

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		const char *at = strstr(key, dirs[i]), *name, *rest;
		char ifname[IF_NAMESIZE];

		if (!at)
			continue;
		name = at + strlen(dirs[i]);
		rest = strchr(name, '/');
		if (!rest || (size_t)(rest - name) >= sizeof(ifname))
			break;
		snprintf(ifname, sizeof(ifname), "%.*s", (int)(rest - name), name);
		if (str_eq(ifname, "lo") || !vmm_net_link_by_name(net, ifname))
			break;
		return snprintf(ret, size, "%.*sdefault%s", (int)(name - key), key, rest);
	}
	return snprintf(ret, size, "%s", key);
}

static int compare(struct vmm_net *net, struct values *have, struct values *fresh)
{
	int r = 0;

	if (fresh->n > 0)
		qsort(fresh->list, fresh->n, sizeof(*fresh->list), by_key);
	if (have->n > 0)
		qsort(have->list, have->n, sizeof(*have->list), by_key);
	for (size_t i = 0; r == 0 && i < have->n; i++) {
		char key[512];
		struct vmm_net_sysctl want = {.key = key}, *other, *to;

		if (fresh_key(net, have->list[i].key, key, sizeof(key)) >= (int)sizeof(key))
			continue;
		other = fresh->n > 0 ? bsearch(&want, fresh->list, fresh->n, sizeof(*fresh->list), by_key)
				     : NULL;
		if (!other || str_eq(other->value, have->list[i].value))
			continue;
		to = netview_append(&net->sysctls, &net->n_sysctls, sizeof(*to), &r);
		if (to)
			*to = (struct vmm_net_sysctl){move_ptr(have->list[i].key),
						      move_ptr(have->list[i].value)};
	}
	return r;
}

int netview_sysctls(const char *netns_path, struct vmm_net *net, struct err *err)
{
	struct values have = {0}, fresh = {0};
	struct walk w = {.net = net, .values = &have}, f = {.values = &fresh};
	int r = netns_run(netns_path, walk_job, &w, err);

	if (r == 0)
		r = netns_run_new(walk_job, &f, err);
	if (r == 0) {
		r = compare(net, &have, &fresh);
		if (r < 0)
			err_set_errno(err, r, "comparing sysctls");
	}
	values_done(&have);
	values_done(&fresh);
	return r;
}

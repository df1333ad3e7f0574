/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/network/cni.h"

#include "base/util.h"
#include "cri/network/chain_internal.h"
#include "cri/network/conf_internal.h"
#include "cri/network/result_internal.h"

#include <dirent.h>
#include <json-c/json.h>
#include <pthread.h>
#include <sys/stat.h>

/* A file touched within this time of its reading may change again without a new time stamp. */
#define UNSETTLED_NS	100000000LL
#define STATUS_FRESH_NS (5 * NS_PER_SEC)
#define STATUS_NS	(5 * NS_PER_SEC)

struct stamp {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime, ctime;
};

struct cni {
	char **bin_dirs;
	char *conf_dir;
	char *cache_dir;
	pthread_mutex_t lock; /* what is below */
	char *pod_cidr;
	char *file; /* NULL: nothing valid is loaded */
	char *text;
	char **programs; /* plugins and IPAM plugins of text */
	struct stamp dir_stamp, file_stamp;
	bool settled, is_1_1;
	/* What the plugins of text have answered to STATUS. */
	bool status_runs;
	int64_t status_at_ns; /* 0: nothing yet */
	int status;
	struct err status_err;
};

DEFINE_CLEANUP(attachment, struct cni_attachment, cni_attachment_free)

/* ---- the configuration --------------------------------------------------------------------------------- */

static int stamp_of(const char *path, struct stamp *ret)
{
	struct stat st;

	*ret = (struct stamp){0};
	if (stat(path, &st) < 0)
		return -errno;
	*ret = (struct stamp){st.st_dev, st.st_ino, st.st_size, st.st_mtim, st.st_ctim};
	return 0;
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool same_stamp(const struct stamp *a, const struct stamp *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size && same_time(a->mtime, b->mtime) &&
	       same_time(a->ctime, b->ctime);
}

static bool old_enough(const struct stamp *stamp)
{
	int64_t age = now_realtime_ns() - (stamp->ctime.tv_sec * NS_PER_SEC + stamp->ctime.tv_nsec);

	return age > UNSETTLED_NS || age < 0;
}

static void unload(struct cni *cni)
{
	cni->file = (free(cni->file), NULL);
	cni->text = (free(cni->text), NULL);
	cni->programs = strv_free(cni->programs);
	cni->settled = false;
	cni->status_at_ns = 0;
}

static bool is_fresh(const struct cni *cni)
{
	struct stamp dir, file;

	return cni->file && cni->settled && stamp_of(cni->conf_dir, &dir) == 0 &&
	       stamp_of(cni->file, &file) == 0 && same_stamp(&dir, &cni->dir_stamp) &&
	       same_stamp(&file, &cni->file_stamp);
}

static int list_programs(const struct cni_conf *conf, char ***ret)
{
	char **programs CLEANUP_STRV = NULL;

	for (size_t i = 0; i < conf->n_plugins; i++) {
		if (strv_add(&programs, conf->plugins[i].type) < 0)
			return -ENOMEM;
		if (conf->plugins[i].ipam && strv_add(&programs, conf->plugins[i].ipam) < 0)
			return -ENOMEM;
	}
	*ret = move_ptr(programs);
	return 0;
}

/* Loads what conf_dir has now, unless that is loaded. The stamps are taken before the reading. */
static int refresh_locked(struct cni *cni, struct err *err)
{
	struct cni_conf *conf = NULL;
	size_t len = 0;
	int r;

	if (is_fresh(cni))
		return 0;
	unload(cni);
	stamp_of(cni->conf_dir, &cni->dir_stamp);
	r = cni_conf_find(cni->conf_dir, &cni->file, err);
	if (r < 0)
		goto fail;
	stamp_of(cni->file, &cni->file_stamp);
	r = read_file(cni->file, CNI_CONF_MAX, &cni->text, &len);
	if (r < 0)
		err_set_errno(err, r, "cannot read CNI configuration %s", cni->file);
	if (r == 0)
		r = cni_conf_parse(cni->text, len, cni->file, &conf, err);
	if (r == 0 && list_programs(conf, &cni->programs) < 0)
		r = err_oom(err);
	cni->is_1_1 = r == 0 && conf->version_num >= 10100;
	cni_conf_free(conf);
	if (r < 0)
		goto fail;
	cni->settled = old_enough(&cni->dir_stamp) && old_enough(&cni->file_stamp);
	return 0;
fail:
	unload(cni);
	if (err && r != -ENOMEM)
		err->status = ERR_FAILED_PRECONDITION;
	return r;
}

/* Asks the plugins, without the lock. Their answer counts only for the configuration they were asked with. */
static int ask_status(struct cni *cni, struct err *err)
{
	char *file CLEANUP_FREE = strdup(cni->file), *text CLEANUP_FREE = strdup(cni->text);
	struct err said = ERR_INIT;
	int r;

	if (!file || !text)
		return err_oom(err);
	cni->status_runs = true;
	pthread_mutex_unlock(&cni->lock);
	r = cni_chain_status(file, text, cni->bin_dirs, now_monotonic_ns() + STATUS_NS, &said);
	pthread_mutex_lock(&cni->lock);
	cni->status_runs = false;
	if (str_eq(cni->text, text)) {
		cni->status_at_ns = now_monotonic_ns();
		cni->status = r;
		cni->status_err = said;
	}
	return r < 0 ? err_copy(err, &said) : 0;
}

static int status_locked(struct cni *cni, struct err *err)
{
	if (!cni->is_1_1)
		return 0;
	if (!cni->status_runs &&
	    (!cni->status_at_ns || now_monotonic_ns() - cni->status_at_ns > STATUS_FRESH_NS))
		return ask_status(cni, err);
	if (!cni->status_at_ns)
		return err_set_status(err, -EAGAIN, ERR_UNAVAILABLE,
				      "%s: its plugins have not answered STATUS yet", cni->file);
	return cni->status < 0 ? err_copy(err, &cni->status_err) : 0;
}

/* A configuration is in force, and its plugins exist. */
static int present_locked(struct cni *cni, struct err *err)
{
	int r = refresh_locked(cni, err);

	for (size_t i = 0; r == 0 && cni->programs[i]; i++) {
		char *path CLEANUP_FREE = NULL;

		r = cni_program_find(cni->bin_dirs, cni->programs[i], &path, err);
		if (r < 0)
			err_wrap(err, "%s", cni->file);
	}
	return r;
}

int cni_status(struct cni *cni, struct err *err)
{
	int r;

	pthread_mutex_lock(&cni->lock);
	r = present_locked(cni, err);
	if (r == 0)
		r = status_locked(cni, err);
	pthread_mutex_unlock(&cni->lock);
	return r;
}

/* Copies of what is in force now. */
static int current(struct cni *cni, char **ret_file, char **ret_text, char **ret_cidr, struct err *err)
{
	int r;

	pthread_mutex_lock(&cni->lock);
	r = refresh_locked(cni, err);
	if (r == 0 && (str_set(ret_file, cni->file) < 0 || str_set(ret_text, cni->text) < 0 ||
		       str_set(ret_cidr, cni->pod_cidr) < 0))
		r = err_oom(err);
	pthread_mutex_unlock(&cni->lock);
	return r;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static char *cache_path(const struct cni *cni, const char *pod_id)
{
	return xasprintf("%s/%s.json", cni->cache_dir, pod_id);
}

static char *cidr_path(const struct cni *cni)
{
	return xasprintf("%s/pod-cidr", cni->cache_dir);
}

int cni_new(char *const *bin_dirs, const char *conf_dir, const char *cache_dir, struct cni **ret_cni,
	    struct err *err)
{
	struct cni *cni = calloc(1, sizeof(*cni));
	char *path CLEANUP_FREE = NULL;
	int r = cni ? 0 : -ENOMEM;

	if (cni)
		pthread_mutex_init(&cni->lock, NULL);
	for (size_t i = 0; r == 0 && bin_dirs && bin_dirs[i]; i++)
		r = strv_add(&cni->bin_dirs, bin_dirs[i]);
	r = r ? r : str_set(&cni->conf_dir, conf_dir);
	r = r ? r : str_set(&cni->cache_dir, cache_dir);
	if (r < 0) {
		cni_free(cni);
		return err_oom(err);
	}
	r = mkdir_p(cache_dir, 0700);
	if (r < 0) {
		cni_free(cni);
		return err_set_errno(err, r, "cannot make %s", cache_dir);
	}
	path = cidr_path(cni);
	if (path)
		read_file(path, 256, &cni->pod_cidr, NULL); /* none is none */
	*ret_cni = cni;
	return 0;
}

struct cni *cni_free(struct cni *cni)
{
	if (cni) {
		unload(cni);
		strv_free(cni->bin_dirs);
		free(cni->conf_dir);
		free(cni->cache_dir);
		free(cni->pod_cidr);
		pthread_mutex_destroy(&cni->lock);
		free(cni);
	}
	return NULL;
}

static int check_cidrs(const char *cidrs, struct err *err)
{
	char *text CLEANUP_FREE = strdup(cidrs), *save = NULL;

	if (!text)
		return err_oom(err);
	if (strlen(cidrs) > 200)
		return err_set(err, -EINVAL, "pod_cidr is too long");
	for (char *cidr = strtok_r(text, ",", &save); cidr; cidr = strtok_r(NULL, ",", &save))
		if (!cni_cidr_valid(cidr))
			return err_set(err, -EINVAL, "pod_cidr \"%s\" is not a prefix like 10.1.0.0/24",
				       cidr);
	return 0;
}

int cni_set_pod_cidr(struct cni *cni, const char *cidr, struct err *err)
{
	char *path CLEANUP_FREE = cidr_path(cni);
	int r = check_cidrs(cidr ? cidr : "", err);

	if (r < 0)
		return r;
	if (!path)
		return err_oom(err);
	pthread_mutex_lock(&cni->lock);
	if (str_empty(cidr))
		r = unlink(path) < 0 && errno != ENOENT ? -errno : 0;
	else
		r = write_file_atomic(path, cidr, strlen(cidr), 0600, true);
	if (r == 0)
		r = str_set(&cni->pod_cidr, str_empty(cidr) ? NULL : cidr);
	pthread_mutex_unlock(&cni->lock);
	return r < 0 ? err_set_errno(err, r, "cannot write %s", path) : 0;
}

/* ---- ADD ----------------------------------------------------------------------------------------------- */

static int64_t deadline_or(int64_t deadline_ns, int64_t at_least_ns)
{
	int64_t now = now_monotonic_ns();

	if (!deadline_ns)
		deadline_ns = now + CNI_DEADLINE_NS;
	return deadline_ns < now + at_least_ns ? now + at_least_ns : deadline_ns;
}

/* Runs DEL and forgets the attachment. */
static int detach(struct cni *cni, struct cni_attachment *att, const char *path, int64_t deadline_ns,
		  struct err *err)
{
	int r = cni_chain_del(att, cni->bin_dirs, deadline_ns, err);

	if (r < 0)
		return r;
	if (unlink(path) < 0 && errno != ENOENT)
		return err_set_errno(err, -errno, "cannot remove %s", path);
	return 0;
}

static int attach(struct cni *cni, struct cni_attachment *att, const char *path, struct call *call,
		  int64_t deadline_ns, struct cni_result *ret, struct err *err)
{
	int cancel_fd = -1;
	int r = call ? call_fd(call, &cancel_fd, err) : 0;

	if (r == 0)
		r = cni_chain_add(att, cni->bin_dirs, deadline_ns, cancel_fd, err);

	if (r < 0)
		return r;
	r = cni_result_parse(att->result, strlen(att->result), att->ifname, ret, err);
	if (r == 0 && ret->n_ips == 0)
		r = err_set(err, -EIO, "network \"%s\": its plugins gave %s no IP address", att->conf->name,
			    att->ifname);
	if (r == 0)
		r = cni_attachment_save(att, path, err);
	return r;
}

int cni_add(struct cni *cni, const struct cni_pod *pod, struct call *call, int64_t deadline_ns,
	    struct cni_result *ret_result, struct err *err)
{
	struct cni_attachment *att CLEANUP(attachment_cleanup) = NULL;
	char *file CLEANUP_FREE = NULL, *text CLEANUP_FREE = NULL, *cidr CLEANUP_FREE = NULL;
	char *path CLEANUP_FREE = NULL, *json CLEANUP_FREE = NULL;
	struct cni_result result = {0};
	struct err undo = ERR_INIT;
	int r;

	deadline_ns = deadline_or(deadline_ns, 0);
	pthread_mutex_lock(&cni->lock);
	r = present_locked(cni, err); /* a plugin that is missing is found before anything is begun */
	pthread_mutex_unlock(&cni->lock);
	if (r == 0)
		r = current(cni, &file, &text, &cidr, err);
	if (r == 0)
		r = cni_attachment_new(pod, file, text, cidr, &att, err);
	if (r < 0)
		return r;
	path = cache_path(cni, pod->id);
	if (!path)
		return err_oom(err);
	if (access(path, F_OK) == 0) {
		r = cni_del(cni, pod, deadline_ns, err);
		if (r < 0)
			return r;
	}
	r = cni_attachment_save(att, path, err);
	if (r < 0)
		return r;
	r = attach(cni, att, path, call, deadline_ns, &result, err);
	if (r == 0) {
		json = strdup(att->result);
		r = json ? 0 : err_oom(err);
	}
	if (r < 0) {
		if (detach(cni, att, path, deadline_or(deadline_ns, CNI_UNDO_NS), &undo) < 0 && err) {
			struct err both = *err;

			err_set_status(err, both.code, both.status, "%s; undoing it failed too: %s", both.msg,
				       undo.msg);
		}
		return r;
	}
	result.json = move_ptr(json);
	*ret_result = result;
	return 0;
}

/* ---- DEL, CHECK, GC ------------------------------------------------------------------------------------ */

/* Nothing on record (ADD never began, or the record was lost): DEL with the configuration as it is now, if
 * there is one. */
static int del_unrecorded(struct cni *cni, const struct cni_pod *pod, const char *path, int64_t deadline_ns,
			  struct err *err)
{
	struct cni_attachment *att CLEANUP(attachment_cleanup) = NULL;
	char *file CLEANUP_FREE = NULL, *text CLEANUP_FREE = NULL, *cidr CLEANUP_FREE = NULL;
	int r;

	if (current(cni, &file, &text, &cidr, NULL) < 0) {
		unlink(path); /* a damaged one */
		return 0;
	}
	r = cni_attachment_new(pod, file, text, cidr, &att, err);
	if (r == -EINVAL)
		return 0; /* a pod that ADD refuses was never attached */
	return r < 0 ? r : detach(cni, att, path, deadline_ns, err);
}

int cni_del(struct cni *cni, const struct cni_pod *pod, int64_t deadline_ns, struct err *err)
{
	struct cni_attachment *att CLEANUP(attachment_cleanup) = NULL;
	char *path CLEANUP_FREE = NULL;
	int r;

	if (!cni_name_valid(pod->id))
		return err_set(err, -EINVAL, "\"%.64s\" cannot be a CNI container id",
			       pod->id ? pod->id : "");
	path = cache_path(cni, pod->id);
	if (!path)
		return err_oom(err);
	deadline_ns = deadline_or(deadline_ns, 0);
	r = cni_attachment_load(path, &att, err);
	if (r == -ENOENT || r == -EBADMSG)
		return del_unrecorded(cni, pod, path, deadline_ns, err);
	if (r < 0)
		return r;
	return detach(cni, att, path, deadline_ns, err);
}

int cni_check(struct cni *cni, const char *pod_id, int64_t deadline_ns, struct err *err)
{
	struct cni_attachment *att CLEANUP(attachment_cleanup) = NULL;
	char *path CLEANUP_FREE = NULL;
	int r;

	if (!cni_name_valid(pod_id))
		return err_set(err, -EINVAL, "\"%.64s\" cannot be a CNI container id", pod_id);
	path = cache_path(cni, pod_id);
	if (!path)
		return err_oom(err);
	r = cni_attachment_load(path, &att, err);
	if (r < 0)
		return r;
	if (!att->result)
		return err_set(err, -ENOENT, "pod %s is not attached to network \"%s\"", pod_id,
			       att->conf->name);
	if (att->conf->version_num < 400 || att->conf->disable_check)
		return 0;
	return cni_chain_check(att, cni->bin_dirs, deadline_or(deadline_ns, 0), err);
}

static bool is_listed(const char *id, char *const *ids)
{
	for (; ids && *ids; ids++)
		if (str_eq(id, *ids))
			return true;
	return false;
}

/* As the GC command wants it: {"containerID": …, "ifname": …}. */
static int push_living(struct json_object *living, const struct cni_attachment *att)
{
	struct json_object *item = json_object_new_object();
	int r = item ? 0 : -ENOMEM;

	r = r ? r : cni_json_put(item, "containerID", json_object_new_string(att->id));
	r = r ? r : cni_json_put(item, "ifname", json_object_new_string(att->ifname));
	if (r == 0 && json_object_array_add(living, item) == 0)
		return 0;
	json_object_put(item);
	return -ENOMEM;
}

/* One attachment on record: to *ret_dead (its path), or to living. */
static int sort_record(const char *path, char *const *ids, char ***ret_dead, struct json_object *living)
{
	struct cni_attachment *att CLEANUP(attachment_cleanup) = NULL;

	if (cni_attachment_load(path, &att, NULL) < 0)
		return 0;
	return is_listed(att->id, ids) ? push_living(living, att) : strv_add(ret_dead, path);
}

static int sort_records(struct cni *cni, char *const *ids, char ***ret_dead, struct json_object *living)
{
	struct dirent *ent;
	DIR *d = opendir(cni->cache_dir);
	int r = 0;

	if (!d)
		return -errno;
	while (r == 0 && (ent = readdir(d))) {
		char *path CLEANUP_FREE = NULL;

		if (!str_ends(ent->d_name, ".json"))
			continue;
		path = xasprintf("%s/%s", cni->cache_dir, ent->d_name);
		r = path ? sort_record(path, ids, ret_dead, living) : -ENOMEM;
	}
	closedir(d);
	return r;
}

/* DEL for each path; the first error. */
static int detach_dead(struct cni *cni, char *const *paths, int64_t deadline_ns, struct err *err)
{
	int first = 0;

	for (; paths && *paths; paths++) {
		struct cni_attachment *att CLEANUP(attachment_cleanup) = NULL;
		struct err one = ERR_INIT;
		int r = cni_attachment_load(*paths, &att, &one);

		if (r == 0)
			r = detach(cni, att, *paths, deadline_ns, &one);
		if (r < 0 && first == 0)
			first = err_copy(err, &one);
	}
	return first;
}

int cni_gc(struct cni *cni, char *const *ids, int64_t deadline_ns, struct err *err)
{
	char **dead CLEANUP_STRV = NULL;
	char *file CLEANUP_FREE = NULL, *text CLEANUP_FREE = NULL, *cidr CLEANUP_FREE = NULL;
	struct json_object *living = json_object_new_array();
	struct err one = ERR_INIT;
	int r = living ? sort_records(cni, ids, &dead, living) : -ENOMEM, first;

	if (r < 0) {
		json_object_put(living);
		return err_set_errno(err, r, "cannot read %s", cni->cache_dir);
	}
	deadline_ns = deadline_or(deadline_ns, 0);
	first = detach_dead(cni, dead, deadline_ns, err);
	if (current(cni, &file, &text, &cidr, NULL) == 0)
		r = cni_chain_gc(file, text, cni->bin_dirs, move_ptr(living), deadline_ns, &one);
	json_object_put(living);
	return first == 0 && r < 0 ? err_copy(err, &one) : first;
}

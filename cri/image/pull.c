/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/image_internal.h"

#include "base/cond.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/image/registry/auth.h"
#include "cri/image/oci/digest.h"
#include "cri/image/registry/registry.h"

#include <fcntl.h>
#include <signal.h>

#define FETCHERS_MAX	  3
#define FETCHER_STACK	  (512u << 10)
#define PULL_MAX_NS	  (7200 * NS_PER_SEC) /* what came stays, and the next pull goes on from there */
#define PROGRESS_EVERY_NS (5 * NS_PER_SEC)    /* of lines in the log */
#define INDEX_DEPTH_MAX	  3

/*
 * One pull. The first caller's thread does it; others that want the same join: they wait for `over` and take
 * its result. The work has a call of its own, which ends when nobody wants it any more.
 */
struct image_pull_job {
	struct image_pull_job *next;
	char *key;
	struct call *work;
	unsigned int users;  /* the leader and those that joined; under images->lock, like the next two */
	unsigned int wanted; /* by so many, whose calls have not ended */
	bool over;
	int result;
	struct err err;
	char id[IMAGE_DIGEST_LEN + 1];
};

struct pull {
	struct image_store *images;
	const char *text; /* the reference as given */
	struct image_ref ref;
	struct registry *registry;
	struct registry_client *client;
	struct call *call;		/* the work's */
	char top[IMAGE_DIGEST_LEN + 1]; /* what the reference leads to: index or manifest */
	char manifest_digest[IMAGE_DIGEST_LEN + 1];
	struct oci_manifest manifest;
	char **diff_ids, **chains;
	uint64_t total_bytes;
	_Atomic uint64_t have_bytes;
	int64_t told_ns; /* when progress was last logged */
	/* the fetchers; under lock */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t next_layer;
	bool *fetched;
	bool failed;
	struct err fetch_err;
};

static void tell_progress(struct pull *p)
{
	int64_t now = now_monotonic_ns();

	if (now - p->told_ns < PROGRESS_EVERY_NS)
		return;
	p->told_ns = now;
	log_info("image %s: pulling, %u %% of %llu MiB", p->ref.name,
		 p->total_bytes ? (unsigned)(p->have_bytes * 100 / p->total_bytes) : 0,
		 (unsigned long long)(p->total_bytes >> 20));
}

/* ---- manifest and config ------------------------------------------------------------------------------- */

/* By digest, a manifest may be here already. */
static int get_manifest(struct pull *p, const char *what, bool local, char **ret_data, size_t *ret_len,
			char **ret_type, struct err *err)
{
	if (local && blob_have(p->images->blobs, what, NULL) &&
	    blob_read(p->images->blobs, what, OCI_MANIFEST_MAX, ret_data, ret_len, NULL) == 0)
		return 0;
	return registry_manifest(p->client, what, OCI_MANIFEST_MAX, ret_data, ret_len, ret_type, err);
}

static int keep_manifest(struct pull *p, const char *data, size_t len, struct err *err)
{
	int r = oci_manifest_check_types(&p->manifest, err);

	return r < 0 ? r : blob_put(p->images->blobs, data, len, p->manifest_digest, err);
}

/* From the reference through indexes to this platform's manifest. */
static int resolve(struct pull *p, struct err *err)
{
	char what[160];

	snprintf(what, sizeof(what), "%s", p->ref.digest ? p->ref.digest : p->ref.tag);
	for (int depth = 0; depth < INDEX_DEPTH_MAX; depth++) {
		const struct oci_descriptor *entry;
		char *data CLEANUP_FREE = NULL;
		char *type CLEANUP_FREE = NULL;
		size_t len = 0;
		int r = get_manifest(p, what, depth > 0, &data, &len, &type, err);

		if (r < 0)
			return r;
		if (depth == 0)
			image_digest_of(data, len, p->top);
		r = oci_manifest_parse(data, len, type, &p->manifest, err);
		if (r < 0)
			return r;
		if (p->manifest.kind == OCI_KIND_MANIFEST)
			return keep_manifest(p, data, len, err);
		r = oci_index_select(&p->manifest, &entry, err);
		if (r < 0)
			return r;
		snprintf(what, sizeof(what), "%s", entry->digest);
		oci_manifest_done(&p->manifest);
	}
	return err_set_status(err, -ELOOP, ERR_DATA_LOSS, "image indexes nested more than %d deep",
			      INDEX_DEPTH_MAX);
}

static int get_config(struct pull *p, struct err *err)
{
	const struct oci_descriptor *d = &p->manifest.config;
	struct image_config config = {0};
	char *data CLEANUP_FREE = NULL;
	size_t len = 0;
	int r = blob_fetch(p->images->blobs, p->client, d->digest, d->size_bytes, NULL, p->call, err);

	if (r == 0)
		r = blob_read(p->images->blobs, d->digest, OCI_CONFIG_MAX, &data, &len, err);
	if (r == 0)
		r = oci_config_parse(data, len, &config, &p->diff_ids, err);
	if (r < 0)
		return r;
	image_config_done(&config);
	if (strv_len(p->diff_ids) != p->manifest.n_items)
		return err_set_status(err, -EBADMSG, ERR_DATA_LOSS,
				      "the manifest has %zu layers, the config %zu", p->manifest.n_items,
				      strv_len(p->diff_ids));
	p->chains = oci_chain_ids(p->diff_ids);
	return p->chains ? 0 : err_oom(err);
}

/* ---- layers -------------------------------------------------------------------------------------------- */

static void fetch_ended(struct pull *p, size_t i, int r, const struct err *err)
{
	bool first;

	pthread_mutex_lock(&p->lock);
	first = r < 0 && !p->failed;
	if (r == 0) {
		p->fetched[i] = true;
	} else if (first) {
		p->failed = true;
		err_copy(&p->fetch_err, err);
	}
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	if (first)
		call_cancel(p->call, "another part of the pull has failed");
}

static void *fetcher(void *arg)
{
	struct pull *p = arg;
	struct registry_client *client = NULL;
	struct err err = ERR_INIT;
	int r = registry_client_new(p->registry, &client, &err);

	for (;;) {
		const struct oci_descriptor *d;
		size_t i;

		pthread_mutex_lock(&p->lock);
		i = p->next_layer;
		if (i < p->manifest.n_items && !p->failed)
			p->next_layer++;
		else
			i = SIZE_MAX;
		pthread_mutex_unlock(&p->lock);
		if (i == SIZE_MAX)
			break;
		d = &p->manifest.items[i];
		if (r == 0)
			r = blob_fetch(p->images->blobs, client, d->digest, d->size_bytes, &p->have_bytes,
				       p->call, &err);
		fetch_ended(p, i, r, &err);
	}
	registry_client_free(client);
	return NULL;
}

/*
 * Threads of the pull's own, not the workers': a full lane of pulls must not wait for jobs queued behind
 * itself.
 */
static size_t start_fetchers(struct pull *p, pthread_t *threads)
{
	size_t want = p->manifest.n_items < FETCHERS_MAX ? p->manifest.n_items : FETCHERS_MAX, n = 0;
	sigset_t all, before;
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, FETCHER_STACK);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (n < want && pthread_create(&threads[n], &attr, fetcher, p) == 0)
		n++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return n;
}

static int await_blob(struct pull *p, size_t i, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&p->lock);
	while (!p->fetched[i] && !p->failed && r == 0) {
		(void)call_wait(p->call, &p->changed, &p->lock, p->told_ns + PROGRESS_EVERY_NS);
		tell_progress(p);
		r = call_check(p->call, err);
	}
	if (p->failed)
		r = err_copy(err, &p->fetch_err);
	pthread_mutex_unlock(&p->lock);
	return r;
}

static int unpack_as_they_come(struct pull *p, struct err *err)
{
	for (size_t i = 0; i < p->manifest.n_items; i++) {
		int r = await_blob(p, i, err);

		if (r == 0)
			r = layer_unpack(p->images, p->manifest.items[i].digest, p->diff_ids[i], p->chains,
					 i + 1, p->call, err);
		if (r == -ECANCELED) {
			/* Stopped because a download has failed: that is the reason to tell. */
			pthread_mutex_lock(&p->lock);
			if (p->failed)
				r = err_copy(err, &p->fetch_err);
			pthread_mutex_unlock(&p->lock);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int get_layers(struct pull *p, struct err *err)
{
	pthread_t threads[FETCHERS_MAX];
	size_t n;
	int r;

	for (size_t i = 0; i < p->manifest.n_items; i++)
		p->total_bytes += p->manifest.items[i].size_bytes;
	p->fetched = calloc(p->manifest.n_items + 1, sizeof(*p->fetched));
	if (!p->fetched)
		return err_oom(err);
	n = start_fetchers(p, threads);
	if (n == 0)
		fetcher(p);
	r = unpack_as_they_come(p, err);
	if (r < 0) {
		pthread_mutex_lock(&p->lock);
		p->failed = true;
		pthread_mutex_unlock(&p->lock);
		call_cancel(p->call, "another part of the pull has failed");
	}
	while (n > 0)
		pthread_join(threads[--n], NULL);
	return r;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

/* Already here: nothing to fetch or unpack. */
static bool complete(const struct pull *p)
{
	for (size_t i = 0; i < p->manifest.n_items; i++) {
		uint64_t size;

		if (!layer_have(p->images, p->chains[i]) ||
		    !blob_have(p->images->blobs, p->manifest.items[i].digest, &size) ||
		    size != p->manifest.items[i].size_bytes)
			return false;
	}
	return true;
}

static int commit(struct pull *p, struct err *err)
{
	char *tag CLEANUP_FREE =
		p->ref.tag && !p->ref.digest ? xasprintf("%s:%s", p->ref.name, p->ref.tag) : NULL;
	char *digest CLEANUP_FREE = xasprintf("%s@%s", p->ref.name, p->top);
	struct image_commit c = {.manifest_digest = p->manifest_digest,
				 .manifest = &p->manifest,
				 .diff_ids = p->diff_ids,
				 .chains = p->chains,
				 .tag = tag,
				 .digest = digest};

	return digest ? image_commit(p->images, &c, err) : err_oom(err);
}

static int pull_steps(struct pull *p, const struct image_auth *auth, struct err *err)
{
	struct registry_options opt = {.ref = &p->ref,
				       .hosts_dir = p->images->registry_config_dir,
				       .auth = auth,
				       .call = p->call,
				       .stall_s = p->images->stall_s};
	int r = registry_new(&opt, &p->registry, err);

	if (r == 0)
		r = registry_client_new(p->registry, &p->client, err);
	if (r == 0)
		r = resolve(p, err);
	if (r == 0)
		r = get_config(p, err);
	if (r == 0 && !complete(p))
		r = get_layers(p, err);
	return r < 0 ? r : commit(p, err);
}

static void pull_done(struct pull *p)
{
	registry_client_free(p->client);
	registry_free(p->registry);
	oci_manifest_done(&p->manifest);
	strv_free(p->diff_ids);
	strv_free(p->chains);
	free(p->fetched);
	image_ref_done(&p->ref);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->lock);
}

/* kubelet looks for the word at the beginning. */
static void say_failure(const struct pull *p, struct err *err)
{
	bool unavailable = err->status == ERR_UNAVAILABLE;

	err_wrap(err, "%spulling image \"%s\"", unavailable ? "RegistryUnavailable: " : "", p->text);
}

static int pull_once(struct image_store *images, const char *text, const struct image_auth *auth,
		     struct call *call, char ret_id[IMAGE_DIGEST_LEN + 1], struct err *err)
{
	struct pull p = {.images = images, .text = text, .call = call};
	int64_t began = now_monotonic_ns();
	int lock, r = image_ref_parse(text, &p.ref, err);

	if (r < 0)
		return r;
	lock = images_lock(images, err);
	r = lock < 0 ? lock : cond_init(&p.changed);
	if (r < 0) {
		close_fd(lock);
		image_ref_done(&p.ref);
		return lock < 0 ? r : err_set_errno(err, r, "a pull");
	}
	pthread_mutex_init(&p.lock, NULL);
	p.told_ns = began;
	r = pull_steps(&p, auth, err);
	if (r < 0) {
		say_failure(&p, err);
	} else {
		snprintf(ret_id, IMAGE_DIGEST_LEN + 1, "%s", p.manifest.config.digest);
		log_info("image %s pulled as %s in %lld ms", text, ret_id,
			 (long long)((now_monotonic_ns() - began) / NS_PER_MS));
	}
	pull_done(&p);
	images_unlock(images, lock);
	return r;
}

/* ---- joining ------------------------------------------------------------------------------------------- */

/* What must be the same for two pulls to be one: the image and the credentials. */
static char *make_key(const struct image_ref *ref, const struct image_auth *auth)
{
	static const struct image_auth none;
	const struct image_auth *a = auth ? auth : &none;
	const char *parts[] = {a->username, a->password, a->identity_token, a->registry_token,
			       a->server_address};
	char *key =
		xasprintf("%s:%s@%s", ref->name, ref->tag ? ref->tag : "", ref->digest ? ref->digest : "");

	for (size_t i = 0; key && i < ARRAY_SIZE(parts); i++) {
		size_t len = parts[i] ? strlen(parts[i]) : 0;
		char *longer = xasprintf("%s\n%zu:%s", key, len, parts[i] ? parts[i] : "");

		image_secret_free(key);
		key = longer;
	}
	return key;
}

static void job_unref(struct image_store *images, struct image_pull_job *job)
{
	bool last;

	pthread_mutex_lock(&images->lock);
	last = --job->users == 0;
	pthread_mutex_unlock(&images->lock);
	if (last) {
		image_secret_free(job->key);
		call_unref(job->work);
		free(job);
	}
}

static struct image_pull_job *job_new(const struct image_ref *ref, const struct image_auth *auth)
{
	struct image_pull_job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->users = 1;
	job->key = make_key(ref, auth);
	if (!job->key || call_new(now_monotonic_ns() + PULL_MAX_NS, &job->work, NULL) < 0) {
		image_secret_free(job->key);
		free(job);
		return NULL;
	}
	return job;
}

/* The running pull of the same key, or the new one *mine, which is then in the list. */
static struct image_pull_job *job_find_or_add(struct image_store *images, struct image_pull_job *mine)
{
	struct image_pull_job *job;

	pthread_mutex_lock(&images->lock);
	for (job = images->pulls; job && !str_eq(job->key, mine->key); job = job->next)
		;
	if (!job) {
		job = mine;
		mine->next = images->pulls;
		images->pulls = mine;
	} else {
		job->users++;
	}
	job->wanted++;
	pthread_mutex_unlock(&images->lock);
	return job;
}

static void job_over(struct image_store *images, struct image_pull_job *job)
{
	struct image_pull_job **p = &images->pulls;
	bool last;

	pthread_mutex_lock(&images->lock);
	while (*p != job)
		p = &(*p)->next;
	*p = job->next;
	last = !images->pulls;
	job->over = true;
	pthread_cond_broadcast(&images->changed);
	pthread_mutex_unlock(&images->lock);
	if (last)
		images_trim();
}

/* One that wants a pull, until its call ends. */
struct caller {
	struct image_store *images;
	struct image_pull_job *job;
	struct call_hook hook;
	bool left; /* images->lock */
};

/* Also a hook of the caller's call. */
static void caller_left(void *arg)
{
	struct caller *c = arg;
	struct call *work = NULL;

	pthread_mutex_lock(&c->images->lock);
	if (!c->left && --c->job->wanted == 0)
		work = call_ref(c->job->work);
	c->left = true;
	pthread_mutex_unlock(&c->images->lock);
	call_cancel(work, "nobody waits for the pull any more");
	call_unref(work);
}

/* Until the pull is over or the call has ended. */
static int job_await(struct image_store *images, struct image_pull_job *job, struct call *call,
		     struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&images->lock);
	while (!job->over && r == 0) {
		(void)call_wait(call, &images->changed, &images->lock, INT64_MAX);
		r = call_check(call, err);
	}
	pthread_mutex_unlock(&images->lock);
	return r;
}

/* -EAGAIN: the pull that was joined had been given up by its callers just before. */
static int job_result(const struct image_pull_job *job, struct call *call, char ret_id[IMAGE_DIGEST_LEN + 1],
		      struct err *err)
{
	if (job->result == -ECANCELED)
		return call_check(call, err) < 0 ? err_wrap(err, "pulling an image") : -EAGAIN;
	if (job->result < 0)
		return err_copy(err, &job->err);
	memcpy(ret_id, job->id, IMAGE_DIGEST_LEN + 1);
	return 0;
}

static int pull_or_join(struct image_store *images, const char *text, const struct image_ref *ref,
			const struct image_auth *auth, struct call *call, char ret_id[IMAGE_DIGEST_LEN + 1],
			struct err *err)
{
	struct image_pull_job *mine = job_new(ref, auth);
	struct caller caller = {.images = images};
	int r = 0;

	if (!mine)
		return err_oom(err);
	caller.job = job_find_or_add(images, mine);
	call_hook_add(call, &caller.hook, caller_left, &caller);
	if (caller.job == mine) {
		mine->result = pull_once(images, text, auth, mine->work, mine->id, &mine->err);
		job_over(images, mine);
	} else {
		job_unref(images, mine);
		r = job_await(images, caller.job, call, err);
	}
	call_hook_remove(call, &caller.hook);
	if (r < 0)
		caller_left(&caller);
	else
		r = job_result(caller.job, call, ret_id, err);
	job_unref(images, caller.job);
	return r;
}

int image_pull(struct image_store *images, const char *ref, const struct image_auth *auth, struct call *call,
	       char **ret_id, struct err *err)
{
	char id[IMAGE_DIGEST_LEN + 1] = "";
	struct image_ref parsed = {0};
	int r = image_ref_parse(ref, &parsed, err);

	if (r < 0)
		return r;
	do
		r = pull_or_join(images, ref, &parsed, auth, call, id, err);
	while (r == -EAGAIN);
	image_ref_done(&parsed);
	if (r < 0)
		return r;
	*ret_id = strdup(id);
	return *ret_id ? 0 : err_oom(err);
}

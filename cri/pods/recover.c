/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After a start: what a previous server left is adopted, or undone if it was half made. All rows are read
 * first, so that all that a client knows of is listed. Then each pod is adopted, its containers with it, by a
 * job of its own; calls on it wait for that (pod_later).
 */
#include "cri/pods/pods_internal.h"

#include "api/pb.h"
#include "api/pbcheck.h"
#include "base/cond.h"
#include "base/log.h"

#define START_NS       (20 * NS_PER_SEC) /* so long a start waits for all adoptions together */
#define ADOPT_NS       (45 * NS_PER_SEC) /* for a pod with its containers */
#define CNI_RECOVER_NS (10 * NS_PER_SEC) /* a plugin that hangs does not keep the server from starting */

/* ---- rows ---------------------------------------------------------------------------------------------- */

/* Collected first: a walk must not change the store. */
struct rows {
	struct state_row *row;
	size_t n;
};

static int collect(void *arg, const char *id, const char *name, const void *value, size_t len)
{
	struct rows *rows = arg;
	struct state_row *grown = reallocarray(rows->row, rows->n + 1, sizeof(*grown));

	(void)name;
	if (!grown)
		return -ENOMEM;
	rows->row = grown;
	grown[rows->n] = (struct state_row){.id = strdup(id), .data = malloc(len ? len : 1), .len = len};
	if (!grown[rows->n].id || !grown[rows->n].data) {
		free(grown[rows->n].id);
		free(grown[rows->n].data);
		return -ENOMEM;
	}
	memcpy(grown[rows->n++].data, value, len);
	return 0;
}

int state_unpack(const ProtobufCMessageDescriptor *descriptor, const struct state_row *row, void **ret_state)
{
	*ret_state = protobuf_c_message_unpack(descriptor, NULL, row->len, row->data);
	/* The library does not say why. */
	return *ret_state || pb_check(descriptor, row->data, row->len, NULL) < 0 ? 0 : -ENOMEM;
}

static void rows_done(struct rows *rows)
{
	for (size_t i = 0; i < rows->n; i++) {
		free(rows->row[i].id);
		free(rows->row[i].data);
	}
	free(rows->row);
}

int recover_undo(struct pods *pods, const char *kind, const char *id, const char *sandbox_id)
{
	char *pos CLEANUP_FREE = container_pos_path(pods, id); /* of a pod there is none */
	struct err err = ERR_INIT;

	log_line(LOG_LEVEL_WARN, LOG_FIELDS(kind, id), "undoing a %s that the previous server did not finish",
		 kind);
	if (pod_undo_all(pods, id, sandbox_id, &err) < 0) {
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS(kind, id), "undoing it: %s; the next start tries again",
			 err.msg);
		return err.code;
	}
	if (pos && unlink(pos) < 0 && errno != ENOENT)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS(kind, id), "removing %s: %s", pos, strerror(errno));
	if (store_delete(pods->parts.store, kind, id, &err) < 0) {
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS(kind, id), "forgetting it: %s", err.msg);
		return err.code;
	}
	return 0;
}

/* ---- adoption ------------------------------------------------------------------------------------------ */

/* All adoptions of one start: reference counted, for one may outlast the wait for it. */
struct adoptions {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t pending;
	unsigned int refs;
};
struct adoption {
	struct pod *pod; /* a reference */
	struct adoptions *all;
};

static void adoptions_unref(struct adoptions *all)
{
	bool last;

	pthread_mutex_lock(&all->lock);
	last = --all->refs == 0;
	pthread_mutex_unlock(&all->lock);
	if (!last)
		return;
	pthread_cond_destroy(&all->changed);
	pthread_mutex_destroy(&all->lock);
	free(all);
}

static void pod_lost(struct pod *pod, const struct err *err)
{
	log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", pod->object.id), "pod is not ready: %s", err->msg);
	(void)pod_end(pod, err->msg);
	(void)pod_store(pod, NULL); /* if this fails, the next start comes to the same result */
}

/* Nothing is repaired: the warning tells why the pod cannot be reached. */
static void check_network(struct pod *pod)
{
	struct err err = ERR_INIT;
	int r = cni_check(pod->pods->parts.cni, pod->object.id, now_monotonic_ns() + CNI_RECOVER_NS, &err);

	if (r < 0 && r != -ENOENT) /* not attached */
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", pod->object.id), "the pod's network: %s", err.msg);
}

/* True if its sandbox is ready again. */
static bool adopt_sandbox(struct pod *pod, struct call *call)
{
	/* Its row does not change while it is adopted. */
	const struct sandbox_network network = {.ifname = POD_IFNAME,
						.spoof_check = pod->pods->parts.config->sandbox.spoof_check,
						.ips = pod->state->ips,
						.n_ips = pod->state->n_ips};
	struct err err = ERR_INIT;

	if (!pod_is_ready(pod))
		return false;
	if (sandbox_adopt(pod->sandbox, call, &network, &err) < 0) {
		pod_lost(pod, &err);
		return false;
	}
	log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", pod->object.id), "pod is adopted");
	return true;
}

static void adopt_pod(struct pod *pod)
{
	struct call *call CLEANUP_CALL = NULL;
	struct err err = ERR_INIT;
	bool ready = false;

	if (call_new(now_monotonic_ns() + ADOPT_NS, &call, &err) < 0)
		pod_lost(pod, &err);
	else
		ready = adopt_sandbox(pod, call);
	container_adopt_all(pod, call);
	outcome_set(pod->adopted, NULL);
	if (ready)
		check_network(pod);
}

static void undo_pod(struct pod *pod)
{
	struct err cut = ERR_INIT;

	err_set_status(&cut, -ECONNABORTED, ERR_UNAVAILABLE,
		       "its creation was cut short by a restart of the server");
	if (recover_undo(pod->pods, "pod", pod->object.id, sandbox_id(pod->sandbox)) == 0) {
		pthread_mutex_lock(&pod->lock);
		pod->gone = true;
		pthread_mutex_unlock(&pod->lock);
		pod_unhook(pod);
		object_remove(&pod->object);
	} else { /* it still holds its name, so it must be seen: StopPodSandbox tries again */
		pthread_mutex_lock(&pod->lock);
		pod->state->phase = POD_EXITED;
		(void)pb_set_str(&pod->state->reason, cut.msg);
		pthread_mutex_unlock(&pod->lock);
		object_show(&pod->object);
	}
	outcome_set(pod->object.made, &cut);
}

static void adopt_job(void *arg)
{
	struct adoption *job = arg;
	struct adoptions *all = job->all;
	struct pod *pod = job->pod;

	if (pod->adopted)
		adopt_pod(pod);
	else
		undo_pod(pod);
	pod_turn_give(pod);
	free(job);
	pthread_mutex_lock(&all->lock);
	all->pending--;
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
	adoptions_unref(all);
	pod_shrink(pod); /* what ended or was cut short meanwhile */
	object_unref(&pod->object);
}

/* Below 0: no job has it. */
static int adopt(struct pod *pod, struct adoptions *all, struct err *err)
{
	struct adoption *job = calloc(1, sizeof(*job));

	if (!job)
		return err_oom(err);
	job->pod = object_ref(&pod->object);
	job->all = all;
	pthread_mutex_lock(&all->lock);
	all->pending++;
	all->refs++;
	pthread_mutex_unlock(&all->lock);
	if (workers_submit(pod->pods->parts.workers, LANE_BOOT, adopt_job, job) < 0)
		adopt_job(job); /* no thread can be started */
	return 0;
}

/* Those that go on when the time is up go on beside the service. */
static int adopt_all(struct pods *pods, struct err *err)
{
	struct object **list CLEANUP_OBJECTS = NULL;
	struct adoptions *all = calloc(1, sizeof(*all));
	int64_t deadline_ns =
		now_monotonic_ns() + (pods->parts.adopt_wait_ns > 0 ? pods->parts.adopt_wait_ns : START_NS);
	int r = table_list(&pods->pods, true, &list, err), waited = 0;

	if (r < 0 || !all || cond_init(&all->changed) < 0) {
		free(all);
		return r < 0 ? r : err_oom(err);
	}
	pthread_mutex_init(&all->lock, NULL);
	all->refs = 1;
	for (size_t i = 0; list[i] && r == 0; i++) {
		struct pod *pod = (struct pod *)(void *)list[i];

		if (pod->op == WORK_ADOPT)
			r = adopt(pod, all, err);
	}
	pthread_mutex_lock(&all->lock);
	while (r == 0 && all->pending > 0 && waited == 0)
		waited = cond_wait_until(&all->changed, &all->lock, deadline_ns);
	if (all->pending > 0)
		log_warn("%zu pods are still being adopted; calls on them wait", all->pending);
	pthread_mutex_unlock(&all->lock);
	adoptions_unref(all);
	return r;
}

/* ---- pods ---------------------------------------------------------------------------------------------- */

static const char *sandbox_of(const PodState *state)
{
	return str_empty(state->sandbox_id) ? state->id : state->sandbox_id;
}

/* An object of the row, hidden, and about to be adopted or undone. Takes over `state`. */
static int load(struct pods *pods, const struct state_row *row, PodState *state, struct pod **ret_pod,
		struct err *err)
{
	struct sandbox_saved saved = {.id = (char *)(uintptr_t)sandbox_of(state),
				      .dir = state->dir,
				      .netns = state->netns,
				      .cgroup = state->cgroup,
				      .machine = state->vm,
				      .boot_id = state->boot_id};
	bool whole = state->phase == POD_READY || state->phase == POD_EXITED;
	char *name CLEANUP_FREE = pod_name(state->config);
	struct pod *pod = name ? pod_new(pods, row->id, state) : NULL;
	struct object *other = NULL;
	struct sandbox_hooks hooks;
	int r;

	if (!pod) {
		pb_free(state);
		return err_oom(err);
	}
	pod->op = WORK_ADOPT;
	r = outcome_new(whole ? &pod->adopted : &pod->object.made, err);
	pod_sandbox_hooks(pod, &hooks);
	if (r == 0)
		r = sandbox_load(pods->parts.sandboxes, &hooks, &saved,
				 state->phase == POD_READY ? "it is not adopted yet" : state->reason,
				 &pod->sandbox, err);
	if (r == 0)
		r = table_add(&pods->pods, &pod->object, name, &other, err);
	object_unref(other);
	if (r == 0) {
		*ret_pod = pod;
		return 0;
	}
	pod_unhook(pod);
	object_unref(&pod->object);
	return r;
}

/* Fails only for want of memory: what lives must not be taken for what cannot be read. */
static int recover_pod(struct pods *pods, const struct state_row *row, struct err *err)
{
	PodState *state;
	struct err why = ERR_INIT;
	struct pod *pod = NULL;
	int r = state_unpack(&crivisor__state__v1__pod__descriptor, row, (void **)&state);

	if (r < 0)
		return err_oom(err);
	if (!state || !state->config || !state->config->metadata || !str_eq(state->id, row->id) ||
	    strlen(row->id) > 64) {
		recover_undo(pods, "pod", row->id, state ? state->sandbox_id : NULL);
		pb_free(state);
		return 0;
	}
	r = load(pods, row, state, &pod, &why);
	if (r == -ENOMEM)
		return err_copy(err, &why);
	if (r < 0) {
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", row->id), "reading its row: %s", why.msg);
		return 0;
	}
	if (pod->adopted) {
		atomic_store(&pod->object.unclaimed, state->unclaimed);
		object_show(&pod->object);
		if (state->unclaimed)
			work_unclaimed(pods, &pod->object);
	}
	object_unref(&pod->object);
	return 0;
}

/* ---- the rest ------------------------------------------------------------------------------------------ */

static void end_plugins(struct pods *pods)
{
	char *dir CLEANUP_FREE = xasprintf("%s/netns", pods->parts.config->server.run_dir);
	struct err err = ERR_INIT;
	int n = dir ? cni_end_orphans(dir, &err) : err_oom(&err);

	if (n < 0)
		log_warn("CNI plugins that the previous server left: %s", err.msg);
	else if (n > 0)
		log_warn("%d processes of CNI plugins that the previous server left were killed", n);
}

/* What a pod without a row still holds of the network is given back. No ADD runs yet. */
static void collect_network(struct pods *pods, const struct rows *rows)
{
	char **ids CLEANUP_STRV = NULL;
	struct err err = ERR_INIT;
	int r = 0;

	for (size_t i = 0; r == 0 && i < rows->n; i++)
		r = strv_add(&ids, rows->row[i].id);
	r = r < 0 ? err_oom(&err) : cni_gc(pods->parts.cni, ids, now_monotonic_ns() + CNI_RECOVER_NS, &err);
	if (r < 0)
		log_warn("collecting network attachments of pods that are gone: %s", err.msg);
}

static bool is_sandbox_of(const struct rows *rows, const char *id)
{
	bool found = false;

	for (size_t i = 0; i < rows->n && !found; i++) {
		PodState *state = crivisor__state__v1__pod__unpack(NULL, rows->row[i].len, rows->row[i].data);

		found = state && str_eq(state->sandbox_id, id);
		pb_free(state);
	}
	return found;
}

/* Steps whose owner has no row any more: a removal that was cut short after its last statement but one. */
static int undo_ownerless(struct pods *pods, const struct rows *rows, struct err *err)
{
	char **owners CLEANUP_STRV = NULL;
	int r = journal_owners(pods->parts.store, &owners, err);

	for (size_t i = 0; r == 0 && owners && owners[i]; i++) {
		void *pod CLEANUP_FREE = NULL;
		void *container CLEANUP_FREE = NULL;
		size_t len;

		if (store_get(pods->parts.store, "pod", owners[i], &pod, &len, NULL) == -ENOENT &&
		    store_get(pods->parts.store, "container", owners[i], &container, &len, NULL) == -ENOENT &&
		    !is_sandbox_of(rows, owners[i]))
			recover_undo(pods, "step", owners[i], NULL);
	}
	return r;
}

int pods_recover(struct pods *pods, struct err *err)
{
	struct rows rows = {0}, containers = {0}, left = {0};
	int r = store_each(pods->parts.store, "pod", collect, &rows, err);

	end_plugins(pods);
	if (r == 0)
		r = store_each(pods->parts.store, "container", collect, &containers, err);
	for (size_t i = 0; r == 0 && i < rows.n; i++)
		r = recover_pod(pods, &rows.row[i], err);
	for (size_t i = 0; r == 0 && i < containers.n; i++)
		r = container_recover(pods, &containers.row[i], err);
	if (r == 0)
		r = adopt_all(pods, err);
	/* Those that were undone have no row now. */
	if (r == 0)
		r = store_each(pods->parts.store, "pod", collect, &left, err);
	if (r == 0) {
		collect_network(pods, &left);
		r = undo_ownerless(pods, &left, err);
	}
	rows_done(&rows);
	rows_done(&containers);
	rows_done(&left);
	if (r < 0)
		return err_wrap(err, "taking over what a previous server left");
	state_sweep(pods);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* After a start: what a previous server left is adopted, or undone if it was half done. */
#include "cri/pods/container.h"
#include "cri/pods/pod.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "cri/logs/logs.h"
#include "api/pb.h"
#include "cri/sandbox/share.h"

#define CONNECT_NS                                                                                           \
	(30 * NS_PER_SEC) /* as long as a health check waits: a busy guest must not die of a restart */
#define CALL_NS	       (15 * NS_PER_SEC)
#define CNI_RECOVER_NS (10 * NS_PER_SEC) /* a plugin that hangs does not keep the server from starting */

/* Rows, collected first: a walk must not call the store. */
struct rows {
	struct row {
		char *id;
		void *data;
		size_t len;
	} * row;
	size_t n;
};

static int collect(void *arg, const char *id, const char *name, const void *value, size_t len)
{
	struct rows *rows = arg;
	struct row *grown = reallocarray(rows->row, rows->n + 1, sizeof(*grown));

	(void)name;
	if (!grown)
		return -ENOMEM;
	rows->row = grown;
	grown[rows->n] = (struct row){.id = strdup(id), .data = malloc(len ? len : 1), .len = len};
	if (!grown[rows->n].id || !grown[rows->n].data)
		return -ENOMEM;
	memcpy(grown[rows->n++].data, value, len);
	return 0;
}

static void rows_done(struct rows *rows)
{
	for (size_t i = 0; i < rows->n; i++) {
		free(rows->row[i].id);
		free(rows->row[i].data);
	}
	free(rows->row);
}

/* ---- pods ---------------------------------------------------------------------------------------------- */

static int undo_half_done(struct server *server, const char *kind, const char *id)
{
	struct err err = ERR_INIT;

	log_line(LOG_LEVEL_WARN, LOG_FIELDS(kind, id), "undoing a %s that the previous server did not finish",
		 kind);
	if (journal_undo_owner(server->store, id, pod_undo, server, &err) < 0) {
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS(kind, id), "undoing it: %s; the next start tries again",
			 err.msg);
		return err.code;
	}
	if (store_delete(server->store, kind, id, &err) < 0) {
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS(kind, id), "forgetting it: %s", err.msg);
		return err.code;
	}
	return 0;
}

struct adoption {
	struct pod *pod;
	struct recovery *all;
};

struct recovery {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t pending;
};

/* The VM and its agent answer, and it is the same boot of the guest. */
static int adopt_vm(struct pod *pod, struct err *err)
{
	struct server *server = pod->server;
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
	Crivisor__Agent__V1__InfoResponse *info = NULL;
	struct agent *agent = NULL;
	int r = vm_recover(pod->state->vm, &pod->vm, err);

	if (r == 0)
		r = agent_new(&(struct agent_options){.loop = server->loop,
						      .workers = server->workers,
						      .dial = pod_dial,
						      .arg = pod->vm},
			      &agent, err);
	if (r < 0)
		return r;
	pod->agent = agent;
	r = agent_connect(agent, NULL, now_monotonic_ns() + CONNECT_NS, err);
	if (r == 0)
		r = agent_call(agent, &AGENT_INFO, &req.base, CALL_NS, (ProtobufCMessage **)&info, err);
	if (r < 0)
		return r;
	if (!str_eq(info->boot_id, pod->state->boot_id))
		r = err_set(err, -ESTALE, "the guest was reset while no server watched");
	pb_free(info);
	return r < 0 ? r : pod_watch(pod, err);
}

/* Nothing is repaired: the warning tells why the pod cannot be reached. */
static void check_network(struct pod *pod)
{
	struct err err = ERR_INIT;
	int r = cni_check(pod->server->cni, pod->id, now_monotonic_ns() + CNI_RECOVER_NS, &err);

	if (r < 0 && r != -ENOENT) /* a pod on the host's network is not attached */
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", pod->id), "the pod's network: %s", err.msg);
}

static void adopt_job(void *arg)
{
	struct adoption *job = arg;
	struct pod *pod = job->pod;
	struct recovery *all = job->all;
	struct err err = ERR_INIT;

	if (adopt_vm(pod, &err) < 0) {
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", pod->id), "pod is not ready: %s", err.msg);
		if (pod->vm)
			(void)vm_stop(pod->vm, now_monotonic_ns() + 10 * NS_PER_SEC, NULL);
		pthread_mutex_lock(&pod->lock);
		pod->dead = true;
		pod->state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_EXITED;
		snprintf(pod->reason, sizeof(pod->reason), "%.255s", err.msg);
		(void)pb_set_text(&pod->state->reason, pod->reason);
		pthread_mutex_unlock(&pod->lock);
		(void)pod_store(pod, NULL);
	} else {
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", pod->id), "pod is adopted");
		check_network(pod);
	}
	pthread_mutex_lock(&all->lock);
	all->pending--;
	pthread_cond_signal(&all->changed);
	pthread_mutex_unlock(&all->lock);
	pod_unref(pod);
	free(job);
}

static void adopt(struct pod *pod, struct recovery *all)
{
	struct adoption *job = calloc(1, sizeof(*job));

	if (!job) {
		pod->dead = true;
		pod->state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_EXITED;
		return;
	}
	job->pod = pod_ref(pod);
	job->all = all;
	pthread_mutex_lock(&all->lock);
	all->pending++;
	pthread_mutex_unlock(&all->lock);
	if (workers_submit(pod->server->workers, LANE_SLOW, adopt_job, job) < 0)
		adopt_job(job);
}

static void recover_pod(struct server *server, const struct row *row, struct recovery *all)
{
	Crivisor__State__V1__Pod *state = crivisor__state__v1__pod__unpack(NULL, row->len, row->data);
	struct pod *pod;

	if (!state || !state->config || !state->config->metadata || strlen(row->id) > 64) {
		undo_half_done(server, "pod", row->id);
		pb_free(state);
		return;
	}
	if (state->phase == CRIVISOR__STATE__V1__PHASE__PHASE_CREATING) {
		if (undo_half_done(server, "pod", row->id) == 0) {
			pb_free(state);
			return;
		}
		/* It still holds its name, so it must be seen: StopPodSandbox tries again. */
		state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_EXITED;
		(void)pb_set_str(&state->reason, "its creation was cut short by a restart of the server");
	}
	pod = pod_new(server, row->id);
	if (!pod) {
		pb_free(state);
		return;
	}
	pod->state = state;
	snprintf(pod->dir, sizeof(pod->dir), "%s", state->dir);
	snprintf(pod->reason, sizeof(pod->reason), "%s", state->reason);
	pod_table_add(pod);
	if (state->phase == CRIVISOR__STATE__V1__PHASE__PHASE_READY)
		adopt(pod, all);
	else
		pod->dead = true;
	pod_unref(pod);
}

static void end_plugins(struct server *server)
{
	char *dir CLEANUP_FREE = xasprintf("%s/netns", server->config->server.run_dir);
	struct err err = ERR_INIT;
	int n = dir ? cni_end_orphans(dir, &err) : err_oom(&err);

	if (n < 0)
		log_warn("CNI plugins that the previous server left: %s", err.msg);
	else if (n > 0)
		log_warn("%d processes of CNI plugins that the previous server left were killed", n);
}

/* What a pod without a row still holds of the network is given back. No ADD runs yet. */
static void collect_network(struct server *server, const struct rows *rows)
{
	char **ids CLEANUP_STRV = NULL;
	struct err err = ERR_INIT;
	int r = 0;

	for (size_t i = 0; r == 0 && i < rows->n; i++)
		r = strv_add(&ids, rows->row[i].id);
	r = r < 0 ? err_oom(&err) : cni_gc(server->cni, ids, now_monotonic_ns() + CNI_RECOVER_NS, &err);
	if (r < 0)
		log_warn("collecting network attachments of pods that are gone: %s", err.msg);
}

int pod_recover_all(struct server *server, struct err *err)
{
	struct recovery all = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
	struct rows rows = {0};
	int r = store_each(server->store, "pod", collect, &rows, err);

	end_plugins(server);
	for (size_t i = 0; r == 0 && i < rows.n; i++)
		recover_pod(server, &rows.row[i], &all);
	pthread_mutex_lock(&all.lock);
	while (all.pending > 0)
		pthread_cond_wait(&all.changed, &all.lock);
	pthread_mutex_unlock(&all.lock);
	if (r == 0)
		collect_network(server, &rows);
	rows_done(&rows);
	return r < 0 ? err_wrap(err, "reading the pods of a previous run") : 0;
}

/* ---- containers ---------------------------------------------------------------------------------------- */

/* The row says "running" before the start is sent: whether it ever was, the guest knows. */
static bool never_started(struct container *c, struct agent *agent)
{
	Containerd__Task__V2__StateRequest req = CONTAINERD__TASK__V2__STATE_REQUEST__INIT;
	Containerd__Task__V2__StateResponse *resp = NULL;
	bool created;

	req.id = c->id;
	if (agent_call(agent, &AGENT_TASK_STATE, &req.base, CALL_NS, (ProtobufCMessage **)&resp, NULL) < 0)
		return false;
	created = resp->status == CONTAINERD__V1__TYPES__STATUS__CREATED;
	pb_free(resp);
	if (!created)
		return false;
	log_line(LOG_LEVEL_INFO, LOG_FIELDS("container", c->id),
		 "the previous server did not get to start it: it is created");
	pthread_mutex_lock(&c->pod->lock);
	c->state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_READY;
	c->state->started_at = 0;
	pthread_mutex_unlock(&c->pod->lock);
	(void)container_store(c, NULL);
	return true;
}

static void adopt_running(struct container *c)
{
	char *pos CLEANUP_FREE = container_pos_path(c->server, c->id);
	struct log_pump *pump = NULL;
	struct agent *agent;
	struct err err = ERR_INIT;
	int r = pos ? pod_agent(c->pod, &agent, &err) : -ENOMEM;

	if (r == 0 && never_started(c, agent))
		return;
	if (r == 0) {
		r = container_pump(c, agent, true, &pump, &err);
		pthread_mutex_lock(&c->pod->lock);
		c->pump = pump;
		pthread_mutex_unlock(&c->pod->lock);
		if (r < 0)
			log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", c->id),
				 "its log does not go on: %s", err.msg);
		r = container_watch(c, &err);
	}
	if (r < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("container", c->id), "its exit cannot be learned: %s",
			 err.msg);
}

static bool pod_dead(struct pod *pod)
{
	bool dead;

	pthread_mutex_lock(&pod->lock);
	dead = pod->dead;
	pthread_mutex_unlock(&pod->lock);
	return dead;
}

/* The guest of an adopted pod may have it, and its mounts, while the host does not count it as created. */
static void end_half_created(struct pod *pod, const char *id)
{
	char *dir CLEANUP_FREE = xasprintf("%s/mounts/%s", pod->dir, id);
	struct agent *agent;
	struct err err = ERR_INIT;

	if (!dir || pod_agent(pod, &agent, NULL) < 0)
		return;
	if (container_end_in_guest(agent, id, true, &err) < 0 ||
	    share_container_destroy(dir, false, &err) < 0)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("container", id), "ending it in its guest: %s", err.msg);
}

static void recover_container(struct server *server, const struct row *row)
{
	Crivisor__State__V1__Container *state =
		crivisor__state__v1__container__unpack(NULL, row->len, row->data);
	struct pod *pod CLEANUP_POD = NULL;
	struct container *c;

	if (state)
		(void)pod_find(server, state->pod_id, &pod, NULL);
	if (!pod || !state->config || !state->config->metadata || strlen(row->id) > 64 ||
	    state->phase == CRIVISOR__STATE__V1__PHASE__PHASE_CREATING) {
		if (pod)
			end_half_created(pod, row->id);
		undo_half_done(server, "container", row->id);
		pb_free(state);
		return;
	}
	c = container_new(pod, row->id);
	if (!c) {
		pb_free(state);
		return;
	}
	c->state = state;
	container_table_add(c);
	if (!pod_dead(pod) && state->phase == CRIVISOR__STATE__V1__PHASE__PHASE_RUNNING)
		adopt_running(c);
	/* Last: one that dies while this goes on has not seen the container in the table. */
	if (pod_dead(pod))
		container_vm_died(pod, pod->reason[0] ? pod->reason : "the pod was stopped");
	container_unref(c);
}

int container_recover_all(struct server *server, struct err *err)
{
	struct rows rows = {0};
	char **owners CLEANUP_STRV = NULL;
	int r = store_each(server->store, "container", collect, &rows, err);

	for (size_t i = 0; r == 0 && i < rows.n; i++)
		recover_container(server, &rows.row[i]);
	rows_done(&rows);
	if (r < 0)
		return err_wrap(err, "reading the containers of a previous run");
	/*
	 * Steps whose owner has no row any more: a removal that was cut short after its last statement but
	 * one.
	 */
	r = journal_owners(server->store, &owners, err);
	for (size_t i = 0; r == 0 && owners && owners[i]; i++) {
		void *data CLEANUP_FREE = NULL;
		size_t len;

		if (store_get(server->store, "pod", owners[i], &data, &len, NULL) == -ENOENT &&
		    store_get(server->store, "container", owners[i], &data, &len, NULL) == -ENOENT)
			undo_half_done(server, "step", owners[i]);
	}
	return r;
}

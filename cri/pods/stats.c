/* SPDX-License-Identifier: Apache-2.0 */
/* The sampler. */
#include "cri/pods/stats.h"

#include "api/pb.h"
#include "cri/pods/pods_internal.h"

#define CONTAINERS_MAX 256 /* of a guest's answer: an agent has no more */

typedef Crivisor__Agent__V1__StatsResponse GuestStats;

/* Of a pod, while one is under way. */
struct sample {
	struct pod *pod; /* a reference */
	struct outcome *outcome;
	atomic_uint left; /* parts that have not ended */
};

/* ---- figures ------------------------------------------------------------------------------------------- */

/* Not a number, or none that can be: 0. */
static double percent(double value)
{
	return value >= 0 && value <= 100 ? value : 0;
}

static void copy_pressure(Crivisor__Agent__V1__Pressure *to, Crivisor__Agent__V1__Pressure **ret,
			  const Crivisor__Agent__V1__Pressure *from)
{
	*ret = NULL;
	if (!from)
		return;
	*to = *from;
	to->base.n_unknown_fields = 0;
	to->base.unknown_fields = NULL;
	to->some_avg10 = percent(to->some_avg10);
	to->some_avg60 = percent(to->some_avg60);
	to->some_avg300 = percent(to->some_avg300);
	to->full_avg10 = percent(to->full_avg10);
	to->full_avg60 = percent(to->full_avg60);
	to->full_avg300 = percent(to->full_avg300);
	*ret = to;
}

/* All of a fixed size: lists, and what this server does not know, stay behind. */
static void copy_figures(struct guest_figures *to, const GuestStats *from)
{
	to->stats = *from;
	to->stats.base.n_unknown_fields = 0;
	to->stats.base.unknown_fields = NULL;
	to->stats.n_interfaces = to->stats.n_containers = 0;
	to->stats.interfaces = NULL;
	to->stats.containers = NULL;
	copy_pressure(&to->cpu, &to->stats.cpu_pressure, from->cpu_pressure);
	copy_pressure(&to->memory, &to->stats.memory_pressure, from->memory_pressure);
	copy_pressure(&to->io, &to->stats.io_pressure, from->io_pressure);
}

/* A counter that runs backwards, as one of a container that was replaced, gives no rate. */
static void rate_step(struct cpu_rate *rate, uint64_t counter_ns)
{
	int64_t now = now_monotonic_ns();
	int64_t passed = now - rate->last_at_ns;

	rate->known = rate->last_at_ns > 0 && passed > 0 && counter_ns >= rate->last_ns;
	if (rate->known)
		rate->nano_cores = (uint64_t)((double)(counter_ns - rate->last_ns) /
					      ((double)passed / (double)NS_PER_SEC));
	rate->last_ns = counter_ns;
	rate->last_at_ns = now;
}

/* With the pod's lock held. NULL: no memory, and no figures. */
static struct container_usage *usage_of(struct container *c)
{
	if (!c->usage)
		c->usage = calloc(1, sizeof(*c->usage));
	return c->usage;
}

/* ---- the guest's answer -------------------------------------------------------------------------------- */

static void take_container(struct pod *pod, const char *id, const GuestStats *stats, uint64_t vm_memory)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	struct container_usage *u;

	if (!stats || strlen(id) != 64 || container_find(pod->pods, id, &c, NULL) < 0 || c->pod != pod)
		return;
	pthread_mutex_lock(&pod->lock);
	u = usage_of(c);
	if (u) {
		u->at_ns = now_realtime_ns();
		copy_figures(&u->guest, stats);
		rate_step(&u->rate, stats->cpu_usage_ns);
		if (vm_memory > 0)
			u->vm_memory_bytes = vm_memory;
	}
	pthread_mutex_unlock(&pod->lock);
}

static void take_interfaces(struct pod_usage *u, const GuestStats *stats)
{
	u->n_interfaces = 0;
	for (size_t i = 0; i < stats->n_interfaces && u->n_interfaces < STATS_INTERFACES_MAX; i++) {
		const Crivisor__Agent__V1__InterfaceStats *s = stats->interfaces[i];

		if (str_eq(s->name, "lo") || str_empty(s->name))
			continue;
		u->interfaces[u->n_interfaces] = (struct usage_interface){
			.rx_bytes = s->rx_bytes,
			.rx_packets = s->rx_packets,
			.rx_errors = s->rx_errors,
			.rx_dropped = s->rx_dropped,
			.tx_bytes = s->tx_bytes,
			.tx_packets = s->tx_packets,
			.tx_errors = s->tx_errors,
			.tx_dropped = s->tx_dropped,
		};
		snprintf(u->interfaces[u->n_interfaces++].name, sizeof(u->interfaces[0].name), "%s", s->name);
	}
}

static void take_guest(struct pod *pod, const GuestStats *stats)
{
	pthread_mutex_lock(&pod->lock);
	pod->stats.usage->guest_at_ns = now_realtime_ns();
	copy_figures(&pod->stats.usage->guest, stats);
	take_interfaces(pod->stats.usage, stats);
	pthread_mutex_unlock(&pod->lock);
	for (size_t i = 0; i < stats->n_containers && i < CONTAINERS_MAX; i++)
		take_container(pod, stats->containers[i]->container_id, stats->containers[i]->stats,
			       stats->memory_limit);
}

/* ---- one sample ---------------------------------------------------------------------------------------- */

static void part_ended(struct sample *s)
{
	struct pod *pod = s->pod;

	if (atomic_fetch_sub(&s->left, 1) > 1)
		return;
	pthread_mutex_lock(&pod->lock);
	pod->stats.sampling = NULL;
	pthread_mutex_unlock(&pod->lock);
	outcome_set(s->outcome, NULL);
	outcome_unref(s->outcome);
	object_unref(&pod->object);
	free(s);
}

/* Loop. */
static void on_guest(void *arg, const struct err *err, const ProtobufCMessage *resp)
{
	struct sample *s = arg;

	if (!err)
		take_guest(s->pod, (const void *)resp);
	part_ended(s);
}

struct one {
	struct sample *sample;
	char id[65];
};

/* Loop. The answer of an agent that tells of one container at a time. */
static void on_one(void *arg, const struct err *err, const ProtobufCMessage *resp)
{
	struct one *one = arg;

	if (!err)
		take_container(one->sample->pod, one->id, (const void *)resp, 0);
	part_ended(one->sample);
	free(one);
}

static void ask_one(struct sample *s, struct agent *agent, const char *id)
{
	Crivisor__Agent__V1__StatsRequest req = CRIVISOR__AGENT__V1__STATS_REQUEST__INIT;
	struct one *one = calloc(1, sizeof(*one));

	if (!one)
		return;
	one->sample = s;
	snprintf(one->id, sizeof(one->id), "%s", id);
	req.container_id = one->id;
	atomic_fetch_add(&s->left, 1);
	if (agent_call_async(agent, &AGENT_STATS, &req.base, STATS_ANSWER_NS, on_one, one) < 0) {
		part_ended(s);
		free(one);
	}
}

static void ask_guest(struct sample *s, struct object **containers)
{
	Crivisor__Agent__V1__StatsRequest req = CRIVISOR__AGENT__V1__STATS_REQUEST__INIT;
	struct agent *agent;

	if (pod_agent(s->pod, &agent, NULL) < 0)
		return;
	req.all = true;
	atomic_fetch_add(&s->left, 1);
	if (agent_call_async(agent, &AGENT_STATS, &req.base, STATS_ANSWER_NS, on_guest, s) < 0)
		part_ended(s);
	if (agent_has(agent, "stats-all"))
		return;
	for (size_t i = 0; containers[i]; i++) {
		if (container_state(container_of(containers[i])) == CONTAINER_RUNNING)
			ask_one(s, agent, containers[i]->id);
	}
}

static void measure_layer(struct container *c)
{
	uint64_t bytes = 0, inodes = 0;
	struct container_usage *u;

	if (rootfs_usage(c->pods->parts.rootfs, c->object.id, &bytes, &inodes, NULL) < 0)
		return;
	pthread_mutex_lock(&c->pod->lock);
	u = usage_of(c);
	if (u) {
		u->layer_at_ns = now_realtime_ns();
		u->layer_bytes = bytes;
		u->layer_inodes = inodes;
	}
	pthread_mutex_unlock(&c->pod->lock);
}

/* On a worker of LANE_SLOW: walks directories. */
static void layers_job(void *arg)
{
	struct sample *s = arg;
	struct object **list CLEANUP_OBJECTS = NULL;

	if (container_list(s->pod->pods, s->pod, false, &list, NULL) == 0) {
		for (size_t i = 0; list[i]; i++)
			measure_layer(container_of(list[i]));
	}
	pthread_mutex_lock(&s->pod->lock);
	s->pod->stats.layers_at_ns = now_monotonic_ns();
	pthread_mutex_unlock(&s->pod->lock);
	part_ended(s);
}

static bool layers_are_old(struct pod *pod, struct object **containers)
{
	bool old;

	pthread_mutex_lock(&pod->lock);
	old = pod->stats.layers_at_ns == 0 || now_monotonic_ns() - pod->stats.layers_at_ns >= STATS_LAYER_NS;
	for (size_t i = 0; containers[i] && !old; i++) {
		const struct container_usage *u = container_of(containers[i])->usage;

		old = !u || u->layer_at_ns == 0;
	}
	pthread_mutex_unlock(&pod->lock);
	return old;
}

static void take_host(struct pod *pod)
{
	struct vmm_cgroup_stats host;

	if (sandbox_usage(pod->sandbox, &host, NULL) < 0)
		return;
	pthread_mutex_lock(&pod->lock);
	pod->stats.usage->host = host;
	pod->stats.usage->at_ns = now_realtime_ns();
	rate_step(&pod->stats.usage->rate, host.cpu_usage_ns);
	pthread_mutex_unlock(&pod->lock);
}

static void sample_pod(struct sample *s)
{
	struct object **list CLEANUP_OBJECTS = NULL;
	struct pod *pod = s->pod;

	if (container_list(pod->pods, pod, false, &list, NULL) == 0) {
		ask_guest(s, list);
		if (list[0] && layers_are_old(pod, list)) {
			atomic_fetch_add(&s->left, 1);
			if (workers_submit(pod->pods->parts.workers, LANE_SLOW, layers_job, s) < 0)
				part_ended(s);
		}
	}
	take_host(pod);
	part_ended(s);
}

/*
 * With the pod's lock held: whether it is to be sampled now. *ret_outcome: a reference, to the new or the
 * running sample; NULL: the figures are new enough.
 */
static bool want_sample(struct pod *pod, struct outcome **ret_outcome, int *ret_code)
{
	struct pod_stats *st = &pod->stats;
	int64_t now = now_monotonic_ns();

	*ret_outcome = NULL;
	if (st->sampling) {
		*ret_outcome = outcome_ref(st->sampling);
		return false;
	}
	if (st->begun_ns > 0 && now - st->begun_ns < STATS_AGE_NS)
		return false;
	if (!st->usage)
		st->usage = calloc(1, sizeof(*st->usage));
	*ret_code = st->usage ? outcome_new(ret_outcome, NULL) : -ENOMEM;
	if (*ret_code < 0)
		return false;
	st->begun_ns = now;
	st->sampling = *ret_outcome;
	return true;
}

/* A reference to the outcome to wait for; NULL: none. */
static struct outcome *begin_sample(struct pod *pod)
{
	struct sample *s = calloc(1, sizeof(*s));
	struct outcome *outcome = NULL;
	bool begin = false;
	int r = s ? 0 : -ENOMEM;

	if (!s)
		return NULL;
	pthread_mutex_lock(&pod->lock);
	if (!pod->gone && pod->state->phase == POD_READY)
		begin = want_sample(pod, &outcome, &r);
	pthread_mutex_unlock(&pod->lock);
	if (!begin) {
		free(s);
		return outcome;
	}
	s->pod = object_ref(&pod->object);
	s->outcome = outcome_ref(outcome);
	atomic_init(&s->left, 1);
	sample_pod(s);
	return outcome;
}

/* ---- all who ask --------------------------------------------------------------------------------------- */

struct ask {
	atomic_uint left;
	pods_done_fn *done;
	void *arg;
};

static void on_sampled(void *arg, const struct err *err)
{
	struct ask *ask = arg;
	const struct err fine = ERR_INIT;

	(void)err; /* the caller has left, which the RPC room has answered */
	if (atomic_fetch_sub(&ask->left, 1) > 1)
		return;
	ask->done(ask->arg, "", &fine);
	free(ask);
}

static void ask_pod(struct ask *ask, struct pod *pod, struct call *call)
{
	struct outcome *outcome CLEANUP_OUTCOME = begin_sample(pod);

	if (!outcome)
		return;
	atomic_fetch_add(&ask->left, 1);
	if (outcome_watch(outcome, call, on_sampled, ask, NULL) < 0)
		atomic_fetch_sub(&ask->left, 1); /* the caller's own is left */
}

/* With no lock held. */
static bool has_container(struct object **containers, const struct pod *pod, const char *id)
{
	for (size_t i = 0; containers[i]; i++) {
		if (container_of(containers[i])->pod == pod && str_starts(containers[i]->id, id))
			return true;
	}
	return false;
}

void stats_sample(struct pods *pods, const char *pod_id, const char *container_id, struct call *call,
		  pods_done_fn *done, void *arg)
{
	struct object **list CLEANUP_OBJECTS = NULL;
	struct object **containers CLEANUP_OBJECTS = NULL;
	struct ask *ask = calloc(1, sizeof(*ask));
	struct err err = ERR_INIT;
	int r = ask ? table_list(&pods->pods, false, &list, &err) : err_oom(&err);

	if (r == 0 && !str_empty(container_id))
		r = table_list(&pods->containers, false, &containers, &err);
	if (r < 0) {
		free(ask);
		done(arg, "", &err);
		return;
	}
	atomic_init(&ask->left, 1);
	ask->done = done;
	ask->arg = arg;
	for (size_t i = 0; list[i]; i++) {
		struct pod *pod = (struct pod *)(void *)list[i];

		if ((str_empty(pod_id) || str_starts(list[i]->id, pod_id)) &&
		    (!containers || has_container(containers, pod, container_id)))
			ask_pod(ask, pod, call);
	}
	on_sampled(ask, NULL);
}

/* ---- views --------------------------------------------------------------------------------------------- */

/* Pointers into the copy. */
static void mend(struct guest_figures *f)
{
	if (f->stats.cpu_pressure)
		f->stats.cpu_pressure = &f->cpu;
	if (f->stats.memory_pressure)
		f->stats.memory_pressure = &f->memory;
	if (f->stats.io_pressure)
		f->stats.io_pressure = &f->io;
}

struct container_walk {
	struct pods *pods;
	container_usage_fn *fn;
	void *arg;
	bool one; /* what has no figures is an error */
};

/* False: there are none. */
static bool copy_container(struct pods *pods, const char *id, struct container_usage *ret)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	bool there;

	if (container_find(pods, id, &c, NULL) < 0)
		return false;
	pthread_mutex_lock(&c->pod->lock);
	there = c->usage && c->usage->at_ns > 0;
	if (there)
		*ret = *c->usage;
	pthread_mutex_unlock(&c->pod->lock);
	mend(&ret->guest);
	return there;
}

static int look_container(void *arg, const struct container_view *v, struct err *err)
{
	struct container_walk *w = arg;
	struct container_usage u = {0};

	if (v->state != CONTAINER_RUNNING)
		return w->one ? err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
					       "container \"%s\" is not running", v->id)
			      : 0;
	if (!copy_container(w->pods, v->id, &u))
		return w->one ? err_set_status(err, -EAGAIN, ERR_UNAVAILABLE,
					       "the guest of container \"%s\" does not tell its figures",
					       v->id)
			      : 0;
	return w->fn(w->arg, v, &u, err);
}

int stats_each_container(struct pods *pods, const char *id, const char *pod_id, container_usage_fn *fn,
			 void *arg, struct err *err)
{
	struct container_walk w = {.pods = pods, .fn = fn, .arg = arg};

	return containers_each(pods, id, pod_id, look_container, &w, err);
}

int stats_look_container(struct pods *pods, const char *id, container_usage_fn *fn, void *arg,
			 struct err *err)
{
	struct container_walk w = {.pods = pods, .fn = fn, .arg = arg, .one = true};

	return containers_look(pods, id, look_container, &w, err);
}

struct pod_walk {
	struct pods *pods;
	pod_usage_fn *fn;
	void *arg;
	bool one;
};

static bool copy_pod(struct pods *pods, const char *id, struct pod_usage *ret)
{
	struct pod *pod CLEANUP_POD = NULL;
	bool there;

	if (pod_find(pods, id, &pod, NULL) < 0)
		return false;
	pthread_mutex_lock(&pod->lock);
	there = pod->stats.usage && pod->stats.usage->at_ns > 0;
	if (there)
		*ret = *pod->stats.usage;
	pthread_mutex_unlock(&pod->lock);
	mend(&ret->guest);
	return there;
}

static int look_pod(void *arg, const struct pod_view *v, struct err *err)
{
	struct pod_walk *w = arg;
	struct pod_usage *u CLEANUP_FREE = NULL;

	if (!v->ready)
		return w->one ? err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
					       "pod sandbox \"%s\" is not ready%s%s", v->id,
					       str_empty(v->reason) ? "" : ": ", v->reason)
			      : 0;
	u = calloc(1, sizeof(*u));
	if (!u)
		return err_oom(err);
	if (!copy_pod(w->pods, v->id, u))
		return w->one ? err_set_status(err, -EAGAIN, ERR_UNAVAILABLE,
					       "the cgroup of pod sandbox \"%s\" cannot be read", v->id)
			      : 0;
	return w->fn(w->arg, v, u, err);
}

int stats_each_pod(struct pods *pods, const char *id, pod_usage_fn *fn, void *arg, struct err *err)
{
	struct pod_walk w = {.pods = pods, .fn = fn, .arg = arg};

	return pods_each(pods, id, look_pod, &w, err);
}

int stats_look_pod(struct pods *pods, const char *id, pod_usage_fn *fn, void *arg, struct err *err)
{
	struct pod_walk w = {.pods = pods, .fn = fn, .arg = arg, .one = true};

	return pods_look(pods, id, look_pod, &w, err);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A control connection that broke is dialled again; the watches are told when it stands, or that it never
 * will.
 */
#include "cri/agent/agent_internal.h"

#include "base/util.h"

#define DIAL_NS	       (5 * NS_PER_SEC) /* for one try, which holds a worker */
#define PAUSE_FIRST_NS (50 * NS_PER_MS)
#define PAUSE_MAX_NS   (2 * NS_PER_SEC)
#define STEADY_NS      (10 * NS_PER_SEC) /* a connection that lasted for longer does not count as a try */

/* ---- watches ------------------------------------------------------------------------------------------- */

/* Tells the watches that have not been told yet of the newest epoch, or of the end. */
static void agent_tell(struct agent *agent)
{
	struct agent_watch *w;
	struct err over = ERR_INIT;
	uint64_t now;

	pthread_mutex_lock(&agent->lock);
	now = agent->aborted ? UINT64_MAX : agent->epoch;
	if (agent->aborted)
		over = agent->why;
	pthread_mutex_unlock(&agent->lock);
	/* From the start after each: fn may remove any of them. */
	do {
		for (w = agent->watches; w && w->seen >= now; w = w->next)
			;
		if (w) {
			w->seen = now;
			w->fn(w->arg, over.code < 0 ? &over : NULL);
		}
	} while (w);
}

static void tell_job(void *arg)
{
	struct agent *agent = arg;

	if (agent->backoff) { /* the agent is over */
		agent->backoff = loop_source_free(agent->backoff);
		agent_unref(agent);
	}
	agent_tell(agent);
	agent_unref(agent);
}

void agent_tell_later(struct agent *agent)
{
	agent_ref(agent);
	if (loop_post(agent->loop, tell_job, agent) < 0)
		agent_unref(agent);
}

void agent_watch_add(struct agent *agent, struct agent_watch *watch,
		     void (*fn)(void *arg, const struct err *over), void *arg)
{
	bool over;

	pthread_mutex_lock(&agent->lock);
	*watch = (struct agent_watch){.fn = fn, .arg = arg, .seen = agent->epoch};
	over = agent->aborted;
	pthread_mutex_unlock(&agent->lock);
	watch->next = agent->watches;
	watch->at = &agent->watches;
	if (watch->next)
		watch->next->at = &watch->next;
	agent->watches = watch;
	if (over)
		agent_tell_later(agent);
}

void agent_watch_remove(struct agent *agent, struct agent_watch *watch)
{
	(void)agent;
	if (!watch->at)
		return;
	*watch->at = watch->next;
	if (watch->next)
		watch->next->at = watch->at;
	watch->next = NULL;
	watch->at = NULL;
}

/* ---- dialling ------------------------------------------------------------------------------------------ */

static void dialled(void *arg);

/* Worker thread. Carries a reference, and hands it on. */
static void dial_job(void *arg)
{
	struct agent *agent = arg;
	struct err oom = ERR_INIT;

	agent->dial_err = ERR_INIT;
	agent->dial_code = agent_try(agent, NULL, agent->dial_until_ns, DIAL_NS, &agent->dial_err);
	if (loop_post(agent->loop, dialled, agent) < 0) {
		err_oom(&oom);
		agent_abort(agent, &oom);
		agent_unref(agent);
	}
}

static void dial_now(struct agent *agent);

static void on_backoff(void *arg)
{
	struct agent *agent = arg;

	agent->backoff = loop_source_free(agent->backoff);
	if (agent_state(agent, NULL) == 0)
		dial_now(agent);
	agent_unref(agent);
}

/* The timer carries a reference. */
static void dial_later(struct agent *agent)
{
	int64_t pause = PAUSE_FIRST_NS;
	struct err err = ERR_INIT;

	for (unsigned int i = 1; i < agent->dials && pause < PAUSE_MAX_NS; i++)
		pause *= 2;
	if (pause > PAUSE_MAX_NS)
		pause = PAUSE_MAX_NS;
	if (loop_add_timer(agent->loop, now_monotonic_ns() + pause, on_backoff, agent_ref(agent),
			   &agent->backoff, &err) == 0)
		return;
	agent_abort(agent, &err);
	agent_unref(agent);
}

static void dial_now(struct agent *agent)
{
	int64_t now = now_monotonic_ns(), lost = agent->broke_ns + agent->lost_ns;

	agent->dials++;
	agent->dialling = true;
	agent->dial_until_ns = lost < now + DIAL_NS ? lost : now + DIAL_NS;
	if (workers_submit(agent->workers, LANE_NET, dial_job, agent_ref(agent)) == 0)
		return;
	agent->dialling = false;
	agent_unref(agent);
	dial_later(agent); /* all threads are busy */
}

static void lose(struct agent *agent, int64_t after_ns)
{
	struct err why = ERR_INIT;

	err_set_status(&why, -ECONNRESET, ERR_UNAVAILABLE,
		       "the guest agent could not be reached for %.0f s: %.700s", (double)after_ns / 1e9,
		       agent->dial_err.msg);
	agent_abort(agent, &why);
}

static bool is_standing(struct agent *agent)
{
	bool standing;

	pthread_mutex_lock(&agent->lock);
	standing = agent->control;
	pthread_mutex_unlock(&agent->lock);
	return standing;
}

/* Loop. The outcome of one try. */
static void dialled(void *arg)
{
	struct agent *agent = arg;
	int64_t now = now_monotonic_ns();

	agent->dialling = false;
	if (agent_state(agent, NULL) < 0) {
		/* agent_abort has told the watches */
	} else if (agent->dial_code == -ESTALE) {
		agent_abort(agent, &agent->dial_err);
	} else if (agent->dial_code < 0 && now - agent->broke_ns >= agent->lost_ns) {
		lose(agent, now - agent->broke_ns);
	} else if (agent->dial_code < 0 || !is_standing(agent)) {
		dial_later(agent);
	} else {
		agent->stood_ns = now;
		agent_tell(agent);
	}
	agent_unref(agent);
}

bool agent_control_died(struct agent *agent, struct agent_conn *conn)
{
	int64_t now = now_monotonic_ns();
	bool mine;

	pthread_mutex_lock(&agent->lock);
	mine = agent->control == conn && !agent->aborted;
	if (mine)
		agent->control = NULL;
	pthread_mutex_unlock(&agent->lock);
	if (!mine)
		return false;
	agent->broke_ns = now;
	if (agent->dialling)
		return true; /* it stood for less than the time it takes to say so: see dialled() */
	if (agent->dials == 0 || now - agent->stood_ns > STEADY_NS) {
		agent->dials = 0;
		dial_now(agent);
	} else {
		dial_later(agent);
	}
	return true;
}

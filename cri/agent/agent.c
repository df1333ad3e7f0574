/* SPDX-License-Identifier: Apache-2.0 */
/* An agent: its life, its first connection, and calls on the control connection. */
#include "cri/agent/agent_internal.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "api/agent/sandbox.pb-c.h"
#include "base/cond.h"
#include "base/util.h"

#define ANSWER_FIRST_NS (1 * NS_PER_SEC) /* the first try's share of the deadline; doubled each time */
#define RETRY_PAUSE_NS	(5 * NS_PER_MS)
#define FEATURES_MAX	64

/* ---- life ---------------------------------------------------------------------------------------------- */

int agent_new(const struct agent_options *options, struct agent **ret_agent, struct err *err)
{
	struct agent *agent = calloc(1, sizeof(*agent));

	if (!agent)
		return err_oom(err);
	agent->loop = options->loop;
	agent->workers = options->workers;
	agent->dial = options->dial;
	agent->release = options->release;
	agent->arg = options->arg;
	agent->lost_ns = options->lost_ns > 0 ? options->lost_ns : AGENT_LOST_NS;
	if (options->boot_id)
		snprintf(agent->boot_id, sizeof(agent->boot_id), "%s", options->boot_id);
	atomic_store(&agent->refs, 1);
	pthread_mutex_init(&agent->lock, NULL);
	cond_init(&agent->changed);
	*ret_agent = agent;
	return 0;
}

struct agent *agent_ref(struct agent *agent)
{
	atomic_fetch_add(&agent->refs, 1);
	return agent;
}

void agent_unref(struct agent *agent)
{
	if (!agent || atomic_fetch_sub(&agent->refs, 1) != 1)
		return;
	if (agent->release)
		agent->release(agent->arg);
	strv_free(agent->features);
	pthread_cond_destroy(&agent->changed);
	pthread_mutex_destroy(&agent->lock);
	free(agent);
}

/* Takes the control connection off, for whoever closes it. */
static struct agent_conn *take_control(struct agent *agent)
{
	struct agent_conn *control;

	pthread_mutex_lock(&agent->lock);
	control = move_ptr(agent->control);
	pthread_mutex_unlock(&agent->lock);
	return control;
}

void agent_abort(struct agent *agent, const struct err *why)
{
	bool first;

	pthread_mutex_lock(&agent->lock);
	first = !agent->aborted;
	if (first) {
		agent->aborted = true;
		agent->why = *why;
		if (agent->why.code >= 0)
			err_set(&agent->why, -ECANCELED, "the guest is gone");
		for (struct agent_conn *conn = agent->conns; conn; conn = conn->next)
			agent_conn_abort(conn, &agent->why);
		pthread_cond_broadcast(&agent->changed);
	}
	pthread_mutex_unlock(&agent->lock);
	if (first)
		agent_tell_later(agent);
}

int agent_state(struct agent *agent, struct err *err)
{
	int r;

	pthread_mutex_lock(&agent->lock);
	r = agent->aborted ? err_copy(err, &agent->why) : 0;
	pthread_mutex_unlock(&agent->lock);
	return r;
}

struct agent *agent_free(struct agent *agent)
{
	struct err why = ERR_INIT;

	if (!agent)
		return NULL;
	err_set(&why, -ECANCELED, "the pod is gone");
	agent_abort(agent, &why);
	agent_conn_close(take_control(agent));
	agent_unref(agent);
	return NULL;
}

/* ---- who it is ----------------------------------------------------------------------------------------- */

typedef Crivisor__Agent__V1__InfoResponse Info;

static int check_name(const char *what, const char *name, struct err *err)
{
	if (strlen(name) < AGENT_BOOT_ID_MAX)
		return 0;
	return err_set_status(err, -EBADMSG, ERR_INTERNAL, "the guest agent sent %s of more than %d bytes",
			      what, AGENT_BOOT_ID_MAX - 1);
}

/*
 * Lock held. What the first answer says is what later ones must say. The instance tells an agent from one
 * that was started again in the same boot; older agents have none.
 */
static int check_same(struct agent *agent, const Info *info, struct err *err)
{
	int r = check_name("a boot id", info->boot_id, err);

	if (r == 0)
		r = check_name("an instance id", info->instance_id, err);
	if (r < 0)
		return r;
	if (agent->boot_id[0] && !str_eq(agent->boot_id, info->boot_id))
		return err_set_status(err, -ESTALE, ERR_UNAVAILABLE, "the guest was reset");
	if (agent->instance[0] && !str_eq(agent->instance, info->instance_id))
		return err_set_status(err, -ESTALE, ERR_UNAVAILABLE, "the guest agent was started again");
	return 0;
}

/* Lock held. */
static int learn(struct agent *agent, const Info *info, struct err *err)
{
	int r = check_same(agent, info, err);

	if (r < 0)
		return r;
	snprintf(agent->boot_id, sizeof(agent->boot_id), "%s", info->boot_id);
	snprintf(agent->instance, sizeof(agent->instance), "%s", info->instance_id);
	snprintf(agent->version, sizeof(agent->version), "%.63s", info->version);
	agent->features = strv_free(agent->features);
	for (size_t i = 0; i < info->n_features && i < FEATURES_MAX; i++) {
		if (strv_add(&agent->features, info->features[i]) < 0)
			return err_oom(err);
	}
	return 0;
}

int agent_check_same(struct agent *agent, const ProtobufCMessage *info, struct err *err)
{
	int r;

	pthread_mutex_lock(&agent->lock);
	r = check_same(agent, (const void *)info, err);
	pthread_mutex_unlock(&agent->lock);
	return r;
}

void agent_identify(struct agent *agent, struct agent_identity *ret_identity)
{
	memset(ret_identity, 0, sizeof(*ret_identity));
	pthread_mutex_lock(&agent->lock);
	if (agent->epoch > 0) {
		memcpy(ret_identity->boot_id, agent->boot_id, sizeof(agent->boot_id));
		memcpy(ret_identity->version, agent->version, sizeof(agent->version));
		ret_identity->epoch = agent->epoch;
	}
	pthread_mutex_unlock(&agent->lock);
}

bool agent_has(struct agent *agent, const char *feature)
{
	bool has = false;

	pthread_mutex_lock(&agent->lock);
	for (size_t i = 0; agent->features && agent->features[i] && !has; i++)
		has = str_eq(agent->features[i], feature);
	pthread_mutex_unlock(&agent->lock);
	return has;
}

/* ---- connecting ---------------------------------------------------------------------------------------- */

static int dial(struct agent *agent, int64_t deadline_ns, struct agent_conn **ret_conn, struct err *err)
{
	int fd, r = agent_state(agent, err);

	if (r < 0)
		return r;
	fd = agent->dial(agent->arg, GUEST_PORT_AGENT, deadline_ns, err);
	return fd < 0 ? fd : agent_conn_new(agent, fd, ret_conn, err);
}

int agent_open(struct agent *agent, int64_t deadline_ns, struct agent_conn **ret_conn, struct err *err)
{
	bool broken;

	if (loop_on_thread(agent->loop))
		return err_set(err, -EDEADLK, "connecting to the agent would block the event loop");
	pthread_mutex_lock(&agent->lock);
	broken = !agent->aborted && agent->epoch > 0 && !agent->control;
	pthread_mutex_unlock(&agent->lock);
	if (broken)
		return err_set_status(err, -ENOTCONN, ERR_UNAVAILABLE,
				      "the connection to the guest agent is being made anew");
	return dial(agent, deadline_ns, ret_conn, err);
}

/* Check, and Info, on a connection that is not the control connection yet. */
static int greet(struct agent *agent, struct agent_conn *conn, struct call *call, int64_t timeout_ns,
		 struct err *err)
{
	Grpc__CheckRequest check = GRPC__CHECK_REQUEST__INIT;
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
	ProtobufCMessage *info = NULL;
	int r = agent_conn_call_by(conn, call, &AGENT_CHECK, &check.base, timeout_ns, NULL, err);

	if (r == 0)
		r = agent_conn_call_by(conn, call, &AGENT_INFO, &req.base, timeout_ns, &info, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&agent->lock);
	r = learn(agent, (const void *)info, err);
	pthread_mutex_unlock(&agent->lock);
	protobuf_c_message_free_unpacked(info, NULL);
	return r;
}

/* Makes conn the control connection, unless it has died already. */
static int install(struct agent *agent, struct agent_conn *conn, struct err *err)
{
	struct agent_conn *old = NULL;
	int r;

	pthread_mutex_lock(&agent->lock);
	r = agent->aborted ? err_copy(err, &agent->why) : agent_conn_state(conn, err);
	if (r == 0) {
		old = agent->control;
		agent->control = conn;
		agent->epoch++;
		pthread_cond_broadcast(&agent->changed);
	}
	pthread_mutex_unlock(&agent->lock);
	agent_conn_close(old);
	return r;
}

int agent_try(struct agent *agent, struct call *call, int64_t deadline_ns, int64_t answer_ns, struct err *err)
{
	struct agent_conn *conn = NULL;
	int64_t left;
	int r = dial(agent, deadline_ns, &conn, err);

	if (r < 0)
		return r;
	left = deadline_ns - now_monotonic_ns();
	if (left > answer_ns)
		left = answer_ns;
	r = greet(agent, conn, call, left > 0 ? left : 1, err);
	if (r == 0)
		r = install(agent, conn, err);
	if (r < 0)
		agent_conn_close(conn);
	return r;
}

/* A pause between two tries that the call's end and the abort cut short. False: no other try. */
static bool pause_for_retry(struct agent *agent, struct call *call, int r, int64_t deadline_ns)
{
	int64_t until = now_monotonic_ns() + RETRY_PAUSE_NS;
	bool again = false;

	/* A connection can be made before the agent serves it, or be lost while the guest boots. */
	if (until >= deadline_ns || call_check(call, NULL) < 0 ||
	    (r != -ETIMEDOUT && r != -ECONNRESET && r != -EPIPE))
		return false;
	pthread_mutex_lock(&agent->lock);
	while (!agent->aborted && r != -ECANCELED && now_monotonic_ns() < until)
		r = call_wait(call, &agent->changed, &agent->lock, until);
	again = !agent->aborted && r != -ECANCELED;
	pthread_mutex_unlock(&agent->lock);
	return again;
}

int agent_connect(struct agent *agent, struct call *call, int64_t deadline_ns, struct err *err)
{
	int64_t answer_ns = ANSWER_FIRST_NS;
	int r;

	if (loop_on_thread(agent->loop))
		return err_set(err, -EDEADLK, "connecting to the agent would block the event loop");
	if (call_deadline(call) < deadline_ns)
		deadline_ns = call_deadline(call);
	do {
		r = agent_try(agent, call, deadline_ns, answer_ns, err);
		answer_ns *= 2;
	} while (r < 0 && pause_for_retry(agent, call, r, deadline_ns));
	return r;
}

/* ---- calls on the control connection ------------------------------------------------------------------- */

/* Lock held. 0: there may be a control connection later. */
static int hope(struct agent *agent, struct err *err)
{
	if (agent->aborted)
		return err_copy(err, &agent->why);
	return agent->epoch > 0
		       ? 0
		       : err_set_status(err, -ENOTCONN, ERR_UNAVAILABLE, "not connected to the guest agent");
}

/* A reference to the control connection, as soon as there is one. */
static int await_control(struct agent *agent, struct call *call, int64_t until_ns,
			 struct agent_conn **ret_conn, struct err *err)
{
	int r, waited = 0;

	pthread_mutex_lock(&agent->lock);
	while ((r = hope(agent, err)) == 0 && !agent->control && waited == 0)
		waited = call_wait(call, &agent->changed, &agent->lock, until_ns);
	if (r == 0 && agent->control)
		*ret_conn = agent_conn_ref(agent->control);
	else if (r == 0)
		r = waited;
	pthread_mutex_unlock(&agent->lock);
	if (r == -ECANCELED && waited == -ECANCELED)
		return call_check(call, err);
	if (r == -ETIMEDOUT && waited == -ETIMEDOUT)
		return err_set_status(err, r, ERR_UNAVAILABLE,
				      "the guest agent could not be reached within the time of the call");
	return r;
}

int agent_call_by(struct agent *agent, struct call *call, const struct agent_method *method,
		  const ProtobufCMessage *req, int64_t timeout_ns, ProtobufCMessage **ret_resp,
		  struct err *err)
{
	int64_t until = timeout_ns > 0 ? call_until(NULL, timeout_ns) : INT64_MAX;
	bool broke = true;
	int r = 0;

	if (loop_on_thread(agent->loop))
		return err_set(err, -EDEADLK, "a call to the agent would block the event loop");
	while (broke) {
		struct agent_conn *conn = NULL;
		int64_t left;

		r = await_control(agent, call, until, &conn, err);
		if (r < 0)
			return r;
		left = until == INT64_MAX ? 0 : until - now_monotonic_ns();
		r = agent_conn_call_by(conn, call, method, req, until != INT64_MAX && left <= 0 ? 1 : left,
				       ret_resp, err);
		broke = r < 0 && method->repeatable && agent_conn_state(conn, NULL) < 0;
		agent_conn_unref(conn);
	}
	return r;
}

int agent_call_async(struct agent *agent, const struct agent_method *method, const ProtobufCMessage *req,
		     int64_t timeout_ns, agent_reply_fn *reply, void *arg)
{
	struct agent_conn *conn = NULL;
	int r;

	pthread_mutex_lock(&agent->lock);
	r = agent->aborted ? agent->why.code : agent->control ? 0 : -ENOTCONN;
	if (r == 0)
		conn = agent_conn_ref(agent->control);
	pthread_mutex_unlock(&agent->lock);
	if (r < 0)
		return r;
	r = agent_conn_call_async(conn, method, req, timeout_ns, reply, arg);
	if (r < 0 && agent_conn_state(conn, NULL) < 0) { /* it died meanwhile, perhaps of too little memory */
		pthread_mutex_lock(&agent->lock);
		r = agent->aborted ? agent->why.code : -ENOTCONN;
		pthread_mutex_unlock(&agent->lock);
	}
	agent_conn_unref(conn);
	return r;
}

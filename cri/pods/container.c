/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/pods/container.h"

#include "base/log.h"
#include "base/util.h"
#include "cri/logs/logs.h"
#include "api/pb.h"

#include <assert.h>

struct container *container_new(struct pod *pod, const char *id)
{
	struct container *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->server = pod->server;
	c->pod = pod_ref(pod);
	c->refs = 1;
	snprintf(c->id, sizeof(c->id), "%s", id);
	return c;
}

struct container *container_ref(struct container *container)
{
	pthread_mutex_lock(&container->server->tables);
	container->refs++;
	pthread_mutex_unlock(&container->server->tables);
	return container;
}

void container_unref(struct container *container)
{
	struct server *server;
	bool last;

	if (!container)
		return;
	server = container->server;
	pthread_mutex_lock(&server->tables);
	assert(container->refs > 0);
	last = --container->refs == 0;
	pthread_mutex_unlock(&server->tables);
	if (!last)
		return;
	log_pump_free(container->pump);
	pb_free(container->state);
	pod_unref(container->pod);
	free(container);
}

void container_table_add(struct container *container)
{
	pthread_mutex_lock(&container->server->tables);
	container->refs++;
	container->next = container->server->containers;
	container->server->containers = container;
	pthread_mutex_unlock(&container->server->tables);
}

void container_table_remove(struct container *container)
{
	bool found = false;

	pthread_mutex_lock(&container->server->tables);
	for (struct container **p = &container->server->containers; *p; p = &(*p)->next) {
		if (*p == container) {
			*p = container->next;
			container->next = NULL;
			found = true;
			break;
		}
	}
	pthread_mutex_unlock(&container->server->tables);
	if (found)
		container_unref(container);
}

int container_find(struct server *server, const char *id, struct container **ret_container, struct err *err)
{
	struct container *found = NULL;
	size_t len = strlen(id);
	bool ambiguous = false;

	pthread_mutex_lock(&server->tables);
	for (struct container *c = server->containers; c && len > 0; c = c->next) {
		if (strncmp(c->id, id, len) != 0)
			continue;
		if (found) {
			ambiguous = true;
			break;
		}
		found = c;
	}
	if (found && !ambiguous)
		found->refs++;
	pthread_mutex_unlock(&server->tables);
	if (ambiguous)
		return err_set(err, -EINVAL, "container id prefix \"%s\" is ambiguous", id);
	if (!found)
		return err_set(err, -ENOENT, "container \"%s\" not found", id);
	*ret_container = found;
	return 0;
}

int container_list(struct server *server, const struct pod *pod, struct container ***ret_list,
		   struct err *err)
{
	struct container **list;
	size_t n = 0;

	pthread_mutex_lock(&server->tables);
	for (struct container *c = server->containers; c; c = c->next)
		n++;
	list = calloc(n + 1, sizeof(struct container *));
	n = 0;
	for (struct container *c = server->containers; c && list; c = c->next) {
		if (pod && c->pod != pod)
			continue;
		c->refs++;
		list[n++] = c;
	}
	pthread_mutex_unlock(&server->tables);
	if (!list)
		return err_oom(err);
	*ret_list = list;
	return 0;
}

void container_list_free(struct container **list)
{
	for (size_t i = 0; list && list[i]; i++)
		container_unref(list[i]);
	free(list);
}

Crivisor__State__V1__Container *container_state(struct container *container)
{
	Crivisor__State__V1__Container *copy = NULL;

	pthread_mutex_lock(&container->pod->lock);
	if (container->state && container->state->phase != CRIVISOR__STATE__V1__PHASE__PHASE_CREATING)
		copy = PB_CLONE(container->state);
	pthread_mutex_unlock(&container->pod->lock);
	return copy;
}

static int store_row(struct container *container, struct err *err)
{
	void *data CLEANUP_FREE = NULL;
	char *name CLEANUP_FREE = NULL;
	size_t len = 0;
	int r = -ENOENT;

	pthread_mutex_lock(&container->pod->lock);
	if (container->state) {
		const Runtime__V1__ContainerMetadata *m = container->state->config->metadata;

		r = pb_pack(&container->state->base, &data, &len);
		name = xasprintf("%s_%u in pod %s", m->name, m->attempt, container->pod->id);
	}
	pthread_mutex_unlock(&container->pod->lock);
	if (r == -ENOENT)
		return err_set(err, r, "container \"%s\" not found", container->id);
	if (r < 0 || !name)
		return err_oom(err);
	return store_put(container->server->store, "container", container->id, name, data, len, err);
}

int container_store(struct container *container, struct err *err)
{
	int r;

	pthread_mutex_lock(&container->pod->rows);
	r = store_row(container, err);
	pthread_mutex_unlock(&container->pod->rows);
	return r;
}

int container_forget(struct container *container, struct err *err)
{
	struct pod *pod = container->pod;
	int r;

	pthread_mutex_lock(&pod->rows);
	r = store_delete(container->server->store, "container", container->id, err);
	if (r == 0) {
		pthread_mutex_lock(&pod->lock);
		pb_free(container->state);
		container->state = NULL;
		pthread_cond_broadcast(&pod->changed);
		pthread_mutex_unlock(&pod->lock);
	}
	pthread_mutex_unlock(&pod->rows);
	return r;
}

int container_turn_take(struct container *container, enum container_op op)
{
	struct pod *pod = container->pod;
	int r = 0;

	pthread_mutex_lock(&pod->lock);
	while (container->op != CONTAINER_OP_NONE)
		pthread_cond_wait(&pod->changed, &pod->lock);
	if (!container->state)
		r = -ENOENT;
	else
		container->op = op;
	pthread_mutex_unlock(&pod->lock);
	return r;
}

void container_turn_give(struct container *container)
{
	pthread_mutex_lock(&container->pod->lock);
	container->op = CONTAINER_OP_NONE;
	pthread_cond_broadcast(&container->pod->changed);
	pthread_mutex_unlock(&container->pod->lock);
}

char *container_pos_path(const struct server *server, const char *id)
{
	return xasprintf("%s/logs/%s.pos", server->config->server.state_dir, id);
}

int container_pump(struct container *c, struct agent *agent, bool resume, struct log_pump **ret_pump,
		   struct err *err)
{
	char *pos CLEANUP_FREE = container_pos_path(c->server, c->id);
	const struct log_pump_options options = {.loop = c->server->loop,
						 .workers = c->server->workers,
						 .agent = agent,
						 .container_id = c->id,
						 .log_path = c->state->log_path,
						 .pos_path = pos,
						 .resume = resume};

	return pos ? log_pump_start(&options, NULL, ret_pump, err) : err_oom(err);
}

int container_reopen_log(struct server *server, const char *id, struct err *err)
{
	struct container *c CLEANUP_CONTAINER = NULL;
	struct log_pump *pump = NULL;
	int r = container_find(server, id, &c, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&c->pod->lock);
	if (c->state && c->state->phase == CRIVISOR__STATE__V1__PHASE__PHASE_RUNNING)
		pump = c->pump;
	pthread_mutex_unlock(&c->pod->lock);
	if (!pump)
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
				      "container \"%s\" is not running", c->id);
	return log_pump_reopen(pump, NULL, err);
}

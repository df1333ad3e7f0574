/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/pods/pod.h"

#include "base/log.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "api/pb.h"

#include <assert.h>
#include <time.h>

struct pod *pod_new(struct server *server, const char *id)
{
	struct pod *pod = calloc(1, sizeof(*pod));
	pthread_condattr_t attr;

	if (!pod)
		return NULL;
	pod->server = server;
	pod->refs = 1;
	snprintf(pod->id, sizeof(pod->id), "%s", id);
	snprintf(pod->dir, sizeof(pod->dir), "%s/pods/%.20s", server->config->server.run_dir, id);
	pthread_mutex_init(&pod->rows, NULL);
	pthread_mutex_init(&pod->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&pod->changed, &attr);
	pthread_condattr_destroy(&attr);
	return pod;
}

static void pod_free(struct pod *pod)
{
	agent_free(pod->agent);
	vm_free(pod->vm);
	agent_free(pod->dead_agent);
	vm_free(pod->dead_vm);
	pb_free(pod->state);
	pthread_cond_destroy(&pod->changed);
	pthread_mutex_destroy(&pod->lock);
	pthread_mutex_destroy(&pod->rows);
	free(pod);
}

struct pod *pod_ref(struct pod *pod)
{
	pthread_mutex_lock(&pod->server->tables);
	pod->refs++;
	pthread_mutex_unlock(&pod->server->tables);
	return pod;
}

void pod_unref(struct pod *pod)
{
	struct server *server;
	bool last;

	if (!pod)
		return;
	server = pod->server;
	pthread_mutex_lock(&server->tables);
	assert(pod->refs > 0);
	last = --pod->refs == 0;
	pthread_mutex_unlock(&server->tables);
	if (last)
		pod_free(pod);
}

/* The table holds a reference of its own. */
void pod_table_add(struct pod *pod)
{
	pthread_mutex_lock(&pod->server->tables);
	pod->refs++;
	pod->next = pod->server->pods;
	pod->server->pods = pod;
	pthread_mutex_unlock(&pod->server->tables);
}

void pod_table_remove(struct pod *pod)
{
	bool found = false;

	pthread_mutex_lock(&pod->server->tables);
	for (struct pod **p = &pod->server->pods; *p; p = &(*p)->next) {
		if (*p == pod) {
			*p = pod->next;
			pod->next = NULL;
			found = true;
			break;
		}
	}
	pthread_mutex_unlock(&pod->server->tables);
	if (found)
		pod_unref(pod);
}

int pod_find(struct server *server, const char *id, struct pod **ret_pod, struct err *err)
{
	struct pod *found = NULL;
	size_t len = strlen(id);
	bool ambiguous = false;

	pthread_mutex_lock(&server->tables);
	for (struct pod *pod = server->pods; pod && len > 0; pod = pod->next) {
		if (strncmp(pod->id, id, len) != 0)
			continue;
		if (found) {
			ambiguous = true;
			break;
		}
		found = pod;
	}
	if (found && !ambiguous)
		found->refs++;
	pthread_mutex_unlock(&server->tables);
	if (ambiguous)
		return err_set(err, -EINVAL, "pod sandbox id prefix \"%s\" is ambiguous", id);
	if (!found)
		return err_set(err, -ENOENT, "pod sandbox \"%s\" not found", id);
	*ret_pod = found;
	return 0;
}

void pod_list_free(struct pod **list)
{
	for (size_t i = 0; list && list[i]; i++)
		pod_unref(list[i]);
	free(list);
}

int pod_list(struct server *server, struct pod ***ret_list, struct err *err)
{
	struct pod **list;
	size_t n = 0;

	pthread_mutex_lock(&server->tables);
	for (struct pod *pod = server->pods; pod; pod = pod->next)
		n++;
	list = calloc(n + 1, sizeof(struct pod *));
	n = 0;
	for (struct pod *pod = server->pods; pod && list; pod = pod->next) {
		pod->refs++;
		list[n++] = pod;
	}
	pthread_mutex_unlock(&server->tables);
	if (!list)
		return err_oom(err);
	*ret_list = list;
	return 0;
}

Crivisor__State__V1__Pod *pod_state(struct pod *pod)
{
	Crivisor__State__V1__Pod *copy;

	pthread_mutex_lock(&pod->lock);
	if (!pod->state || pod->state->phase == CRIVISOR__STATE__V1__PHASE__PHASE_CREATING)
		copy = NULL;
	else
		copy = PB_CLONE(pod->state);
	pthread_mutex_unlock(&pod->lock);
	return copy;
}

static int store_row(struct pod *pod, struct err *err)
{
	void *data CLEANUP_FREE = NULL;
	char *name CLEANUP_FREE = NULL;
	size_t len = 0;
	int r;

	pthread_mutex_lock(&pod->lock);
	r = pod->state ? pb_pack(&pod->state->base, &data, &len) : -ENOENT;
	if (r == 0 && pod->state->config && pod->state->config->metadata) {
		const Runtime__V1__PodSandboxMetadata *m = pod->state->config->metadata;

		name = xasprintf("%s_%s_%s_%u", m->name, m->namespace_, m->uid, m->attempt);
	}
	pthread_mutex_unlock(&pod->lock);
	if (r == -ENOENT)
		return err_set(err, r, "pod sandbox \"%s\" not found", pod->id);
	if (r < 0 || !name)
		return err_oom(err);
	return store_put(pod->server->store, "pod", pod->id, name, data, len, err);
}

int pod_store(struct pod *pod, struct err *err)
{
	int r;

	pthread_mutex_lock(&pod->rows);
	r = store_row(pod, err);
	pthread_mutex_unlock(&pod->rows);
	return r;
}

int pod_forget(struct pod *pod, struct err *err)
{
	int r;

	pthread_mutex_lock(&pod->rows);
	r = store_delete(pod->server->store, "pod", pod->id, err);
	if (r == 0) {
		pthread_mutex_lock(&pod->lock);
		pb_free(pod->state);
		pod->state = NULL;
		pthread_cond_broadcast(&pod->changed);
		pthread_mutex_unlock(&pod->lock);
	}
	pthread_mutex_unlock(&pod->rows);
	return r;
}

void pod_cancel(struct pod *pod)
{
	struct call *waits = NULL;
	struct vm *vm = NULL;

	pthread_mutex_lock(&pod->lock);
	if (pod->op == POD_OP_CREATE) {
		pod->cancel = true;
		vm = pod->vm;
		waits = call_ref(pod->waits);
	}
	pthread_mutex_unlock(&pod->lock);
	call_cancel(waits, "the pod sandbox is to be stopped");
	call_unref(waits);
	if (vm)
		vm_stop(vm, now_monotonic_ns() + 10 * NS_PER_SEC, NULL);
}

int pod_turn_take(struct pod *pod, enum pod_op op)
{
	int r = 0;

	pod_cancel(pod);
	pthread_mutex_lock(&pod->lock);
	while (pod->op != POD_OP_NONE)
		pthread_cond_wait(&pod->changed, &pod->lock);
	if (!pod->state)
		r = -ENOENT; /* removed while we waited */
	else
		pod->op = op;
	pthread_mutex_unlock(&pod->lock);
	return r;
}

void pod_turn_give(struct pod *pod)
{
	pthread_mutex_lock(&pod->lock);
	pod->op = POD_OP_NONE;
	pthread_cond_broadcast(&pod->changed);
	pthread_mutex_unlock(&pod->lock);
}

int pod_agent(struct pod *pod, struct agent **ret_agent, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&pod->lock);
	if (!pod->state)
		r = err_set(err, -ENOENT, "pod sandbox \"%s\" not found", pod->id);
	else if (pod->state->phase != CRIVISOR__STATE__V1__PHASE__PHASE_READY || pod->dead || !pod->agent)
		r = err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION,
				   "pod sandbox \"%s\" is not ready%s%s", pod->id, pod->reason[0] ? ": " : "",
				   pod->reason);
	else
		*ret_agent = pod->agent;
	pthread_mutex_unlock(&pod->lock);
	return r;
}

int pod_dial(void *arg, uint32_t port, int64_t deadline_ns, struct err *err)
{
	return vm_connect(arg, port, deadline_ns, err);
}

static int cni_bandwidth(const Runtime__V1__PodSandboxConfig *config, struct cni_pod *ret, struct err *err)
{
	for (size_t i = 0; i < config->n_annotations; i++) {
		const char *key = config->annotations[i]->key;
		uint64_t *bps = str_eq(key, "kubernetes.io/ingress-bandwidth")	? &ret->ingress_bps
				: str_eq(key, "kubernetes.io/egress-bandwidth") ? &ret->egress_bps
										: NULL;

		if (bps && cni_bandwidth_parse(config->annotations[i]->value, bps, err) < 0)
			return err_wrap(err, "annotation %s", key);
	}
	return 0;
}

int pod_cni_view(const char *id, const char *netns, const Runtime__V1__PodSandboxConfig *config,
		 struct cni_port *ports, size_t n_ports, struct cni_pod *ret, struct err *err)
{
	static const char *const protocols[] = {"tcp", "udp", "sctp"};
	size_t n = 0;

	memset(ret, 0, sizeof(*ret));
	ret->id = id;
	ret->netns = netns;
	ret->ifname = "eth0";
	ret->ports = ports;
	if (!config)
		return 0;
	ret->ns = config->metadata->namespace_;
	ret->name = config->metadata->name;
	ret->uid = config->metadata->uid;
	for (size_t i = 0; i < config->n_port_mappings; i++) {
		const Runtime__V1__PortMapping *p = config->port_mappings[i];

		if (p->host_port == 0)
			continue; /* informational only, as with containerd */
		if (p->host_port < 0 || p->host_port > 65535 || p->container_port < 1 ||
		    p->container_port > 65535)
			return err_set(
				err, -EINVAL,
				"port_mappings[%zu]: host_port %d and container_port %d must be 1 to 65535",
				i, p->host_port, p->container_port);
		if (p->protocol < 0 || (size_t)p->protocol >= ARRAY_SIZE(protocols))
			return err_set(err, -EINVAL, "port_mappings[%zu]: unknown protocol %d", i,
				       (int)p->protocol);
		if (n == n_ports)
			return err_set(err, -E2BIG, "more than %zu port mappings", n_ports);
		ports[n++] = (struct cni_port){
			.host_port = (uint16_t)p->host_port,
			.container_port = (uint16_t)p->container_port,
			.protocol = protocols[p->protocol],
			.host_ip = p->host_ip,
		};
	}
	ret->n_ports = n;
	if (config->dns_config) {
		ret->dns_servers = config->dns_config->servers;
		ret->n_dns_servers = config->dns_config->n_servers;
		ret->dns_searches = config->dns_config->searches;
		ret->n_dns_searches = config->dns_config->n_searches;
		ret->dns_options = config->dns_config->options;
		ret->n_dns_options = config->dns_config->n_options;
	}
	return cni_bandwidth(config, ret, err);
}

/* RunPodSandbox: from a request to a booted, networked VM. Each function is one step; failure undoes what was journalled. */
#include "cri/container.h"
#include "cri/pod.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "api/agent/sandbox.pb-c.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/agent.h"
#include "cri/pb.h"
#include "cri/readiness.h"
#include "cri/share.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#define BOOT_NS       (90 * NS_PER_SEC)
#define CNI_ADD_NS    (60 * NS_PER_SEC)
#define SETUP_NS      (20 * NS_PER_SEC)
#define TAP           "tap0"
#define IFNAME        "eth0"
#define PORTS_MAX     64
#define MIB           (UINT64_C(1) << 20)
#define GUEST_OWN     (96 * MIB)  /* what kernel and agent need beside the containers' limits */
#define VMM_OWN_KVM   (160 * MIB) /* VMM, virtiofsd and vsock daemon beside guest memory */
#define VMM_OWN_TCG   (768 * MIB) /* and the translation cache */
#define RESOLV_MAX    (64 * 1024)
#define BOOT_ID_MAX   64 /* a UUID has 36 */
#define CREATION_NS   (60 * NS_PER_SEC)

/* What one run carries from step to step. */
struct run {
	struct pod *pod;
	struct server *server;
	const Runtime__V1__PodSandboxConfig *config;
	struct vmm_choice choice;
	char netns[300];
	char cgroup[512];
	uint64_t memory_bytes;
	uint32_t vcpus;
	int64_t client_deadline_ns;
	bool (*cancelled)(void *arg); /* the client has left; may be NULL */
	void *cancelled_arg;
	int64_t deadline_ns; /* of the boot: set before anything else may look */
	int64_t traced_ns;   /* when the last step ended */
	bool cni_begun;

	/* CNI runs beside the boot; under pod->lock. */
	bool cni_done;
	int cni_code;
	struct err cni_err;
	struct cni_result cni;
};

/* A word of a line of resolv.conf, hostname or the like: no white space, no control characters. */
static int check_word(const char *what, const char *word, struct err *err)
{
	for (const char *p = word; *p; p++) {
		if ((unsigned char)*p <= ' ' || *p == 0x7f)
			return err_set(err, -EINVAL, "%s has white space or a control character in it", what);
	}
	return 0;
}

static int check_words(const char *what, char *const *words, size_t n, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = str_empty(words[i]) ? err_set(err, -EINVAL, "%s has an empty entry", what) : check_word(what, words[i], err);
	return r;
}

/* What ends up as a line of a file or as a path must not become two of them. */
static int check_lines(const Runtime__V1__PodSandboxConfig *config, struct err *err)
{
	const Runtime__V1__DNSConfig *dns = config->dns_config;
	int r = check_word("config.hostname", config->hostname, err);

	if (r == 0 && config->linux)
		r = check_word("config.linux.cgroup_parent", config->linux->cgroup_parent, err);
	if (r == 0 && strchr(config->metadata->name, '\n'))
		r = err_set(err, -EINVAL, "config.metadata.name has a line end in it");
	if (r == 0 && strchr(config->log_directory, '\n'))
		r = err_set(err, -EINVAL, "config.log_directory has a line end in it");
	if (r < 0 || !dns)
		return r;
	r = check_words("config.dns_config.servers", dns->servers, dns->n_servers, err);
	if (r == 0)
		r = check_words("config.dns_config.searches", dns->searches, dns->n_searches, err);
	return r < 0 ? r : check_words("config.dns_config.options", dns->options, dns->n_options, err);
}

static int check_config(const Runtime__V1__PodSandboxConfig *config, const char *handler, struct err *err)
{
	const Runtime__V1__NamespaceOption *ns = NULL;

	if (!config)
		return err_set(err, -EINVAL, "config is missing");
	if (!config->metadata || str_empty(config->metadata->name))
		return err_set(err, -EINVAL, "config.metadata.name is missing");
	if (!str_empty(handler) && !str_eq(handler, "crivisor"))
		return err_set(err, -EINVAL, "no runtime handler \"%s\": this server has \"\" and \"crivisor\"", handler);
	if (config->windows)
		return err_set(err, -EINVAL, "config.windows: this server runs Linux pods only");
	if (config->linux && config->linux->security_context)
		ns = config->linux->security_context->namespace_options;
	if (ns && ns->network == RUNTIME__V1__NAMESPACE_MODE__NODE)
		return err_set_status(err, -EOPNOTSUPP, ERR_INVALID_ARGUMENT,
				      "host network: a pod in a VM has a network of its own, hostNetwork pods cannot run here yet");
	if (ns && ns->ipc == RUNTIME__V1__NAMESPACE_MODE__NODE)
		return err_set_status(err, -EOPNOTSUPP, ERR_INVALID_ARGUMENT,
				      "host IPC: a pod in a VM cannot share the host's IPC namespace");
	if (ns && ns->userns_options && ns->userns_options->mode == RUNTIME__V1__NAMESPACE_MODE__POD)
		return err_set_status(err, -EOPNOTSUPP, ERR_INVALID_ARGUMENT,
				      "user namespaces are not supported by this version");
	if (strlen(config->hostname) > 64)
		return err_set(err, -EINVAL, "config.hostname is longer than 64 bytes");
	if (!str_empty(config->log_directory) && config->log_directory[0] != '/')
		return err_set(err, -EINVAL, "config.log_directory \"%s\" is not absolute", config->log_directory);
	return check_lines(config, err);
}

/* What CNI would refuse is refused before anything is begun. */
static int check_network(const char *id, const Runtime__V1__PodSandboxConfig *config, struct err *err)
{
	struct cni_port ports[PORTS_MAX];
	struct cni_pod view;
	int r = pod_cni_view(id, NULL, config, ports, PORTS_MAX, &view, err);

	return r < 0 ? r : cni_pod_check(&view, err);
}

/*
 * The kubelet sends the sum of those limits that there are. Whether every container has one shows in the cgroup that it made for the
 * pod, which has a limit only then (pkg/kubelet/cm/helpers_linux.go, ResourceConfigForPod).
 */
static bool some_without_limit(const struct run *run)
{
	const Runtime__V1__LinuxPodSandboxConfig *lx = run->config->linux;
	uint64_t limit;

	return lx && !str_empty(lx->cgroup_parent) && vmm_cgroup_memory_limit(lx->cgroup_parent, &limit, NULL) == 0 && limit == 0;
}

/*
 * Size of the VM: from the pod's own limits where it has them, else from the configuration. Containers without a limit beside
 * others that have one get what a pod without limits gets.
 */
static void size_vm(struct run *run)
{
	const Runtime__V1__LinuxContainerResources *res = run->config->linux ? run->config->linux->resources : NULL;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int64_t wanted = atomic_load(&run->server->pod_vcpus);

	run->memory_bytes = atomic_load(&run->server->pod_memory_bytes);
	if (res && res->memory_limit_in_bytes > 0)
		run->memory_bytes = (some_without_limit(run) ? run->memory_bytes : GUEST_OWN) +
				    ((uint64_t)res->memory_limit_in_bytes + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
	if (res && res->cpu_quota > 0 && res->cpu_period > 0)
		wanted = res->cpu_quota / res->cpu_period + (res->cpu_quota % res->cpu_period != 0);
	if (wanted > cpus)
		wanted = cpus;
	run->vcpus = wanted < 1 ? 1 : (uint32_t)wanted;
}

static int reserve(struct run *run, const char *handler, struct err *err)
{
	Crivisor__State__V1__Pod *state = pb_new(&crivisor__state__v1__pod__descriptor);
	struct pod *pod = run->pod;
	const char *parent = run->server->config->sandbox.cgroup_parent;
	int len;

	if (!state)
		return err_set(err, -ENOMEM, "out of memory");
	pod->state = state;
	if (run->config->linux && !str_empty(run->config->linux->cgroup_parent))
		parent = run->config->linux->cgroup_parent;
	if (parent[0] != '/' || strstr(parent, "/../") || str_ends(parent, "/.."))
		return err_set(err, -EINVAL, "cgroup_parent \"%s\" is not an absolute path of the cgroupfs driver", parent);
	len = snprintf(run->cgroup, sizeof(run->cgroup), "%s%scrivisor-%s", parent, str_ends(parent, "/") ? "" : "/", pod->id);
	/* Cut short it would name another's cgroup, whose processes the removal would kill. */
	if (len >= (int)sizeof(run->cgroup))
		return err_set(err, -EINVAL, "cgroup_parent is longer than %zu bytes", sizeof(run->cgroup) - 75);
	snprintf(run->netns, sizeof(run->netns), "%s/netns/%.20s", run->server->config->server.run_dir, pod->id);
	state->config = PB_CLONE(run->config);
	state->created_at = now_realtime_ns();
	state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_CREATING;
	if (!state->config || pb_set_str(&state->id, pod->id) < 0 || pb_set_str(&state->runtime_handler, handler) < 0 ||
	    pb_set_str(&state->dir, pod->dir) < 0 || pb_set_str(&state->netns, run->netns) < 0 ||
	    pb_set_str(&state->cgroup, run->cgroup) < 0)
		return err_set(err, -ENOMEM, "out of memory");
	if (pod_store(pod, err) < 0)
		return err_wrap(err, "reserving the pod's name");
	return 0;
}

static int journal(struct run *run, const char *kind, const char *arg, struct err *err)
{
	int64_t step;

	return journal_begin(run->server->store, run->pod->id, kind, arg, &step, err);
}

/* resolv.conf as the pod's DNS config wants it, or the host's own where it has none. */
static int write_resolv(struct run *run, struct err *err)
{
	const Runtime__V1__DNSConfig *dns = run->config->dns_config;
	char *text CLEANUP_FREE = NULL;
	size_t len = 0;
	FILE *f;

	if (!dns || (dns->n_servers == 0 && dns->n_searches == 0 && dns->n_options == 0)) {
		if (read_file("/etc/resolv.conf", RESOLV_MAX, &text, NULL) < 0)
			text = strdup("");
		return text ? share_write(run->pod->dir, "resolv.conf", text, err) : err_set(err, -ENOMEM, "out of memory");
	}
	f = open_memstream(&text, &len);
	if (!f)
		return err_set(err, -ENOMEM, "out of memory");
	if (dns->n_searches > 0) {
		fputs("search", f);
		for (size_t i = 0; i < dns->n_searches; i++)
			fprintf(f, " %s", dns->searches[i]);
		fputc('\n', f);
	}
	for (size_t i = 0; i < dns->n_servers; i++)
		fprintf(f, "nameserver %s\n", dns->servers[i]);
	if (dns->n_options > 0) {
		fputs("options", f);
		for (size_t i = 0; i < dns->n_options; i++)
			fprintf(f, " %s", dns->options[i]);
		fputc('\n', f);
	}
	if (fclose(f) != 0)
		return err_set(err, -ENOMEM, "out of memory");
	return share_write(run->pod->dir, "resolv.conf", text, err);
}

static const char *pod_hostname(const struct run *run)
{
	return str_empty(run->config->hostname) ? run->config->metadata->name : run->config->hostname;
}

static int write_files(struct run *run, struct err *err)
{
	char *hostname CLEANUP_FREE = xasprintf("%.64s\n", pod_hostname(run));
	int r;

	if (!hostname)
		return err_set(err, -ENOMEM, "out of memory");
	r = write_resolv(run, err);
	if (r == 0)
		r = share_write(run->pod->dir, "hostname", hostname, err);
	if (r == 0)
		r = share_write(run->pod->dir, "hosts",
				"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n", err);
	return r;
}

/* Directories, files and namespaces on the host, in the order whose reverse is the right order of undoing. */
static int prepare_host(struct run *run, struct err *err)
{
	struct pod *pod = run->pod;
	struct vmm_resources res = {0};
	const Runtime__V1__LinuxContainerResources *limits = run->config->linux ? run->config->linux->resources : NULL;
	uint64_t own = str_eq(run->choice.accel, "kvm") ? VMM_OWN_KVM : VMM_OWN_TCG;
	int r = journal(run, "rundir", pod->dir, err);

	if (r < 0)
		return r;
	r = mkdir_p(pod->dir, 0711);
	if (r < 0)
		return err_set_errno(err, r, "making %s", pod->dir);
	r = journal(run, "share", pod->dir, err);
	if (r == 0)
		r = share_create(pod->dir, err);
	if (r == 0)
		r = write_files(run, err);
	if (r == 0)
		r = journal(run, "netns", run->netns, err);
	if (r == 0)
		r = vmm_netns_create(run->netns, err);
	if (r == 0)
		r = vmm_tap_create(run->netns, TAP, run->choice.mtu_max ? run->choice.mtu_max : 1500, err);
	if (r == 0)
		r = journal(run, "cni", run->netns, err);
	if (r == 0)
		r = journal(run, "cgroup", run->cgroup, err);
	if (r < 0)
		return r;
	res.memory_limit_bytes = run->memory_bytes + own;
	if (limits) {
		res.cpu_shares = limits->cpu_shares > 0 ? (uint64_t)limits->cpu_shares : 0;
		res.cpu_quota_us = limits->cpu_quota;
		res.cpu_period_us = limits->cpu_period > 0 ? (uint64_t)limits->cpu_period : 0;
		res.cpuset_cpus = str_empty(limits->cpuset_cpus) ? NULL : limits->cpuset_cpus;
		res.cpuset_mems = str_empty(limits->cpuset_mems) ? NULL : limits->cpuset_mems;
	}
	return vmm_cgroup_create(run->cgroup, &res, err);
}

static void cni_job(void *arg)
{
	struct run *run = arg;
	struct cni_port ports[PORTS_MAX];
	struct cni_pod view;
	struct err err = ERR_INIT;
	struct cni_result result = {0};
	int64_t deadline_ns = now_monotonic_ns() + CNI_ADD_NS;
	int r = pod_cni_view(run->pod->id, run->netns, run->config, ports, PORTS_MAX, &view, &err);

	if (run->deadline_ns < deadline_ns)
		deadline_ns = run->deadline_ns;
	if (r == 0)
		r = cni_add(run->server->cni, &view, deadline_ns, &result, &err);
	pthread_mutex_lock(&run->pod->lock);
	run->cni_code = r;
	run->cni_err = err;
	run->cni = result;
	run->cni_done = true;
	pthread_cond_broadcast(&run->pod->changed);
	pthread_mutex_unlock(&run->pod->lock);
}

static int cni_wait(struct run *run, struct err *err)
{
	pthread_mutex_lock(&run->pod->lock);
	while (!run->cni_done) /* cni_add has a deadline of its own */
		pthread_cond_wait(&run->pod->changed, &run->pod->lock);
	pthread_mutex_unlock(&run->pod->lock);
	return run->cni_code < 0 ? err_copy(err, &run->cni_err) : 0;
}

static int start_vm(struct run *run, struct err *err)
{
	struct pod *pod = run->pod;
	char *shared CLEANUP_FREE = xasprintf("%s/shared", pod->dir);
	struct vmm_spec spec = {
		.id = pod->id,
		.run_dir = pod->dir,
		.shared_dir = shared,
		.netns_path = run->netns,
		.cgroup = run->cgroup,
		.tap = TAP,
		.mtu = run->choice.mtu_max,
		.vcpus = run->vcpus,
		.memory_bytes = run->memory_bytes,
	};
	struct vmm *vm;
	int r;

	if (!shared)
		return err_set(err, -ENOMEM, "out of memory");
	r = vmm_start(&run->server->config->hypervisor, &run->choice, &spec, run->deadline_ns, &vm, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&pod->lock);
	pod->vm = vm;
	r = pod->cancel ? -ECANCELED : 0;
	pthread_mutex_unlock(&pod->lock);
	return r < 0 ? err_set(err, r, "the pod was stopped while it was being created") : 0;
}

/* Says why the guest never came up: the VMM's own event, and the guest's last words on its console. */
static int explain_boot(struct run *run, struct err *err)
{
	char tail[320];
	struct vmm_event event = {.type = VMM_EVENT_NONE};

	pod_console_tail(run->pod->dir, tail, sizeof(tail));
	while (run->pod->vm && event.type == VMM_EVENT_NONE && vmm_dispatch(run->pod->vm, &event) == 1)
		;
	if (event.type == VMM_EVENT_GUEST_PANIC)
		err_wrap(err, "the guest kernel panicked");
	else if (event.type == VMM_EVENT_GUEST_RESET)
		err_wrap(err, "the guest reset itself");
	else if (event.type == VMM_EVENT_GUEST_SHUTDOWN)
		err_wrap(err, "the guest powered off");
	else
		err_wrap(err, "booting the pod's VM");
	if (tail[0]) {
		struct err old = *err;

		err_set_status(err, old.code, old.status, "%s; guest console: %s", old.msg, tail);
	}
	if (err->status != ERR_DEADLINE_EXCEEDED)
		err->status = ERR_INTERNAL;
	return err->code;
}

static int reach_agent(struct run *run, struct err *err)
{
	struct pod *pod = run->pod;
	struct agent *agent = NULL;
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
	Crivisor__Agent__V1__InfoResponse *info = NULL;
	int r = agent_new(run->server->loop, pod->vm, &agent, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&pod->lock);
	pod->agent = agent;
	pthread_mutex_unlock(&pod->lock);
	r = agent_connect(agent, run->deadline_ns, err);
	if (r < 0)
		return explain_boot(run, err);
	r = agent_call(agent, &AGENT_INFO, &req.base, SETUP_NS, (ProtobufCMessage **)&info, err);
	if (r < 0)
		return err_wrap(err, "asking the guest's agent who it is");
	if (strlen(info->boot_id) > BOOT_ID_MAX) {
		pb_free(info);
		return err_set_status(err, -EBADMSG, ERR_INTERNAL, "the guest's agent gives a boot id of more than %d bytes", BOOT_ID_MAX);
	}
	pthread_mutex_lock(&pod->lock);
	r = pb_set_str(&pod->state->boot_id, info->boot_id);
	pthread_mutex_unlock(&pod->lock);
	pb_free(info);
	return r < 0 ? err_set(err, r, "out of memory") : 0;
}

static int add_address(Grpc__Interface *ifc, const struct cni_ip *ip, struct err *err)
{
	Grpc__IPAddress *a = pb_append(&ifc->ipaddresses, &ifc->n_ipaddresses, &grpc__ipaddress__descriptor);
	char address[64];
	char *slash;

	snprintf(address, sizeof(address), "%s", ip->address);
	slash = strchr(address, '/');
	if (!a || !slash)
		return err_set(err, a ? -EBADMSG : -ENOMEM, "CNI gave the address \"%s\" without a prefix length", ip->address);
	*slash++ = 0;
	a->family = strchr(address, ':') ? GRPC__IPFAMILY__v6 : GRPC__IPFAMILY__v4;
	if (pb_set_str(&a->address, address) < 0 || pb_set_str(&a->mask, slash) < 0)
		return err_set(err, -ENOMEM, "out of memory");
	return 0;
}

static int add_route(Grpc__SetupSandboxRequest *req, const char *dst, const char *gw, struct err *err)
{
	Grpc__Route *route = pb_append(&req->routes, &req->n_routes, &grpc__route__descriptor);

	if (!route || pb_set_str(&route->dest, dst) < 0 || pb_set_str(&route->gateway, gw) < 0 ||
	    pb_set_str(&route->device, IFNAME) < 0)
		return err_set(err, -ENOMEM, "out of memory");
	route->family = strchr(dst, ':') ? GRPC__IPFAMILY__v6 : GRPC__IPFAMILY__v4;
	return 0;
}

static int fill_network(struct run *run, Grpc__SetupSandboxRequest *req, const struct vmm_if_info *nic, struct err *err)
{
	Grpc__Interface *ifc = pb_append(&req->interfaces, &req->n_interfaces, &grpc__interface__descriptor);
	char mac[18];
	int r = 0;

	snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", nic->mac[0], nic->mac[1], nic->mac[2], nic->mac[3],
		 nic->mac[4], nic->mac[5]);
	if (!ifc || pb_set_str(&ifc->device, IFNAME) < 0 || pb_set_str(&ifc->name, IFNAME) < 0 ||
	    pb_set_str(&ifc->hwaddr, mac) < 0)
		return err_set(err, -ENOMEM, "out of memory");
	ifc->mtu = nic->mtu;
	for (size_t i = 0; i < run->cni.n_ips && r == 0; i++)
		r = add_address(ifc, &run->cni.ips[i], err);
	for (size_t i = 0; i < run->cni.n_routes && r == 0; i++) {
		const struct cni_route *route = &run->cni.routes[i];
		const char *gw = route->gw;

		/* A route without gateway goes by the address's own, as the spec has it. */
		for (size_t k = 0; k < run->cni.n_ips && !*gw; k++) {
			if (!strchr(run->cni.ips[k].address, ':') == !strchr(route->dst, ':'))
				gw = run->cni.ips[k].gateway;
		}
		r = add_route(req, route->dst, gw, err);
	}
	return r;
}

static int fill_sandbox(struct run *run, Grpc__SetupSandboxRequest *req, struct err *err)
{
	Crivisor__Agent__V1__Sandbox sandbox = CRIVISOR__AGENT__V1__SANDBOX__INIT;
	const Runtime__V1__LinuxPodSandboxConfig *lx = run->config->linux;
	char hostname[65];
	int r = 0;

	snprintf(hostname, sizeof(hostname), "%s", pod_hostname(run));
	sandbox.id = run->pod->id;
	sandbox.hostname = hostname;
	/* The entries of both maps have the same shape; the request only lends them. */
	if (lx && lx->n_sysctls > 0) {
		sandbox.n_sysctls = lx->n_sysctls;
		sandbox.sysctls = calloc(lx->n_sysctls, sizeof(*sandbox.sysctls));
		if (!sandbox.sysctls)
			return err_set(err, -ENOMEM, "out of memory");
		for (size_t i = 0; i < lx->n_sysctls && r == 0; i++) {
			Crivisor__Agent__V1__Sandbox__SysctlsEntry *e =
				pb_new(&crivisor__agent__v1__sandbox__sysctls_entry__descriptor);

			sandbox.sysctls[i] = e;
			if (!e) {
				sandbox.n_sysctls = i;
				r = -ENOMEM;
				break;
			}
			e->key = lx->sysctls[i]->key;
			e->value = lx->sysctls[i]->value;
		}
	}
	/* Any container may ask for it later (POD is CRI's default), whatever the pod's own options say. */
	sandbox.shared_pid_namespace = true;
	req->config = pb_new(&google__protobuf__any__descriptor);
	if (r == 0 && req->config) {
		void *data;

		r = pb_pack(&sandbox.base, &data, &req->config->value.len);
		if (r == 0) {
			req->config->value.data = data;
			r = pb_set_str(&req->config->type_url, GUEST_SANDBOX_TYPE_URL);
		}
	}
	for (size_t i = 0; i < sandbox.n_sysctls; i++)
		free(sandbox.sysctls[i]);
	free(sandbox.sysctls);
	return r < 0 || !req->config ? err_set(err, -ENOMEM, "out of memory") : 0;
}

/* The second half, `assign`: gives a booted VM that knows nothing of the pod its network and name. */
static int assign(struct run *run, struct err *err)
{
	Grpc__SetupSandboxRequest *req;
	ProtobufCMessage *resp = NULL;
	struct vmm_if_info nic;
	int r = cni_wait(run, err);

	if (r == 0)
		r = vmm_tap_join(run->netns, TAP, IFNAME, &nic, err);
	if (r < 0)
		return r;
	req = pb_new(&grpc__setup_sandbox_request__descriptor);
	if (!req)
		return err_set(err, -ENOMEM, "out of memory");
	r = fill_network(run, req, &nic, err);
	if (r == 0)
		r = fill_sandbox(run, req, err);
	if (r == 0) {
		r = agent_call(run->pod->agent, &AGENT_SETUP_SANDBOX, &req->base, SETUP_NS, &resp, err);
		if (r < 0)
			err_wrap(err, "setting up the pod in its VM");
	}
	pb_free(resp);
	pb_free(req);
	return r;
}

static int finish(struct run *run, struct err *err)
{
	struct pod *pod = run->pod;
	char *vm CLEANUP_FREE = vmm_save(pod->vm);
	char *ips[ARRAY_SIZE(run->cni.ips)];
	int r = 0;

	if (!vm)
		return err_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < run->cni.n_ips; i++) {
		ips[i] = run->cni.ips[i].address;
		ips[i][strcspn(ips[i], "/")] = 0;
	}
	pthread_mutex_lock(&pod->lock);
	if (pod->cancel)
		r = -ECANCELED;
	else if (pb_set_str(&pod->state->vm, vm) < 0 ||
		 pb_set_strv(&pod->state->ips, &pod->state->n_ips, ips, run->cni.n_ips) < 0)
		r = -ENOMEM;
	else
		pod->state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_READY;
	pthread_mutex_unlock(&pod->lock);
	if (r < 0)
		return err_set(err, r, r == -ENOMEM ? "out of memory" : "the pod was stopped while it was being created");
	r = pod_store(pod, err);
	return r < 0 ? r : pod_watch(pod, err);
}

/* With [sandbox] enable_tracing: how long each step took. */
static void trace(struct run *run, const char *step)
{
	int64_t now = now_monotonic_ns();

	if (run->server->config->sandbox.enable_tracing)
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", run->pod->id, "step", step), "step took %.1f ms",
			 (double)(now - run->traced_ns) / NS_PER_MS);
	run->traced_ns = now;
}

/* The VM ended before its kernel wrote a word: nothing in the guest's configuration can be the reason. */
static bool died_mute(struct run *run, const struct err *err)
{
	struct pod *pod = run->pod;
	char *path CLEANUP_FREE = xasprintf("%s/console.log", pod->dir);
	struct stat st;
	bool cancelled;

	pthread_mutex_lock(&pod->lock);
	cancelled = pod->cancel || !pod->vm;
	pthread_mutex_unlock(&pod->lock);
	return !cancelled && err->status != ERR_DEADLINE_EXCEEDED && now_monotonic_ns() < run->deadline_ns && path &&
	       stat(path, &st) == 0 && st.st_size == 0;
}

/* Puts the dead VM aside (others may still hold its handle; it goes with the pod) and removes its sockets and logs. */
static int clear_vm(struct run *run, struct err *err)
{
	struct pod *pod = run->pod;
	struct err gone = ERR_INIT;
	struct dirent *de;
	DIR *dir;

	err_set(&gone, -ECONNRESET, "the VM died");
	agent_abort(pod->agent, &gone);
	if (vmm_stop(pod->vm, now_monotonic_ns() + 10 * NS_PER_SEC, err) < 0)
		return err->code;
	pthread_mutex_lock(&pod->lock);
	pod->dead_vm = move_ptr(pod->vm);
	pod->dead_agent = move_ptr(pod->agent);
	pthread_mutex_unlock(&pod->lock);
	dir = opendir(pod->dir);
	if (!dir)
		return err_set_errno(err, -errno, "%s", pod->dir);
	while ((de = readdir(dir))) {
		if (de->d_type == DT_REG || de->d_type == DT_SOCK)
			(void)unlinkat(dirfd(dir), de->d_name, 0);
	}
	closedir(dir);
	return 0;
}

/*
 * Starts the VM and reaches its agent. On a host short of CPU a guest sometimes dies before its console exists (seen about once
 * in a hundred boots with QEMU's emulation under heavy load); such a one is started once more, and the log says so.
 */
static int boot(struct run *run, struct err *err)
{
	struct err first = ERR_INIT;
	int r = start_vm(run, &first);

	trace(run, "start VM");
	if (r == 0)
		r = reach_agent(run, &first);
	if (r == 0)
		return 0;
	if (!died_mute(run, &first))
		return err_copy(err, &first);
	log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", run->pod->id), "the VM died before its kernel spoke and is started once more: %s",
		 first.msg);
	r = clear_vm(run, err);
	if (r == 0)
		r = start_vm(run, err);
	if (r == 0)
		r = reach_agent(run, err);
	return r < 0 ? err_wrap(err, "on the second try") : 0;
}

/* Nobody wants the pod any more: its client has left, or it is to be stopped. */
static bool unwanted(void *arg)
{
	struct run *run = arg;
	bool cancel;

	pthread_mutex_lock(&run->pod->lock);
	cancel = run->pod->cancel;
	pthread_mutex_unlock(&run->pod->lock);
	return cancel || (run->cancelled && run->cancelled(run->cancelled_arg));
}

/* From the first thing that is made until the agent has answered: what keeps the host's CPUs busy, and so behind the gate. */
static int boot_in_turn(struct run *run, struct err *err)
{
	int64_t limit;
	int r = gate_enter(&run->server->boots, run->client_deadline_ns, unwanted, run, err);

	if (r < 0)
		return err_wrap(err, "waiting for the boots of other pods");
	trace(run, "turn");
	/* What it waited for others is not of its boot's time. */
	limit = now_monotonic_ns() + BOOT_NS;
	run->deadline_ns = limit < run->client_deadline_ns ? limit : run->client_deadline_ns;
	r = prepare_host(run, err);
	trace(run, "prepare");
	if (r == 0) {
		r = pool_submit(run->server->pool, POOL_NET, cni_job, run);
		run->cni_begun = r == 0;
		if (r < 0)
			err_set_status(err, r, ERR_RESOURCE_EXHAUSTED, "too many pods are being set up at once");
	}
	if (r == 0)
		r = boot(run, err);
	gate_leave(&run->server->boots);
	trace(run, "boot");
	return r;
}

static int run_steps(struct run *run, struct err *err)
{
	int r = boot_in_turn(run, err);

	if (r == 0)
		r = assign(run, err);
	trace(run, "assign");
	if (r == 0)
		r = finish(run, err);
	trace(run, "finish");
	if (r < 0 && run->cni_begun) /* the CNI job uses `run` and must have ended; its own failure matters less than ours */
		cni_wait(run, NULL);
	return r;
}

/* A pod that nobody was told of was listed all the same: a quick client may have made containers in it. */
static int remove_containers(struct pod *pod, struct err *err)
{
	struct container **list;
	int r = container_wait_creations(pod, now_monotonic_ns() + CREATION_NS, err);

	if (r == 0)
		r = container_list(pod->server, pod, &list, err);
	if (r < 0)
		return r;
	container_vm_died(pod, "the pod is being removed");
	for (size_t i = 0; list[i] && r == 0; i++)
		r = container_remove(pod->server, list[i]->id, err);
	container_list_free(list);
	return r;
}

static void roll_back(struct run *run)
{
	struct pod *pod = run->pod;
	struct err err = ERR_INIT;

	pthread_mutex_lock(&pod->lock);
	pod->dead = true;
	pod->state->phase = CRIVISOR__STATE__V1__PHASE__PHASE_CREATING; /* nobody is to see it any more */
	pthread_mutex_unlock(&pod->lock);
	pod_unwatch(pod);
	if (pod->agent) {
		err_set(&err, -ECANCELED, "the pod is being removed");
		agent_abort(pod->agent, &err);
	}
	if (pod->vm && vmm_stop(pod->vm, now_monotonic_ns() + 10 * NS_PER_SEC, &err) < 0)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", pod->id), "stopping the VM of a pod that failed: %s", err.msg);
	if (remove_containers(pod, &err) < 0 ||
	    journal_undo_owner(run->server->store, pod->id, pod_undo, run->server, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", pod->id), "undoing a pod that failed: %s", err.msg);
	if (pod_forget(pod, &err) < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("pod", pod->id), "forgetting a pod that failed: %s", err.msg);
	pod_table_remove(pod);
	pthread_mutex_lock(&pod->lock);
	pb_free(pod->state);
	pod->state = NULL;
	pthread_mutex_unlock(&pod->lock);
}

static int run_reserved(struct run *run, const char *handler, struct err *err)
{
	int r = reserve(run, handler, err);

	if (r < 0)
		return r; /* nothing is journalled yet, and the name is another's */
	pod_table_add(run->pod);
	r = run_steps(run, err);
	if (r < 0)
		roll_back(run);
	return r;
}

int pod_run(struct server *server, const Runtime__V1__PodSandboxConfig *config, const char *handler,
	    int64_t deadline_ns, bool (*cancelled)(void *arg), void *arg, char **ret_id, struct err *err)
{
	struct run run = {.server = server, .config = config, .client_deadline_ns = deadline_ns, .cancelled = cancelled, .cancelled_arg = arg};
	struct pod *pod CLEANUP_POD = NULL;
	int64_t start = now_monotonic_ns();
	const char *reason;
	char id[65];
	int r = check_config(config, handler, err);

	if (r < 0)
		return r;
	size_vm(&run);
	r = server_ready(server, run.memory_bytes, &run.choice, &reason, err);
	if (r == 0)
		r = server_fits_now(server, run.memory_bytes, err);
	if (r < 0)
		return r;
	r = cni_status(server->cni, err);
	if (r < 0)
		return err_wrap(err, "the pod network is not ready");
	r = random_hex(32, id);
	if (r == 0) {
		r = check_network(id, config, err);
		if (r < 0)
			return r;
	}
	pod = r < 0 ? NULL : pod_new(server, id);
	if (!pod)
		return err_set(err, -ENOMEM, "out of memory");
	run.pod = pod;
	run.traced_ns = start;
	pod->op = POD_OP_CREATE;
	r = run_reserved(&run, handler, err);
	if (r == 0 && cancelled && cancelled(arg)) {
		/* Nobody heard of this pod; left alone it would hold its name and a VM for ever. */
		roll_back(&run);
		r = err_set(err, -ECANCELED, "the client left before the pod was ready");
	}
	if (r == 0) {
		*ret_id = strdup(id);
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", id, "name", config->metadata->name, "driver", run.choice.driver),
			 "pod is ready after %lld ms", (long long)((now_monotonic_ns() - start) / NS_PER_MS));
	}
	cni_result_done(&run.cni);
	pod_turn_give(pod);
	return r < 0 ? r : *ret_id ? 0 : err_set(err, -ENOMEM, "out of memory");
}

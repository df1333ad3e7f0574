/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_sandbox.h"

#include "base/cond.h"
#include "base/util.h"
#include "cri/sandbox/sandbox_internal.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#define VMS_MAX 256

/* A machine that runs, or has run. */
struct fake_vm {
	char id[SANDBOX_ID_MAX], cgroup[SANDBOX_PATH_MAX];
	struct fake_agent *agent;
	bool running, mute;
	int fd; /* readable once it has ended */
	char why[SANDBOX_WHY_MAX];
	int status;
	struct vm_size size;
};

struct fake_machine {
	struct sandbox_machine base;
	bool killed;
	struct fake_vm *vm;
	int fd; /* of its own: two sandboxes may watch one machine, before and after a restart */
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_once_t once;
	struct fake_vm *vms[VMS_MAX];
	int fail[FAKE_STEPS];
	int64_t slow_ns[FAKE_STEPS];
	unsigned int count[FAKE_STEPS];
	unsigned int mute;
	const char *hang;
	const char *const *features;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .once = PTHREAD_ONCE_INIT};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void init(void)
{
	must(cond_init(&fake.changed) == 0);
}

static struct fake_machine *machine_of(const struct sandbox *s)
{
	return (struct fake_machine *)(void *)s->machine;
}

/* Lock held. The count, the delay and the failure of a step. m: whose kill ends the delay. */
static int step(enum fake_step what, const struct fake_machine *m, struct err *err)
{
	int64_t until = now_monotonic_ns() + fake.slow_ns[what];
	int r = fake.fail[what];

	pthread_once(&fake.once, init);
	fake.count[what]++;
	fake.fail[what] = 0;
	while (fake.slow_ns[what] > 0 && now_monotonic_ns() < until && !(m && m->killed))
		(void)cond_wait_until(&fake.changed, &fake.lock, until);
	return r < 0 ? err_set_errno(err, r, "the fake fails here") : 0;
}

/* The same for a step that does nothing else under the lock. */
static int run_step(enum fake_step what, struct err *err)
{
	int r;

	pthread_mutex_lock(&fake.lock);
	r = step(what, NULL, err);
	pthread_mutex_unlock(&fake.lock);
	return r;
}

/* Lock held. */
static void end_vm(struct fake_vm *vm, const char *why, int status)
{
	if (!vm || !vm->running)
		return;
	vm->running = false;
	vm->status = status;
	snprintf(vm->why, sizeof(vm->why), "%s", why);
	fake_agent_refuse(vm->agent, -ENOTCONN);
	fake_agent_cut(vm->agent);
	must(eventfd_write(vm->fd, 1) == 0);
	pthread_cond_broadcast(&fake.changed);
}

/* ---- the driver ---------------------------------------------------------------------------------------- */

static struct sandbox_machine *machine_new(struct sandboxes *room)
{
	struct fake_machine *m = calloc(1, sizeof(*m));

	(void)room;
	pthread_once(&fake.once, init);
	if (!m)
		return NULL;
	m->fd = -1;
	return &m->base;
}

static void machine_free(struct sandbox_machine *machine)
{
	close_fd(((struct fake_machine *)(void *)machine)->fd);
	free(machine);
}

/* Lock held. */
static void take_vm(struct fake_machine *m, struct fake_vm *vm)
{
	m->vm = vm;
	close_fd(m->fd);
	m->fd = fcntl(vm->fd, F_DUPFD_CLOEXEC, 0);
	must(m->fd >= 0);
}

static int make_dir(const char *dir, const char *sub, struct err *err)
{
	char path[1024];
	int r;

	snprintf(path, sizeof(path), "%s%s", dir, sub);
	r = mkdir_p(path, 0755);
	return r < 0 ? err_set_errno(err, r, "making %s", path) : 0;
}

static int prepare(struct sandbox *s, const struct sandbox_spec *spec, struct call *call, struct err *err)
{
	int r = sandbox_journal(s, "rundir", s->dir, err);

	(void)spec;
	(void)call;
	if (r == 0)
		r = make_dir(s->dir, "/mounts", err);
	if (r == 0)
		r = sandbox_journal(s, "netns", s->netns, err);
	if (r == 0 && write_file(s->netns, "", 0, 0600) < 0)
		r = err_set(err, -EIO, "writing %s", s->netns);
	if (r == 0)
		r = sandbox_journal(s, "cgroup", s->cgroup, err);
	return r < 0 ? r : run_step(FAKE_PREPARE, err);
}

static struct fake_vm *vm_new(struct sandbox *s)
{
	struct fake_vm *vm = calloc(1, sizeof(*vm));
	size_t at = 0;

	must(vm);
	snprintf(vm->id, sizeof(vm->id), "%s", s->id);
	snprintf(vm->cgroup, sizeof(vm->cgroup), "%s", s->cgroup);
	vm->agent = fake_agent_new();
	vm->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vm->running = true;
	must(vm->fd >= 0);
	fake_agent_set_boot(vm->agent, s->id); /* each its own */
	fake_agent_set_features(vm->agent, fake.features);
	if (fake.hang)
		fake_agent_hang(vm->agent, fake.hang, true);
	while (at < VMS_MAX && fake.vms[at])
		at++;
	must(at < VMS_MAX);
	fake.vms[at] = vm;
	return vm;
}

static int start(struct sandbox *s, const struct sandbox_spec *spec, int64_t deadline_ns, struct err *err)
{
	struct fake_machine *m = machine_of(s);
	int r;

	(void)deadline_ns;
	pthread_mutex_lock(&fake.lock);
	r = step(FAKE_START, m, err);
	if (r == 0 && m->killed)
		r = err_set(err, -ECANCELED, "it was ended while it started");
	if (r == 0) {
		take_vm(m, vm_new(s));
		m->vm->size = (struct vm_size){.vcpus = spec->vcpus,
					       .vcpus_boot = spec->vcpus,
					       .vcpus_max = 8,
					       .memory_bytes = spec->memory_bytes,
					       .memory_boot_bytes = spec->memory_bytes,
					       .memory_max_bytes = UINT64_C(1) << 36};
		if (fake.mute > 0) {
			fake.mute--;
			m->vm->mute = true;
			end_vm(m->vm, "it died mute", 1);
		}
	}
	pthread_mutex_unlock(&fake.lock);
	return r;
}

static int explain(struct sandbox *s, struct err *err)
{
	struct fake_vm *vm = machine_of(s)->vm;
	bool running;

	pthread_mutex_lock(&fake.lock);
	running = vm && vm->running;
	pthread_mutex_unlock(&fake.lock);
	return err_wrap(err, running ? "booting the fake" : "the fake has ended");
}

static bool start_again(struct sandbox *s)
{
	struct fake_machine *m = machine_of(s);
	bool mute;

	pthread_mutex_lock(&fake.lock);
	mute = m->vm && m->vm->mute;
	pthread_mutex_unlock(&fake.lock);
	return mute;
}

static int dial(void *machine, uint32_t port, int64_t deadline_ns, struct err *err)
{
	struct fake_machine *m = machine;
	struct fake_agent *agent = NULL;

	pthread_mutex_lock(&fake.lock);
	if (m->vm && m->vm->running)
		agent = m->vm->agent;
	pthread_mutex_unlock(&fake.lock);
	return agent ? fake_agent_dial(agent, port, deadline_ns, err)
		     : err_set(err, -ENOTCONN, "the fake does not run");
}

static int join(struct sandbox *s, const char *ifname, struct vmm_if_info *ret_nic, struct err *err)
{
	(void)s;
	(void)ifname;
	*ret_nic = (struct vmm_if_info){.mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500};
	return run_step(FAKE_JOIN, err);
}

static int event_fd(struct sandbox *s)
{
	return machine_of(s)->fd;
}

static bool look(struct sandbox *s, struct sandbox_death *ret_death)
{
	struct fake_vm *vm = machine_of(s)->vm;
	bool dead;

	pthread_mutex_lock(&fake.lock);
	dead = !vm->running;
	ret_death->status = vm->status;
	memcpy(ret_death->why, vm->why, sizeof(ret_death->why));
	pthread_mutex_unlock(&fake.lock);
	return dead;
}

static int kill_machine(struct sandbox_machine *machine, int64_t deadline_ns, struct err *err)
{
	struct fake_machine *m = (struct fake_machine *)(void *)machine;
	int r;

	(void)deadline_ns;
	pthread_mutex_lock(&fake.lock);
	m->killed = true;
	pthread_cond_broadcast(&fake.changed);
	r = step(FAKE_KILL, NULL, err);
	if (r == 0)
		end_vm(m->vm, "it was killed", 137);
	pthread_mutex_unlock(&fake.lock);
	return r;
}

static char *save(struct sandbox *s)
{
	return run_step(FAKE_SAVE, NULL) < 0 ? NULL : xasprintf("{\"fake\":\"%s\"}", s->id);
}

static int recover(struct sandbox *s, const char *saved, struct err *err)
{
	struct fake_machine *m = machine_of(s);
	char want[SANDBOX_ID_MAX + 16];
	int r;

	pthread_mutex_lock(&fake.lock);
	r = step(FAKE_RECOVER, NULL, err);
	for (size_t i = 0; i < VMS_MAX && r == 0 && !m->vm; i++) {
		if (!fake.vms[i] || !fake.vms[i]->running)
			continue;
		snprintf(want, sizeof(want), "{\"fake\":\"%s\"}", fake.vms[i]->id);
		if (str_eq(want, saved))
			take_vm(m, fake.vms[i]);
	}
	if (r == 0 && !m->vm)
		r = err_set(err, -ESRCH, "the machine has ended while no server watched");
	pthread_mutex_unlock(&fake.lock);
	return r;
}

static int size(struct sandbox *s, struct vm_size *ret_size, struct err *err)
{
	struct fake_vm *vm;

	pthread_mutex_lock(&fake.lock);
	vm = machine_of(s)->vm;
	if (vm)
		*ret_size = vm->size;
	pthread_mutex_unlock(&fake.lock);
	return vm ? 0 : err_set(err, -ENOTCONN, "the machine does not run");
}

static int resize(struct sandbox *s, uint32_t vcpus, uint64_t memory_bytes,
		  const struct vmm_resources *limits, int64_t deadline_ns, struct err *err)
{
	struct fake_vm *vm;
	int r;

	(void)limits;
	(void)deadline_ns;
	pthread_mutex_lock(&fake.lock);
	r = step(FAKE_RESIZE, NULL, err);
	vm = machine_of(s)->vm;
	if (r == 0 && vcpus)
		vm->size.vcpus = vcpus;
	if (r == 0 && memory_bytes)
		vm->size.memory_bytes = memory_bytes;
	pthread_mutex_unlock(&fake.lock);
	return r;
}

static uint32_t vcpus(struct sandbox *s)
{
	return s->id[0] ? 2 : 0;
}

static int pin(struct sandbox *s, const cpu_set_t *sets, uint32_t n, int64_t deadline_ns, struct err *err)
{
	(void)s;
	(void)sets;
	(void)deadline_ns;
	return n > 2 ? err_set(err, -EINVAL, "more than two vCPUs") : 0;
}

static int usage(struct sandbox *s, struct vmm_cgroup_stats *ret_usage, struct err *err)
{
	(void)err;
	*ret_usage = (struct vmm_cgroup_stats){.cpu_usage_ns = 1, .memory_usage_bytes = s->id[0] ? 1 : 0};
	return 0;
}

static int info(struct sandbox *s, struct vm_info *ret_info, struct err *err)
{
	(void)s;
	(void)err;
	*ret_info = (struct vm_info){.driver = "fake", .state = "Running", .vcpus = 1};
	return 0;
}

static int write_shared(struct sandbox *s, const char *name, const char *text, struct err *err)
{
	char path[1024];
	int r = run_step(FAKE_WRITE, err);

	snprintf(path, sizeof(path), "%s/mounts/%s", s->dir, name);
	if (r == 0 && write_file(path, text, strlen(text), 0644) < 0)
		r = err_set(err, -EIO, "writing %s", path);
	return r;
}

static int place_make(struct sandbox *s, const char *container_id, struct err *err)
{
	char dir[1024];
	int r = run_step(FAKE_PLACE, err);

	snprintf(dir, sizeof(dir), "%s/mounts/%s", s->dir, container_id);
	return r < 0 ? r : make_dir(dir, "/rootfs", err);
}

static int bind_volume(struct sandbox *s, const char *container_id, const struct volume *volume,
		       char ret_path[VOLUMES_NAME], struct err *err)
{
	int r = run_step(FAKE_BIND, err);

	(void)s;
	(void)container_id;
	if (r == 0 && access(volume->source, F_OK) < 0)
		r = err_set_errno(err, -errno, "mount source %s", volume->source);
	snprintf(ret_path, VOLUMES_NAME, VOLUMES_DIR "/fake");
	return r;
}

static int undo(struct sandboxes *room, const char *kind, const char *arg, bool lazy, struct err *err)
{
	static const char *const kinds[] = {"cgroup", "netns", "share", "rundir", "cdir"};
	bool known = false;
	int r;

	(void)room;
	(void)lazy;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		known = known || str_eq(kinds[i], kind);
	if (!known)
		return -ENOENT;
	r = run_step(FAKE_UNDO, err);
	if (r < 0)
		return r;
	if (!str_eq(kind, "cgroup")) {
		r = remove_tree(arg);
		return r < 0 ? err_set_errno(err, r, "removing %s", arg) : 0;
	}
	pthread_mutex_lock(&fake.lock);
	for (size_t i = 0; i < VMS_MAX; i++) {
		if (fake.vms[i] && str_eq(fake.vms[i]->cgroup, arg))
			end_vm(fake.vms[i], "its cgroup was killed", 137);
	}
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

const struct sandbox_driver fake_sandbox_driver = {
	.name = "fake",
	.machine_new = machine_new,
	.machine_free = machine_free,
	.prepare = prepare,
	.start = start,
	.explain = explain,
	.start_again = start_again,
	.dial = dial,
	.join = join,
	.fd = event_fd,
	.look = look,
	.kill = kill_machine,
	.save = save,
	.recover = recover,
	.size = size,
	.resize = resize,
	.vcpus = vcpus,
	.pin = pin,
	.usage = usage,
	.info = info,
	.write = write_shared,
	.place_make = place_make,
	.bind = bind_volume,
	.undo = undo,
};

/* ---- commands ------------------------------------------------------------------------------------------ */

#define LOCKED(what)                                                                                         \
	do {                                                                                                 \
		pthread_mutex_lock(&fake.lock);                                                              \
		what;                                                                                        \
		pthread_mutex_unlock(&fake.lock);                                                            \
	} while (0)

void fake_sandbox_fail(enum fake_step what, int code)
{
	LOCKED(fake.fail[what] = code);
}

void fake_sandbox_slow(enum fake_step what, int64_t ns)
{
	LOCKED(fake.slow_ns[what] = ns);
}

unsigned int fake_sandbox_count(enum fake_step what)
{
	unsigned int n;

	LOCKED(n = fake.count[what]);
	return n;
}

void fake_sandbox_mute(unsigned int n)
{
	LOCKED(fake.mute = n);
}

void fake_sandbox_new_agents_hang(const char *method)
{
	LOCKED(fake.hang = method);
}

void fake_sandbox_features(const char *const *features)
{
	LOCKED(fake.features = features);
}

struct fake_agent *fake_sandbox_agent(const struct sandbox *sandbox)
{
	struct fake_agent *agent;

	LOCKED(agent = machine_of(sandbox)->vm ? machine_of(sandbox)->vm->agent : NULL);
	return agent;
}

void fake_sandbox_end(const struct sandbox *sandbox, const char *why, int status)
{
	LOCKED(end_vm(machine_of(sandbox)->vm, why, status));
}

unsigned int fake_sandbox_running(void)
{
	unsigned int n = 0;

	pthread_mutex_lock(&fake.lock);
	for (size_t i = 0; i < VMS_MAX; i++)
		n += fake.vms[i] && fake.vms[i]->running;
	pthread_mutex_unlock(&fake.lock);
	return n;
}

void fake_sandbox_reset(void)
{
	pthread_mutex_lock(&fake.lock);
	for (size_t i = 0; i < VMS_MAX; i++) {
		if (!fake.vms[i])
			continue;
		fake_agent_free(fake.vms[i]->agent);
		close_fd(fake.vms[i]->fd);
		free(fake.vms[i]);
		fake.vms[i] = NULL;
	}
	memset(fake.fail, 0, sizeof(fake.fail));
	memset(fake.slow_ns, 0, sizeof(fake.slow_ns));
	memset(fake.count, 0, sizeof(fake.count));
	fake.mute = 0;
	fake.hang = NULL;
	fake.features = NULL;
	pthread_mutex_unlock(&fake.lock);
}

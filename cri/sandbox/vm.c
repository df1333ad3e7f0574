/* SPDX-License-Identifier: Apache-2.0 */
/* The driver of sandboxes that are virtual machines. */
#include "cri/sandbox/sandbox_internal.h"
#include "cri/sandbox/share_internal.h"

#include "vmm/death.h"

#include <sys/stat.h>
#include <sys/sysinfo.h>

#define TAP	    VMM_TAP_BOOT
#define NIC_MTU	    65521 /* the most that a tap can have: the agent sets what the interface has */
#define NIC_ID	    "if"  /* and the interface's index */
#define MIB	    (UINT64_C(1) << 20)
#define VMM_OWN_KVM (160 * MIB) /* VMM, virtiofsd and vsock daemon beside guest memory */
#define VMM_OWN_TCG (768 * MIB) /* and the translation cache */

struct vm_machine {
	struct sandbox_machine base;
	pthread_mutex_t lock;
	char run_dir[SANDBOX_PATH_MAX + sizeof("/vm")]; /* set by prepare */
	uid_t uid;					/* of its VM; 0: root */
	bool killed;					/* whatever starts is to end */
	struct vm *vm;					/* set once it runs; freed with the machine */
	struct vm *mute;				/* one that died before its kernel wrote anything */
};

static struct vm_machine *machine_of(struct sandbox *s)
{
	return (struct vm_machine *)(void *)s->machine;
}

static struct sandbox_machine *machine_new(struct sandboxes *room)
{
	struct vm_machine *m = calloc(1, sizeof(*m));

	(void)room;
	if (!m)
		return NULL;
	pthread_mutex_init(&m->lock, NULL);
	return &m->base;
}

static void machine_free(struct sandbox_machine *machine)
{
	struct vm_machine *m = (struct vm_machine *)(void *)machine;

	vm_free(m->vm);
	vm_free(m->mute);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

/* The VM, which lives as long as the machine; NULL: none runs yet. */
static struct vm *vm_of(struct vm_machine *m)
{
	struct vm *vm;

	pthread_mutex_lock(&m->lock);
	vm = m->vm;
	pthread_mutex_unlock(&m->lock);
	return vm;
}

/* Takes a VM over. -ECANCELED: it was killed meanwhile. */
static int take(struct vm_machine *m, struct vm *vm, struct err *err)
{
	bool killed;

	pthread_mutex_lock(&m->lock);
	m->vm = vm;
	killed = m->killed;
	pthread_mutex_unlock(&m->lock);
	return killed ? err_set(err, -ECANCELED, "it was ended while it started") : 0;
}

/* ---- the host's part ----------------------------------------------------------------------------------- */

static uint64_t memory_limit(uint64_t memory_bytes, const char *accel)
{
	return memory_bytes + (str_eq(accel, "kvm") ? VMM_OWN_KVM : VMM_OWN_TCG);
}

/*
 * The step comes first, so that it is undone last: nobody gets the user while anything of the VM's is left.
 */
static int prepare_user(struct sandbox *s, struct vm_machine *m, struct err *err)
{
	struct uids *uids = &s->room->uids;
	char text[16];
	int r;

	if (uids->count == 0)
		return 0;
	r = uids_take(uids, &m->uid, err);
	if (r < 0)
		return r;
	snprintf(text, sizeof(text), "%u", m->uid);
	r = sandbox_journal(s, "uid", text, err);
	if (r < 0)
		uids_give(uids, m->uid);
	return r;
}

static int undo_user(struct sandboxes *room, const char *arg, struct err *err)
{
	uint64_t uid;

	if (parse_u64(arg, &uid) < 0 || uid == 0 || uid >= UINT32_MAX)
		return err_set(err, -EINVAL, "\"%s\" is not a user", arg);
	if (uids_runs((uid_t)uid))
		return err_set(err, -EBUSY, "a process still runs as user %s", arg);
	uids_give(&room->uids, (uid_t)uid);
	return 0;
}

/* In the order whose reverse is the right order of undoing. */
static int prepare(struct sandbox *s, const struct sandbox_spec *spec, struct call *call, struct err *err)
{
	struct vmm_resources res = spec->limits ? *spec->limits : (struct vmm_resources){0};
	struct vm_machine *m = machine_of(s);
	int r = prepare_user(s, m, err);

	if (r == 0)
		r = sandbox_journal(s, "rundir", s->dir, err);
	if (r < 0)
		return r;
	/* The VM has a directory of its own below: it must not touch the share's. */
	snprintf(m->run_dir, sizeof(m->run_dir), "%s/vm", s->dir);
	r = mkdir_p(s->dir, 0711);
	if (r == 0 && mkdir(m->run_dir, 0700) < 0 && errno != EEXIST)
		r = -errno;
	if (r < 0)
		return err_set_errno(err, r, "making %s", m->run_dir);
	r = sandbox_journal(s, "share", s->dir, err);
	if (r == 0)
		r = share_create(s->dir, err);
	call_step(call, "share");
	if (r == 0)
		r = sandbox_journal(s, "netns", s->netns, err);
	if (r == 0)
		r = vmm_netns_create(s->netns, err);
	call_step(call, "network namespace");
	if (r == 0)
		r = vmm_tap_create(s->netns, TAP, spec->choice->mtu_max ? spec->choice->mtu_max : 1500,
				   m->uid, err);
	call_step(call, "tap");
	if (r == 0)
		r = sandbox_journal(s, "cgroup", s->cgroup, err);
	if (r < 0)
		return r;
	res.memory_limit_bytes = memory_limit(spec->memory_bytes, spec->choice->accel);
	r = vmm_cgroup_create(s->cgroup, &res, err);
	call_step(call, "cgroup");
	return r;
}

static int undo(struct sandboxes *room, const char *kind, const char *arg, bool lazy, struct err *err)
{
	int r;

	if (str_eq(kind, "uid"))
		return undo_user(room, arg, err);
	if (str_eq(kind, "cgroup"))
		return vmm_cgroup_destroy(arg, now_monotonic_ns() + SANDBOX_KILL_NS, err);
	if (str_eq(kind, "netns"))
		return vmm_netns_destroy(arg, err);
	if (str_eq(kind, "share"))
		return share_destroy(arg, err);
	if (str_eq(kind, "rundir")) {
		r = remove_tree(arg);
		return r < 0 ? err_set_errno(err, r, "removing %s", arg) : 0;
	}
	return str_eq(kind, "cdir") ? share_container_destroy(arg, lazy, err) : -ENOENT;
}

/* ---- birth and death ----------------------------------------------------------------------------------- */

static int start(struct sandbox *s, const struct sandbox_spec *spec, int64_t deadline_ns, struct err *err)
{
	char shared[SANDBOX_PATH_MAX + sizeof("/shared")];
	struct vm_machine *m = machine_of(s);
	struct vm_spec vm_spec = {
		.id = s->id,
		.run_dir = m->run_dir,
		.uid = m->uid,
		.shared_dir = shared,
		.netns_path = s->netns,
		.cgroup = s->cgroup,
		.tap = TAP,
		.mtu = spec->choice->mtu_max,
		.vcpus = spec->vcpus,
		.memory_bytes = spec->memory_bytes,
	};
	struct sysinfo host = {0};
	struct vm *vm;
	int r;

	sysinfo(&host);
	vm_spec.oom_score_adj =
		sandbox_oom_score(s->cgroup, spec->memory_bytes, (uint64_t)host.totalram * host.mem_unit);
	/* No pod has more than all that there is. */
	vm_spec.memory_max_bytes = (uint64_t)host.totalram * host.mem_unit;
	snprintf(shared, sizeof(shared), "%s/shared", s->dir);
	r = vm_start(s->room->options.hypervisor, spec->choice, &vm_spec, deadline_ns, &vm, err);
	/* As vm_explain_start says it: whether a VMM ends before or after its monitor answers is chance. */
	if (r < 0 && err && err->status == ERR_UNAVAILABLE)
		err->status = ERR_INTERNAL;
	return r < 0 ? r : take(m, vm, err);
}

static int explain(struct sandbox *s, struct err *err)
{
	struct vm_machine *m = machine_of(s);

	return vm_explain_start(vm_of(m), m->run_dir, err);
}

/* The VM ended before its kernel wrote a word: nothing in the guest's configuration can be the reason. */
static bool start_again(struct sandbox *s)
{
	struct vm_machine *m = machine_of(s);
	struct vm *vm = vm_of(m);

	if (!vm || m->mute || !vm_said_nothing(m->run_dir) ||
	    vm_stop(vm, now_monotonic_ns() + SANDBOX_KILL_NS, NULL) < 0 ||
	    vm_clear_files(m->run_dir, NULL) < 0)
		return false;
	pthread_mutex_lock(&m->lock);
	m->mute = move_ptr(m->vm);
	pthread_mutex_unlock(&m->lock);
	return true;
}

static int dial(void *machine, uint32_t port, int64_t deadline_ns, struct err *err)
{
	struct vm *vm = vm_of(machine);

	return vm ? vm_connect(vm, port, deadline_ns, err) : err_set(err, -ENOTCONN, "the VM does not run");
}

static int join(struct sandbox *s, const char *ifname, struct vmm_if_info *ret_nic, struct err *err)
{
	return vmm_tap_join(s->netns, TAP, ifname, ret_nic, err);
}

static int network(struct sandbox *s, struct vmm_net **ret_net, struct err *err)
{
	return vmm_net_read(s->netns, ret_net, err);
}

static int follow(struct sandbox *s, struct err *err)
{
	return vmm_net_watch(s->netns, err);
}

/* ---- NICs of further interfaces ------------------------------------------------------------------------ */

static size_t nics(struct sandbox *s, int *ret_indexes, size_t max)
{
	char ids[64][VM_DEVICE_ID_MAX];
	struct vm *vm = vm_of(machine_of(s));
	size_t n = vm ? vm_device_ids(vm, VM_DEVICE_NET, ids, ARRAY_SIZE(ids)) : 0, found = 0;

	for (size_t i = 0; i < n && i < ARRAY_SIZE(ids); i++) {
		uint64_t index;

		if (!str_starts(ids[i], NIC_ID) || parse_u64(ids[i] + strlen(NIC_ID), &index) < 0)
			continue;
		if (found < max)
			ret_indexes[found] = (int)index;
		found++;
	}
	return found;
}

static bool is_plugged(struct sandbox *s, int index)
{
	int have[64];
	size_t n = nics(s, have, ARRAY_SIZE(have));

	for (size_t i = 0; i < n && i < ARRAY_SIZE(have); i++) {
		if (have[i] == index)
			return true;
	}
	return false;
}

static int make_tap(struct sandbox *s, const struct vmm_net_link *link, bool *ret_made, struct err *err)
{
	char tap[VMM_TAP_NAME_MAX];
	struct vmm_if_info ignored;
	struct err why = ERR_INIT;
	int r;

	*ret_made = false;
	if (is_plugged(s, link->index))
		return 0;
	vmm_tap_name(link->index, tap);
	r = vmm_tap_create(s->netns, tap, NIC_MTU, machine_of(s)->uid, &why);
	if (r < 0 && r != -EEXIST) /* a look that failed has left it */
		return err_copy(err, &why);
	*ret_made = true;
	return vmm_tap_join(s->netns, tap, link->name, &ignored, err);
}

static int plug(struct sandbox *s, const struct vmm_net_link *link, char ret_pci[VM_PCI_ADDRESS_MAX],
		int64_t deadline_ns, struct err *err)
{
	char id[VM_DEVICE_ID_MAX], tap[VMM_TAP_NAME_MAX];
	struct vm_device device = {.type = VM_DEVICE_NET, .id = id, .path = tap, .mtu = NIC_MTU};
	struct vm *vm = vm_of(machine_of(s));

	ret_pci[0] = 0;
	if (is_plugged(s, link->index))
		return 0;
	vmm_tap_name(link->index, tap);
	snprintf(id, sizeof(id), NIC_ID "%d", link->index);
	sandbox_network_nic_mac(link->index, device.mac);
	return vm ? vm_attach(vm, &device, ret_pci, deadline_ns, err)
		  : err_set(err, -ENOTCONN, "the VM does not run");
}

static int unplug(struct sandbox *s, int index, int64_t deadline_ns, struct err *err)
{
	char id[VM_DEVICE_ID_MAX], tap[VMM_TAP_NAME_MAX];
	struct vm *vm = vm_of(machine_of(s));
	int r;

	vmm_tap_name(index, tap);
	snprintf(id, sizeof(id), NIC_ID "%d", index);
	r = vm ? vm_detach(vm, id, deadline_ns, err) : err_set(err, -ENOTCONN, "the VM does not run");
	return r < 0 && r != -ENOENT ? r : vmm_tap_destroy(s->netns, tap, err);
}

static int filters(struct sandbox *s, struct vmm_net_filters *ret, struct err *err)
{
	return vmm_net_filters(s->netns, ret, err);
}

static int guard(struct sandbox *s, const char *tap, const char *ifname, const char *const *addresses,
		 size_t n, struct err *err)
{
	return vmm_tap_filter(s->netns, tap, ifname, addresses, n, err);
}

static int event_fd(struct sandbox *s)
{
	return vm_fd(vm_of(machine_of(s)));
}

static bool look(struct sandbox *s, struct sandbox_death *ret_death)
{
	struct vm *vm = vm_of(machine_of(s));
	struct vm_event event;

	while (vm_dispatch(vm, &event) == 1) {
		if (!vm_event_is_death(&event))
			continue;
		vm_death_words(&event, ret_death->why, sizeof(ret_death->why));
		ret_death->status = event.type == VM_EVENT_VMM_EXITED ? event.status : -1;
		return true;
	}
	return false;
}

static int kill_machine(struct sandbox_machine *machine, int64_t deadline_ns, struct err *err)
{
	struct vm_machine *m = (struct vm_machine *)(void *)machine;
	struct vm *vm;

	pthread_mutex_lock(&m->lock);
	m->killed = true;
	vm = m->vm;
	pthread_mutex_unlock(&m->lock);
	return vm ? vm_stop(vm, deadline_ns, err) : 0;
}

static char *save(struct sandbox *s)
{
	return vm_save(vm_of(machine_of(s)));
}

static int recover(struct sandbox *s, const char *saved, struct err *err)
{
	struct vm *vm;
	int r = vm_recover(saved, &vm, err);

	if (r < 0)
		return r;
	machine_of(s)->uid = vm_uid(vm);
	return take(machine_of(s), vm, err);
}

/* ---- use ----------------------------------------------------------------------------------------------- */

static int info(struct sandbox *s, struct vm_info *ret_info, struct err *err)
{
	struct vm *vm = vm_of(machine_of(s));

	return vm ? vm_info(vm, ret_info, err) : err_set(err, -ENOTCONN, "the VM does not run");
}

static int size(struct sandbox *s, struct vm_size *ret_size, struct err *err)
{
	struct vm *vm = vm_of(machine_of(s));

	if (!vm)
		return err_set(err, -ENOTCONN, "the VM does not run");
	vm_size(vm, ret_size);
	return 0;
}

/* The limit is the wider one while the VM changes. */
static int resize(struct sandbox *s, uint32_t vcpus, uint64_t memory_bytes,
		  const struct vmm_resources *limits, int64_t deadline_ns, struct err *err)
{
	struct vmm_resources res = limits ? *limits : (struct vmm_resources){0};
	struct vm_size before, after;
	struct vm_info now;
	struct err why = ERR_INIT;
	uint64_t wider;
	int r = size(s, &before, err);

	if (r == 0)
		r = info(s, &now, err);
	if (r < 0)
		return r;
	wider = memory_bytes > before.memory_bytes ? memory_bytes + VM_MEMORY_STEP : before.memory_bytes;
	res.memory_limit_bytes = memory_limit(wider, now.accel);
	r = vmm_cgroup_update(s->cgroup, &res, err);
	if (r == 0 && (vcpus || memory_bytes))
		r = vm_resize(vm_of(machine_of(s)), vcpus, memory_bytes, deadline_ns, err);
	size(s, &after, NULL);
	if (after.memory_bytes == wider)
		return r;
	res.memory_limit_bytes = memory_limit(after.memory_bytes, now.accel);
	if (vmm_cgroup_update(s->cgroup, &res, &why) < 0 && r == 0)
		r = err_copy(err, &why);
	return r;
}

static uint32_t vcpus(struct sandbox *s)
{
	struct vm *vm = vm_of(machine_of(s));

	return vm ? vm_vcpus(vm) : 0;
}

static int pin(struct sandbox *s, const cpu_set_t *sets, uint32_t n, int64_t deadline_ns, struct err *err)
{
	struct vm *vm = vm_of(machine_of(s));

	return vm ? vm_pin(vm, sets, n, deadline_ns, err) : err_set(err, -ENOTCONN, "the VM does not run");
}

static int usage(struct sandbox *s, struct vmm_cgroup_stats *ret_usage, struct err *err)
{
	return vmm_cgroup_stats(s->cgroup, ret_usage, err);
}

static int write_shared(struct sandbox *s, const char *name, const char *text, struct err *err)
{
	return share_write(s->dir, name, text, err);
}

static int place_make(struct sandbox *s, const char *container_id, struct err *err)
{
	return share_container_create(s->dir, container_id, err);
}

static int bind_volume(struct sandbox *s, const char *container_id, const struct volume *volume,
		       char ret_path[VOLUMES_NAME], struct err *err)
{
	return volumes_bind(s->dir, s->cgroup, container_id, volume, ret_path, err);
}

const struct sandbox_driver sandbox_vm_driver = {
	.name = "vm",
	.machine_new = machine_new,
	.machine_free = machine_free,
	.prepare = prepare,
	.start = start,
	.explain = explain,
	.start_again = start_again,
	.dial = dial,
	.join = join,
	.network = network,
	.follow = follow,
	.tap = make_tap,
	.plug = plug,
	.unplug = unplug,
	.nics = nics,
	.filters = filters,
	.guard = guard,
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

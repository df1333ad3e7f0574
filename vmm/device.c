/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vm_internal.h"

#include "base/util.h"
#include "vmm/wait_internal.h"

#define TAKE_BACK_NS (5 * NS_PER_SEC)

/* ---- the table of plugged devices ---------------------------------------------------------------------- */

/* With lock held. */
static struct vm_slot *find_slot(struct vm *vm, const char *id)
{
	for (size_t i = 0; i < VM_DEVICES_MAX; i++) {
		if (str_eq(vm->devices[i].id, id))
			return &vm->devices[i];
	}
	return NULL;
}

int vm_slot_add(struct vm *vm, enum vm_device_type type, const char *id, const char *pci, struct err *err)
{
	struct vm_slot *s;
	int r = 0;

	pthread_mutex_lock(&vm->lock);
	s = find_slot(vm, "");
	if (find_slot(vm, id)) {
		r = err_set(err, -EEXIST, "the VM has a device \"%s\" already", id);
	} else if (!s) {
		r = err_set(err, -ENOSPC, "the VM has %d plugged devices already, the most it takes",
			    VM_DEVICES_MAX);
	} else {
		*s = (struct vm_slot){.type = type};
		snprintf(s->id, sizeof(s->id), "%s", id);
		snprintf(s->pci, sizeof(s->pci), "%s", pci);
	}
	pthread_mutex_unlock(&vm->lock);
	return r;
}

size_t vm_device_ids(struct vm *vm, enum vm_device_type type, char (*ret_ids)[VM_DEVICE_ID_MAX], size_t max)
{
	size_t n = 0;

	pthread_mutex_lock(&vm->lock);
	for (size_t i = 0; i < VM_DEVICES_MAX; i++) {
		if (!vm->devices[i].id[0] || vm->devices[i].type != type)
			continue;
		if (n < max)
			memcpy(ret_ids[n], vm->devices[i].id, VM_DEVICE_ID_MAX);
		n++;
	}
	pthread_mutex_unlock(&vm->lock);
	return n;
}

static void slot_set_pci(struct vm *vm, const char *id, const char *pci)
{
	struct vm_slot *s;

	pthread_mutex_lock(&vm->lock);
	s = find_slot(vm, id);
	if (s)
		snprintf(s->pci, sizeof(s->pci), "%s", pci);
	pthread_mutex_unlock(&vm->lock);
}

static void slot_drop(struct vm *vm, const char *id)
{
	struct vm_slot *s;

	pthread_mutex_lock(&vm->lock);
	s = find_slot(vm, id);
	if (s)
		*s = (struct vm_slot){0};
	pthread_mutex_unlock(&vm->lock);
}

/* ---- calls --------------------------------------------------------------------------------------------- */

static int need_cap(const struct vm *vm, uint32_t cap, const char *what, struct err *err)
{
	uint32_t caps = vm->driver->caps;

	if (vm->driver == &vmm_driver_qemu && str_eq(vm->accel, "kvm"))
		caps |= VMM_CAP_HOTPLUG_VFIO;
	return caps & cap ? 0 : err_set(err, -EOPNOTSUPP, "%s cannot %s here", vm->driver->name, what);
}

static int check_device(const struct vm *vm, const struct vm_device *d, struct err *err)
{
	static const uint32_t caps[] = {
		[VM_DEVICE_DISK] = VMM_CAP_HOTPLUG_DISK, [VM_DEVICE_PMEM] = VMM_CAP_HOTPLUG_PMEM,
		[VM_DEVICE_NET] = VMM_CAP_HOTPLUG_NET,	 [VM_DEVICE_FS] = VMM_CAP_HOTPLUG_FS,
		[VM_DEVICE_VFIO] = VMM_CAP_HOTPLUG_VFIO,
	};
	size_t len = d->id ? strlen(d->id) : 0;

	if (len == 0 || len >= VM_DEVICE_ID_MAX - 8 ||
	    strspn(d->id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != len)
		return err_set(err, -EINVAL,
			       "device id \"%s\": 1 to %d of letters, digits, - _ . are allowed",
			       d->id ? d->id : "", VM_DEVICE_ID_MAX - 9);
	if ((size_t)d->type >= ARRAY_SIZE(caps))
		return err_set(err, -EINVAL, "unknown device type %d", (int)d->type);
	if (str_empty(d->path))
		return err_set(err, -EINVAL, "device %s has no path", d->id);
	if (d->type == VM_DEVICE_FS && str_empty(d->tag))
		return err_set(err, -EINVAL, "share %s has no tag", d->id);
	return need_cap(vm, caps[d->type], "plug a device of this kind", err);
}

int vm_attach(struct vm *vm, const struct vm_device *device, char ret_pci[VM_PCI_ADDRESS_MAX],
	      int64_t deadline_ns, struct err *err)
{
	char pci[VM_PCI_ADDRESS_MAX] = "";
	int r = check_device(vm, device, err);

	if (r < 0)
		return r;
	deadline_ns = wait_deadline(deadline_ns);
	r = vm_turn_take(vm, deadline_ns, err);
	if (r < 0)
		return err_wrap(err, "attaching %s", device->id);
	r = vm_slot_add(vm, device->type, device->id, "", err);
	if (r == 0) {
		r = vm->driver->attach(vm, device, pci, deadline_ns, err);
		if (r == 0)
			slot_set_pci(vm, device->id, pci);
		else
			slot_drop(vm, device->id);
	}
	vm_turn_give(vm);
	if (r < 0)
		return err_wrap(err, "attaching %s", device->id);
	memcpy(ret_pci, pci, sizeof(pci));
	return 0;
}

int vm_detach(struct vm *vm, const char *id, int64_t deadline_ns, struct err *err)
{
	struct vm_slot copy = {0};
	struct vm_slot *s;
	int r;

	deadline_ns = wait_deadline(deadline_ns);
	r = vm_turn_take(vm, deadline_ns, err);
	if (r < 0)
		return err_wrap(err, "detaching %s", id);
	pthread_mutex_lock(&vm->lock);
	s = str_empty(id) ? NULL : find_slot(vm, id);
	if (s)
		copy = *s;
	pthread_mutex_unlock(&vm->lock);
	if (!s)
		r = err_set(err, -ENOENT, "the VM has no device \"%s\"", id ? id : "");
	else
		r = vm->driver->detach(vm, &copy, deadline_ns, err);
	if (r == 0)
		slot_drop(vm, id);
	vm_turn_give(vm);
	return r < 0 ? err_wrap(err, "detaching %s", id ? id : "") : 0;
}

void vm_size(struct vm *vm, struct vm_size *ret_size)
{
	bool can = vm->driver->caps & VMM_CAP_RESIZE;

	pthread_mutex_lock(&vm->lock);
	*ret_size = (struct vm_size){
		.vcpus = vm->vcpus,
		.vcpus_boot = vm->vcpus_boot,
		.vcpus_max = can ? vm->vcpus_max : vm->vcpus,
		.memory_bytes = vm->memory,
		.memory_boot_bytes = vm->memory_boot,
		.memory_max_bytes = can ? vm->memory_max : vm->memory,
	};
	pthread_mutex_unlock(&vm->lock);
}

/* With the turn. The VMM may have done half of it. */
static void take_back_size(struct vm *vm, uint32_t vcpus, uint64_t memory_bytes, struct err *err)
{
	struct err why = ERR_INIT;

	if (vm->driver->resize(vm, vcpus, memory_bytes, now_monotonic_ns() + TAKE_BACK_NS, &why) < 0)
		err_wrap(err, "taking it back failed (%s)", why.msg);
}

int vm_resize(struct vm *vm, uint32_t vcpus, uint64_t memory_bytes, int64_t deadline_ns, struct err *err)
{
	int r = need_cap(vm, VMM_CAP_RESIZE, "resize a VM", err);
	uint64_t wanted = memory_bytes;
	struct vm_size before;

	if (r < 0)
		return r;
	if (vcpus && (vcpus < vm->vcpus_boot || vcpus > vm->vcpus_max))
		return err_set(err, -EINVAL, "%u vCPUs: this VM can have %u to %u", vcpus, vm->vcpus_boot,
			       vm->vcpus_max);
	if (memory_bytes && (memory_bytes < vm->memory_boot || memory_bytes > vm->memory_max))
		return err_set(err, -EINVAL, "%llu bytes of memory: this VM can have %llu to %llu",
			       (unsigned long long)memory_bytes, (unsigned long long)vm->memory_boot,
			       (unsigned long long)vm->memory_max);
	if (memory_bytes)
		wanted = vm->memory_boot + (memory_bytes - vm->memory_boot + VM_MEMORY_STEP - 1) /
						   VM_MEMORY_STEP * VM_MEMORY_STEP;
	deadline_ns = wait_deadline(deadline_ns);
	r = vm_turn_take(vm, deadline_ns, err);
	if (r == 0) {
		vm_size(vm, &before);
		r = vm->driver->resize(vm, vcpus, wanted, deadline_ns, err);
		if (r < 0)
			take_back_size(vm, vcpus ? before.vcpus : 0, wanted ? before.memory_bytes : 0, err);
		vm_turn_give(vm);
	}
	return r < 0 ? err_wrap(err, "resizing the VM") : 0;
}

int vm_pause(struct vm *vm, int64_t deadline_ns, struct err *err)
{
	int r;

	deadline_ns = wait_deadline(deadline_ns);
	r = vm_turn_take(vm, deadline_ns, err);
	if (r == 0) {
		r = vm->driver->pause(vm, deadline_ns, err);
		vm_turn_give(vm);
	}
	return r < 0 ? err_wrap(err, "pausing the VM") : 0;
}

int vm_resume(struct vm *vm, int64_t deadline_ns, struct err *err)
{
	int r;

	deadline_ns = wait_deadline(deadline_ns);
	r = vm_turn_take(vm, deadline_ns, err);
	if (r == 0) {
		r = vm->driver->resume(vm, deadline_ns, err);
		vm_turn_give(vm);
	}
	return r < 0 ? err_wrap(err, "resuming the VM") : 0;
}

int vm_snapshot(struct vm *vm, const char *dir, int64_t deadline_ns, struct err *err)
{
	int r;

	if (!vm->driver->snapshot)
		return err_set(err, -EOPNOTSUPP,
			       "%s cannot snapshot a VM with a shared directory (vhost-user-fs has no "
			       "migration there)",
			       vm->driver->name);
	deadline_ns = wait_deadline(deadline_ns);
	r = vm_turn_take(vm, deadline_ns, err);
	if (r == 0) {
		r = vm->driver->snapshot(vm, dir, deadline_ns, err);
		vm_turn_give(vm);
	}
	return r < 0 ? err_wrap(err, "taking a snapshot of the VM") : 0;
}

int vm_info(struct vm *vm, struct vm_info *ret_info, struct err *err)
{
	int64_t deadline_ns = wait_deadline(0);
	struct vm_info info = {.driver = vm->driver->name};
	int r = vm_turn_take(vm, deadline_ns, err);

	if (r < 0)
		return r;
	r = vm->driver->state_name(vm, info.state, sizeof(info.state), deadline_ns, err);
	vm_turn_give(vm);
	if (r == 0)
		r = vm_path(vm, VM_FILE_CONSOLE, info.console_path, sizeof(info.console_path), err);
	if (r < 0)
		return err_wrap(err, "asking about the VM");
	snprintf(info.accel, sizeof(info.accel), "%s", vm->accel);
	pthread_mutex_lock(&vm->lock);
	info.vmm_pid = vm->procs[VM_ROLE_VMM].pid;
	info.virtiofsd_pid = vm->procs[VM_ROLE_FS].pid;
	info.vsock_pid = vm->procs[VM_ROLE_VSOCK].pid;
	info.vcpus = vm->vcpus;
	info.memory_bytes = vm->memory;
	pthread_mutex_unlock(&vm->lock);
	*ret_info = info;
	return 0;
}

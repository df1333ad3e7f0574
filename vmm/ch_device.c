/* SPDX-License-Identifier: Apache-2.0 */
/* ch_device.c: hot plug and size of a running Cloud Hypervisor, over its REST API. */
#include "vmm/ch_internal.h"

#include "base/util.h"
#include "vmm/json_internal.h"
#include "vmm/wait_internal.h"

#define RESIZE_PAUSE_NS (20 * NS_PER_MS)

static void add_net(struct json_object *o, const struct vm_device *d)
{
	char mac[18];

	vjson_add_str(o, "tap", d->path);
	if (!vmm_mac_zero(d->mac)) {
		vmm_mac_words(d->mac, mac);
		vjson_add_str(o, "mac", mac);
	}
	/* No "mtu": it would set the tap's, which takes CAP_NET_ADMIN. The guest learns what the tap has. */
}

int ch_device_request(const struct vm_device *d, const char **ret_endpoint, struct json_object **ret_body,
		      struct err *err)
{
	static const char *const endpoints[] = {
		[VM_DEVICE_DISK] = "vm.add-disk",   [VM_DEVICE_PMEM] = "vm.add-pmem",
		[VM_DEVICE_NET] = "vm.add-net",	    [VM_DEVICE_FS] = "vm.add-fs",
		[VM_DEVICE_VFIO] = "vm.add-device",
	};
	struct json_object *o = json_object_new_object();
	char name[VM_DEVICE_NAME_MAX];

	if (!o)
		return err_oom(err);
	vm_device_name(d->type, d->id, name);
	vjson_add_str(o, "id", name);
	switch (d->type) {
	case VM_DEVICE_DISK:
		vjson_add_str(o, "path", d->path);
		vjson_add_bool(o, "readonly", d->read_only);
		/*
		 * Without it, v53 guesses the format from the content, and a guest could make a raw disk pass
		 * for qcow2.
		 */
		vjson_add_str(o, "image_type", "Raw");
		break;
	case VM_DEVICE_PMEM:
		vjson_add_str(o, "file", d->path);
		vjson_add_bool(o, "discard_writes", d->read_only);
		break;
	case VM_DEVICE_NET:
		add_net(o, d);
		break;
	case VM_DEVICE_FS:
		vjson_add_str(o, "tag", d->tag);
		vjson_add_str(o, "socket", d->path);
		vjson_add_u64(o, "num_queues", 1);
		vjson_add_u64(o, "queue_size", 1024);
		break;
	case VM_DEVICE_VFIO:
		vjson_add_str(o, "path", d->path);
		break;
	}
	*ret_endpoint = endpoints[d->type];
	*ret_body = o;
	return 0;
}

int ch_attach(struct vm *vm, const struct vm_device *d, char ret_pci[VM_PCI_ADDRESS_MAX], int64_t deadline_ns,
	      struct err *err)
{
	struct json_object *body = NULL, *reply = NULL;
	const char *endpoint = NULL, *bdf;
	int r = ch_device_request(d, &endpoint, &body, err);

	if (r == 0)
		r = ch_call(vm, "PUT", endpoint, body, deadline_ns, &reply, err);
	if (r < 0)
		return r;
	bdf = vjson_str(reply, "bdf");
	if (!*bdf || strlen(bdf) >= VM_PCI_ADDRESS_MAX)
		r = err_set(err, -EPROTO, "%s: cloud-hypervisor gave no PCI address (%s)", endpoint,
			    reply ? json_object_to_json_string(reply) : "no body");
	else
		snprintf(ret_pci, VM_PCI_ADDRESS_MAX, "%s", bdf);
	json_object_put(reply);
	return r;
}

static bool slot_removed(struct vm *vm, void *arg)
{
	const struct vm_slot *slot = arg;
	bool gone = true;

	pthread_mutex_lock(&vm->lock);
	for (size_t i = 0; i < VM_DEVICES_MAX; i++) {
		if (str_eq(vm->devices[i].id, slot->id) && !vm->devices[i].removed)
			gone = false;
	}
	pthread_mutex_unlock(&vm->lock);
	return gone;
}

int ch_detach(struct vm *vm, const struct vm_slot *slot, int64_t deadline_ns, struct err *err)
{
	struct json_object *body;
	struct vm_slot copy = *slot;
	char name[VM_DEVICE_NAME_MAX];
	int r;

	if (slot_removed(vm, &copy))
		return 0;
	body = json_object_new_object();
	vm_device_name(slot->type, slot->id, name);
	vjson_add_str(body, "id", name);
	r = ch_call(vm, "PUT", "vm.remove-device", body, deadline_ns, NULL, err);
	/* The reply says only that the guest has been asked. */
	return r < 0 ? r
		     : vm_await(vm, slot_removed, &copy, deadline_ns, "the guest to release the device", err);
}

/* ---- learning from vm.info ----------------------------------------------------------------------------- */

int ch_learn(struct vm *vm, struct json_object *info, struct err *err)
{
	struct json_object *tree = vjson_get(info, "device_tree", json_type_object);
	int r = 0;

	if (!tree)
		return 0;
	json_object_object_foreach(tree, name, node)
	{
		enum vm_device_type type;
		const char *id = vm_device_id(name, &type);

		if (r == 0 && id)
			r = vm_slot_add(vm, type, id, vjson_str(node, "pci_bdf"), err);
	}
	return r;
}

/* ---- size ---------------------------------------------------------------------------------------------- */

static int wait_memory(struct vm *vm, uint64_t want, int64_t deadline_ns, struct err *err)
{
	for (;;) {
		struct json_object *info = NULL;
		uint64_t have = 0;
		int r = ch_call(vm, "GET", "vm.info", NULL, deadline_ns, &info, err);

		if (r < 0)
			return r;
		have = vjson_u64(info, "memory_actual_size");
		json_object_put(info);
		if (have == want)
			return 0;
		if (now_monotonic_ns() + RESIZE_PAUSE_NS >= deadline_ns)
			return err_set(err, -ETIMEDOUT, "the guest has %llu of %llu bytes",
				       (unsigned long long)have, (unsigned long long)want);
		/* Virtio-mem's progress has no event in v53. */
		wait_pause(vm->stop_fd, RESIZE_PAUSE_NS, deadline_ns);
	}
}

/* A vCPU that the guest has not let go of yet (429) is waited for. */
static int ask_size(struct vm *vm, uint32_t vcpus, uint64_t memory_bytes, int64_t deadline_ns,
		    struct err *err)
{
	struct err busy = ERR_INIT;

	for (;;) {
		struct json_object *body = json_object_new_object();
		struct err why = ERR_INIT;
		int r;

		if (vcpus)
			vjson_add_u64(body, "desired_vcpus", vcpus);
		if (memory_bytes)
			vjson_add_u64(body, "desired_ram", memory_bytes);
		r = ch_call(vm, "PUT", "vm.resize", body, deadline_ns, NULL, &why);
		if (r == -ETIMEDOUT && busy.code < 0)
			return err_copy(err, &busy);
		if (r != -EBUSY || now_monotonic_ns() + RESIZE_PAUSE_NS >= deadline_ns)
			return r < 0 ? err_copy(err, &why) : 0;
		busy = why;
		wait_pause(vm->stop_fd, RESIZE_PAUSE_NS, deadline_ns);
	}
}

int ch_resize(struct vm *vm, uint32_t vcpus, uint64_t memory_bytes, int64_t deadline_ns, struct err *err)
{
	int r = ask_size(vm, vcpus, memory_bytes, deadline_ns, err);

	if (r == 0 && memory_bytes)
		r = wait_memory(vm, memory_bytes, deadline_ns, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&vm->lock);
	if (vcpus)
		vm->vcpus = vcpus;
	if (memory_bytes)
		vm->memory = memory_bytes;
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

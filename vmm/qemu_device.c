/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu_device.c: hot plug into a running QEMU.
 *
 * Each plugged device sits alone behind a pcie-root-port of ours, and its backends are named after that port;
 * so all of it can be found again in a running QEMU (query-pci), and nothing but QEMU has to remember it. The
 * PCI address is read from the port's bus number as the guest's firmware has programmed it.
 */
#include "vmm/qemu_internal.h"

#include "base/util.h"
#include "vmm/json_internal.h"
#include "vmm/wait_internal.h"

#include <sys/stat.h>

#define BUS_WAIT_NS (5 * NS_PER_MS)

/* ---- root ports ---------------------------------------------------------------------------------------- */

static void read_port(struct json_object *dev, struct qemu_port ports[QEMU_ROOT_PORTS])
{
	const char *id = vjson_str(dev, "qdev_id");
	struct json_object *bridge = vjson_get(dev, "pci_bridge", json_type_object);
	struct json_object *behind;
	struct qemu_port *p;
	uint64_t n;

	if (!bridge || !str_starts(id, "rp") || parse_u64(id + 2, &n) < 0 || n >= QEMU_ROOT_PORTS)
		return;
	p = &ports[n];
	p->present = true;
	p->bus = (int)(vjson_u64(vjson_get(bridge, "bus", json_type_object), "secondary") & 0xff);
	behind = vjson_get(bridge, "devices", json_type_array);
	if (behind && json_object_array_length(behind) > 0) {
		struct json_object *d = json_object_array_get_idx(behind, 0);
		const char *name = vjson_str(d, "qdev_id");

		snprintf(p->device, sizeof(p->device), "%s", *name ? name : "?");
		p->slot = (int)(vjson_u64(d, "slot") & 0xff);
		p->function = (int)(vjson_u64(d, "function") & 0xff);
	}
}

void qemu_read_ports(struct json_object *value, struct qemu_port ports[QEMU_ROOT_PORTS])
{
	struct json_object *bus0, *devices;

	memset(ports, 0, sizeof(*ports) * QEMU_ROOT_PORTS);
	if (!json_object_is_type(value, json_type_array) || json_object_array_length(value) == 0)
		return;
	bus0 = json_object_array_get_idx(value, 0);
	devices = vjson_get(bus0, "devices", json_type_array);
	for (size_t i = 0; devices && i < json_object_array_length(devices); i++)
		read_port(json_object_array_get_idx(devices, i), ports);
}

static int query_ports(struct vm *vm, struct qemu_port ports[QEMU_ROOT_PORTS], int64_t deadline_ns,
		       struct err *err)
{
	struct json_object *value = NULL;
	int r = qemu_call(vm, "query-pci", NULL, -1, deadline_ns, &value, err);

	if (r < 0)
		return r;
	qemu_read_ports(value, ports);
	json_object_put(value);
	return 0;
}

static int free_port(struct vm *vm, int *ret_port, int64_t deadline_ns, struct err *err)
{
	struct qemu_port ports[QEMU_ROOT_PORTS];
	int r = query_ports(vm, ports, deadline_ns, err);

	if (r < 0)
		return r;
	for (int i = 0; i < QEMU_ROOT_PORTS; i++) {
		if (ports[i].present && !ports[i].device[0]) {
			*ret_port = i;
			return 0;
		}
	}
	return err_set(err, -ENOSPC, "all %d hot plug ports of the VM are taken", QEMU_ROOT_PORTS);
}

/*
 * The address as the guest sees it. There is none until the guest's firmware has numbered its buses, and no
 * event tells when.
 */
static int read_address(struct vm *vm, int port, char ret_pci[VM_PCI_ADDRESS_MAX], int64_t deadline_ns,
			struct err *err)
{
	for (;;) {
		struct qemu_port ports[QEMU_ROOT_PORTS];
		const struct qemu_port *p = &ports[port];
		int r = query_ports(vm, ports, deadline_ns, err);

		if (r < 0)
			return r;
		if (p->bus > 0) {
			snprintf(ret_pci, VM_PCI_ADDRESS_MAX, "0000:%02x:%02x.%x", (unsigned)p->bus & 0xff,
				 (unsigned)p->slot & 0x1f, (unsigned)p->function & 7);
			return 0;
		}
		if (now_monotonic_ns() >= deadline_ns)
			return err_set(err, -ETIMEDOUT, "the guest has not numbered its PCI buses yet");
		wait_pause(vm->stop_fd, BUS_WAIT_NS, deadline_ns);
	}
}

/* ---- backends ------------------------------------------------------------------------------------------ */

static int add_disk(struct vm *vm, const struct vm_device *d, int port, struct json_object *dev,
		    int64_t deadline_ns, struct err *err)
{
	struct json_object *args, *file;
	char name[32];
	struct stat st;

	if (stat(d->path, &st) < 0)
		return err_set_errno(err, -errno, "disk %s", d->path);
	snprintf(name, sizeof(name), "rp%d-blk", port);
	file = json_object_new_object();
	vjson_add_str(file, "driver", S_ISBLK(st.st_mode) ? "host_device" : "file");
	vjson_add_str(file, "filename", d->path);
	vjson_add_bool(file, "read-only", d->read_only);
	args = json_object_new_object();
	vjson_add_str(args, "driver", "raw");
	vjson_add_str(args, "node-name", name);
	vjson_add_bool(args, "read-only", d->read_only);
	json_object_object_add(args, "file", file);
	vjson_add_str(dev, "driver", "virtio-blk-pci");
	vjson_add_str(dev, "drive", name);
	return qemu_call(vm, "blockdev-add", args, -1, deadline_ns, NULL, err);
}

static int add_pmem(struct vm *vm, const struct vm_device *d, int port, struct json_object *dev,
		    int64_t deadline_ns, struct err *err)
{
	struct json_object *args;
	char name[32];
	struct stat st;

	if (stat(d->path, &st) < 0)
		return err_set_errno(err, -errno, "pmem file %s", d->path);
	if (!S_ISREG(st.st_mode) || st.st_size == 0 || st.st_size % (2 << 20) != 0)
		return err_set(err, -EINVAL, "pmem file %s is not a regular file of whole 2 MiB blocks",
			       d->path);
	snprintf(name, sizeof(name), "rp%d-mem", port);
	args = json_object_new_object();
	vjson_add_str(args, "qom-type", "memory-backend-file");
	vjson_add_str(args, "id", name);
	vjson_add_str(args, "mem-path", d->path);
	vjson_add_u64(args, "size", (uint64_t)st.st_size);
	vjson_add_bool(args, "share", true);
	vjson_add_bool(args, "readonly", d->read_only);
	vjson_add_str(dev, "driver", "virtio-pmem-pci");
	vjson_add_str(dev, "memdev", name);
	return qemu_call(vm, "object-add", args, -1, deadline_ns, NULL, err);
}

static int add_net(struct vm *vm, const struct vm_device *d, int port, struct json_object *dev,
		   int64_t deadline_ns, struct err *err)
{
	int fd CLEANUP_CLOSE = tap_open(vm->netns_path, d->path, err);
	struct json_object *args;
	char name[32], mac[18];
	int r;

	if (fd < 0)
		return fd;
	snprintf(name, sizeof(name), "rp%d-net", port);
	args = json_object_new_object();
	vjson_add_str(args, "fdname", name);
	r = qemu_call(vm, "getfd", args, fd, deadline_ns, NULL, err);
	if (r < 0)
		return r;
	args = json_object_new_object();
	vjson_add_str(args, "type", "tap");
	vjson_add_str(args, "id", name);
	vjson_add_str(args, "fd", name);
	vjson_add_bool(args, "vhost", false);
	vjson_add_str(dev, "driver", "virtio-net-pci");
	vjson_add_str(dev, "netdev", name);
	vjson_add_str(dev, "romfile", "");
	vjson_add_u64(dev, "host_mtu", d->mtu ? d->mtu : 1500);
	if (!vmm_mac_zero(d->mac)) {
		vmm_mac_words(d->mac, mac);
		vjson_add_str(dev, "mac", mac);
	}
	return qemu_call(vm, "netdev_add", args, -1, deadline_ns, NULL, err);
}

static int add_fs(struct vm *vm, const struct vm_device *d, int port, struct json_object *dev,
		  int64_t deadline_ns, struct err *err)
{
	struct json_object *args = json_object_new_object(), *backend = json_object_new_object(),
			   *data = json_object_new_object(), *addr = json_object_new_object(),
			   *path = json_object_new_object();
	char name[32];

	snprintf(name, sizeof(name), "rp%d-sock", port);
	vjson_add_str(path, "path", d->path);
	vjson_add_str(addr, "type", "unix");
	json_object_object_add(addr, "data", path);
	json_object_object_add(data, "addr", addr);
	vjson_add_bool(data, "server", false);
	vjson_add_str(backend, "type", "socket");
	json_object_object_add(backend, "data", data);
	vjson_add_str(args, "id", name);
	json_object_object_add(args, "backend", backend);
	vjson_add_str(dev, "driver", "vhost-user-fs-pci");
	vjson_add_str(dev, "chardev", name);
	vjson_add_str(dev, "tag", d->tag);
	vjson_add_u64(dev, "queue-size", 1024);
	return qemu_call(vm, "chardev-add", args, -1, deadline_ns, NULL, err);
}

static int add_vfio(const struct vm_device *d, struct json_object *dev)
{
	vjson_add_str(dev, "driver", "vfio-pci");
	vjson_add_str(dev, "sysfsdev", d->path);
	return 0;
}

static int add_backend(struct vm *vm, const struct vm_device *d, int port, struct json_object *dev,
		       int64_t deadline_ns, struct err *err)
{
	switch (d->type) {
	case VM_DEVICE_DISK:
		return add_disk(vm, d, port, dev, deadline_ns, err);
	case VM_DEVICE_PMEM:
		return add_pmem(vm, d, port, dev, deadline_ns, err);
	case VM_DEVICE_NET:
		return add_net(vm, d, port, dev, deadline_ns, err);
	case VM_DEVICE_FS:
		return add_fs(vm, d, port, dev, deadline_ns, err);
	case VM_DEVICE_VFIO:
		return add_vfio(d, dev);
	}
	return err_set(err, -EINVAL, "unknown device type");
}

static int del_backend(struct vm *vm, enum vm_device_type type, int port, int64_t deadline_ns,
		       struct err *err)
{
	static const struct {
		const char *command, *key, *suffix;
	} how[] = {
		[VM_DEVICE_DISK] = {"blockdev-del", "node-name", "blk"},
		[VM_DEVICE_PMEM] = {"object-del", "id", "mem"},
		[VM_DEVICE_NET] = {"netdev_del", "id", "net"},
		[VM_DEVICE_FS] = {"chardev-remove", "id", "sock"},
		[VM_DEVICE_VFIO] = {NULL, NULL, NULL},
	};
	struct json_object *args;
	char name[32];

	if (!how[type].command)
		return 0;
	snprintf(name, sizeof(name), "rp%d-%s", port, how[type].suffix);
	args = json_object_new_object();
	vjson_add_str(args, how[type].key, name);
	return qemu_call(vm, how[type].command, args, -1, deadline_ns, NULL, err);
}

/* ---- attach and detach --------------------------------------------------------------------------------- */

int qemu_attach(struct vm *vm, const struct vm_device *d, char ret_pci[VM_PCI_ADDRESS_MAX],
		int64_t deadline_ns, struct err *err)
{
	struct json_object *dev;
	char name[VM_DEVICE_NAME_MAX], bus[8];
	int port = 0;
	int r = free_port(vm, &port, deadline_ns, err);

	if (r < 0)
		return r;
	dev = json_object_new_object();
	vm_device_name(d->type, d->id, name);
	snprintf(bus, sizeof(bus), "rp%d", port);
	vjson_add_str(dev, "id", name);
	vjson_add_str(dev, "bus", bus);
	r = add_backend(vm, d, port, dev, deadline_ns, err);
	if (r < 0) {
		json_object_put(dev);
		return r;
	}
	r = qemu_call(vm, "device_add", dev, -1, deadline_ns, NULL, err);
	if (r < 0) {
		del_backend(vm, d->type, port, now_monotonic_ns() + 5 * NS_PER_SEC, NULL);
		return r;
	}
	return read_address(vm, port, ret_pci, deadline_ns, err);
}

struct removal {
	const char *id;
	bool gone;
};

static bool slot_removed(struct vm *vm, void *arg)
{
	struct removal *w = arg;

	pthread_mutex_lock(&vm->lock);
	w->gone = true;
	for (size_t i = 0; i < VM_DEVICES_MAX; i++) {
		if (str_eq(vm->devices[i].id, w->id) && !vm->devices[i].removed)
			w->gone = false;
	}
	pthread_mutex_unlock(&vm->lock);
	return w->gone;
}

static int find_port(const struct qemu_port ports[QEMU_ROOT_PORTS], const char *name)
{
	for (int i = 0; i < QEMU_ROOT_PORTS; i++) {
		if (str_eq(ports[i].device, name))
			return i;
	}
	return -1;
}

/* The backend's port when the device itself has left already: a detach that timed out and is repeated. */
static int port_of_address(const struct qemu_port ports[QEMU_ROOT_PORTS], const char *pci)
{
	unsigned bus;

	if (sscanf(pci, "0000:%2x:", &bus) != 1)
		return -1;
	for (int i = 0; i < QEMU_ROOT_PORTS; i++) {
		if (ports[i].present && ports[i].bus == (int)bus)
			return i;
	}
	return -1;
}

int qemu_detach(struct vm *vm, const struct vm_slot *slot, int64_t deadline_ns, struct err *err)
{
	struct qemu_port ports[QEMU_ROOT_PORTS];
	struct removal w = {.id = slot->id};
	char name[VM_DEVICE_NAME_MAX];
	int port;
	int r = query_ports(vm, ports, deadline_ns, err);

	if (r < 0)
		return r;
	vm_device_name(slot->type, slot->id, name);
	port = find_port(ports, name);
	if (port >= 0) {
		struct json_object *args = json_object_new_object();
		struct err asked = ERR_INIT;

		vjson_add_str(args, "id", name);
		r = qemu_call(vm, "device_del", args, -1, deadline_ns, NULL, &asked);
		/* The removal was requested before and is still in progress: go on waiting. */
		if (r < 0 && r != -ENOENT && !strstr(asked.msg, "already in the process of unplug"))
			return err_copy(err, &asked);
		r = vm_await(vm, slot_removed, &w, deadline_ns, "the guest to release the device", err);
		if (r < 0)
			return r;
	} else {
		port = port_of_address(ports, slot->pci);
	}
	if (port < 0)
		return 0;
	return del_backend(vm, slot->type, port, deadline_ns, err);
}

int qemu_learn(struct vm *vm, int64_t deadline_ns, struct err *err)
{
	struct qemu_port ports[QEMU_ROOT_PORTS];
	int r = query_ports(vm, ports, deadline_ns, err);

	for (int i = 0; r == 0 && i < QEMU_ROOT_PORTS; i++) {
		char pci[VM_PCI_ADDRESS_MAX];
		enum vm_device_type type;
		const char *id = vm_device_id(ports[i].device, &type);

		if (!id)
			continue;
		snprintf(pci, sizeof(pci), "0000:%02x:%02x.%x", (unsigned)ports[i].bus & 0xff,
			 (unsigned)ports[i].slot & 0x1f, (unsigned)ports[i].function & 7);
		r = vm_slot_add(vm, type, id, pci, err);
	}
	return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu_size.c: vCPUs and memory of a running QEMU: query-hotpluggable-cpus and device_add for the ones,
 * virtio-mem for the other.
 */
#include "vmm/qemu_internal.h"

#include "base/util.h"
#include "vmm/json_internal.h"

#define CPU_PREFIX "hotcpu-"

static bool cpu_gone(struct vm *vm, void *arg)
{
	struct qemu *q = vm->state;

	return q->broken || str_eq(q->deleted, arg);
}

static int remove_cpu(struct vm *vm, const char *name, int64_t deadline_ns, struct err *err)
{
	struct qemu *q = vm->state;
	struct json_object *args = json_object_new_object();
	char wanted[sizeof(q->deleted)];
	int r;

	snprintf(wanted, sizeof(wanted), "%s", name);
	pthread_mutex_lock(&vm->io);
	q->deleted[0] = 0;
	pthread_mutex_unlock(&vm->io);
	vjson_add_str(args, "id", name);
	r = qemu_call(vm, "device_del", args, -1, deadline_ns, NULL, err);
	return r < 0 ? r : vm_await(vm, cpu_gone, wanted, deadline_ns, "the guest to release a vCPU", err);
}

/* One entry of query-hotpluggable-cpus becomes a vCPU of the VM. */
static int add_cpu(struct vm *vm, struct json_object *entry, size_t index, int64_t deadline_ns,
		   struct err *err)
{
	struct json_object *dev = json_object_new_object(),
			   *props = vjson_get(entry, "props", json_type_object);
	char name[32];

	snprintf(name, sizeof(name), CPU_PREFIX "%zu", index);
	if (props) {
		json_object_object_foreach(props, key, value)
			json_object_object_add(dev, key, json_object_get(value));
	}
	vjson_add_str(dev, "driver", vjson_str(entry, "type"));
	vjson_add_str(dev, "id", name);
	return qemu_call(vm, "device_add", dev, -1, deadline_ns, NULL, err);
}

static int resize_cpus(struct vm *vm, uint32_t vcpus, int64_t deadline_ns, struct err *err)
{
	struct json_object *list = NULL;
	size_t n = 0, have = 0;
	int r = qemu_call(vm, "query-hotpluggable-cpus", NULL, -1, deadline_ns, &list, err);

	if (r == 0 && json_object_is_type(list, json_type_array))
		n = json_object_array_length(list);
	for (size_t i = 0; i < n; i++)
		have += vjson_get(json_object_array_get_idx(list, i), "qom-path", json_type_string) != NULL;
	/* Entry n-1 is vCPU 0: QEMU lists them from the last to the first. */
	for (size_t i = n; r == 0 && have < vcpus && i-- > 0;) {
		struct json_object *entry = json_object_array_get_idx(list, i);

		if (vjson_get(entry, "qom-path", json_type_string))
			continue;
		r = add_cpu(vm, entry, i, deadline_ns, err);
		have++;
	}
	for (size_t i = 0; r == 0 && have > vcpus && i < n; i++) {
		const char *path = vjson_str(json_object_array_get_idx(list, i), "qom-path");
		const char *name = strstr(path, CPU_PREFIX);

		if (!name)
			continue;
		r = remove_cpu(vm, name, deadline_ns, err);
		have--;
	}
	json_object_put(list);
	return r;
}

static bool memory_changed(struct vm *vm, void *arg)
{
	struct qemu *q = vm->state;

	(void)arg;
	return q->broken || q->memory_changed;
}

static int get_hot_memory(struct vm *vm, uint64_t *ret, int64_t deadline_ns, struct err *err)
{
	struct json_object *args = json_object_new_object(), *value = NULL;
	int r;

	vjson_add_str(args, "path", "/machine/peripheral/vmem0");
	vjson_add_str(args, "property", "size");
	r = qemu_call(vm, "qom-get", args, -1, deadline_ns, &value, err);
	if (r == 0)
		*ret = json_object_get_uint64(value);
	json_object_put(value);
	return r;
}

static int resize_memory(struct vm *vm, uint64_t bytes, int64_t deadline_ns, struct err *err)
{
	struct qemu *q = vm->state;
	struct json_object *args = json_object_new_object();
	uint64_t want =
		(bytes - vm->memory_boot + QEMU_MEMORY_ALIGN - 1) / QEMU_MEMORY_ALIGN * QEMU_MEMORY_ALIGN;
	uint64_t have = 0;
	int r;

	vjson_add_str(args, "path", "/machine/peripheral/vmem0");
	vjson_add_str(args, "property", "requested-size");
	vjson_add_u64(args, "value", want);
	if (vm->memory_max == vm->memory_boot) {
		json_object_put(args);
		return want == 0 ? 0
				 : err_set(err, -EINVAL, "this VM was started without room for more memory");
	}
	r = qemu_call(vm, "qom-set", args, -1, deadline_ns, NULL, err);
	while (r == 0) {
		pthread_mutex_lock(&vm->io);
		q->memory_changed = false;
		pthread_mutex_unlock(&vm->io);
		r = get_hot_memory(vm, &have, deadline_ns, err);
		if (r < 0 || have == want)
			break;
		r = vm_await(vm, memory_changed, NULL, deadline_ns, "the guest to take or give the memory",
			     err);
		if (r == -ETIMEDOUT)
			err_wrap(err, "%llu of %llu bytes are plugged", (unsigned long long)have,
				 (unsigned long long)want);
	}
	return r;
}

int qemu_resize(struct vm *vm, uint32_t vcpus, uint64_t memory_bytes, int64_t deadline_ns, struct err *err)
{
	int r = 0;

	if (vcpus)
		r = resize_cpus(vm, vcpus, deadline_ns, err);
	if (r == 0 && vcpus) {
		pthread_mutex_lock(&vm->lock);
		vm->vcpus = vcpus;
		pthread_mutex_unlock(&vm->lock);
	}
	if (r == 0 && memory_bytes) {
		r = resize_memory(vm, memory_bytes, deadline_ns, err);
		if (r == 0) {
			pthread_mutex_lock(&vm->lock);
			vm->memory = memory_bytes;
			pthread_mutex_unlock(&vm->lock);
		}
	}
	return r;
}

/* ---- threads ------------------------------------------------------------------------------------------- */

struct wanted {
	struct json_object *list;
	pid_t *tids;
	uint32_t n;
};

static void match_thread(void *arg, const struct vm_thread *thread)
{
	struct wanted *w = arg;
	size_t len = json_object_array_length(w->list);

	for (size_t i = 0; i < len; i++) {
		struct json_object *cpu = json_object_array_get_idx(w->list, i);
		uint64_t index = vjson_u64(cpu, "cpu-index");

		if (index < w->n && vjson_get(cpu, "cpu-index", json_type_int) &&
		    vjson_u64(cpu, "thread-id") == (uint64_t)thread->inner)
			w->tids[index] = thread->tid;
	}
}

int qemu_vcpu_threads(struct vm *vm, pid_t *ret_tids, uint32_t n, int64_t deadline_ns, struct err *err)
{
	struct wanted w = {.tids = ret_tids, .n = n};
	int r = qemu_call(vm, "query-cpus-fast", NULL, -1, deadline_ns, &w.list, err);

	if (r == 0 && !json_object_is_type(w.list, json_type_array))
		r = err_set(err, -EPROTO, "malformed reply to query-cpus-fast");
	if (r == 0)
		r = vm_threads(vm, match_thread, &w, err);
	json_object_put(w.list);
	return r;
}

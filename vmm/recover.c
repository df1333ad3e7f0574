/* SPDX-License-Identifier: Apache-2.0 */
/* recover.c: what of a VM outlives the server, saved as JSON, and how a running VM is adopted from it. */
#include "vmm/vm_internal.h"

#include "base/procfs.h"
#include "base/util.h"
#include "vmm/json_internal.h"
#include "vmm/wait_internal.h"

#include <json-c/json.h>
#include <sys/stat.h>

#define SAVE_VERSION 1
#define JSON_DEPTH   8
#define JSON_MAX     65536
#define ADOPT_NS     (10 * NS_PER_SEC)
#define KILL_NS	     (5 * NS_PER_SEC)

static const char *const role_keys[] = {
	[VM_ROLE_VMM] = "vmm",
	[VM_ROLE_FS] = "virtiofsd",
	[VM_ROLE_VSOCK] = "vsock",
};

/* ---- save ---------------------------------------------------------------------------------------------- */

static void add(struct json_object *o, const char *key, struct json_object *v)
{
	json_object_object_add(o, key, v);
}

static void save_procs(const struct vm *vm, struct json_object *o)
{
	for (int i = 0; i < VM_ROLE_COUNT; i++) {
		struct json_object *p;

		if (vm->procs[i].pid == 0)
			continue;
		p = json_object_new_object();
		add(p, "pid", json_object_new_int(vm->procs[i].pid));
		add(p, "start_time", json_object_new_uint64(vm->procs[i].start_time));
		add(p, "exe", json_object_new_string(vm->procs[i].exe.name));
		add(p, "exe_device", json_object_new_uint64(vm->procs[i].exe.device));
		add(p, "exe_inode", json_object_new_uint64(vm->procs[i].exe.inode));
		add(p, "name", json_object_new_string(vm->exe[i]));
		add(o, role_keys[i], p);
	}
}

char *vm_save(const struct vm *vm)
{
	/* Only the lock changes: the VM itself stays as it is. */
	pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&vm->lock;
	struct json_object *o = json_object_new_object();
	char boot_id[PROCFS_BOOT_ID_SIZE];
	char *text;

	if (!o || procfs_boot_id(boot_id) < 0) {
		json_object_put(o);
		return NULL;
	}
	add(o, "version", json_object_new_int(SAVE_VERSION));
	add(o, "boot_id", json_object_new_string(boot_id));
	add(o, "driver", json_object_new_string(vm->driver->name));
	add(o, "id", json_object_new_string(vm->id));
	add(o, "run_dir", json_object_new_string(vm->run_dir));
	if (vm->netns_path)
		add(o, "netns", json_object_new_string(vm->netns_path));
	add(o, "accel", json_object_new_string(vm->accel));
	add(o, "debug", json_object_new_boolean(vm->debug));
	add(o, "cid", json_object_new_int64(vm->cid));
	add(o, "vcpus_boot", json_object_new_int64(vm->vcpus_boot));
	add(o, "vcpus_max", json_object_new_int64(vm->vcpus_max));
	add(o, "memory_boot", json_object_new_uint64(vm->memory_boot));
	add(o, "memory_max", json_object_new_uint64(vm->memory_max));
	pthread_mutex_lock(lock);
	add(o, "vcpus", json_object_new_int64(vm->vcpus));
	add(o, "memory", json_object_new_uint64(vm->memory));
	save_procs(vm, o);
	pthread_mutex_unlock(lock);
	text = strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	return text;
}

/* ---- recover ------------------------------------------------------------------------------------------- */

static const char *get_str(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string)
		       ? json_object_get_string(v)
		       : NULL;
}

static int parse(const char *json, struct json_object **ret, struct err *err)
{
	struct json_tokener *t;
	struct json_object *o;
	size_t len = strlen(json);

	if (len > JSON_MAX)
		return err_set(err, -EINVAL, "a saved VM of %zu bytes", len);
	t = json_tokener_new_ex(JSON_DEPTH);
	if (!t)
		return err_oom(err);
	o = json_tokener_parse_ex(t, json, (int)len + 1);
	json_tokener_free(t);
	if (!o || !json_object_is_type(o, json_type_object)) {
		json_object_put(o);
		return err_set(err, -EINVAL, "a saved VM that is not a JSON object");
	}
	*ret = o;
	return 0;
}

static int check_head(struct json_object *o, const struct vmm_driver **ret_driver, struct err *err)
{
	const char *boot_id = get_str(o, "boot_id"), *name = get_str(o, "driver");
	char now[PROCFS_BOOT_ID_SIZE];

	if (vjson_u64(o, "version") != SAVE_VERSION)
		return err_set(err, -EINVAL, "a saved VM of version %llu; this one reads version %d",
			       (unsigned long long)vjson_u64(o, "version"), SAVE_VERSION);
	if (!name || !get_str(o, "id") || !get_str(o, "run_dir") || !boot_id)
		return err_set(err, -EINVAL, "a saved VM without driver, id, run_dir or boot_id");
	*ret_driver = vmm_driver_find(name);
	if (!*ret_driver)
		return err_set(err, -EINVAL, "a saved VM of the unknown driver \"%s\"", name);
	if (procfs_boot_id(now) < 0 || !str_eq(now, boot_id))
		return err_set(err, -ESRCH, "the host has rebooted since");
	return 0;
}

static void fill(struct vm *vm, struct json_object *o)
{
	const char *accel = get_str(o, "accel");
	struct json_object *v;

	snprintf(vm->accel, sizeof(vm->accel), "%s", accel ? accel : "");
	vm->debug = json_object_object_get_ex(o, "debug", &v) && json_object_get_boolean(v);
	vm->cid = (uint32_t)vjson_u64(o, "cid");
	vm->vcpus_boot = (uint32_t)vjson_u64(o, "vcpus_boot");
	vm->vcpus_max = (uint32_t)vjson_u64(o, "vcpus_max");
	vm->memory_boot = vjson_u64(o, "memory_boot");
	vm->memory_max = vjson_u64(o, "memory_max");
	vm->vcpus = (uint32_t)vjson_u64(o, "vcpus");
	vm->memory = vjson_u64(o, "memory");
}

/* Earlier versions have saved the name alone. */
static struct child_exe saved_exe(struct json_object *p)
{
	struct child_exe exe = {.device = vjson_u64(p, "exe_device"), .inode = vjson_u64(p, "exe_inode")};
	const char *name = get_str(p, "exe");

	snprintf(exe.name, sizeof(exe.name), "%.63s", name ? name : "");
	return exe;
}

/* Each process that still lives is adopted; the first one that does not is reported. */
static int adopt_procs(struct vm *vm, struct json_object *o, struct err *err)
{
	int result = 0;

	for (int i = 0; i < VM_ROLE_COUNT; i++) {
		struct json_object *p;
		struct child_exe exe;
		const char *name;
		struct err e = ERR_INIT;
		int r;

		if (!json_object_object_get_ex(o, role_keys[i], &p) ||
		    !json_object_is_type(p, json_type_object)) {
			if (i == VM_ROLE_VMM)
				result = err_set(err, -EINVAL, "a saved VM without its VMM's process");
			continue;
		}
		exe = saved_exe(p);
		name = get_str(p, "name");
		snprintf(vm->exe[i], sizeof(vm->exe[0]), "%.63s", name ? name : "");
		r = child_adopt(&vm->procs[i], (pid_t)vjson_u64(p, "pid"), vjson_u64(p, "start_time"), &exe,
				&e);
		if (r < 0 && result == 0)
			result = err_set(err, -ESRCH, "%s has ended meanwhile (%s)",
					 i == VM_ROLE_VMM ? vm->driver->name : vm->exe[i], e.msg);
	}
	return result;
}

/* Its run directory is theirs, whom VMM and vsock daemon run as; root's with VMs of earlier versions. */
static int take_uid(struct vm *vm, struct err *err)
{
	struct stat st;

	if (lstat(vm->run_dir, &st) < 0)
		return err_set_errno(err, -errno, "%s", vm->run_dir);
	vm->uid = st.st_uid;
	return 0;
}

int vm_recover(const char *json, struct vm **ret_vm, struct err *err)
{
	const struct vmm_driver *driver = NULL;
	struct json_object *o = NULL;
	struct vm *vm = NULL;
	int r = parse(json, &o, err);

	if (r == 0)
		r = check_head(o, &driver, err);
	if (r == 0) {
		vm = vm_new(driver, get_str(o, "id"), get_str(o, "run_dir"), err);
		r = vm ? 0 : -ENOMEM;
	}
	if (r == 0) {
		fill(vm, o);
		r = str_set(&vm->netns_path, get_str(o, "netns"));
		if (r < 0)
			err_oom(err);
	}
	if (r == 0) {
		r = adopt_procs(vm, o, err);
		if (r == 0)
			r = take_uid(vm, err);
		if (r == 0)
			r = driver->ready(vm, true, now_monotonic_ns() + ADOPT_NS, err);
		if (r == 0)
			r = vm_watch(vm, err);
		if (r < 0) /* an incomplete VM cannot be used */
			vm_kill_all(vm, now_monotonic_ns() + KILL_NS);
	}
	json_object_put(o);
	if (r < 0) {
		vm_free(vm);
		return err_wrap(err, "adopting the VM");
	}
	*ret_vm = vm;
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ch_cmdline.c: Cloud Hypervisor's command line, boot devices in the described system's order, and restoring.
 */
#include "vmm/ch_internal.h"

#include "base/util.h"
#include "vmm/json_internal.h"

#include <limits.h>
#include <sys/stat.h>

#define RESTORE_DIR "restore"
#define CONFIG_MAX  (1024 * 1024)

#define ADD(option, ...)                                                                                     \
	do {                                                                                                 \
		if (r == 0)                                                                                  \
			r = strv_add(v, option);                                                             \
		if (r == 0)                                                                                  \
			r = strv_addf(v, __VA_ARGS__);                                                       \
	} while (0)

static int add_vm(const struct vm *vm, const struct vm_launch *l, char ***v, struct err *err)
{
	const char *huge = l->config->hugepages ? "on" : "off";
	const char *entropy =
		str_empty(l->config->entropy_source) ? "/dev/urandom" : l->config->entropy_source;
	char *cmdline CLEANUP_FREE = vmm_kernel_cmdline(l->config, l->spec);
	char mac[18];
	int r = 0;

	if (!cmdline)
		return err_oom(err);
	if (vm->vcpus_max > vm->vcpus_boot)
		ADD("--cpus", "boot=%u,max=%u", vm->vcpus_boot, vm->vcpus_max);
	else
		ADD("--cpus", "boot=%u", vm->vcpus_boot);
	if (vm->memory_max > vm->memory_boot)
		ADD("--memory",
		    "size=%llu,shared=on,hugepages=%s,hotplug_method=virtio-mem,hotplug_size=%llu",
		    (unsigned long long)vm->memory_boot, huge,
		    (unsigned long long)(vm->memory_max - vm->memory_boot));
	else
		ADD("--memory", "size=%llu,shared=on,hugepages=%s", (unsigned long long)vm->memory_boot,
		    huge);
	ADD("--kernel", "%s", l->config->kernel_path);
	ADD("--cmdline", "%s", cmdline);
	ADD("--pmem", "file=%s,id=rootfs,discard_writes=on", l->config->image_path);
	ADD("--rng", "src=%s", entropy);
	ADD("--vsock", "cid=%d,socket=%s/" VM_FILE_VSOCK, VM_VSOCK_CID, vm->run_dir);
	ADD("--console", "file=%s/" VM_FILE_CONSOLE, vm->run_dir);
	ADD("--fs", "tag=kuasar,socket=%s/" VM_FILE_FS, vm->run_dir);
	if (vm->debug)
		ADD("--serial", "file=%s/" VM_FILE_SERIAL, vm->run_dir);
	else
		ADD("--serial", "%s", "off");
	if (l->tap >= 0) {
		vmm_mac_words(l->mac, mac);
		ADD("--net", "id=net0,fd=%d,mac=%s", launch_fd(l, l->tap), mac);
	}
	return r < 0 ? r : strv_add(v, "--pvpanic");
}

static int add_restore(const struct vm *vm, const struct vm_launch *l, char ***v)
{
	int r = 0;

	if (l->tap >= 0)
		ADD("--restore", "source_url=file://%s/" RESTORE_DIR ",net_fds=[net0@[%d]]", vm->run_dir,
		    launch_fd(l, l->tap));
	else
		ADD("--restore", "source_url=file://%s/" RESTORE_DIR, vm->run_dir);
	return r;
}

int ch_command(const struct vm *vm, const struct vm_launch *l, char ***ret_argv, struct err *err)
{
	char **argv CLEANUP_STRV = NULL;
	char ***v = &argv;
	int r = vmm_option_check("image path", l->config->image_path, err);

	if (r == 0)
		r = vmm_option_check("kernel path", l->config->kernel_path, err);
	if (r == 0)
		r = vmm_option_check("entropy source", l->config->entropy_source, err);
	if (r == 0)
		r = vmm_option_check("run directory", vm->run_dir, err);
	if (r < 0)
		return r;
	r = strv_add(v, l->choice->path);
	/* The listening socket itself: clients may connect before the VMM has come up. */
	ADD("--api-socket", "fd=%d", launch_fd(l, l->monitor));
	if (r == 0)
		r = l->restore_dir ? add_restore(vm, l, v) : add_vm(vm, l, v, err);
	ADD("--event-monitor", "path=%s/" VM_FILE_EVENTS, vm->run_dir);
	ADD("--seccomp", "%s", "true");
	if (vm->debug) {
		ADD("--log-file", "%s/" VM_FILE_CH_LOG, vm->run_dir);
		if (r == 0)
			r = strv_add(v, "-v");
	}
	if (r < 0)
		return err_set_errno(err, r, "cloud-hypervisor's command line");
	*ret_argv = move_ptr(argv);
	return 0;
}

/* ---- restoring ----------------------------------------------------------------------------------------- */

static void set_path(struct json_object *o, const char *key, const struct vm *vm, const char *file)
{
	char path[256];

	if (o && json_object_is_type(o, json_type_object) && vm_path(vm, file, path, sizeof(path), NULL) == 0)
		json_object_object_add(o, key, json_object_new_string(path));
}

/* Replaces sockets and files of the saved VM by this one's. */
static void rewrite_config(const struct vm *vm, struct json_object *o)
{
	struct json_object *fs = vjson_get(o, "fs", json_type_array);

	set_path(vjson_get(o, "vsock", json_type_object), "socket", vm, VM_FILE_VSOCK);
	set_path(vjson_get(o, "console", json_type_object), "file", vm, VM_FILE_CONSOLE);
	if (fs && json_object_array_length(fs) > 0)
		set_path(json_object_array_get_idx(fs, 0), "socket", vm, VM_FILE_FS);
	if (vm->debug)
		set_path(vjson_get(o, "serial", json_type_object), "file", vm, VM_FILE_SERIAL);
}

static int link_file(const char *from_dir, const char *to_dir, const char *name, struct err *err)
{
	char from[PATH_MAX], to[PATH_MAX];

	if ((size_t)snprintf(from, sizeof(from), "%s/%s", from_dir, name) >= sizeof(from) ||
	    (size_t)snprintf(to, sizeof(to), "%s/%s", to_dir, name) >= sizeof(to))
		return err_set(err, -ENAMETOOLONG, "snapshot directory %s", from_dir);
	if (access(from, R_OK) < 0)
		return err_set_errno(err, -errno, "snapshot file %s", from);
	if (symlink(from, to) < 0)
		return err_set_errno(err, -errno, "linking %s", to);
	return 0;
}

int ch_prepare_restore(const struct vm *vm, const struct vm_launch *l, struct err *err)
{
	char dir[256], path[PATH_MAX];
	char *text CLEANUP_FREE = NULL;
	struct json_object *o;
	const char *out;
	int r = vm_path(vm, RESTORE_DIR, dir, sizeof(dir), err);

	if (r < 0)
		return r;
	r = remove_tree(dir);
	if (r == 0 && mkdir(dir, 0700) < 0)
		r = -errno;
	if (r < 0)
		return err_set_errno(err, r, "making %s", dir);
	snprintf(path, sizeof(path), "%s/config.json", l->restore_dir);
	r = read_file(path, CONFIG_MAX, &text, NULL);
	if (r < 0)
		return err_set_errno(err, r, "snapshot file %s", path);
	o = json_tokener_parse(text);
	if (!o || !json_object_is_type(o, json_type_object)) {
		json_object_put(o);
		return err_set(err, -EINVAL, "snapshot file %s is not a JSON object", path);
	}
	rewrite_config(vm, o);
	snprintf(path, sizeof(path), "%s/config.json", dir);
	out = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	r = write_file(path, out, strlen(out), 0600);
	json_object_put(o);
	if (r < 0)
		return err_set_errno(err, r, "writing %s", path);
	r = vm_give(vm, dir, err);
	if (r == 0)
		r = vm_give(vm, path, err);
	if (r < 0)
		return r;
	r = link_file(l->restore_dir, dir, "state.json", err);
	return r < 0 ? r : link_file(l->restore_dir, dir, "memory-ranges", err);
}

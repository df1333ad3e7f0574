/* SPDX-License-Identifier: Apache-2.0 */
/* cloud_hypervisor.c: the driver for Cloud Hypervisor v53: start, events, state, snapshot. */
#include "vmm/ch_internal.h"

#include "base/util.h"
#include "vmm/wait_internal.h"

#include <fcntl.h>
#include <sys/stat.h>

#define READ_STEP  8192
#define TURN_BYTES (64 * 1024) /* of events in one turn: the loop serves other VMs, too */
#define TRIM_STEP  (1024 * 1024)

/*
 * Opens what the VMM inherits or writes to: the API's listener, and the event file, which must exist to be
 * watched.
 */
static int ch_prepare(struct vm *vm, struct vm_launch *launch, struct err *err)
{
	char path[256];
	int r = launch->restore_dir ? ch_prepare_restore(vm, launch, err) : 0;

	if (r == 0)
		r = vm_path(vm, VM_FILE_EVENTS, path, sizeof(path), err);
	if (r < 0)
		return r;
	r = write_file(path, "", 0, 0600);
	if (r < 0)
		return err_set_errno(err, r, "making %s", path);
	r = vm_give(vm, path, err);
	if (r < 0)
		return r;
	r = vm_path(vm, VM_FILE_API, path, sizeof(path), err);
	if (r < 0)
		return r;
	r = sock_listen(path, err);
	return r < 0 ? r : launch_add_fd(launch, r, &launch->monitor, err);
}

/* What an earlier server has taken is a hole, and behind it stands the rest of an event. */
static void skip_hole(struct ch *c)
{
	off_t data = lseek(c->events, 0, SEEK_DATA);

	c->offset = c->trimmed = data > 0 ? data : 0;
	c->skip = c->up = data > 0; /* the first event is the boot's */
	lseek(c->events, c->offset, SEEK_SET);
}

static int open_events(struct vm *vm, struct ch *c, struct err *err)
{
	char path[256];
	struct stat st;
	int r = vm_path(vm, VM_FILE_EVENTS, path, sizeof(path), err);

	if (r < 0)
		return r;
	c->events = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (c->events < 0 || fstat(c->events, &st) < 0)
		return err_set_errno(err, -errno, "cloud-hypervisor's events %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "cloud-hypervisor's events %s are not a regular file", path);
	if (vm->files_watch < 0)
		return err_set(err, -EMFILE,
			       "watching %s: no inotify instance (fs.inotify.max_user_instances)",
			       vm->run_dir);
	skip_hole(c);
	return 0;
}

/*
 * Events that have been taken are given back to the file system, but for what marks the end of the last one.
 */
static void trim_taken(struct vm *vm, struct ch *c)
{
	off_t taken = c->offset - (off_t)c->in.len - (off_t)strlen(CH_EVENT_END);
	char path[256];

	if (taken - c->trimmed < TRIM_STEP || vm_path(vm, VM_FILE_EVENTS, path, sizeof(path), NULL) < 0)
		return;
	trim_file(path, taken);
	c->trimmed = taken;
}

static void ch_pump(struct vm *vm)
{
	struct ch *c = vm->state;
	size_t turn = 0;

	while (c->events >= 0 && turn < TURN_BYTES) {
		struct err err = ERR_INIT;
		ssize_t n = buf_read_fd(&c->in, c->events, READ_STEP);

		if (n == 0)
			return;
		turn += n > 0 ? (size_t)n : 0;
		c->offset += n > 0 ? n : 0;
		if (n < 0 || ch_feed_events(vm, &c->in, &err) < 0) {
			/* No more events will come; the API and the process remain as sources. */
			c->events = close_fd(c->events);
			vm_progress(vm);
			return;
		}
		trim_taken(vm, c);
	}
	if (c->events >= 0) {
		vm_again(vm);
		vm_progress(vm);
	}
}

static int check_running(struct vm *vm, bool adopt, int64_t deadline_ns, struct err *err)
{
	struct json_object *info = NULL, *state = NULL;
	int r = ch_call(vm, "GET", "vm.info", NULL, deadline_ns, &info, err);

	if (r < 0)
		return r;
	if (!json_object_is_type(info, json_type_object) ||
	    !json_object_object_get_ex(info, "state", &state) ||
	    !json_object_is_type(state, json_type_string))
		r = err_set(err, -EPROTO, "vm.info: an answer without state");
	else if (!str_eq(json_object_get_string(state), "Running") &&
		 !str_eq(json_object_get_string(state), "Paused"))
		r = err_set_status(err, -EREMOTEIO, ERR_INTERNAL, "the VM is in state %s",
				   json_object_get_string(state));
	else if (adopt)
		r = ch_learn(vm, info, err);
	json_object_put(info);
	return r;
}

static bool is_up(struct vm *vm, void *arg)
{
	const struct ch *c = vm->state;

	(void)arg;
	return c->up || c->events < 0;
}

/* Turn after turn, as far as the file reached when this began. */
static void pump_all(struct vm *vm, struct ch *c)
{
	struct stat st;

	if (fstat(c->events, &st) < 0)
		return;
	for (;;) {
		bool more;
		off_t from;

		pthread_mutex_lock(&vm->io);
		from = c->offset;
		ch_pump(vm);
		more = c->events >= 0 && c->offset > from && c->offset < st.st_size;
		pthread_mutex_unlock(&vm->io);
		if (!more)
			return;
	}
}

static int ch_ready(struct vm *vm, bool adopt, int64_t deadline_ns, struct err *err)
{
	struct ch *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return err_oom(err);
	c->events = -1;
	c->in.max = 2 * CH_EVENT_MAX;
	vm->state = c;
	r = open_events(vm, c, err);
	/*
	 * Events from before the server came back come first: devices that left then are not in the table
	 * yet.
	 */
	if (r == 0)
		pump_all(vm, c);
	if (r == 0)
		r = ch_call(vm, "GET", "vmm.ping", NULL, deadline_ns, NULL, err);
	/* The API answers before the VM is booted; a VMM that cannot boot it says why and exits. */
	if (r == 0)
		r = vm_await(vm, is_up, NULL, deadline_ns, "the VM to be booted", err);
	return r < 0 ? r : check_running(vm, adopt, deadline_ns, err);
}

static int ch_monitor_fd(const struct vm *vm)
{
	return vm->files_watch;
}

static int ch_pause(struct vm *vm, int64_t deadline_ns, struct err *err)
{
	return ch_call(vm, "PUT", "vm.pause", NULL, deadline_ns, NULL, err);
}

static int ch_resume(struct vm *vm, int64_t deadline_ns, struct err *err)
{
	return ch_call(vm, "PUT", "vm.resume", NULL, deadline_ns, NULL, err);
}

static int ch_snapshot(struct vm *vm, const char *dir, int64_t deadline_ns, struct err *err)
{
	struct json_object *body = json_object_new_object();
	char url[512];

	if (dir[0] != '/' || (size_t)snprintf(url, sizeof(url), "file://%s", dir) >= sizeof(url)) {
		json_object_put(body);
		return err_set(err, -EINVAL,
			       "snapshot directory %s is not an absolute path of at most %zu bytes", dir,
			       sizeof(url) - 8);
	}
	if (vm_give(vm, dir, err) < 0) {
		json_object_put(body);
		return err ? err->code : -EIO;
	}
	json_object_object_add(body, "destination_url", json_object_new_string(url));
	return ch_call(vm, "PUT", "vm.snapshot", body, deadline_ns, NULL, err);
}

static int ch_state_name(struct vm *vm, char *out, size_t size, int64_t deadline_ns, struct err *err)
{
	struct json_object *info = NULL, *state;
	int r = ch_call(vm, "GET", "vm.info", NULL, deadline_ns, &info, err);

	if (r == 0 && json_object_is_type(info, json_type_object) &&
	    json_object_object_get_ex(info, "state", &state) && json_object_get_string(state))
		snprintf(out, size, "%s", json_object_get_string(state));
	json_object_put(info);
	return r;
}

static void ch_done(struct vm *vm)
{
	struct ch *c = vm->state;

	if (!c)
		return;
	close_fd(c->events);
	buf_done(&c->in);
	free(c);
	vm->state = NULL;
}

struct wanted {
	pid_t *tids;
	uint32_t n;
};

/* Its vCPU threads are named "vcpu0", "vcpu1", … (vmm/src/cpu.rs). */
static void match_thread(void *arg, const struct vm_thread *thread)
{
	struct wanted *w = arg;
	uint64_t index;

	if (str_starts(thread->name, "vcpu") && parse_u64(thread->name + 4, &index) == 0 && index < w->n)
		w->tids[index] = thread->tid;
}

static int ch_vcpu_threads(struct vm *vm, pid_t *ret_tids, uint32_t n, int64_t deadline_ns, struct err *err)
{
	struct wanted w = {.tids = ret_tids, .n = n};

	(void)deadline_ns;
	return vm_threads(vm, match_thread, &w, err);
}

const struct vmm_driver vmm_driver_cloud_hypervisor = {
	.name = "cloud-hypervisor",
	.exe = "cloud-hypervisor",
	.own_vsock = true,
	.tap_by_name = true,
	.caps = VMM_CAP_HOTPLUG_DISK | VMM_CAP_HOTPLUG_NET | VMM_CAP_HOTPLUG_PMEM | VMM_CAP_HOTPLUG_FS |
		VMM_CAP_HOTPLUG_VFIO | VMM_CAP_RESIZE | VMM_CAP_PAUSE | VMM_CAP_SNAPSHOT,
	.mtu_max = 65521, /* it tells the guest the tap's MTU */
	.prepare = ch_prepare,
	.command = ch_command,
	.ready = ch_ready,
	.monitor_fd = ch_monitor_fd,
	.pump = ch_pump,
	.attach = ch_attach,
	.detach = ch_detach,
	.resize = ch_resize,
	.vcpu_threads = ch_vcpu_threads,
	.pause = ch_pause,
	.resume = ch_resume,
	.snapshot = ch_snapshot,
	.state_name = ch_state_name,
	.done = ch_done,
};

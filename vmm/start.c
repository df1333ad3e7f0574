/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vm_internal.h"

#include "base/util.h"
#include "vmm/wait_internal.h"

#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>

#define ID_MAX	     64
#define STOP_NS	     (5 * NS_PER_SEC)
#define RETRY_NS     (5 * NS_PER_MS)
#define DYING_NS     (NS_PER_SEC / 2)
#define SILENT_NS    (60 * NS_PER_SEC) /* long: busy machines boot slowly, and dialling too early is fatal */
#define MEMORY_MIN   (64ULL << 20)
#define VCPUS_LIMIT  255
#define MEMORY_ALIGN (2ULL << 20)

/* ---- the spec ------------------------------------------------------------------------------------------ */

static int check_spec(const struct vmm_config *config, const struct vm_spec *spec, struct err *err)
{
	size_t len = spec->id ? strlen(spec->id) : 0;
	struct stat st;

	if (len == 0 || len > ID_MAX || strspn(spec->id, "abcdefghijklmnopqrstuvwxyz0123456789-") != len)
		return err_set(err, -EINVAL, "VM id \"%s\": 1 to %d of a-z, 0-9 and - are allowed",
			       spec->id ? spec->id : "", ID_MAX);
	if (str_empty(spec->run_dir) || stat(spec->run_dir, &st) < 0 || !S_ISDIR(st.st_mode))
		return err_set(err, -ENOENT, "run directory \"%s\" is not a directory",
			       spec->run_dir ? spec->run_dir : "");
	if (str_empty(spec->shared_dir) || stat(spec->shared_dir, &st) < 0 || !S_ISDIR(st.st_mode))
		return err_set(err, -ENOENT, "shared directory \"%s\" is not a directory",
			       spec->shared_dir ? spec->shared_dir : "");
	if ((spec->memory_bytes ? spec->memory_bytes : config->memory_bytes) < MEMORY_MIN)
		return err_set(err, -EINVAL, "a VM needs at least %llu MiB of memory", MEMORY_MIN >> 20);
	if ((spec->vcpus ? spec->vcpus : config->vcpus) == 0)
		return err_set(err, -EINVAL, "a VM needs at least one vCPU");
	return 0;
}

static void set_sizes(struct vm *vm, const struct vmm_config *config, const struct vm_spec *spec)
{
	uint32_t host = (uint32_t)get_nprocs();

	vm->vcpus_boot = spec->vcpus ? spec->vcpus : config->vcpus;
	if (vm->vcpus_boot > VCPUS_LIMIT)
		vm->vcpus_boot = VCPUS_LIMIT;
	vm->vcpus_max = spec->vcpus_max ? spec->vcpus_max : host;
	if (vm->vcpus_max > VCPUS_LIMIT)
		vm->vcpus_max = VCPUS_LIMIT;
	/*
	 * Without KVM the guest takes itself for a bare machine, and Linux refuses a CPU that is plugged into
	 * a package with others; QEMU 7.2 aborts at the second vCPU that comes after one has gone.
	 */
	if (vm->vcpus_max < vm->vcpus_boot || str_eq(vm->accel, "tcg"))
		vm->vcpus_max = vm->vcpus_boot;
	vm->memory_boot = spec->memory_bytes ? spec->memory_bytes : config->memory_bytes;
	vm->memory_boot = (vm->memory_boot + MEMORY_ALIGN - 1) / MEMORY_ALIGN * MEMORY_ALIGN;
	vm->memory_max = vm->memory_boot;
	/* A backend of huge pages takes all of them at once, used or not. */
	if (spec->memory_max_bytes > vm->memory_boot && !config->hugepages)
		vm->memory_max +=
			(spec->memory_max_bytes - vm->memory_boot) / VM_MEMORY_STEP * VM_MEMORY_STEP;
	vm->vcpus = vm->vcpus_boot;
	vm->memory = vm->memory_boot;
}

static int set_mac(struct vm_launch *l, struct err *err)
{
	memcpy(l->mac, l->spec->mac, sizeof(l->mac));
	if (!vmm_mac_zero(l->mac))
		return 0;
	if (getrandom(l->mac, sizeof(l->mac), 0) != (ssize_t)sizeof(l->mac))
		return err_set_errno(err, -errno, "random numbers");
	l->mac[0] = (uint8_t)((l->mac[0] & 0xfc) | 0x02); /* locally administered, unicast */
	return 0;
}

static int set_image(struct vm_launch *l, struct err *err)
{
	struct stat st;

	if (l->config->kernel_path[0] != '/' || l->config->image_path[0] != '/')
		return err_set(err, -EINVAL, "kernel %s and image %s must be absolute paths",
			       l->config->kernel_path, l->config->image_path);
	if (access(l->config->kernel_path, R_OK) < 0)
		return err_set_errno(err, -errno, "guest kernel %s", l->config->kernel_path);
	if (stat(l->config->image_path, &st) < 0)
		return err_set_errno(err, -errno, "guest image %s", l->config->image_path);
	if (!S_ISREG(st.st_mode) || st.st_size == 0 || st.st_size % (2 << 20) != 0)
		return err_set(err, -EINVAL, "guest image %s is not a regular file of whole 2 MiB blocks",
			       l->config->image_path);
	l->image_bytes = (uint64_t)st.st_size;
	return 0;
}

/* ---- start --------------------------------------------------------------------------------------------- */

static int start_vsock(struct vm *vm, struct vm_launch *l, const char *helper, struct err *err)
{
	char path[512];
	int fd;

	if (vm->driver->own_vsock)
		return 0;
	/*
	 * The daemon comes first: with the kernel's vsock a guest reaches whatever listens on the host's own
	 * CID, with the daemon's socket it reaches nothing.
	 */
	if (str_empty(l->config->vsock_daemon_path) && vsock_kernel_usable() &&
	    vsock_daemon_find(l->config, path, sizeof(path), NULL) < 0) {
		fd = vsock_claim(&vm->cid, err);
		return fd < 0 ? fd : launch_add_fd(l, fd, &l->vsock, err);
	}
	return vsock_daemon_spawn(vm, l, helper, err);
}

/* Adds a helper's last words. */
static int wrap_words(const struct vm *vm, const char *who, const char *log_file, struct err *err)
{
	char log[256], words[256] = "";

	if (vm_path(vm, log_file, log, sizeof(log), NULL) == 0)
		child_last_words(log, words, sizeof(words));
	return err_wrap(err, "%s%s%s%s", who, words[0] ? " (" : "", words, words[0] ? ")" : "");
}

/*
 * The vsock daemon takes one connection. It is made here and handed to the VMM, so that the VMM need not
 * retry.
 */
static int connect_vsock(struct vm *vm, struct vm_launch *l, struct err *err)
{
	char path[256];
	int r;

	if (vm->procs[VM_ROLE_VSOCK].pid == 0)
		return 0;
	r = vm_path(vm, VM_FILE_VHOST, path, sizeof(path), err);
	if (r < 0)
		return r;
	r = child_confirm(&vm->procs[VM_ROLE_VSOCK], l->deadline_ns, err);
	if (r == 0)
		r = sock_connect(path, l->deadline_ns, vm->stop_fd, &vm->procs[VM_ROLE_VSOCK], err);
	if (r < 0)
		return wrap_words(vm, "vsock daemon", VM_FILE_VS_LOG, err);
	return launch_add_fd(l, r, &l->vsock, err);
}

static int connect_fs(struct vm *vm, struct vm_launch *l, struct err *err)
{
	char path[256];
	int r;

	if (!vm->driver->fs_by_fd)
		return 0;
	r = vm_path(vm, VM_FILE_FS, path, sizeof(path), err);
	if (r == 0)
		r = sock_connect(path, l->deadline_ns, vm->stop_fd, &vm->procs[VM_ROLE_FS], err);
	return r < 0 ? wrap_words(vm, "virtiofsd", VM_FILE_FS_LOG, err) : launch_add_fd(l, r, &l->fs, err);
}

static int open_boot_tap(struct vm_launch *l, struct err *err)
{
	int fd;

	if (!l->spec->tap)
		return 0;
	fd = tap_open(l->spec->netns_path, l->spec->tap, err);
	return fd < 0 ? fd : launch_add_fd(l, fd, &l->tap, err);
}

/* What the VMM opens by itself, beside what lies in run_dir. */
static int jail_paths(const struct vm *vm, const struct vm_launch *l, char ***paths)
{
	const char *entropy =
		str_empty(l->config->entropy_source) ? "/dev/urandom" : l->config->entropy_source;
	int r = strv_add(paths, l->config->kernel_path);

	if (r == 0)
		r = strv_add(paths, l->config->image_path);
	if (r == 0)
		r = strv_add(paths, entropy);
	if (r == 0 && l->restore_dir)
		r = strv_add(paths, l->restore_dir);
	if (r == 0 && str_eq(vm->accel, "kvm"))
		r = strv_add(paths, "/dev/kvm");
	if (r == 0 && vm->driver->tap_by_name)
		r = strv_add(paths, "/dev/net/tun");
	/* Where it looks whether a tap exists already. */
	if (r == 0 && vm->driver->tap_by_name)
		r = strv_add(paths, "/sys/class/net");
	if (r == 0 && vm->driver->tap_by_name)
		r = strv_add(paths, "/sys/devices/virtual/net");
	return r;
}

static int spawn_vmm(struct vm *vm, struct vm_launch *l, const char *helper, struct err *err)
{
	struct child_spec ps = {.helper = helper, .netns = l->spec->netns_path, .cgroup = l->spec->cgroup};
	char **argv CLEANUP_STRV = NULL, **paths CLEANUP_STRV = NULL;
	const char *slash = strrchr(l->choice->path, '/');
	char log[256];
	int r = vm_path(vm, VM_FILE_LOG, log, sizeof(log), err);

	if (r == 0)
		r = vm->driver->command(vm, l, &argv, err);
	if (r == 0 && vm->uid && jail_paths(vm, l, &paths) < 0)
		r = err_oom(err);
	if (r < 0)
		return r;
	ps.argv = argv;
	ps.uid = vm->uid;
	ps.home = vm->run_dir;
	ps.paths = paths;
	ps.log = log;
	ps.fds = l->fds;
	ps.n_fds = l->n_fds;
	ps.oom_score_adj = l->spec->oom_score_adj;
	snprintf(vm->exe[VM_ROLE_VMM], sizeof(vm->exe[0]), "%.63s", slash ? slash + 1 : l->choice->path);
	return child_spawn(&vm->procs[VM_ROLE_VMM], &ps, err);
}

/* A helper that exits at once would show as a VMM that cannot connect; the helper's own message says more. */
static int check_helpers(struct vm *vm, struct err *err)
{
	const struct child *v = &vm->procs[VM_ROLE_VMM];
	bool dying = v->pid && child_is_dying(v);

	for (int i = VM_ROLE_FS; i < VM_ROLE_COUNT; i++) {
		char log[256], words[256] = "", status[96];

		if (!vm->procs[i].pid || !child_poll(&vm->procs[i]))
			continue;
		/* When the VMM has ended first, its helpers follow in an orderly way. */
		if (dying && vm->procs[i].status == 0)
			continue;
		child_status_words(vm->procs[i].status, status, sizeof(status));
		if (vm_path(vm, i == VM_ROLE_FS ? VM_FILE_FS_LOG : VM_FILE_VS_LOG, log, sizeof(log), NULL) ==
		    0)
			child_last_words(log, words, sizeof(words));
		return err_set_status(err, -ECHILD, ERR_INTERNAL, "%s %s%s%s", vm->exe[i], status,
				      words[0] ? ": " : "", words);
	}
	return 0;
}

static int own_run_dir(const struct vm *vm, struct err *err)
{
	if (!vm->uid)
		return 0;
	if (chmod(vm->run_dir, 0700) < 0)
		return err_set_errno(err, -errno, "mode of %s", vm->run_dir);
	return vm_give(vm, vm->run_dir, err);
}

static int launch_all(struct vm *vm, struct vm_launch *l, struct err *err)
{
	char helper[512];
	int r = find_spawn_helper(l->config, helper, sizeof(helper), err);

	if (r == 0)
		r = start_vsock(vm, l, helper, err);
	if (r == 0)
		r = virtiofsd_spawn(vm, l, helper, err);
	if (r == 0)
		r = open_boot_tap(l, err);
	if (r == 0 && vm->driver->prepare)
		r = vm->driver->prepare(vm, l, err);
	if (r == 0)
		r = connect_vsock(vm, l, err);
	if (r == 0)
		r = connect_fs(vm, l, err);
	if (r == 0)
		r = spawn_vmm(vm, l, helper, err);
	if (r == 0 && child_confirm(&vm->procs[VM_ROLE_FS], l->deadline_ns, err) < 0)
		r = err_wrap(err, "virtiofsd");
	if (r == 0)
		r = child_confirm(&vm->procs[VM_ROLE_VMM], l->deadline_ns, err);
	return r;
}

static void launch_done(struct vm_launch *l)
{
	for (size_t i = 0; i < l->n_fds; i++)
		close_fd(l->fds[i]);
	l->n_fds = 0;
}

/*
 * Waits for the VMM's API. An error reply from a VMM that is about to exit is replaced by the VMM's last
 * words.
 */
static int answer(struct vm *vm, int64_t deadline_ns, struct err *err)
{
	struct err dead = ERR_INIT;
	int r = vm->driver->ready(vm, false, deadline_ns, err);

	if (r == 0 || r == -ECANCELED || r == -ETIMEDOUT)
		return r;
	wait_fd(vm->procs[VM_ROLE_VMM].pidfd, POLLIN, now_monotonic_ns() + DYING_NS);
	vm_service(vm);
	return vm_check_alive(vm, &dead) < 0 ? err_copy(err, &dead) : r;
}

/* Everything up to an answering VMM. On failure its processes are left for the caller to kill. */
static int start(struct vm *vm, struct vm_launch *l, struct err *err)
{
	struct err helper_err = ERR_INIT;
	int r = set_image(l, err);

	if (r == 0)
		r = set_mac(l, err);
	if (r == 0)
		r = own_run_dir(vm, err);
	if (r == 0)
		r = launch_all(vm, l, err);
	launch_done(l);
	if (r == 0)
		r = answer(vm, l->deadline_ns, err);
	if (r == 0)
		r = vm_watch(vm, err);
	if (r < 0 && check_helpers(vm, &helper_err) < 0 && vm->procs[VM_ROLE_VMM].pid)
		r = err_wrap(err, "%s", helper_err.msg);
	return r;
}

static int start_from(const struct vmm_config *config, const struct vmm_choice *choice,
		      const struct vm_spec *spec, const char *restore_dir, int64_t deadline_ns,
		      struct vm **ret_vm, struct err *err)
{
	const struct vmm_driver *driver = vmm_driver_find(choice->driver);
	struct vm_launch l = {.config = config,
			      .choice = choice,
			      .spec = spec,
			      .restore_dir = restore_dir,
			      .fs = -1,
			      .vsock = -1,
			      .tap = -1,
			      .monitor = -1};
	struct vm *vm;
	int r;

	if (!driver)
		return err_set(err, -EINVAL, "unknown VMM driver \"%s\"",
			       choice->driver ? choice->driver : "");
	if (restore_dir && !driver->snapshot)
		return err_set(err, -EOPNOTSUPP, "%s cannot restore a VM with a shared directory",
			       driver->name);
	r = check_spec(config, spec, err);
	if (r < 0)
		return r;
	l.deadline_ns = wait_deadline(deadline_ns);
	vm = vm_new(driver, spec->id, spec->run_dir, err);
	if (!vm)
		return err ? err->code : -ENOMEM;
	snprintf(vm->accel, sizeof(vm->accel), "%s", choice->accel);
	vm->debug = config->debug;
	vm->uid = spec->uid;
	set_sizes(vm, config, spec);
	r = str_set(&vm->netns_path, spec->netns_path);
	if (r < 0)
		err_oom(err);
	if (r == 0)
		r = start(vm, &l, err);
	if (r < 0) {
		vm_kill_all(vm, now_monotonic_ns() + STOP_NS);
		vm_free(vm);
		return err_wrap(err, "starting the VM with %s", driver->name);
	}
	*ret_vm = vm;
	return 0;
}

int vm_start(const struct vmm_config *config, const struct vmm_choice *choice, const struct vm_spec *spec,
	     int64_t deadline_ns, struct vm **ret_vm, struct err *err)
{
	return start_from(config, choice, spec, NULL, deadline_ns, ret_vm, err);
}

int vm_restore(const struct vmm_config *config, const struct vmm_choice *choice, const struct vm_spec *spec,
	       const char *dir, int64_t deadline_ns, struct vm **ret_vm, struct err *err)
{
	return start_from(config, choice, spec, dir, deadline_ns, ret_vm, err);
}

/* ---- connect ------------------------------------------------------------------------------------------- */

/* Waits until `until` at most for the guest's console, the stop or the VMM's exit. */
static int pause_dial(struct vm *vm, struct console *c, int64_t until, struct err *err)
{
	struct pollfd p[] = {
		{.fd = c->watch, .events = POLLIN},
		{.fd = vm->stop_fd, .events = POLLIN},
		{.fd = vm->procs[VM_ROLE_VMM].pidfd, .events = POLLIN},
	};
	int r = wait_poll(p, ARRAY_SIZE(p), until);

	if (r < 0 && r != -ETIMEDOUT)
		return err_set_errno(err, r, "waiting for the guest");
	if (p[1].revents)
		return err_set(err, -ECANCELED, "the VM is being stopped");
	if (p[2].revents)
		return err_set_status(err, -ENOTCONN, ERR_UNAVAILABLE, "the VMM has exited");
	return 0;
}

/*
 * vhost-device-vsock 0.3 stops serving for good, without a message, when a client connects while the guest's
 * driver sets its queues up (an unready queue is an error that ends its thread). So dialling waits until the
 * guest's userspace shows on the console. A guest that prints nothing is assumed to be up after SILENT_NS.
 */
static int wait_userspace(struct vm *vm, struct console *c, int64_t deadline_ns, struct err *err)
{
	int64_t silent = now_monotonic_ns() + SILENT_NS;
	bool up;
	int r = 0;

	pthread_mutex_lock(&vm->lock);
	up = vm->guest_up;
	pthread_mutex_unlock(&vm->lock);
	while (r == 0 && !up) {
		int64_t now;

		up = console_read(c);
		now = now_monotonic_ns();
		if (up || now >= silent)
			break;
		if (now >= deadline_ns)
			return err_set(err, -ETIMEDOUT, "the guest has not started its userspace yet");
		r = pause_dial(vm, c, silent < deadline_ns ? silent : deadline_ns, err);
	}
	if (r < 0)
		return r;
	pthread_mutex_lock(&vm->lock);
	vm->guest_up = true;
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int dial(struct vm *vm, struct console *c, uint32_t port, int64_t deadline_ns, struct err *err)
{
	int pid_fd = vm->procs[VM_ROLE_VMM].pidfd;
	char path[256];
	int r = vm_path(vm, VM_FILE_VSOCK, path, sizeof(path), err);

	if (r == 0 && vm->procs[VM_ROLE_VSOCK].pid)
		r = wait_userspace(vm, c, deadline_ns, err);
	while (r == 0) {
		int64_t until;

		if (vm->cid)
			r = vsock_dial_kernel(vm->cid, port, vm->stop_fd, pid_fd, deadline_ns, err);
		else
			r = vsock_dial_hybrid(path, port, vm->stop_fd, pid_fd, deadline_ns, err);
		if (r != -EAGAIN)
			return r;
		until = now_monotonic_ns() + RETRY_NS;
		if (until > deadline_ns)
			return err_set(err, -ETIMEDOUT, "nothing in the guest listens there yet");
		/* No event tells when the guest begins to listen; often it prints a line at that time. */
		r = pause_dial(vm, c, until, err);
		if (r == 0)
			r = vm_check_guest(vm, err);
		console_read(c);
	}
	return r;
}

int vm_connect(struct vm *vm, uint32_t port, int64_t deadline_ns, struct err *err)
{
	struct console c;
	char path[256];
	int r = vm_path(vm, VM_FILE_CONSOLE, path, sizeof(path), err);

	if (r < 0)
		return r;
	console_init(&c, path);
	r = dial(vm, &c, port, wait_deadline(deadline_ns), err);
	console_done(&c);
	if (r >= 0)
		return r;
	if (r == -ENOTCONN) {
		struct err dead = ERR_INIT;

		if (vm_check_guest(vm, &dead) == -ENOTCONN)
			err_copy(err, &dead);
	}
	return err_wrap(err, "connecting to port %u of VM %s", port, vm->id);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vm_internal.h"

#include "base/cond.h"
#include "base/util.h"
#include "vmm/death.h"
#include "vmm/wait_internal.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#define LOST_NS NS_PER_SEC

/* ---- birth and death ----------------------------------------------------------------------------------- */

struct vm *vm_new(const struct vmm_driver *driver, const char *id, const char *run_dir, struct err *err)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm) {
		err_oom(err);
		return NULL;
	}
	vm->driver = driver;
	for (int i = 0; i < VM_ROLE_COUNT; i++)
		vm->procs[i] = CHILD_INIT;
	pthread_mutex_init(&vm->io, NULL);
	pthread_mutex_init(&vm->lock, NULL);
	cond_init(&vm->turn_free);
	vm->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	vm->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vm->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vm->progress_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vm->files_watch = vm->files_timer = -1;
	if (vm->epoll_fd < 0 || vm->stop_fd < 0 || vm->wake_fd < 0 || vm->progress_fd < 0) {
		err_set_errno(err, -errno, "file descriptors for the VM");
		return vm_free(vm);
	}
	if (str_set(&vm->id, id) < 0 || str_set(&vm->run_dir, run_dir) < 0) {
		err_oom(err);
		return vm_free(vm);
	}
	trim_init(vm);
	return vm;
}

struct vm *vm_free(struct vm *vm)
{
	if (!vm)
		return NULL;
	if (vm->driver)
		vm->driver->done(vm);
	for (int i = 0; i < VM_ROLE_COUNT; i++)
		child_done(&vm->procs[i]);
	close_fd(vm->epoll_fd);
	close_fd(vm->stop_fd);
	close_fd(vm->wake_fd);
	close_fd(vm->progress_fd);
	trim_done(vm);
	pthread_cond_destroy(&vm->turn_free);
	pthread_mutex_destroy(&vm->io);
	pthread_mutex_destroy(&vm->lock);
	free(vm->id);
	free(vm->run_dir);
	free(vm->netns_path);
	free(vm);
	return NULL;
}

int vm_path(const struct vm *vm, const char *file, char *out, size_t size, struct err *err)
{
	if ((size_t)snprintf(out, size, "%s/%s", vm->run_dir, file) >= size)
		return err_set(err, -ENAMETOOLONG, "run directory %s is too long", vm->run_dir);
	return 0;
}

uid_t vm_uid(const struct vm *vm)
{
	return vm->uid;
}

int vm_give(const struct vm *vm, const char *path, struct err *err)
{
	if (vm->uid && lchown(path, vm->uid, vm->uid) < 0)
		return err_set_errno(err, -errno, "giving %s to user %u", path, vm->uid);
	return 0;
}

/* ---- events -------------------------------------------------------------------------------------------- */

static void wake(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: it is readable already. */
	}
}

void vm_progress(struct vm *vm)
{
	wake(vm->progress_fd);
}

void vm_again(struct vm *vm)
{
	wake(vm->wake_fd);
}

/* With lock held. */
static void queue_event(struct vm *vm, enum vm_event_type type, int status, const char *what,
			const char *detail)
{
	struct vm_event e = {.type = type, .status = status};

	snprintf(e.what, sizeof(e.what), "%s", what);
	snprintf(e.detail, sizeof(e.detail), "%s", detail);
	if (type == VM_EVENT_GUEST_PANIC || type == VM_EVENT_GUEST_RESET || type == VM_EVENT_GUEST_SHUTDOWN) {
		/* The first reason is kept: a reset or shutdown after a panic is its consequence. */
		if (vm->ending)
			return;
		vm->ending = true;
		vm_death_words(&e, vm->end_words, sizeof(vm->end_words));
	}
	if (vm->events_len + (type == VM_EVENT_DEVICE_REMOVED ? VM_DEATHS_MAX : 0) >= VM_EVENTS_MAX)
		return;
	vm->events[(vm->events_head + vm->events_len++) % VM_EVENTS_MAX] = e;
	wake(vm->wake_fd);
}

void vm_push_event(struct vm *vm, enum vm_event_type type, int status, const char *what, const char *detail)
{
	pthread_mutex_lock(&vm->lock);
	queue_event(vm, type, status, what, detail);
	pthread_mutex_unlock(&vm->lock);
	vm_progress(vm);
}

void vm_device_removed(struct vm *vm, const char *id)
{
	bool ours = false;

	pthread_mutex_lock(&vm->lock);
	for (size_t i = 0; i < VM_DEVICES_MAX; i++) {
		if (vm->devices[i].id[0] && str_eq(vm->devices[i].id, id)) {
			vm->devices[i].removed = true;
			ours = true;
		}
	}
	if (ours)
		queue_event(vm, VM_EVENT_DEVICE_REMOVED, 0, id, "");
	pthread_mutex_unlock(&vm->lock);
	vm_progress(vm);
}

void vm_monitor_eof(struct vm *vm)
{
	int fd = vm->driver->monitor_fd(vm);

	pthread_mutex_lock(&vm->lock);
	vm->monitor_eof = true;
	if (vm->watching && fd >= 0)
		epoll_ctl(vm->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	pthread_mutex_unlock(&vm->lock);
	vm_progress(vm);
}

static const char *role_log(enum vm_role role)
{
	return role == VM_ROLE_VMM ? VM_FILE_LOG : role == VM_ROLE_FS ? VM_FILE_FS_LOG : VM_FILE_VS_LOG;
}

static const char *role_name(const struct vm *vm, enum vm_role role)
{
	return role == VM_ROLE_VMM ? vm->driver->name : vm->exe[role];
}

static void death_words(const struct vm *vm, enum vm_role role, char *out, size_t size)
{
	char path[256], words[256], status[96];

	child_status_words(vm->procs[role].status, status, sizeof(status));
	words[0] = 0;
	if (vm_path(vm, role_log(role), path, sizeof(path), NULL) == 0)
		child_last_words(path, words, sizeof(words));
	snprintf(out, size, "%s %s%s%s", role_name(vm, role), status, words[0] ? ": " : "", words);
}

/* With lock held: one process's death becomes an event, once. */
static void report_death(struct vm *vm, enum vm_role role)
{
	struct child *p = &vm->procs[role];
	char words[sizeof(vm->events[0].detail)], who[sizeof(vm->events[0].what)];

	vm->reported[role] = true;
	if (vm->watching)
		epoll_ctl(vm->epoll_fd, EPOLL_CTL_DEL, p->pidfd, NULL);
	death_words(vm, role, words, sizeof(words));
	snprintf(who, sizeof(who), "%s", vm->exe[role]);
	if (role == VM_ROLE_VMM)
		queue_event(vm, VM_EVENT_VMM_EXITED, p->status, vm->driver->name, words);
	else if (!vm->ending && !vm->monitor_eof && !vm->stopping && !child_is_dying(&vm->procs[VM_ROLE_VMM]))
		queue_event(vm, VM_EVENT_HELPER_EXITED, p->status, who, words);
}

static void pump(struct vm *vm)
{
	pthread_mutex_lock(&vm->io);
	if (vm->state)
		vm->driver->pump(vm);
	pthread_mutex_unlock(&vm->io);
}

void vm_service(struct vm *vm)
{
	bool dead[VM_ROLE_COUNT], any = false;

	trim_service(vm);
	pump(vm);
	pthread_mutex_lock(&vm->lock);
	for (int i = 0; i < VM_ROLE_COUNT; i++) {
		dead[i] = vm->procs[i].pid && !vm->reported[i] && child_poll(&vm->procs[i]);
		any = any || dead[i];
	}
	pthread_mutex_unlock(&vm->lock);
	if (!any)
		return;
	/* Events that the VMM sent before it ended come before its end. */
	pump(vm);
	pthread_mutex_lock(&vm->lock);
	for (int i = 0; i < VM_ROLE_COUNT; i++) {
		if (dead[i] && !vm->reported[i])
			report_death(vm, (enum vm_role)i);
	}
	pthread_mutex_unlock(&vm->lock);
	vm_progress(vm);
}

int vm_fd(const struct vm *vm)
{
	return vm->epoll_fd;
}

int vm_dispatch(struct vm *vm, struct vm_event *ret_event)
{
	uint64_t n;
	int r = 0;

	if (read(vm->wake_fd, &n, sizeof(n)) < 0) {
		/* EAGAIN: it was not readable. */
	}
	vm_service(vm);
	pthread_mutex_lock(&vm->lock);
	if (vm->events_len > 0) {
		*ret_event = vm->events[vm->events_head];
		vm->events_head = (vm->events_head + 1) % VM_EVENTS_MAX;
		vm->events_len--;
		r = 1;
	}
	if (vm->events_len > 0)
		wake(vm->wake_fd);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

static int watch_one(struct vm *vm, int fd)
{
	struct epoll_event e = {.events = EPOLLIN};

	return fd < 0 || epoll_ctl(vm->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0 ? 0 : -errno;
}

int vm_watch(struct vm *vm, struct err *err)
{
	int r;

	pthread_mutex_lock(&vm->lock);
	vm->watching = true;
	r = watch_one(vm, vm->wake_fd);
	if (r == 0)
		r = trim_watch(vm);
	if (r == 0 && !vm->monitor_eof && vm->driver->monitor_fd(vm) != vm->files_watch)
		r = watch_one(vm, vm->driver->monitor_fd(vm));
	for (int i = 0; r == 0 && i < VM_ROLE_COUNT; i++) {
		if (vm->procs[i].pid && !vm->reported[i])
			r = watch_one(vm, vm->procs[i].pidfd);
	}
	pthread_mutex_unlock(&vm->lock);
	return r < 0 ? err_set_errno(err, r, "watching the VM") : 0;
}

/* ---- waiting ------------------------------------------------------------------------------------------- */

int vm_check_alive(struct vm *vm, struct err *err)
{
	char words[512], console[256];
	int r = 0;

	pthread_mutex_lock(&vm->lock);
	if (vm->stopping) {
		r = err_set(err, -ECANCELED, "the VM is being stopped");
	} else if (vm->procs[VM_ROLE_VMM].exited) {
		death_words(vm, VM_ROLE_VMM, words, sizeof(words));
		vm_console_tail(vm->run_dir, console, sizeof(console));
		r = err_set_status(err, -ENOTCONN, ERR_UNAVAILABLE, "%s%s%s", words,
				   console[0] ? "; the guest's console: " : "", console);
	}
	pthread_mutex_unlock(&vm->lock);
	return r;
}

int vm_check_guest(struct vm *vm, struct err *err)
{
	int r;

	vm_service(vm);
	r = vm_check_alive(vm, err);
	pthread_mutex_lock(&vm->lock);
	if (r == 0 && vm->ending)
		r = err_set_status(err, -ENOTCONN, ERR_UNAVAILABLE, "%s", vm->end_words);
	pthread_mutex_unlock(&vm->lock);
	return r;
}

int vm_lost(struct vm *vm, const char *what, struct err *err)
{
	int r;

	/* The process ends a moment after its sockets; then its last words are known. */
	wait_fd(vm->procs[VM_ROLE_VMM].pidfd, POLLIN, now_monotonic_ns() + LOST_NS);
	vm_service(vm);
	r = vm_check_alive(vm, err);
	return r < 0 ? r : err_set_status(err, -ENOTCONN, ERR_UNAVAILABLE, "%s", what);
}

int vm_await(struct vm *vm, vm_done_fn *done, void *arg, int64_t deadline_ns, const char *what,
	     struct err *err)
{
	for (;;) {
		struct pollfd p[] = {
			{.fd = -1, .events = POLLIN},
			{.fd = vm->progress_fd, .events = POLLIN},
			{.fd = vm->stop_fd, .events = POLLIN},
			{.fd = -1, .events = POLLIN},
		};
		uint64_t n;
		bool finished;
		int r;

		if (read(vm->progress_fd, &n, sizeof(n)) < 0) {
			/* EAGAIN: nothing new. */
		}
		vm_service(vm);
		pthread_mutex_lock(&vm->io);
		finished = done(vm, arg);
		pthread_mutex_unlock(&vm->io);
		if (finished)
			return 0;
		r = vm_check_alive(vm, err);
		if (r < 0)
			return r;
		pthread_mutex_lock(&vm->lock);
		if (!vm->monitor_eof)
			p[0].fd = vm->driver->monitor_fd(vm);
		if (!vm->reported[VM_ROLE_VMM])
			p[3].fd = vm->procs[VM_ROLE_VMM].pidfd;
		pthread_mutex_unlock(&vm->lock);
		r = wait_poll(p, ARRAY_SIZE(p), deadline_ns);
		if (r < 0)
			return err_set_errno(err, r, "waiting for %s", what);
	}
}

int vm_turn_take(struct vm *vm, int64_t deadline_ns, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&vm->lock);
	while (vm->turn_taken && !vm->stopping && r == 0)
		r = cond_wait_until(&vm->turn_free, &vm->lock, deadline_ns);
	if (vm->stopping)
		r = err_set(err, -ECANCELED, "the VM is being stopped");
	else if (vm->turn_taken)
		r = err_set_errno(err, -ETIMEDOUT, "waiting for another change of the VM");
	else
		r = 0;
	if (r == 0)
		vm->turn_taken = true;
	pthread_mutex_unlock(&vm->lock);
	return r;
}

void vm_turn_give(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->turn_taken = false;
	pthread_cond_broadcast(&vm->turn_free);
	pthread_mutex_unlock(&vm->lock);
}

/* ---- stopping ------------------------------------------------------------------------------------------ */

int vm_kill_all(struct vm *vm, int64_t deadline_ns)
{
	int r = 0;

	pthread_mutex_lock(&vm->lock);
	vm->stopping = true;
	wake(vm->stop_fd);
	pthread_cond_broadcast(&vm->turn_free);
	for (int i = 0; i < VM_ROLE_COUNT; i++)
		child_kill_family(&vm->procs[i]);
	pthread_mutex_unlock(&vm->lock);
	/* pidfds stay open until vm_free, so they may be polled without the lock. */
	for (int i = 0; i < VM_ROLE_COUNT; i++) {
		if (vm->procs[i].pid && wait_fd(vm->procs[i].pidfd, POLLIN, deadline_ns) < 0)
			r = -ETIMEDOUT;
	}
	vm_service(vm);
	return r;
}

int vm_stop(struct vm *vm, int64_t deadline_ns, struct err *err)
{
	if (vm_kill_all(vm, wait_deadline(deadline_ns)) < 0)
		return err_set(err, -ETIMEDOUT, "the VM's processes have been killed but have not gone yet");
	return 0;
}

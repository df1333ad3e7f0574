/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu.c: the driver for QEMU 7.2 and later: start, the monitor connection, events, pause.
 *
 * Facts: QMP commands and events as in QEMU's qapi schema (qemu-qmp-ref(7)): SHUTDOWN's reasons,
 *        GUEST_PANICKED, DEVICE_DELETED.
 */
#include "vmm/qemu_internal.h"

#include "base/util.h"
#include "vmm/death.h"
#include "vmm/json_internal.h"
#include "vmm/wait_internal.h"

#include <sys/socket.h>

#define READ_STEP 16384

/* With io held. */
static void on_event(const char *name, struct json_object *data, void *arg)
{
	struct vm *vm = arg;
	struct qemu *q = vm->state;
	char words[256];

	if (str_eq(name, "GUEST_PANICKED")) {
		vm_console_tail(vm->run_dir, words, sizeof(words));
		vm_push_event(vm, VM_EVENT_GUEST_PANIC, 0, "guest", words);
	} else if (str_eq(name, "SHUTDOWN")) {
		const char *reason = vjson_str(data, "reason");

		vm_console_tail(vm->run_dir, words, sizeof(words));
		if (str_eq(reason, "guest-panic"))
			vm_push_event(vm, VM_EVENT_GUEST_PANIC, 0, "guest", words);
		else if (str_eq(reason, "guest-reset") || str_eq(reason, "subsystem-reset"))
			vm_push_event(vm, VM_EVENT_GUEST_RESET, 0, "guest", words);
		else
			vm_push_event(vm, VM_EVENT_GUEST_SHUTDOWN, 0, "guest", reason);
	} else if (str_eq(name, "RESET")) {
		vm_push_event(vm, VM_EVENT_GUEST_RESET, 0, "guest", vjson_str(data, "reason"));
	} else if (str_eq(name, "DEVICE_DELETED")) {
		const char *device = vjson_str(data, "device");
		enum vm_device_type type;
		const char *id = vm_device_id(device, &type);

		if (id)
			vm_device_removed(vm, id);
		else
			snprintf(q->deleted, sizeof(q->deleted), "%s", device);
	} else if (str_eq(name, "MEMORY_DEVICE_SIZE_CHANGE")) {
		q->memory_changed = true;
	}
}

static void qemu_pump(struct vm *vm)
{
	struct qemu *q = vm->state;

	while (!q->broken) {
		struct err err = ERR_INIT;
		ssize_t n = buf_read_fd(&q->qmp.in, q->fd, READ_STEP);

		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n <= 0 || qmp_feed(&q->qmp, &err) < 0) {
			snprintf(q->broken_words, sizeof(q->broken_words), "%.159s",
				 n <= 0 ? "QEMU has closed its monitor" : err.msg);
			q->broken = true;
			vm_monitor_eof(vm);
			return;
		}
		vm_progress(vm);
	}
}

/* Writes the whole request; QEMU reads its monitor in each turn of its main loop. */
static int send_all(struct vm *vm, const char *text, int fd, int64_t deadline_ns, struct err *err)
{
	struct qemu *q = vm->state;
	size_t len = strlen(text), done = 0;

	while (done < len) {
		struct iovec iov = {.iov_base = (char *)(uintptr_t)text + done, .iov_len = len - done};
		union {
			char space[CMSG_SPACE(sizeof(int))];
			struct cmsghdr align;
		} control = {{0}};
		struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
		struct pollfd p[] = {{.fd = q->fd, .events = POLLOUT}, {.fd = vm->stop_fd, .events = POLLIN}};
		ssize_t n;
		int r;

		if (fd >= 0 && done == 0) {
			struct cmsghdr *c;

			m.msg_control = control.space;
			m.msg_controllen = sizeof(control.space);
			c = CMSG_FIRSTHDR(&m);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(c), &fd, sizeof(int));
		}
		n = sendmsg(q->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0) {
			done += (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return err_set_errno(err, -errno, "writing to QEMU's monitor");
		r = wait_poll(p, 2, deadline_ns);
		if (r < 0)
			return err_set_errno(err, r, "writing to QEMU's monitor");
		if (p[1].revents)
			return err_set(err, -ECANCELED, "the VM is being stopped");
	}
	return 0;
}

static bool have_reply(struct vm *vm, void *arg)
{
	struct qemu *q = vm->state;

	(void)arg;
	return q->qmp.reply || q->broken;
}

int qemu_call(struct vm *vm, const char *command, struct json_object *arguments, int fd, int64_t deadline_ns,
	      struct json_object **ret_value, struct err *err)
{
	struct qemu *q = vm->state;
	struct json_object *value = NULL;
	char *text CLEANUP_FREE = NULL;
	int r;

	pthread_mutex_lock(&vm->io);
	text = qmp_request(&q->qmp, command, arguments);
	pthread_mutex_unlock(&vm->io);
	if (!text)
		return err_set(err, -ENOMEM, "%s: out of memory", command);
	r = vm_check_alive(vm, err);
	if (r == 0 && q->broken)
		r = vm_lost(vm, q->broken_words, err);
	if (r == 0)
		r = send_all(vm, text, fd, deadline_ns, err);
	if (r == 0)
		r = vm_await(vm, have_reply, NULL, deadline_ns, "QEMU's reply", err);
	if (r == 0) {
		bool hung_up;

		pthread_mutex_lock(&vm->io);
		hung_up = !q->qmp.reply;
		if (!hung_up)
			r = qmp_result(&q->qmp, &value, err);
		if (r == 0 && !hung_up && ret_value)
			*ret_value = json_object_get(value);
		pthread_mutex_unlock(&vm->io);
		if (hung_up)
			r = vm_lost(vm, q->broken_words, err);
	}
	return r < 0 ? err_wrap(err, "%s", command) : 0;
}

static bool have_greeting(struct vm *vm, void *arg)
{
	struct qemu *q = vm->state;

	(void)arg;
	return q->qmp.greeted || q->broken;
}

/* Opens QEMU's monitor listener, which QEMU inherits: clients may connect before QEMU is up. */
static int qemu_prepare(struct vm *vm, struct vm_launch *launch, struct err *err)
{
	char path[256];
	int r = vm_path(vm, VM_FILE_QMP, path, sizeof(path), err);

	if (r < 0)
		return r;
	r = sock_listen(path, err);
	return r < 0 ? r : launch_add_fd(launch, r, &launch->monitor, err);
}

static int qemu_ready(struct vm *vm, bool adopt, int64_t deadline_ns, struct err *err)
{
	struct qemu *q = calloc(1, sizeof(*q));
	char path[256];
	int r;

	if (!q)
		return err_oom(err);
	q->fd = -1;
	qmp_init(&q->qmp, on_event, vm);
	vm->state = q;
	r = vm_path(vm, VM_FILE_QMP, path, sizeof(path), err);
	if (r < 0)
		return r;
	r = sock_connect(path, deadline_ns, vm->stop_fd, &vm->procs[VM_ROLE_VMM], err);
	if (r < 0)
		return err_wrap(err, "QEMU's monitor");
	q->fd = r;
	r = set_nonblock(q->fd, true);
	if (r < 0)
		return err_set_errno(err, r, "QEMU's monitor");
	r = vm_await(vm, have_greeting, NULL, deadline_ns, "QEMU's greeting", err);
	if (r < 0)
		return r;
	if (!q->qmp.greeted)
		return vm_lost(vm, q->broken_words, err);
	r = qemu_call(vm, "qmp_capabilities", NULL, -1, deadline_ns, NULL, err);
	if (r < 0 || !adopt)
		return r;
	return qemu_learn(vm, deadline_ns, err);
}

static int qemu_monitor_fd(const struct vm *vm)
{
	const struct qemu *q = vm->state;

	return q ? q->fd : -1;
}

static int qemu_pause(struct vm *vm, int64_t deadline_ns, struct err *err)
{
	return qemu_call(vm, "stop", NULL, -1, deadline_ns, NULL, err);
}

static int qemu_resume(struct vm *vm, int64_t deadline_ns, struct err *err)
{
	return qemu_call(vm, "cont", NULL, -1, deadline_ns, NULL, err);
}

static int qemu_state_name(struct vm *vm, char *out, size_t size, int64_t deadline_ns, struct err *err)
{
	struct json_object *value = NULL;
	int r = qemu_call(vm, "query-status", NULL, -1, deadline_ns, &value, err);

	if (r == 0)
		snprintf(out, size, "%s", vjson_str(value, "status"));
	json_object_put(value);
	return r;
}

static void qemu_done(struct vm *vm)
{
	struct qemu *q = vm->state;

	if (!q)
		return;
	qmp_done(&q->qmp);
	close_fd(q->fd);
	free(q);
	vm->state = NULL;
}

const struct vmm_driver vmm_driver_qemu = {
	.name = "qemu",
	.exe = "qemu-system-x86_64",
	.fs_by_fd = true,
	/* No snapshot: QEMU cannot migrate vhost-user-fs. */
	.caps = VMM_CAP_HOTPLUG_DISK | VMM_CAP_HOTPLUG_NET | VMM_CAP_HOTPLUG_PMEM | VMM_CAP_HOTPLUG_FS |
		VMM_CAP_RESIZE | VMM_CAP_PAUSE,
	.mtu_max = 65521, /* the kernel's largest for a tap: IP_MAX_MTU less the Ethernet header */
	.prepare = qemu_prepare,
	.command = qemu_command,
	.ready = qemu_ready,
	.monitor_fd = qemu_monitor_fd,
	.pump = qemu_pump,
	.attach = qemu_attach,
	.detach = qemu_detach,
	.resize = qemu_resize,
	.vcpu_threads = qemu_vcpu_threads,
	.pause = qemu_pause,
	.resume = qemu_resume,
	.state_name = qemu_state_name,
	.done = qemu_done,
};

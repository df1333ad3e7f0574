/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vsock.c: reaching ports in the guest.
 *
 * Hybrid vsock: connect to a UNIX socket, send "CONNECT <port>\n", read "OK <n>\n"; then the stream is the
 * guest's. Served by Cloud Hypervisor itself (its docs/vsock.md, after Firecracker's) and by
 * vhost-device-vsock for QEMU. Where the kernel has /dev/vhost-vsock, QEMU's guests are reached by AF_VSOCK
 * (vsock(7)) instead; their CIDs are host-wide.
 */
#include "vmm/driver_internal.h"

#include "base/util.h"
#include "vmm/wait_internal.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/vhost.h>
#include <linux/vm_sockets.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#define VHOST_VSOCK "/dev/vhost-vsock"
#define DAEMON_NAME "vhost-device-vsock"
#define OK_MAX	    32
#define CLAIM_TRIES 64
#define CID_MIN	    0x10000u
#define CID_RANGE   0x7ff00000u

bool vsock_kernel_usable(void)
{
	int fd = open(VHOST_VSOCK, O_RDWR | O_CLOEXEC);

	close_fd(fd);
	return fd >= 0;
}

int vsock_claim(uint32_t *ret_cid, struct err *err)
{
	int fd CLEANUP_CLOSE = open(VHOST_VSOCK, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return err_set_errno(err, -errno, "opening %s", VHOST_VSOCK);
	for (int i = 0; i < CLAIM_TRIES; i++) {
		uint32_t r;
		uint64_t cid;

		if (getrandom(&r, sizeof(r), 0) != (ssize_t)sizeof(r))
			return err_set_errno(err, -errno, "random numbers");
		cid = CID_MIN + r % CID_RANGE;
		if (ioctl(fd, VHOST_VSOCK_SET_GUEST_CID, &cid) == 0) {
			*ret_cid = (uint32_t)cid;
			return move_fd(fd);
		}
		if (errno != EADDRINUSE)
			return err_set_errno(err, -errno, "claiming vsock CID %llu", (unsigned long long)cid);
	}
	return err_set(err, -EADDRINUSE, "no free vsock CID in %d tries", CLAIM_TRIES);
}

int vsock_daemon_find(const struct vmm_config *config, char *out, size_t size, struct err *err)
{
	char searched[PATH_MAX];

	if (!str_empty(config->vsock_daemon_path)) {
		if (find_program(config->vsock_daemon_path, out, size) == 0)
			return 0;
		return err_set_status(err, -ENOENT, ERR_FAILED_PRECONDITION,
				      "this host has neither " VHOST_VSOCK " nor the program %s",
				      config->vsock_daemon_path);
	}
	if (find_helper(config, DAEMON_NAME, out, size, searched, sizeof(searched)) == 0)
		return 0;
	return err_set_status(err, -ENOENT, ERR_FAILED_PRECONDITION,
			      "this host has neither " VHOST_VSOCK " nor the program " DAEMON_NAME
			      " (looked for in %s)",
			      searched);
}

int vsock_daemon_spawn(struct vm *vm, const struct vm_launch *launch, const char *helper, struct err *err)
{
	char path[512], log[256], vhost[256], uds[256];
	char **argv CLEANUP_STRV = NULL;
	struct child_spec ps = {
		.helper = helper, .netns = launch->spec->netns_path, .cgroup = launch->spec->cgroup};
	int r = vsock_daemon_find(launch->config, path, sizeof(path), err);

	if (r == 0)
		r = vm_path(vm, VM_FILE_VS_LOG, log, sizeof(log), err);
	if (r == 0)
		r = vm_path(vm, VM_FILE_VHOST, vhost, sizeof(vhost), err);
	if (r == 0)
		r = vm_path(vm, VM_FILE_VSOCK, uds, sizeof(uds), err);
	if (r < 0)
		return r;
	unlink(vhost);
	r = strv_add(&argv, path);
	if (r == 0)
		r = strv_addf(&argv, "--guest-cid=%d", VM_VSOCK_CID);
	if (r == 0)
		r = strv_addf(&argv, "--socket=%s", vhost);
	if (r == 0)
		r = strv_addf(&argv, "--uds-path=%s", uds);
	if (r < 0)
		return err_set_errno(err, r, "the vsock daemon's command line");
	ps.argv = argv;
	ps.log = log;
	ps.oom_score_adj = launch->spec->oom_score_adj;
	ps.uid = vm->uid;
	ps.home = vm->run_dir;
	snprintf(vm->exe[VM_ROLE_VSOCK], sizeof(vm->exe[0]), "%s", DAEMON_NAME);
	return child_spawn(&vm->procs[VM_ROLE_VSOCK], &ps, err);
}

int vsock_parse_ok(const char *data, size_t len)
{
	size_t i = 3;

	for (size_t k = 0; k < len && k < 3; k++) {
		if (data[k] != "OK "[k])
			return -EPROTO;
	}
	if (len < 4)
		return 0;
	while (i < len && data[i] >= '0' && data[i] <= '9')
		i++;
	if (i == len)
		return len >= OK_MAX ? -EPROTO : 0;
	return data[i] == '\n' && i > 3 && i + 1 == len ? 1 : -EPROTO;
}

/* Waits for the events on fd, the stop and the VMM's exit at once. */
static int wait_step(int fd, short events, int stop_fd, int pid_fd, int64_t deadline_ns, struct err *err)
{
	struct pollfd p[] = {
		{.fd = fd, .events = events},
		{.fd = stop_fd, .events = POLLIN},
		{.fd = pid_fd, .events = POLLIN},
	};
	int r = wait_poll(p, 3, deadline_ns);

	if (r < 0)
		return err_set_errno(err, r, "connecting");
	if (p[1].revents)
		return err_set(err, -ECANCELED, "the VM is being stopped");
	if (p[2].revents)
		return err_set_status(err, -ENOTCONN, ERR_UNAVAILABLE, "the VMM has exited");
	return 0;
}

/* Reads the reply byte by byte: the bytes behind it belong to the stream and must stay unread. */
static int read_ok(int fd, int stop_fd, int pid_fd, int64_t deadline_ns, struct err *err)
{
	char line[OK_MAX];
	size_t len = 0;

	for (;;) {
		ssize_t n = recv(fd, line + len, 1, MSG_DONTWAIT);
		int r;

		if (n == 0 || (n < 0 && (errno == ECONNRESET || errno == EPIPE)))
			return err_set(err, -EAGAIN, "nothing listens there yet");
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return err_set_errno(err, -errno, "reading from hybrid vsock");
		if (n < 0) {
			r = wait_step(fd, POLLIN, stop_fd, pid_fd, deadline_ns, err);
			if (r < 0)
				return r;
			continue;
		}
		len++;
		r = vsock_parse_ok(line, len);
		if (r < 0)
			return err_set(err, -EPROTO, "malformed reply from hybrid vsock: \"%.*s\"", (int)len,
				       line);
		if (r > 0)
			return 0;
		if (len == sizeof(line))
			return err_set(err, -EPROTO,
				       "malformed reply from hybrid vsock: the line is too long");
	}
}

int vsock_dial_hybrid(const char *path, uint32_t port, int stop_fd, int pid_fd, int64_t deadline_ns,
		      struct err *err)
{
	int fd CLEANUP_CLOSE = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un a;
	int target CLEANUP_CLOSE = sock_target(path, &a);
	char request[32];
	int n, r;

	if (fd < 0)
		return err_set_errno(err, -errno, "socket");
	if (target < 0 && target != -ENOENT)
		return err_set_errno(err, target, "connecting to %s", path);
	if (target < 0)
		return err_set(err, -EAGAIN, "hybrid vsock is not served yet");
	if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) < 0) {
		if (errno == ENOENT || errno == ECONNREFUSED || errno == EAGAIN)
			return err_set(err, -EAGAIN, "hybrid vsock is not served yet");
		return err_set_errno(err, -errno, "connecting to %s", path);
	}
	n = snprintf(request, sizeof(request), "CONNECT %u\n", port);
	if (send(fd, request, (size_t)n, MSG_NOSIGNAL) != n) {
		if (errno == EPIPE || errno == ECONNRESET)
			return err_set(err, -EAGAIN, "hybrid vsock is not served yet");
		return err_set_errno(err, -errno, "writing to hybrid vsock");
	}
	r = read_ok(fd, stop_fd, pid_fd, deadline_ns, err);
	return r < 0 ? r : move_fd(fd);
}

int vsock_dial_kernel(uint32_t cid, uint32_t port, int stop_fd, int pid_fd, int64_t deadline_ns,
		      struct err *err)
{
	int fd CLEANUP_CLOSE = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
	int r, so_error = 0;
	socklen_t len = sizeof(so_error);

	if (fd < 0)
		return err_set_errno(err, -errno, "AF_VSOCK socket");
	if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
		return move_fd(fd);
	if (errno == EINPROGRESS) {
		r = wait_step(fd, POLLOUT, stop_fd, pid_fd, deadline_ns, err);
		if (r < 0)
			return r;
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &so_error, &len) < 0)
			return err_set_errno(err, -errno, "getsockopt");
		if (so_error == 0)
			return move_fd(fd);
		errno = so_error;
	}
	/*
	 * Before the guest's driver and its listener are there: reset, no device, or the kernel's own 2 s
	 * timeout.
	 */
	if (errno == ECONNRESET || errno == ENODEV || errno == ETIMEDOUT || errno == EHOSTUNREACH ||
	    errno == EPIPE)
		return err_set(err, -EAGAIN, "nothing listens there yet");
	return err_set_errno(err, -errno, "connecting to vsock %u:%u", cid, port);
}

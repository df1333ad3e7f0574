/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/init/vsock_internal.h"

#include "base/log.h"
#include "base/util.h"

#include <linux/vm_sockets.h>
#include <sys/socket.h>

int vsock_listen(unsigned int port, struct err *err)
{
	struct sockaddr_vm addr = {.svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_ANY};
	int fd CLEANUP_CLOSE = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_set_errno(err, -errno, "vsock socket");
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_set_errno(err, -errno, "bind vsock port %u", port);
	if (listen(fd, 128) < 0)
		return err_set_errno(err, -errno, "listen on vsock port %u", port);
	return move_fd(fd);
}

int vsock_accept(int fd)
{
	struct sockaddr_vm peer = {.svm_family = AF_VSOCK};
	socklen_t len = sizeof(peer);
	int conn = accept4(fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (conn < 0)
		return -errno;
	if (peer.svm_family != AF_VSOCK || peer.svm_cid != VMADDR_CID_HOST) {
		log_warn("connection from CID %u refused: only the host may connect", peer.svm_cid);
		close_fd(conn);
		return -EAGAIN;
	}
	return conn;
}

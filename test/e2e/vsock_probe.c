/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vsock_probe.c: tries to reach the guest agent from inside a container, at every address that could be its.
 *
 * Prints one line for the socket ("socket: ok" or the error), one for each address that was tried
 * ("cid N: connected" or the error), and "done". A run that printed less did not try everything.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define AGENT_PORT 1024

static void try_address(unsigned int cid)
{
	struct sockaddr_vm addr = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = AGENT_PORT};
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		printf("cid %u: connected\n", cid);
	else
		printf("cid %u: %s\n", cid, strerrorname_np(errno));
	if (fd >= 0)
		close(fd);
}

int main(void)
{
	static const unsigned int cids[] = {VMADDR_CID_HYPERVISOR, VMADDR_CID_LOCAL, VMADDR_CID_HOST, 3, 4,
					    VMADDR_CID_ANY};
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	printf("socket: %s\n", fd >= 0 ? "ok" : strerrorname_np(errno));
	if (fd >= 0)
		close(fd);
	for (size_t i = 0; i < sizeof(cids) / sizeof(cids[0]); i++)
		try_address(cids[i]);
	puts("done");
	return 0;
}

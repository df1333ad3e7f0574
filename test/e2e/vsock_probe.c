/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tries to open a vsock socket and to reach the agent's port on every address that could be it; says what
 * came of it.
 */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <sys/socket.h>

int main(void)
{
	static const unsigned int cids[] = {VMADDR_CID_LOCAL, VMADDR_CID_HOST, 3, 4, VMADDR_CID_ANY};
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd < 0) {
		puts("refused");
		return 0;
	}
	for (unsigned int i = 0; i < sizeof(cids) / sizeof(cids[0]); i++) {
		struct sockaddr_vm addr = {.svm_family = AF_VSOCK, .svm_cid = cids[i], .svm_port = 1024};

		if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0) {
			printf("connected to cid %u\n", cids[i]);
			return 1;
		}
	}
	puts("a socket, but no connection");
	return 0;
}

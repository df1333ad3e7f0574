/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PID 1 that listens where the agent should and answers every connection with bytes that are no frame of
 * any protocol.
 */
#include <linux/vm_sockets.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void)
{
	struct sockaddr_vm addr = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 1024};
	unsigned char noise[4096];
	int server = socket(AF_VSOCK, SOCK_STREAM, 0);

	/* The first ten bytes are a header that announces 4 GiB. */
	memset(noise, 0xff, 10);
	for (size_t i = 10; i < sizeof(noise); i++)
		noise[i] = (unsigned char)(i * 2654435761u >> 13);
	if (bind(server, (struct sockaddr *)&addr, sizeof(addr)) != 0 || listen(server, 16) != 0) {
		for (;;)
			pause();
	}
	for (;;) {
		int fd = accept(server, NULL, NULL);

		if (fd >= 0)
			(void)!write(fd, noise, sizeof(noise));
		/* Left open: the other side has to make up its mind. */
	}
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A PID 1 that never answers anybody. */
#include <unistd.h>

int main(void)
{
	for (;;)
		pause();
}

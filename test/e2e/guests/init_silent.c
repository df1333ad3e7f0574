/* A PID 1 that never answers anybody. */
#include <unistd.h>

int main(void)
{
	for (;;)
		pause();
}

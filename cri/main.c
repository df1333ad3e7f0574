#include <stdio.h>

int main(void)
{
	return puts("crivisor " CRV_VERSION) < 0;
}

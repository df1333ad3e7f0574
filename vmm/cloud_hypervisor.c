#include "vmm/driver.h"

#include <errno.h>

static int none(struct err *err)
{
	return err_set(err, -ENOSYS, "the cloud-hypervisor driver is not written yet");
}
static int ch_command(const struct vmm *vm, const struct vmm_launch *launch, char ***ret_argv, struct err *err)
{
	(void)vm;
	(void)launch;
	(void)ret_argv;
	return none(err);
}
static void ch_done(struct vmm *vm)
{
	(void)vm;
}
const struct vmm_driver vmm_driver_cloud_hypervisor = {
	.name = "cloud-hypervisor", .exe = "cloud-hypervisor", .own_vsock = true, .command = ch_command, .done = ch_done};

/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/driver_internal.h"

#include "base/util.h"

/* ext4's DAX goes last, where the described system appends it. Both VMMs can do DAX on virtio-pmem. */
#define ROOT_PARAMS                                                                                          \
	"console=hvc0 root=/dev/pmem0p1 rootflags=data=ordered,errors=remount-ro,dax ro rootfstype=ext4 "    \
	"task.sharefs_type=virtiofs panic=-1"

#define HOT_PARAMS " memhp_default_state=online memory_hotplug.online_policy=auto-movable"

char *vmm_kernel_cmdline(const struct vmm_config *config, const struct vm_spec *spec)
{
	const char *params = str_empty(config->kernel_params) ? "" : config->kernel_params;
	const char *extra = str_empty(spec->extra_params) ? "" : spec->extra_params;

	/* What is plugged is at hand at once, most of it so that it can be taken back. */
	const char *hot = spec->memory_max_bytes > spec->memory_bytes ? HOT_PARAMS : "";

	return xasprintf("%s%s%s%s%s%s%s%s", ROOT_PARAMS, hot, config->task_debug ? " task.debug=true" : "",
			 config->task_enable_tracing ? " task.enable_tracing=true" : "", *params ? " " : "",
			 params, *extra ? " " : "", extra);
}

int launch_fd(const struct vm_launch *launch, int index)
{
	(void)launch;
	return CHILD_FD_BASE + index;
}

int launch_add_fd(struct vm_launch *launch, int fd, int *ret_index, struct err *err)
{
	if (launch->n_fds >= CHILD_FDS_MAX) {
		close_fd(fd);
		return err_set(err, -E2BIG, "too many file descriptors for the VMM");
	}
	launch->fds[launch->n_fds] = fd;
	*ret_index = (int)launch->n_fds++;
	return 0;
}

void vmm_mac_words(const uint8_t mac[6], char out[18])
{
	snprintf(out, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

bool vmm_mac_zero(const uint8_t mac[6])
{
	static const uint8_t zero[6];

	return memcmp(mac, zero, 6) == 0;
}

#define DEVICE_PREFIX "hot-"

static const char *const type_names[] = {
	[VM_DEVICE_DISK] = "disk", [VM_DEVICE_PMEM] = "pmem", [VM_DEVICE_NET] = "net",
	[VM_DEVICE_FS] = "fs",	   [VM_DEVICE_VFIO] = "vfio",
};

void vm_device_name(enum vm_device_type type, const char *id, char out[VM_DEVICE_NAME_MAX])
{
	snprintf(out, VM_DEVICE_NAME_MAX, DEVICE_PREFIX "%s-%s", type_names[type], id);
}

const char *vm_device_id(const char *name, enum vm_device_type *ret_type)
{
	if (!str_starts(name, DEVICE_PREFIX))
		return NULL;
	name += strlen(DEVICE_PREFIX);
	for (size_t i = 0; i < ARRAY_SIZE(type_names); i++) {
		size_t n = strlen(type_names[i]);

		if (strncmp(name, type_names[i], n) == 0 && name[n] == '-' && name[n + 1]) {
			*ret_type = (enum vm_device_type)i;
			return name + n + 1;
		}
	}
	return NULL;
}

int vmm_option_check(const char *what, const char *value, struct err *err)
{
	for (const char *p = value; p && *p; p++) {
		if (*p == ',' || (unsigned char)*p < 0x20 || *p == '"')
			return err_set(
				err, -EINVAL,
				"%s \"%s\" contains a comma, a quote or a control character, which the "
				"VMM's options cannot carry",
				what, value);
	}
	return 0;
}

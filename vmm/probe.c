/* SPDX-License-Identifier: Apache-2.0 */
/* probe.c: what this host has, found without starting a VM. */
#include "vmm/host.h"

#include "base/util.h"
#include "vmm/cgroup_internal.h"
#include "vmm/driver_internal.h"

#include <fcntl.h>

#define CPUINFO_MAX (4 * 1024 * 1024)

_Static_assert(sizeof(VM_FILE_VHOST) - 1 <= VM_SOCKET_NAME_MAX, "longest socket");
_Static_assert(sizeof(VM_FILE_FS) - 1 <= VM_SOCKET_NAME_MAX, "longest socket");

/* ---- programs ------------------------------------------------------------------------------------------ */

static int find_vmm(const struct vmm_config *config, const struct vmm_driver *driver, char *out, size_t size,
		    struct err *err)
{
	struct vmm_config c = *config;

	/* If a driver is named, the configured path is for that one. */
	if (!str_empty(c.driver) && !str_eq(c.driver, "auto") && !str_eq(c.driver, driver->name))
		c.path = NULL;
	return find_driver(&c, driver, out, size, err);
}

int vmm_program_find(const struct vmm_config *config, enum vmm_program program, struct vmm_program_info *ret,
		     struct err *err)
{
	struct vmm_program_info info = {0};
	int r = -EINVAL;

	switch (program) {
	case VMM_PROGRAM_CLOUD_HYPERVISOR:
		r = find_vmm(config, &vmm_driver_cloud_hypervisor, info.path, sizeof(info.path), err);
		break;
	case VMM_PROGRAM_QEMU:
		r = find_vmm(config, &vmm_driver_qemu, info.path, sizeof(info.path), err);
		break;
	case VMM_PROGRAM_SPAWN_HELPER:
		r = find_spawn_helper(config, info.path, sizeof(info.path), err);
		break;
	case VMM_PROGRAM_VIRTIOFSD:
		r = virtiofsd_find(config, info.path, sizeof(info.path), &info.legacy, err);
		break;
	case VMM_PROGRAM_VSOCK_DAEMON:
		r = vsock_daemon_find(config, info.path, sizeof(info.path), err);
		break;
	}
	if (r < 0)
		return r;
	if (program != VMM_PROGRAM_SPAWN_HELPER) /* takes no options */
		read_version(info.path, info.version, sizeof(info.version));
	*ret = info;
	return 0;
}

/* ---- KVM ----------------------------------------------------------------------------------------------- */

int vmm_kvm_look(struct vmm_kvm *ret)
{
	char *cpuinfo CLEANUP_FREE = NULL;
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int r;

	*ret = (struct vmm_kvm){.open_errno = fd < 0 ? errno : 0};
	close_fd(fd);
	r = read_file("/proc/cpuinfo", CPUINFO_MAX, &cpuinfo, NULL);
	if (r < 0)
		return r;
	ret->vmx = cpu_has(cpuinfo, "vmx");
	ret->svm = cpu_has(cpuinfo, "svm");
	ret->guest = cpu_has(cpuinfo, "hypervisor");
	ret->intel = strstr(cpuinfo, "GenuineIntel") != NULL;
	ret->amd = strstr(cpuinfo, "AuthenticAMD") != NULL;
	return 0;
}

/* ---- cgroups ------------------------------------------------------------------------------------------- */

/* Whether a controller that pods are limited by cannot be passed on to children of the tree's top. */
static bool is_crowded(const struct cgr_hierarchy *h)
{
	char *events CLEANUP_FREE = NULL, *procs CLEANUP_FREE = NULL;
	char *has CLEANUP_FREE = NULL, *on CLEANUP_FREE = NULL;

	/*
	 * Only cgroups below the root have this file. The root may hold processes and still pass controllers
	 * on (cgroup-v2.rst).
	 */
	if (cgr_get(h, "", "cgroup.events", &events) < 0 || cgr_get(h, "", "cgroup.procs", &procs) < 0 ||
	    !*procs || cgr_get(h, "", "cgroup.controllers", &has) < 0 ||
	    cgr_get(h, "", "cgroup.subtree_control", &on) < 0)
		return false;
	return cgr_bits(has) & ~cgr_bits(on) & (CGR_CPU | CGR_MEMORY);
}

int vmm_cgroup_look(struct vmm_cgroups *ret, struct err *err)
{
	struct vmm_cgroups found = {0};
	struct cgr_tree t;
	bool v1 = false, v2 = false;
	unsigned has = 0;
	int r = cgr_tree(&t, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < t.n; i++) {
		const struct cgr_hierarchy *h = &t.h[i];

		if (h->v2)
			v2 = true;
		else
			v1 = true;
		has |= h->has;
		found.read_only = found.read_only || (access(h->mount, W_OK) < 0 && errno == EROFS);
		if (h->v2 && is_crowded(h))
			snprintf(found.crowded, sizeof(found.crowded), "%s", h->mount);
	}
	found.layout = v1 && v2 ? "hybrid" : v2 ? "v2" : "v1";
	found.cpu = has & CGR_CPU;
	found.memory = has & CGR_MEMORY;
	found.cpuset = has & CGR_CPUSET;
	found.pids = has & CGR_PIDS;
	*ret = found;
	return 0;
}

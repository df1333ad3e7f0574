/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/spec/spec_internal.h"

#include "api/agent/guest_abi.h"
#include "base/cpulist.h"
#include "base/util.h"

#include <strings.h>

/* ---- capabilities -------------------------------------------------------------------------------------- */

/* By number: include/uapi/linux/capability.h of Linux 6.12. */
static const char *const cap_names[] = {
	"CAP_CHOWN",
	"CAP_DAC_OVERRIDE",
	"CAP_DAC_READ_SEARCH",
	"CAP_FOWNER",
	"CAP_FSETID",
	"CAP_KILL",
	"CAP_SETGID",
	"CAP_SETUID",
	"CAP_SETPCAP",
	"CAP_LINUX_IMMUTABLE",
	"CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST",
	"CAP_NET_ADMIN",
	"CAP_NET_RAW",
	"CAP_IPC_LOCK",
	"CAP_IPC_OWNER",
	"CAP_SYS_MODULE",
	"CAP_SYS_RAWIO",
	"CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE",
	"CAP_SYS_PACCT",
	"CAP_SYS_ADMIN",
	"CAP_SYS_BOOT",
	"CAP_SYS_NICE",
	"CAP_SYS_RESOURCE",
	"CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG",
	"CAP_MKNOD",
	"CAP_LEASE",
	"CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL",
	"CAP_SETFCAP",
	"CAP_MAC_OVERRIDE",
	"CAP_MAC_ADMIN",
	"CAP_SYSLOG",
	"CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ",
	"CAP_PERFMON",
	"CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
};
#define ALL_CAPS ((UINT64_C(1) << ARRAY_SIZE(cap_names)) - 1)

/* What a container has unless it asks otherwise, as with containerd, CRI-O and Docker. */
static const char *const default_caps[] = {
	"CHOWN",  "DAC_OVERRIDE", "FSETID",  "FOWNER",		 "MKNOD",      "NET_RAW", "SETGID",
	"SETUID", "SETFCAP",	  "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL",	  "AUDIT_WRITE",
};

/* "NET_ADMIN" or "CAP_NET_ADMIN", in either case; 0 if there is no such capability. */
static uint64_t cap_bit(const char *name)
{
	if (strncasecmp(name, "CAP_", 4) == 0)
		name += 4;
	for (size_t i = 0; i < ARRAY_SIZE(cap_names); i++)
		if (strcasecmp(name, cap_names[i] + 4) == 0)
			return UINT64_C(1) << i;
	return 0;
}

static int parse_caps(const char *field, char **names, size_t n, uint64_t *ret_bits, bool *ret_all,
		      struct err *err)
{
	*ret_bits = 0;
	*ret_all = false;
	for (size_t i = 0; i < n; i++) {
		uint64_t bit = cap_bit(names[i]);

		if (strcasecmp(names[i], "ALL") == 0)
			*ret_all = true;
		else if (!bit)
			return err_set(err, -EINVAL, "capabilities.%s[%zu]: \"%.64s\" is not a capability",
				       field, i, names[i]);
		*ret_bits |= bit;
	}
	return 0;
}

/* ALL first (drop wins over add there), then what is added, then what is dropped. */
int oci_caps(struct oci_build *b, struct err *err)
{
	const Runtime__V1__Capability *c = b->sc->capabilities;
	uint64_t add = 0, drop = 0, ambient = 0;
	bool add_all = false, drop_all = false, ambient_all = false;
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(default_caps); i++)
		b->caps |= cap_bit(default_caps[i]);
	if (c) {
		r = parse_caps("add_capabilities", c->add_capabilities, c->n_add_capabilities, &add, &add_all,
			       err);
		if (r == 0)
			r = parse_caps("drop_capabilities", c->drop_capabilities, c->n_drop_capabilities,
				       &drop, &drop_all, err);
		if (r == 0)
			r = parse_caps("add_ambient_capabilities", c->add_ambient_capabilities,
				       c->n_add_ambient_capabilities, &ambient, &ambient_all, err);
		if (r < 0)
			return r;
	}
	if (add_all || ambient_all)
		b->caps = ALL_CAPS;
	if (drop_all)
		b->caps = 0;
	b->caps = (b->caps | add | ambient) & ~drop;
	if (b->sc->privileged)
		b->caps = ALL_CAPS;
	b->ambient = (ambient_all ? ALL_CAPS : ambient) & b->caps;
	return 0;
}

static void put_set(struct oci_build *b, struct json_object *parent, const char *key, uint64_t bits)
{
	struct json_object *array = oci_array(&b->oom, parent, key);

	for (unsigned int i = 0; i < ARRAY_SIZE(cap_names); i++)
		if (bits & (UINT64_C(1) << i))
			oci_string(&b->oom, array, NULL, cap_names[i]);
}

/* Nothing inheritable but what ambient needs: a program with file capabilities would get more than was asked
 * for. */
void oci_put_caps(struct oci_build *b, struct json_object *process)
{
	struct json_object *object = oci_object(&b->oom, process, "capabilities");

	put_set(b, object, "bounding", b->caps);
	put_set(b, object, "effective", b->caps);
	put_set(b, object, "permitted", b->caps);
	put_set(b, object, "inheritable", b->ambient);
	put_set(b, object, "ambient", b->ambient);
}

/* ---- namespaces ---------------------------------------------------------------------------------------- */

int oci_check_namespaces(struct oci_build *b, struct err *err)
{
	const Runtime__V1__NamespaceOption *ns = b->ns;

	if (ns->network == RUNTIME__V1__NAMESPACE_MODE__NODE)
		return err_set(
			err, -EINVAL,
			"namespace_options.network NODE: a container in a VM cannot have the host's network");
	if (ns->network != RUNTIME__V1__NAMESPACE_MODE__POD)
		return err_set(err, -EINVAL,
			       "namespace_options.network: only POD is possible for a container");
	if (ns->ipc == RUNTIME__V1__NAMESPACE_MODE__NODE)
		return err_set(err, -EINVAL,
			       "namespace_options.ipc NODE: a container in a VM cannot have the host's IPC");
	if (ns->ipc != RUNTIME__V1__NAMESPACE_MODE__POD && ns->ipc != RUNTIME__V1__NAMESPACE_MODE__CONTAINER)
		return err_set(err, -EINVAL, "namespace_options.ipc: only POD and CONTAINER are possible");
	if (ns->pid == RUNTIME__V1__NAMESPACE_MODE__TARGET && str_empty(ns->target_id))
		return err_set(err, -EINVAL, "namespace_options.target_id is missing");
	if (ns->pid < RUNTIME__V1__NAMESPACE_MODE__POD || ns->pid > RUNTIME__V1__NAMESPACE_MODE__TARGET)
		return err_set(err, -EINVAL, "namespace_options.pid %d is unknown", (int)ns->pid);
	if (ns->userns_options && ns->userns_options->mode != RUNTIME__V1__NAMESPACE_MODE__NODE)
		return err_set_status(
			err, -EOPNOTSUPP, ERR_UNIMPLEMENTED,
			"namespace_options.userns_options: user namespaces are not supported yet");
	return 0;
}

static void put_namespace(struct oci_build *b, struct json_object *array, const char *type, const char *path)
{
	struct json_object *object = oci_object(&b->oom, array, NULL);

	oci_string(&b->oom, object, "type", type);
	if (path)
		oci_string(&b->oom, object, "path", path);
}

/*
 * Network, UTS and (in mode POD) IPC are the VM's own, which are the pod's. Privileged containers keep a
 * cgroup namespace as well: without one they would see, and could kill, the agent's cgroup.
 */
void oci_put_namespaces(struct oci_build *b, struct json_object *spec_linux)
{
	struct json_object *array = oci_array(&b->oom, spec_linux, "namespaces");

	put_namespace(b, array, "mount", NULL);
	put_namespace(b, array, "cgroup", NULL);
	if (b->ns->ipc == RUNTIME__V1__NAMESPACE_MODE__CONTAINER)
		put_namespace(b, array, "ipc", NULL);
	switch (b->ns->pid) {
	case RUNTIME__V1__NAMESPACE_MODE__POD:
		put_namespace(b, array, "pid", GUEST_PIDNS);
		break;
	case RUNTIME__V1__NAMESPACE_MODE__TARGET:
		put_namespace(b, array, "pid", b->in->target_pid_path ? b->in->target_pid_path : "");
		break;
	case RUNTIME__V1__NAMESPACE_MODE__NODE:
		break; /* the VM's */
	default:
		put_namespace(b, array, "pid", NULL);
		break;
	}
}

/* ---- devices ------------------------------------------------------------------------------------------- */

struct device {
	const char *path;
	char type;
	int major, minor;
	int mode, gid;
	bool always; /* the runtime makes it for every container */
};

/* Devices of the guest that mean the same as the host's of that name: Documentation/admin-guide/devices.txt.
 */
static const struct device guest_devices[] = {
	{"/dev/null", 'c', 1, 3, 0666, 0, true},	{"/dev/zero", 'c', 1, 5, 0666, 0, true},
	{"/dev/full", 'c', 1, 7, 0666, 0, true},	{"/dev/random", 'c', 1, 8, 0666, 0, true},
	{"/dev/urandom", 'c', 1, 9, 0666, 0, true},	{"/dev/tty", 'c', 5, 0, 0666, 5, true},
	{"/dev/kmsg", 'c', 1, 11, 0644, 0, false},	{"/dev/fuse", 'c', 10, 229, 0666, 0, false},
	{"/dev/net/tun", 'c', 10, 200, 0666, 0, false}, {"/dev/loop-control", 'c', 10, 237, 0660, 6, false},
	{"/dev/loop0", 'b', 7, 0, 0660, 6, false},	{"/dev/loop1", 'b', 7, 1, 0660, 6, false},
	{"/dev/loop2", 'b', 7, 2, 0660, 6, false},	{"/dev/loop3", 'b', 7, 3, 0660, 6, false},
	{"/dev/loop4", 'b', 7, 4, 0660, 6, false},	{"/dev/loop5", 'b', 7, 5, 0660, 6, false},
	{"/dev/loop6", 'b', 7, 6, 0660, 6, false},	{"/dev/loop7", 'b', 7, 7, 0660, 6, false},
};

static const struct device *find_device(const char *path)
{
	for (size_t i = 0; i < ARRAY_SIZE(guest_devices); i++)
		if (str_eq(guest_devices[i].path, path))
			return &guest_devices[i];
	return NULL;
}

static void put_node(struct oci_build *b, struct json_object *devices, const struct device *dev,
		     const char *path)
{
	struct json_object *object = oci_object(&b->oom, devices, NULL);
	const char type[2] = {dev->type, '\0'};

	oci_string(&b->oom, object, "path", path);
	oci_string(&b->oom, object, "type", type);
	oci_int(&b->oom, object, "major", dev->major);
	oci_int(&b->oom, object, "minor", dev->minor);
	oci_int(&b->oom, object, "fileMode", dev->mode);
	oci_int(&b->oom, object, "uid", 0);
	oci_int(&b->oom, object, "gid", dev->gid);
}

/* minor -1: all. */
static void put_rule(struct oci_build *b, struct json_object *rules, char type, int major, int minor,
		     const char *access)
{
	struct json_object *object = oci_object(&b->oom, rules, NULL);
	const char text[2] = {type, '\0'};

	oci_bool(&b->oom, object, "allow", true);
	oci_string(&b->oom, object, "type", text);
	oci_int(&b->oom, object, "major", major);
	if (minor >= 0)
		oci_int(&b->oom, object, "minor", minor);
	oci_string(&b->oom, object, "access", access);
}

static int check_device(const Runtime__V1__Device *dev, size_t i, struct err *err)
{
	if (str_empty(dev->container_path) || dev->container_path[0] != '/')
		return err_set(err, -EINVAL, "devices[%zu].container_path \"%.128s\" is not absolute", i,
			       dev->container_path);
	if (!find_device(dev->host_path))
		return err_set(err, -EINVAL,
			       "devices[%zu]: host device \"%.128s\" cannot be given to a container in a VM",
			       i, dev->host_path);
	if (dev->permissions[strspn(dev->permissions, "rwm")])
		return err_set(err, -EINVAL,
			       "devices[%zu].permissions \"%.16s\" may hold only the letters r, w and m", i,
			       dev->permissions);
	return 0;
}

/* An allow-list, for privileged containers too: what is not on it (pmem, vsock, virtio disks) cannot be
 * opened. */
static void put_privileged(struct oci_build *b, struct json_object *devices, struct json_object *rules)
{
	put_rule(b, rules, 'c', 1, -1, "rwm");
	put_rule(b, rules, 'c', 5, -1, "rwm");
	put_rule(b, rules, 'c', 136, -1, "rwm");
	put_rule(b, rules, 'b', 7, -1, "rwm");
	for (size_t i = 0; i < ARRAY_SIZE(guest_devices); i++) {
		const struct device *dev = &guest_devices[i];

		if (dev->always)
			continue;
		put_node(b, devices, dev, dev->path);
		if (dev->major == 10)
			put_rule(b, rules, dev->type, dev->major, dev->minor, "rwm");
	}
}

int oci_put_devices(struct oci_build *b, struct json_object *spec_linux, struct json_object *resources,
		    struct err *err)
{
	struct json_object *devices, *rules, *deny;

	if (b->container->n_devices > OCI_LIST_MAX)
		return err_set(err, -EINVAL, "devices: more than %d", OCI_LIST_MAX);
	for (size_t i = 0; i < b->container->n_devices; i++) {
		int r = check_device(b->container->devices[i], i, err);

		if (r < 0)
			return r;
	}
	if (!spec_linux)
		return 0;
	devices = oci_array(&b->oom, spec_linux, "devices");
	rules = oci_array(&b->oom, resources, "devices");
	deny = oci_object(&b->oom, rules, NULL);
	oci_bool(&b->oom, deny, "allow", false);
	oci_string(&b->oom, deny, "access", "rwm");
	if (b->sc->privileged)
		put_privileged(b, devices, rules);
	for (size_t i = 0; i < b->container->n_devices; i++) {
		const Runtime__V1__Device *want = b->container->devices[i];
		const struct device *dev = find_device(want->host_path);

		if (!dev->always || !str_eq(want->container_path, dev->path))
			put_node(b, devices, dev, want->container_path);
		put_rule(b, rules, dev->type, dev->major, dev->minor,
			 str_empty(want->permissions) ? "rwm" : want->permissions);
	}
	return 0;
}

/* ---- resources ----------------------------------------------------------------------------------------- */

/* The host's numbers mean nothing in the guest: the CPUs come as guest_cpus, and there is one node. */
static int check_cpuset(const Runtime__V1__LinuxContainerResources *res, struct err *err)
{
	cpu_set_t set;

	if (!str_empty(res->cpuset_cpus) && cpulist_parse(res->cpuset_cpus, &set) < 0)
		return err_set(err, -EINVAL, "cpuset_cpus \"%.64s\" is not a list of CPUs", res->cpuset_cpus);
	if (!str_empty(res->cpuset_mems) && cpulist_parse(res->cpuset_mems, &set) < 0)
		return err_set(err, -EINVAL, "cpuset_mems \"%.64s\" is not a list of memory nodes",
			       res->cpuset_mems);
	return 0;
}

static int fill_cpu(const Runtime__V1__LinuxContainerResources *res, const char *guest_cpus,
		    struct json_object *resources, bool *oom, struct err *err)
{
	struct json_object *cpu;
	int r = check_cpuset(res, err);

	if (r < 0)
		return r;
	if (res->cpu_shares < 0)
		return err_set(err, -EINVAL, "cpu_shares %lld is negative", (long long)res->cpu_shares);
	if (res->cpu_period < 0 || (res->cpu_period && (res->cpu_period < 1000 || res->cpu_period > 1000000)))
		return err_set(err, -EINVAL, "cpu_period %lld is not within 1000 and 1000000",
			       (long long)res->cpu_period);
	if (res->cpu_quota > 0 && res->cpu_quota < 1000)
		return err_set(err, -EINVAL, "cpu_quota %lld is below 1000", (long long)res->cpu_quota);
	cpu = oci_object(oom, resources, "cpu");
	if (res->cpu_shares)
		oci_int(oom, cpu, "shares",
			res->cpu_shares < 2	   ? 2
			: res->cpu_shares > 262144 ? 262144
						   : res->cpu_shares);
	if (res->cpu_quota)
		oci_int(oom, cpu, "quota", res->cpu_quota);
	if (res->cpu_period)
		oci_int(oom, cpu, "period", res->cpu_period);
	if (!str_empty(guest_cpus))
		oci_string(oom, cpu, "cpus", guest_cpus);
	if (cpu && json_object_object_length(cpu) == 0)
		json_object_object_del(resources, "cpu");
	return 0;
}

/* Swap counts with memory here, as in OCI: equal to the limit is no swap, which is also what no word of it
 * means. */
static int fill_memory(const Runtime__V1__LinuxContainerResources *res, struct json_object *resources,
		       bool *oom, struct err *err)
{
	int64_t limit = res->memory_limit_in_bytes, swap = res->memory_swap_limit_in_bytes;
	struct json_object *memory;

	if (limit < -1)
		return err_set(err, -EINVAL, "memory_limit_in_bytes %lld is negative", (long long)limit);
	if (swap < -1 || (swap > 0 && limit > 0 && swap < limit))
		return err_set(err, -EINVAL,
			       "memory_swap_limit_in_bytes %lld is below memory_limit_in_bytes %lld",
			       (long long)swap, (long long)limit);
	if (swap > 0 && limit <= 0)
		return err_set(err, -EINVAL,
			       "memory_swap_limit_in_bytes is set without memory_limit_in_bytes");
	if (!limit && !swap)
		return 0;
	memory = oci_object(oom, resources, "memory");
	if (limit)
		oci_int(oom, memory, "limit", limit);
	oci_int(oom, memory, "swap", swap ? swap : limit);
	return 0;
}

/* kubelet always tells of every page size, with 0 for those not asked for; the guest has no pool of huge
 * pages to forbid. */
static int fill_hugepages(const Runtime__V1__LinuxContainerResources *res, struct json_object *resources,
			  bool *oom, struct err *err)
{
	struct json_object *array = NULL, *object;

	for (size_t i = 0; i < res->n_hugepage_limits && i < OCI_LIST_MAX; i++) {
		const Runtime__V1__HugepageLimit *limit = res->hugepage_limits[i];

		if (!str_eq(limit->page_size, "2MB") && !str_eq(limit->page_size, "1GB")) {
			if (!limit->limit)
				continue;
			return err_set(err, -EINVAL,
				       "hugepage_limits[%zu]: the guest has no huge pages of \"%.16s\"", i,
				       limit->page_size);
		}
		if (!limit->limit)
			continue;
		if (limit->limit > INT64_MAX)
			return err_set(err, -EINVAL, "hugepage_limits[%zu]: limit is out of range", i);
		if (!array)
			array = oci_array(oom, resources, "hugepageLimits");
		object = oci_object(oom, array, NULL);
		oci_string(oom, object, "pageSize", limit->page_size);
		oci_int(oom, object, "limit", (int64_t)limit->limit);
	}
	return 0;
}

/* Files of cgroup v2 by name ("memory.high"); never a path, never what belongs to the runtime. */
static bool unified_valid(const char *key)
{
	return !str_empty(key) && strlen(key) < 128 && strchr(key, '.') && !strchr(key, '/') &&
	       key[0] != '.' && !str_starts(key, "cgroup.");
}

static int fill_unified(const Runtime__V1__LinuxContainerResources *res, struct json_object *resources,
			bool *oom, struct err *err)
{
	struct json_object *object;

	if (!res->n_unified)
		return 0;
	if (res->n_unified > OCI_LIST_MAX)
		return err_set(err, -EINVAL, "unified: more than %d", OCI_LIST_MAX);
	object = oci_object(oom, resources, "unified");
	for (size_t i = 0; i < res->n_unified; i++) {
		if (!unified_valid(res->unified[i]->key))
			return err_set(err, -EINVAL, "unified: \"%.64s\" is not a controller's file",
				       res->unified[i]->key);
		oci_string(oom, object, res->unified[i]->key, res->unified[i]->value);
	}
	return 0;
}

int oci_fill_resources(const Runtime__V1__LinuxContainerResources *res, const char *guest_cpus,
		       struct json_object *resources, bool *oom, struct err *err)
{
	int r = fill_cpu(res, guest_cpus, resources, oom, err);

	if (r == 0)
		r = fill_memory(res, resources, oom, err);
	if (r == 0)
		r = fill_hugepages(res, resources, oom, err);
	return r ? r : fill_unified(res, resources, oom, err);
}

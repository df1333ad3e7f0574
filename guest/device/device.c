/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/device/device.h"

#include "api/agent/agent.pb-c.h"
#include "base/log.h"
#include "base/meminfo.h"
#include "base/util.h"
#include "guest/core/loop.h"
#include "guest/core/reap.h"
#include "guest/device/device_internal.h"
#include "guest/rpc/request.h"
#include "guest/core/spawn.h"

#include <dirent.h>
#include <linux/netlink.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define PCI_LEN	    16
#define DEPTH_MAX   8
#define OPTIONS_MAX 4096

enum wanted {
	WANT_DEVICE,
	WANT_RESOURCES,
};

/* A call that waits for uevents, or for its mount. */
struct attach {
	struct attach *next, **prevp;
	struct agent *agent;
	struct rpc_slot slot;
	struct loop_timer deadline;
	enum wanted wanted;
	char pci[PCI_LEN];
	char node[128];
	char *path, *fs_type, *options; /* of the mount; path NULL: none */
	unsigned long flags;
	uint32_t vcpus;
	uint64_t memory;
	pid_t mounting;
	bool late;
	struct reap_watch watch;
};

static struct attach *attaches;

/* ---- pure ----------------------------------------------------------------------------------------- */

int device_parse_pci(const char *text, char *ret, struct err *err)
{
	unsigned int domain = 0, bus, dev, fn;
	int n = 0;

	if (text &&
	    ((sscanf(text, "%4x:%2x:%2x.%1x%n", &domain, &bus, &dev, &fn, &n) == 4 && text[n] == 0) ||
	     (domain = 0, n = 0, sscanf(text, "%2x:%2x.%1x%n", &bus, &dev, &fn, &n) == 3 && text[n] == 0)) &&
	    dev < 32 && fn < 8) {
		snprintf(ret, PCI_LEN, "%04x:%02x:%02x.%x", domain & 0xffff, bus & 0xff, dev, fn);
		return 0;
	}
	return err_set(err, -EINVAL, "\"%.64s\" is not a PCI address", text ? text : "");
}

bool device_mount_path_valid(const char *path)
{
	return str_starts(path, "/run/") && strlen(path) < 4096 && !strstr(path, "/..") &&
	       !strstr(path, "//");
}

/* ---- finding -------------------------------------------------------------------------------------- */

/*
 * Looks below a device's directory in sysfs for what the kernel made of it: a directory "block/<name>" or
 * "net/<name>". Only real directories: links lead elsewhere.
 */
static bool find_class(const char *dir, unsigned int depth, char *node, size_t len)
{
	DIR *d = depth < DEPTH_MAX ? opendir(dir) : NULL;
	const char *base = strrchr(dir, '/');
	bool block = str_eq(base, "/block"), net = str_eq(base, "/net"), found = false;
	const struct dirent *de;

	while (d && !found && (de = readdir(d))) {
		char *sub CLEANUP_FREE = NULL;

		if (de->d_type != DT_DIR || de->d_name[0] == '.')
			continue;
		if (block || net) {
			found = (size_t)snprintf(node, len, "%s%s", block ? "/dev/" : "", de->d_name) < len;
			continue;
		}
		sub = xasprintf("%s/%s", dir, de->d_name);
		found = sub && find_class(sub, depth + 1, node, len);
	}
	if (d)
		closedir(d);
	return found;
}

/*
 * A virtio-fs device has a tag instead of a node: /sys/fs/virtiofs/<n>/tag, with a link to its device (Linux
 * 6.9).
 */
static bool find_tag(const char *device, char *node, size_t len)
{
	char *real CLEANUP_FREE = realpath(device, NULL);
	DIR *d = opendir("/sys/fs/virtiofs");
	const struct dirent *de;
	bool found = false;

	while (d && real && !found && (de = readdir(d))) {
		char *link CLEANUP_FREE = xasprintf("/sys/fs/virtiofs/%s/device", de->d_name);
		char *tagfile CLEANUP_FREE = xasprintf("/sys/fs/virtiofs/%s/tag", de->d_name);
		char *to CLEANUP_FREE = link && de->d_name[0] != '.' ? realpath(link, NULL) : NULL;
		char *tag CLEANUP_FREE = NULL;

		if (!to || !str_starts(to, real) || !tagfile || read_file(tagfile, 128, &tag, NULL) < 0)
			continue;
		tag[strcspn(tag, "\n")] = 0;
		found = (size_t)snprintf(node, len, "%s", tag) < len;
	}
	if (d)
		closedir(d);
	return found;
}

static bool find_device(struct attach *a)
{
	char dir[64];
	struct stat st;

	snprintf(dir, sizeof(dir), "/sys/bus/pci/devices/%s", a->pci);
	if (stat(dir, &st) < 0)
		return false;
	if (find_tag(dir, a->node, sizeof(a->node)))
		return true;
	if (!find_class(dir, 0, a->node, sizeof(a->node)))
		return false;
	/* The node itself comes a moment after the directory; its own uevent follows. */
	return a->node[0] != '/' || stat(a->node, &st) == 0;
}

/* ---- answering ------------------------------------------------------------------------------------ */

static void attach_free(struct attach *a)
{
	if (a->prevp) {
		*a->prevp = a->next;
		if (a->next)
			a->next->prevp = a->prevp;
	}
	loop_timer_clear(&a->deadline);
	reap_unwatch(&a->watch);
	free(a->path);
	free(a->fs_type);
	free(a->options);
	free(a);
}

static void attach_fail(struct attach *a, const struct err *err)
{
	rpc_slot_fail(&a->slot, err);
	attach_free(a);
}

static void attach_done(struct attach *a)
{
	Crivisor__Agent__V1__AttachDeviceResponse resp = CRIVISOR__AGENT__V1__ATTACH_DEVICE_RESPONSE__INIT;

	resp.node = a->node;
	rpc_slot_reply(&a->slot, &resp.base);
	attach_free(a);
}

static int do_mount(void *arg)
{
	const struct attach *a = arg;

	return mount(a->node, a->path, a->fs_type, a->flags, a->options) < 0 ? errno & 0xff : 0;
}

static void on_mounted(void *arg, pid_t pid, int status, int64_t at_ns)
{
	struct attach *a = arg;
	struct err err;

	(void)pid;
	(void)at_ns;
	if (status == 0) {
		attach_done(a);
		return;
	}
	if (a->late)
		err_set(&err, -ETIMEDOUT, "mount %s at %s: not done in time", a->node, a->path);
	else
		err_set_errno(&err, status < 128 ? -status : -EIO, "mount %s (%s) at %s", a->node, a->fs_type,
			      a->path);
	attach_fail(a, &err);
}

/* The device is there: done, or on to the mount. */
static void attach_found(struct attach *a)
{
	struct err err;
	pid_t pid;
	int r;

	if (!a->path) {
		attach_done(a);
		return;
	}
	r = mkdir_p(a->path, 0755);
	if (r < 0) {
		err_set_errno(&err, r, "make %s", a->path);
		attach_fail(a, &err);
		return;
	}
	pid = spawn_fn(do_mount, a, &err);
	if (pid < 0) {
		attach_fail(a, &err);
		return;
	}
	a->mounting = pid;
	reap_watch(&a->watch, pid, UINT64_MAX, on_mounted, a);
}

/* ---- vCPUs and memory ----------------------------------------------------------------------------- */

/* Writes `value` to `file` of every entry of dir that begins with prefix, where it is not so yet. */
static void online_all(const char *dir, const char *prefix, const char *file, const char *value)
{
	DIR *d = opendir(dir);
	const struct dirent *de;

	while (d && (de = readdir(d))) {
		size_t len = strlen(prefix);
		char *path CLEANUP_FREE = NULL;
		char *now CLEANUP_FREE = NULL;

		if (strncmp(de->d_name, prefix, len) != 0 || de->d_name[len] < '0' || de->d_name[len] > '9')
			continue;
		path = xasprintf("%s/%s/%s", dir, de->d_name, file);
		if (!path || read_file(path, 64, &now, NULL) < 0 || strncmp(now, value, strlen(value)) == 0)
			continue;
		if (write_file(path, value, strlen(value), 0) < 0)
			log_warn("cannot bring %s/%s online", dir, de->d_name);
	}
	if (d)
		closedir(d);
}

static uint64_t memory_total(void)
{
	char *mem CLEANUP_FREE = NULL;

	return read_file("/proc/meminfo", 65536, &mem, NULL) < 0 ? 0 : meminfo_bytes(mem, "MemTotal");
}

static bool online_now(const struct attach *a)
{
	/* The kernel keeps some memory for itself: a sixteenth less than asked for is enough. */
	uint64_t enough = a->memory - a->memory / 16;

	online_all("/sys/devices/system/cpu", "cpu", "online", "1");
	online_all("/sys/devices/system/memory", "memory", "state", "online");
	return (uint32_t)sysconf(_SC_NPROCESSORS_ONLN) >= a->vcpus && memory_total() >= enough;
}

static void online_answer(struct attach *a)
{
	Crivisor__Agent__V1__OnlineResourcesResponse resp =
		CRIVISOR__AGENT__V1__ONLINE_RESOURCES_RESPONSE__INIT;

	resp.vcpus = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
	resp.memory = memory_total();
	rpc_slot_reply(&a->slot, &resp.base);
	attach_free(a);
}

/* ---- waiting -------------------------------------------------------------------------------------- */

static void look(struct attach *a)
{
	if (a->mounting)
		return;
	if (a->wanted == WANT_DEVICE && find_device(a))
		attach_found(a);
	else if (a->wanted == WANT_RESOURCES && online_now(a))
		online_answer(a);
}

static void on_late(void *arg)
{
	struct attach *a = arg;
	struct err err;

	if (a->mounting) {
		a->late = true;
		kill(a->mounting, SIGKILL);
		return;
	}
	if (a->wanted == WANT_RESOURCES) {
		online_answer(a); /* with what there is: the caller compares */
		return;
	}
	err_set(&err, -ETIMEDOUT, "no usable device at PCI address %s after %lld s", a->pci,
		DEVICE_WAIT_NS / NS_PER_SEC);
	attach_fail(a, &err);
}

static void on_uevent(void *arg, int fd, uint32_t events)
{
	char buf[8192];
	struct attach *a, *next;

	(void)arg;
	(void)events;
	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
	for (a = attaches; a; a = next) {
		next = a->next;
		look(a);
	}
}

int device_settle(struct agent *agent, struct err *err)
{
	struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = 1};
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);

	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    !loop_add(agent->loop, fd, EPOLLIN, on_uevent, agent)) {
		int r = errno ? -errno : -ENOMEM;

		close_fd(fd);
		return err_set_errno(err, r, "uevent socket");
	}
	return 0;
}

static void begin(struct attach *a, struct agent *agent, struct ttrpc_request *req)
{
	agent_settle(agent);
	a->agent = agent;
	a->next = attaches;
	a->prevp = &attaches;
	if (a->next)
		a->next->prevp = &a->next;
	attaches = a;
	/* A caller that goes away does not stop the work: it may ask again and find it done. */
	rpc_slot_take(&a->slot, req, NULL, NULL);
	loop_timer_set(agent->loop, &a->deadline, now_monotonic_ns() + DEVICE_WAIT_NS, on_late, a);
	look(a);
}

static int mount_request(struct attach *a, const Crivisor__Agent__V1__AttachDeviceRequest *m, struct err *err)
{
	size_t len = 0;

	if (!device_mount_path_valid(m->mount_path))
		return err_set(err, -EINVAL, "mount path \"%.200s\" does not lie below /run", m->mount_path);
	if (str_empty(m->fs_type))
		return err_set(err, -EINVAL, "mount at \"%.200s\": the file system's type is missing",
			       m->mount_path);
	for (size_t i = 0; i < m->n_options; i++)
		len += strlen(m->options[i]) + 1;
	if (len > OPTIONS_MAX)
		return err_set(err, -E2BIG, "mount options of %zu bytes", len);
	a->path = strdup(m->mount_path);
	a->fs_type = strdup(m->fs_type);
	a->options = calloc(1, len + 1);
	if (!a->path || !a->fs_type || !a->options)
		return err_oom(err);
	for (size_t i = 0; i < m->n_options; i++) {
		if (i > 0)
			strcat(a->options, ",");
		strcat(a->options, m->options[i]);
	}
	a->flags = MS_NODEV | MS_NOSUID | (m->read_only ? MS_RDONLY : 0);
	return 0;
}

void device_attach(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len)
{
	Crivisor__Agent__V1__AttachDeviceRequest *m RPC_MESSAGE =
		rpc_unpack(req, &crivisor__agent__v1__attach_device_request__descriptor, payload, len);
	struct err err = ERR_INIT;
	struct attach *a;
	int r;

	if (!m)
		return;
	if (agent_vm_only(service_ctx, "AttachDevice", &err) < 0) {
		ttrpc_fail(req, &err);
		return;
	}
	a = calloc(1, sizeof(*a));
	r = a ? device_parse_pci(m->pci_address, a->pci, &err) : err_oom(&err);
	if (r == 0 && !str_empty(m->mount_path))
		r = mount_request(a, m, &err);
	if (r < 0) {
		ttrpc_fail(req, &err);
		if (a)
			attach_free(a);
		return;
	}
	a->wanted = WANT_DEVICE;
	/* Where the hot-plug interrupt was missed the device is there all the same. */
	(void)write_file("/sys/bus/pci/rescan", "1", 1, 0);
	begin(a, service_ctx, req);
}

void device_online(struct ttrpc_request *req, void *service_ctx, const void *payload, size_t len)
{
	Crivisor__Agent__V1__OnlineResourcesRequest *m RPC_MESSAGE =
		rpc_unpack(req, &crivisor__agent__v1__online_resources_request__descriptor, payload, len);
	struct attach *a = m ? calloc(1, sizeof(*a)) : NULL;
	struct err err;

	if (!m)
		return;
	if (agent_vm_only(service_ctx, "OnlineResources", &err) < 0) {
		free(a);
		ttrpc_fail(req, &err);
		return;
	}
	if (!a) {
		err_oom(&err);
		ttrpc_fail(req, &err);
		return;
	}
	a->wanted = WANT_RESOURCES;
	a->vcpus = m->vcpus;
	a->memory = m->memory;
	begin(a, service_ctx, req);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real VMMs with the real guest: devices, size, pause, adoption, death. Needs root, qemu-system-x86_64, a
 * virtiofsd, vhost-device-vsock (or /dev/vhost-vsock) and the guest's kernel and image: CRV_TEST_KERNEL and
 * CRV_TEST_IMAGE, else guest/vmlinux and guest/guest.img of the build. Without kernel or image the tests are
 * skipped, by name; and so are those with Cloud Hypervisor where it is not installed or KVM does not
 * virtualize. CRV_TEST_DRIVER chooses one driver.
 */
#include "base/util.h"
#include "vmm/driver_internal.h"
#include "vmm/cgroup.h"
#include "vmm/network.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <cmocka.h>

#define TO_TEXT_(x) #x
#define TO_TEXT(x)  TO_TEXT_(x)
#define AGENT_PORT  1024
#define VM_UID	    1987654321
#define LONG	    (now_monotonic_ns() + 60 * NS_PER_SEC)

static char dir[32];
static char run_dir[64], shared[64], ns[64], cgroup_top[64], cgroup[80], kernel[256], image[256];
static struct vmm_config config;
static struct vmm_choice choice;
static struct vm_spec spec;
static const char *driver = "qemu";
static bool missing;

static void find_file(const char *env, const char *name, char *out, size_t size)
{
	const char *v = getenv(env);

	if (v)
		snprintf(out, size, "%s", v);
	else
		snprintf(out, size, CRV_BUILD_DIR "/guest/%s", name);
	if (!v && access(out, R_OK) < 0)
		snprintf(out, size, CRV_SOURCE_DIR "/build/guest/%s", name);
	if (access(out, R_OK) < 0) {
		fprintf(stderr, "skipping: no guest file %s\n", out);
		missing = true;
	}
}

static void find_guest(void)
{
	find_file("CRV_TEST_KERNEL", "vmlinux", kernel, sizeof(kernel));
	find_file("CRV_TEST_IMAGE", "guest.img", image, sizeof(image));
}

static int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/crvtest-vm-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(run_dir, sizeof(run_dir), "%s/run", dir);
	snprintf(shared, sizeof(shared), "%s/shared", dir);
	snprintf(ns, sizeof(ns), "%s/ns", dir);
	snprintf(cgroup_top, sizeof(cgroup_top), "/crvtest-vm-%d", (int)getpid());
	snprintf(cgroup, sizeof(cgroup), "%s/vm", cgroup_top);
	find_guest();
	config = (struct vmm_config){.driver = (char *)(uintptr_t)driver,
				     .vcpus = 1,
				     .memory_bytes = 256 << 20,
				     .kernel_path = kernel,
				     .image_path = image,
				     .virtiofsd_thread_pool_size = 1};
	spec = (struct vm_spec){.id = "test",
				.run_dir = run_dir,
				.uid = VM_UID,
				.shared_dir = shared,
				.netns_path = ns,
				.tap = "tap0",
				.mtu = 1500,
				.vcpus_max = 2,
				.memory_max_bytes = 768 << 20,
				.cgroup = cgroup};
	return mkdir(shared, 0755);
}

static int teardown(void **state)
{
	(void)state;
	vmm_netns_destroy(ns, NULL);
	vmm_cgroup_destroy(cgroup, 0, NULL);
	vmm_cgroup_destroy(cgroup_top, 0, NULL);
	return remove_tree(dir);
}

static void check(int r, const struct err *err, const char *what)
{
	if (r < 0)
		fail_msg("%s: %s", what, err->msg);
}

static struct vm *boot(void)
{
	struct vmm_resources res = {.memory_limit_bytes = 1 << 30, .pids_max = 500};
	struct err err = ERR_INIT;
	struct vm *vm = NULL;
	int fd;

	if (missing)
		skip();
	check(remove_tree(run_dir), &err, "run dir");
	assert_int_equal(mkdir(run_dir, 0700), 0);
	vmm_netns_destroy(ns, NULL);
	check(vmm_netns_create(ns, &err), &err, "netns");
	check(vmm_tap_create(ns, "tap0", 1500, spec.uid, &err), &err, "tap");
	check(vmm_cgroup_create(cgroup, &res, &err), &err, "cgroup");
	check(vmm_choose(&config, NULL, &choice, &err), &err, "choose");
	check(vm_start(&config, &choice, &spec, LONG, &vm, &err), &err, "start");
	fd = vm_connect(vm, AGENT_PORT, LONG, &err);
	check(fd, &err, "connect");
	close_fd(fd);
	return vm;
}

static void end(struct vm *vm)
{
	struct err err = ERR_INIT;

	check(vm_stop(vm, LONG, &err), &err, "stop");
	check(vm_stop(vm, LONG, &err), &err, "stop again");
	vm_free(vm);
	check(vmm_cgroup_destroy(cgroup, LONG, &err), &err, "cgroup");
}

static void make_file(const char *name, off_t size, char out[96])
{
	int fd;

	/* Where the VMM, which is not root, finds and may open it. */
	snprintf(out, 96, "%s/%s", run_dir, name);
	fd = open(out, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	assert_int_equal(fchown(fd, VM_UID, VM_UID), 0);
	close_fd(fd);
}

/* Takes events until one of the wanted type comes. */
static struct vm_event expect_event(struct vm *vm, enum vm_event_type type)
{
	int64_t until = now_monotonic_ns() + 20 * NS_PER_SEC;
	struct vm_event e = {0};

	while (now_monotonic_ns() < until) {
		struct pollfd p = {.fd = vm_fd(vm), .events = POLLIN};

		poll(&p, 1, 1000);
		while (vm_dispatch(vm, &e) > 0) {
			if (e.type == type)
				return e;
		}
	}
	fail_msg("event %d has not come", (int)type);
	return e;
}

static bool among(pid_t pid, const pid_t *pids, int n)
{
	for (int i = 0; i < n; i++) {
		if (pids[i] == pid)
			return true;
	}
	return false;
}

/* All of it sits in the pod's cgroup and netns. */
static void processes_are_in_their_place(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = boot();
	struct stat want, have;
	struct vm_info info;
	struct vmm_cgroup_stats stats;
	pid_t pids[64];
	char path[64];
	int n;

	(void)state;
	check(vm_info(vm, &info, &err), &err, "info");
	n = vmm_cgroup_pids(cgroup, pids, 64);
	assert_true(among(info.vmm_pid, pids, n));
	assert_true(among(info.virtiofsd_pid, pids, n));
	assert_true(info.vsock_pid == 0 || among(info.vsock_pid, pids, n));
	assert_int_equal(stat(ns, &want), 0);
	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)info.vmm_pid);
	assert_int_equal(stat(path, &have), 0);
	assert_int_equal(have.st_ino, want.st_ino);
	check(vmm_cgroup_stats(cgroup, &stats, &err), &err, "stats");
	assert_true(stats.cpu_usage_ns > 0 && stats.memory_usage_bytes > 0);
	/* Killing the cgroup ends everything, as after a crash between journal and start. */
	check(vmm_cgroup_destroy(cgroup, LONG, &err), &err, "cgroup");
	assert_int_equal(vm_connect(vm, AGENT_PORT, LONG, &err), -ENOTCONN);
	end(vm);
}

/* ---- confinement --------------------------------------------------------------------------------------- */

/* The value of a line "Key:\tvalue" of /proc/<pid>/status. */
static void status_value(pid_t pid, const char *key, char out[64])
{
	char *text CLEANUP_FREE = NULL;
	char path[64], *line;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	assert_int_equal(read_file(path, 1 << 16, &text, NULL), 0);
	line = strstr(text, key);
	assert_non_null(line);
	line += strlen(key) + 2;
	snprintf(out, 64, "%.*s", (int)strcspn(line, "\t\n"), line);
}

static void caps_words(pid_t pid, const char *key, char out[256])
{
	static const char *const names[] = {
		[CAP_CHOWN] = "chown",	   [CAP_DAC_OVERRIDE] = "dac_override",
		[CAP_FOWNER] = "fowner",   [CAP_FSETID] = "fsetid",
		[CAP_SETGID] = "setgid",   [CAP_SETUID] = "setuid",
		[CAP_SETPCAP] = "setpcap", [CAP_SYS_ADMIN] = "sys_admin",
		[CAP_MKNOD] = "mknod",	   [CAP_SETFCAP] = "setfcap",
	};
	char value[64];
	uint64_t mask;

	status_value(pid, key, value);
	mask = strtoull(value, NULL, 16);
	snprintf(out, 256, "%s", mask ? "" : "none");
	for (unsigned cap = 0; cap < 64; cap++) {
		size_t len = strlen(out);

		if (!(mask >> cap & 1))
			continue;
		if (cap < ARRAY_SIZE(names) && names[cap])
			snprintf(out + len, 256 - len, "%s%s", len ? ", " : "", names[cap]);
		else
			snprintf(out + len, 256 - len, "%scapability %u", len ? ", " : "", cap);
	}
}

/* The namespaces of a process that are not the test's own. */
static void namespaces_words(pid_t pid, char out[64])
{
	static const char *const kinds[] = {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"};

	out[0] = 0;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		char path[64], theirs[64] = "", ours[64] = "";
		size_t len = strlen(out);

		snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, kinds[i]);
		assert_true(readlink(path, theirs, sizeof(theirs) - 1) > 0);
		snprintf(path, sizeof(path), "/proc/self/ns/%s", kinds[i]);
		assert_true(readlink(path, ours, sizeof(ours) - 1) > 0);
		if (!str_eq(theirs, ours))
			snprintf(out + len, 64 - len, "%s%s", len ? ", " : "", kinds[i]);
	}
}

/* Whether each thread of the process has a seccomp filter. */
static const char *seccomp_words(pid_t pid)
{
	char path[64];
	struct dirent *de;
	unsigned int with = 0, without = 0;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	assert_non_null(tasks);
	while ((de = readdir(tasks))) {
		char value[64];

		if (de->d_name[0] == '.')
			continue;
		status_value((pid_t)atoi(de->d_name), "Seccomp", value);
		*(str_eq(value, "2") ? &with : &without) += 1;
	}
	closedir(tasks);
	if (without == 0)
		return "yes";
	return with == 0 ? "no" : without == 1 ? "all threads but one" : "some threads";
}

/* The soft and the hard limit of a line of /proc/<pid>/limits. */
static void assert_limit(pid_t pid, const char *name, const char *want)
{
	char path[64], soft[32], hard[32];
	char *text CLEANUP_FREE = NULL;
	const char *line;

	snprintf(path, sizeof(path), "/proc/%d/limits", (int)pid);
	assert_int_equal(read_file(path, 1 << 16, &text, NULL), 0);
	line = strstr(text, name);
	assert_non_null(line);
	assert_int_equal(sscanf(line + strlen(name), " %31s %31s", soft, hard), 2);
	assert_string_equal(soft, want);
	assert_string_equal(hard, want);
}

/* What the process's root holds of the host. */
static const char *root_words(pid_t pid)
{
	/* None of them lies above a program: one in /root/.cache makes a directory /root in its own root. */
	static const char *const secrets[] = {"proc", "boot", "srv", "dev/tty", "etc/shadow", "etc/passwd"};
	char path[PATH_MAX];
	struct stat st;
	size_t seen = 0;

	for (size_t i = 0; i < ARRAY_SIZE(secrets); i++) {
		snprintf(path, sizeof(path), "/proc/%d/root/%s", (int)pid, secrets[i]);
		seen += lstat(path, &st) == 0;
	}
	snprintf(path, sizeof(path), "/proc/%d/root%s", (int)pid, run_dir);
	if (lstat(path, &st) < 0)
		return seen ? "unknown" : "the share";
	snprintf(path, sizeof(path), "/proc/%d/root%s", (int)pid, shared);
	if (seen == ARRAY_SIZE(secrets) && lstat(path, &st) == 0)
		return "the host's";
	return seen == 0 && lstat(path, &st) < 0 ? "own" : "unknown";
}

/* The process's row, as /proc has it, is one of the table's. */
static void assert_row(const char *readme, const char *process, pid_t pid)
{
	char uid[64], gid[64], groups[64], nnp[64], has[256], bound[256], ns_words[64];
	char *row CLEANUP_FREE = NULL;

	status_value(pid, "Uid", uid);
	status_value(pid, "Gid", gid);
	status_value(pid, "Groups", groups);
	assert_string_equal(uid, gid);
	if (str_eq(uid, TO_TEXT(VM_UID))) {
		assert_int_equal(strspn(groups, " "), strlen(groups));
		assert_limit(pid, "Max processes", "4096");
		assert_limit(pid, "Max pending signals", "4096");
		assert_limit(pid, "Max msgqueue size", "0");
		snprintf(uid, sizeof(uid), "own");
	}
	status_value(pid, "NoNewPrivs", nnp);
	caps_words(pid, "CapInh", has);
	assert_string_equal(has, "none");
	caps_words(pid, "CapAmb", has);
	assert_string_equal(has, "none");
	caps_words(pid, "CapEff", bound);
	caps_words(pid, "CapPrm", has);
	assert_string_equal(has, bound);
	assert_limit(pid, "Max core file size", "0");
	caps_words(pid, "CapBnd", bound);
	namespaces_words(pid, ns_words);
	row = xasprintf("| %s | %s | %s | %s | %s | %s | %s | %s |\n", process, uid,
			str_eq(nnp, "1") ? "yes" : "no", has, bound, seccomp_words(pid), ns_words,
			root_words(pid));
	assert_non_null(row);
	if (!strstr(readme, row))
		fail_msg("vmm/README.md does not have the row: %s", row);
}

static pid_t only_child(pid_t pid)
{
	char *text CLEANUP_FREE = NULL;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
	assert_int_equal(read_file(path, 4096, &text, NULL), 0);
	return (pid_t)strtol(text, NULL, 10);
}

/* The first process of the program's PID namespace, which is one more process of the VM's user. */
static pid_t init_of(pid_t program)
{
	char path[64], ns_of_program[64] = "", ns_of_other[64];
	const struct dirent *de;
	pid_t init = 0;
	DIR *proc = opendir("/proc");

	assert_non_null(proc);
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)program);
	assert_true(readlink(path, ns_of_program, sizeof(ns_of_program) - 1) > 0);
	while ((de = readdir(proc))) {
		pid_t pid = (pid_t)atoi(de->d_name);

		memset(ns_of_other, 0, sizeof(ns_of_other));
		snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)pid);
		if (pid <= 0 || pid == program || readlink(path, ns_of_other, sizeof(ns_of_other) - 1) <= 0 ||
		    !str_eq(ns_of_other, ns_of_program))
			continue;
		assert_int_equal(init, 0);
		init = pid;
	}
	closedir(proc);
	assert_true(init > 0);
	return init;
}

/*
 * Fault I: the table of processes and their confinement in vmm/README.md is what /proc shows of a running VM.
 */
static void processes_are_confined_as_the_table_says(void **state)
{
	char *readme CLEANUP_FREE = NULL;
	struct err err = ERR_INIT;
	struct vm *vm = boot();
	struct vm_info info;
	pid_t serving;

	(void)state;
	assert_int_equal(read_file(CRV_SOURCE_DIR "/vmm/README.md", 1 << 20, &readme, NULL), 0);
	check(vm_info(vm, &info, &err), &err, "info");
	assert_row(readme, driver, info.vmm_pid);
	assert_row(readme, "init of each of these", init_of(info.vmm_pid));
	if (info.vsock_pid) {
		assert_row(readme, "vhost-device-vsock", info.vsock_pid);
		assert_row(readme, "init of each of these", init_of(info.vsock_pid));
	}
	assert_row(readme, "virtiofsd", info.virtiofsd_pid);
	serving = only_child(info.virtiofsd_pid);
	assert_true(serving > 0);
	assert_row(readme, "virtiofsd, serving", serving);
	end(vm);
}

static void second_share_is_plugged(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = boot();
	char sock[96], helper[512], program[512], pci[VM_PCI_ADDRESS_MAX];
	char **argv CLEANUP_STRV = NULL;
	struct vm_device d = {.type = VM_DEVICE_FS, .id = "second", .path = sock, .tag = "second"};
	struct child_spec cs = {.helper = helper, .n_fds = 1, .caps = VIRTIOFSD_CAPS};
	struct child c;
	bool legacy;
	int fd;

	(void)state;
	snprintf(sock, sizeof(sock), "%s/second.sock", run_dir);
	check(find_spawn_helper(&config, helper, sizeof(helper), &err), &err, "helper");
	check(virtiofsd_find(&config, program, sizeof(program), &legacy, &err), &err, "virtiofsd");
	check(virtiofsd_command(&config, program, legacy, shared, CHILD_FD_BASE, &argv, &err), &err,
	      "virtiofsd");
	fd = sock_listen(sock, &err);
	check(fd, &err, "listen");
	assert_int_equal(lchown(sock, VM_UID, VM_UID), 0);
	cs.argv = argv;
	cs.fds = &fd;
	check(child_spawn(&c, &cs, &err), &err, "spawn");
	check(child_confirm(&c, LONG, &err), &err, "spawn");
	close_fd(fd);
	check(vm_attach(vm, &d, pci, LONG, &err), &err, "fs");
	check(vm_detach(vm, "second", LONG, &err), &err, "detach fs");
	child_kill_family(&c);
	child_wait(&c, LONG);
	child_done(&c);
	end(vm);
}

static void devices_are_plugged_found_again_and_removed(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = boot();
	char file[96], disk_pci[VM_PCI_ADDRESS_MAX], pci[VM_PCI_ADDRESS_MAX];
	struct vm_device d = {.type = VM_DEVICE_DISK, .id = "vol.1", .path = file};
	struct vm_info info;
	char *json;

	(void)state;
	make_file("disk", 16 << 20, file);
	check(vm_attach(vm, &d, disk_pci, LONG, &err), &err, "disk");
	assert_int_equal(strlen(disk_pci), strlen("0000:00:00.0"));
	assert_int_equal(vm_attach(vm, &d, pci, LONG, &err), -EEXIST);
	d = (struct vm_device){.type = VM_DEVICE_DISK, .id = "none", .path = "/nonexistent"};
	assert_true(vm_attach(vm, &d, pci, LONG, &err) < 0);
	assert_non_null(strstr(err.msg, "No such file"));
	check(vmm_tap_create(ns, "tap1", 1500, spec.uid, &err), &err, "tap1");
	d = (struct vm_device){
		.type = VM_DEVICE_NET, .id = "nic-1", .path = "tap1", .mac = {2, 1, 2, 3, 4, 5}, .mtu = 1500};
	check(vm_attach(vm, &d, pci, LONG, &err), &err, "net");
	assert_string_not_equal(pci, disk_pci);
	make_file("pmem", 4 << 20, file);
	d = (struct vm_device){.type = VM_DEVICE_PMEM, .id = "p", .path = file, .read_only = true};
	check(vm_attach(vm, &d, pci, LONG, &err), &err, "pmem");
	/* As after a restart of the server: everything is found again in QEMU. */
	json = vm_save(vm);
	vm_free(vm);
	check(vm_recover(json, &vm, &err), &err, "recover");
	free(json);
	check(vm_info(vm, &info, &err), &err, "info");
	assert_int_equal(strcasecmp(info.state, "running"), 0);
	check(vm_detach(vm, "vol.1", LONG, &err), &err, "detach disk");
	check(vm_detach(vm, "nic-1", LONG, &err), &err, "detach net");
	assert_int_equal(vm_detach(vm, "nic-1", LONG, &err), -ENOENT);
	/* The port is free again, and its backend gone. */
	make_file("disk", 16 << 20, file);
	d = (struct vm_device){.type = VM_DEVICE_DISK, .id = "vol.1", .path = file, .read_only = true};
	check(vm_attach(vm, &d, pci, LONG, &err), &err, "disk again");
	assert_string_equal(pci, disk_pci);
	end(vm);
}

static void size_changes_both_ways(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = boot();
	struct vm_info info;

	(void)state;
	check(vm_resize(vm, 0, 512 << 20, LONG, &err), &err, "grow");
	if (str_eq(choice.accel, "tcg"))
		assert_int_equal(vm_resize(vm, 2, 0, LONG, &err), -EINVAL);
	else
		check(vm_resize(vm, 2, 0, LONG, &err), &err, "more vCPUs");
	check(vm_info(vm, &info, &err), &err, "info");
	assert_int_equal(info.vcpus, str_eq(choice.accel, "tcg") ? 1 : 2);
	assert_int_equal(info.memory_bytes, 512 << 20);
	assert_int_equal(vm_resize(vm, 3, 0, LONG, &err), -EINVAL);
	assert_int_equal(vm_resize(vm, 0, 128 << 20, LONG, &err), -EINVAL);
	check(vm_resize(vm, 0, 256 << 20, LONG, &err), &err, "shrink memory");
	end(vm);
}

static void pause_and_resume(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = boot();
	struct vm_info info;
	int fd;

	(void)state;
	check(vm_pause(vm, LONG, &err), &err, "pause");
	check(vm_info(vm, &info, &err), &err, "info");
	assert_int_equal(strcasecmp(info.state, "paused"), 0);
	check(vm_resume(vm, LONG, &err), &err, "resume");
	if (str_eq(driver, "qemu")) {
		/*
		 * Not dialled: vhost-device-vsock stops serving after a pause in about one run of four
		 * (known, not fixed; no CRI call pauses).
		 */
		assert_int_equal(vm_snapshot(vm, dir, LONG, &err), -EOPNOTSUPP);
	} else {
		fd = vm_connect(vm, AGENT_PORT, LONG, &err);
		check(fd, &err, "connect");
		close_fd(fd);
	}
	end(vm);
}

/* Only Cloud Hypervisor can restore. */
static void snapshot_comes_back(void **state)
{
	struct err err = ERR_INIT;
	struct vm_info info;
	struct vm *vm = NULL;
	char snap[80], kept[64];
	int fd;

	(void)state;
	if (missing)
		skip();
	if (str_eq(driver, "qemu")) {
		check(vmm_choose(&config, NULL, &choice, &err), &err, "choose");
		assert_int_equal(vm_restore(&config, &choice, &spec, dir, LONG, &vm, &err), -EOPNOTSUPP);
		return;
	}
	vm = boot();
	snprintf(snap, sizeof(snap), "%s/snap", run_dir);
	assert_int_equal(mkdir(snap, 0700), 0);
	check(vm_pause(vm, LONG, &err), &err, "pause");
	check(vm_snapshot(vm, snap, LONG, &err), &err, "snapshot");
	end(vm);
	snprintf(kept, sizeof(kept), "%s/snap", dir);
	assert_int_equal(rename(snap, kept), 0);
	check(remove_tree(run_dir), &err, "run dir");
	assert_int_equal(mkdir(run_dir, 0700), 0);
	check(vmm_cgroup_create(cgroup, &(struct vmm_resources){0}, &err), &err, "cgroup");
	check(vm_restore(&config, &choice, &spec, kept, LONG, &vm, &err), &err, "restore");
	check(vm_info(vm, &info, &err), &err, "info");
	assert_string_equal(info.state, "Paused");
	check(vm_resume(vm, LONG, &err), &err, "resume");
	fd = vm_connect(vm, AGENT_PORT, LONG, &err);
	check(fd, &err, "connect");
	close_fd(fd);
	end(vm);
}

static void killed_vmm_is_reported_with_its_status(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = boot();
	struct vm_event e;
	struct vm_info info;

	(void)state;
	check(vm_info(vm, &info, &err), &err, "info");
	kill(info.vmm_pid, SIGKILL);
	e = expect_event(vm, VM_EVENT_VMM_EXITED);
	assert_int_equal(e.status, 128 + SIGKILL);
	assert_int_equal(vm_connect(vm, AGENT_PORT, LONG, &err), -ENOTCONN);
	assert_true(vm_info(vm, &info, &err) < 0);
	end(vm);
}

static void killed_virtiofsd_is_reported(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = boot();
	struct vm_event e;
	struct vm_info info;

	(void)state;
	check(vm_info(vm, &info, &err), &err, "info");
	kill(info.virtiofsd_pid, SIGKILL);
	e = expect_event(vm, VM_EVENT_HELPER_EXITED);
	assert_int_equal(e.status, 128 + SIGKILL);
	assert_string_equal(e.what, "virtiofsd");
	end(vm);
}

static void panicking_guest_is_reported(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = NULL;
	struct vm_event e;

	(void)state;
	if (missing)
		skip();
	config.kernel_params = (char *)(uintptr_t) "init=/nonexistent";
	spec.tap = NULL;
	check(remove_tree(run_dir), &err, "run dir");
	assert_int_equal(mkdir(run_dir, 0700), 0);
	check(vmm_choose(&config, NULL, &choice, &err), &err, "choose");
	check(vmm_cgroup_create(cgroup, &(struct vmm_resources){0}, &err), &err, "cgroup");
	check(vm_start(&config, &choice, &spec, LONG, &vm, &err), &err, "start");
	/* The connect ends with the guest, not with its deadline. */
	assert_int_equal(vm_connect(vm, AGENT_PORT, LONG, &err), -ENOTCONN);
	assert_non_null(strstr(err.msg, "Kernel panic"));
	e = expect_event(vm, VM_EVENT_GUEST_PANIC);
	assert_non_null(strstr(e.detail, "Kernel panic"));
	if (str_eq(driver, "qemu"))
		expect_event(vm, VM_EVENT_VMM_EXITED);
	config.kernel_params = NULL;
	spec.tap = "tap0";
	end(vm);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(processes_are_in_their_place),
		cmocka_unit_test(processes_are_confined_as_the_table_says),
		cmocka_unit_test(second_share_is_plugged),
		cmocka_unit_test(devices_are_plugged_found_again_and_removed),
		cmocka_unit_test(size_changes_both_ways),
		cmocka_unit_test(pause_and_resume),
		cmocka_unit_test(snapshot_comes_back),
		cmocka_unit_test(killed_vmm_is_reported_with_its_status),
		cmocka_unit_test(killed_virtiofsd_is_reported),
		cmocka_unit_test(panicking_guest_is_reported),
	};

	const char *only = getenv("CRV_TEST_DRIVER");
	struct err err = ERR_INIT;
	int failed = 0;

	if (argc > 1)
		cmocka_set_test_filter(argv[1]); /* a pattern */
	if (!only || str_eq(only, "qemu"))
		failed += cmocka_run_group_tests_name("vmm_guest, qemu", tests, setup, teardown);
	missing = false;
	find_guest();
	config = (struct vmm_config){
		.driver = (char *)(uintptr_t) "cloud-hypervisor", .kernel_path = kernel, .image_path = image};
	if ((only && !str_eq(only, "cloud-hypervisor")) || vmm_choose(&config, NULL, &choice, &err) < 0) {
		printf("skipped: vmm_guest, cloud-hypervisor: %s\n", err.msg);
		return failed;
	}
	driver = "cloud-hypervisor";
	return failed + cmocka_run_group_tests_name("vmm_guest, cloud-hypervisor", tests, setup, teardown);
}

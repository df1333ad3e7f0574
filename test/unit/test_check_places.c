/* SPDX-License-Identifier: Apache-2.0 */
/* `crivisor check`: networks, cgroups and directories. Needs root, /dev/net/tun, overlay and tmpfs. */
#include "check_fixture.h"
#include "vmm/cgroup.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

/* ---- network ------------------------------------------------------------------------------------------- */

static char *interfaces(void)
{
	char *text = NULL;

	assert_int_equal(read_file("/proc/net/dev", 1 << 16, &text, NULL), 0);
	for (char *p = text; *p; p++) /* names alone, for the counters move */
		if (*p >= '0' && *p <= '9' && p[-1] == ' ')
			*p = ' ';
	return text;
}

static size_t count_lines(const char *text)
{
	size_t n = 0;

	for (; (text = strchr(text, '\n')); text++)
		n++;
	return n;
}

static void taps_are_tried_and_leave_nothing(void **state)
{
	struct fixture *f = *state;
	char *before CLEANUP_FREE = interfaces(), *after CLEANUP_FREE = NULL;

	f->check.privileged = true;
	check_net(&f->check);
	assert_found(f, "tap", CHECK_OK, "/dev/net/tun", NULL);
	assert_found(f, "tap-redirect", CHECK_OK, "act_mirred", NULL);
	after = interfaces();
	assert_int_equal(count_lines(before), count_lines(after));
	forget(f);
	f->check.privileged = false;
	check_net(&f->check);
	assert_found(f, "tap", CHECK_NOTE, "unknown", "root");
	assert_found(f, "tap-redirect", CHECK_NOTE, "unknown", "root");
}

/* The limit is a user namespace's own: that of the machine stays as it is. */
static void namespaces_that_cannot_be_made_are_missing(void **state)
{
	struct fixture *f = *state;
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		if (unshare(CLONE_NEWUSER) < 0 ||
		    write_file("/proc/sys/user/max_net_namespaces", "0", 1, 0) < 0)
			_exit(1);
		f->check.privileged = true;
		check_net(&f->check);
		assert_found(f, "netns", CHECK_MISSING, "network namespace", "user.max_net_namespaces");
		assert_found(f, "tap", CHECK_NOTE, "unknown", "first");
		assert_found(f, "tap-redirect", CHECK_NOTE, "unknown", "first");
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void use_cni(struct fixture *f, const char *plugins)
{
	char *text CLEANUP_FREE =
		xasprintf("{\"cniVersion\": \"1.0.0\", \"name\": \"n\", \"plugins\": [%s]}", plugins);
	char path[128];

	put(f, "net.d/10-n.conflist", text, 0644);
	snprintf(path, sizeof(path), "%s/net.d", f->dir);
	assert_int_equal(str_set(&f->config.cni.conf_dir, path), 0);
	f->config.cni.bin_dirs = strv_free(f->config.cni.bin_dirs);
	assert_int_equal(strv_addf(&f->config.cni.bin_dirs, "%s/cni", f->dir), 0);
	forget(f);
	check_net(&f->check);
}

static void network_that_is_absent_or_wrong_is_missing(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(str_set(&f->config.cni.conf_dir, "/nonexistent/net.d"), 0);
	check_net(&f->check);
	assert_found(f, "pod-network", CHECK_MISSING, "/nonexistent/net.d", "10-crivisor.conflist");
	use_cni(f, "{");
	assert_found(f, "pod-network", CHECK_MISSING, "10-n.conflist: not valid JSON", "correct that file");
	use_cni(f, "");
	assert_found(f, "pod-network", CHECK_MISSING, "\"plugins\" is empty", "correct that file");
}

static void each_plugin_is_looked_for_once(void **state)
{
	struct fixture *f = *state;
	size_t n = 0;

	put(f, "cni/one", "", 0755);
	put(f, "cni/plain", "", 0644);
	use_cni(f, "{\"type\": \"one\", \"ipam\": {\"type\": \"two\"}}, {\"type\": \"one\"}, {\"type\": "
		   "\"plain\"}");
	assert_found(f, "pod-network", CHECK_OK, "\"n\"", NULL);
	assert_found(f, "cni-plugin-one", CHECK_OK, "/cni/one", NULL);
	assert_found(f, "cni-plugin-two", CHECK_MISSING, "\"two\" is not installed", "bin_dirs");
	assert_found(f, "cni-plugin-plain", CHECK_MISSING, "\"plain\" is not installed", "bin_dirs");
	for (size_t i = 0; i < f->check.n; i++)
		n += str_eq(f->check.findings[i].id, "cni-plugin-one");
	assert_int_equal(n, 1);
	assert_null(finding(f, "iptables"));
}

static void plugins_ask_the_host_for_more(void **state)
{
	struct fixture *f = *state;

	only_bin(f);
	put(f, "proc/sys/net/ipv4/ip_forward", "0\n", 0644);
	use_cni(f, "{\"type\": \"bridge\", \"ipMasq\": true}");
	assert_found(f, "iptables", CHECK_MISSING, "not in PATH", "apt install iptables");
	assert_found(f, "host-ports", CHECK_NOTE, "no effect", "portmap");
	assert_found(f, "ip-forward", CHECK_NOTE, "ip_forward is 0", "sysctl");
	program(f, "iptables", "iptables v1.8.9");
	use_cni(f, "{\"type\": \"bridge\", \"isGateway\": true},"
		   "{\"type\": \"portmap\", \"snat\": false, \"capabilities\": {\"portMappings\": true}}");
	assert_found(f, "iptables", CHECK_OK, "bin/iptables", NULL);
	assert_found(f, "host-ports", CHECK_NOTE, "127.0.0.1", "\"snat\": true");
	assert_found(f, "ip-forward", CHECK_OK, "first pod", NULL);
	put(f, "proc/sys/net/ipv4/conf/all/route_localnet", "1\n", 0644);
	put(f, "proc/sys/net/ipv4/ip_forward", "1\n", 0644);
	use_cni(f, "{\"type\": \"other\"}, {\"type\": \"portmap\", \"snat\": false, \"capabilities\": "
		   "{\"portMappings\": true}}");
	assert_found(f, "host-ports", CHECK_OK, "mapped", NULL);
	assert_found(f, "ip-forward", CHECK_OK, "is 1", NULL);
}

/* ---- cgroups ------------------------------------------------------------------------------------------- */

static void cover(struct fixture *f, const char *name, const char *text, const char *path)
{
	assert_int_equal(mount(put(f, name, text, 0644), path, NULL, MS_BIND, NULL), 0);
}

/* What is found with these mounts; the machine's own are not looked at. NULL: no such mount. */
static struct vmm_cgroups look_at(struct fixture *f, const char *v2_dir, const char *v1_controllers)
{
	char *v2_info CLEANUP_FREE = xasprintf("30 23 0:26 / %s rw - cgroup2 cgroup2 rw\n", v2_dir);
	char *v1_info CLEANUP_FREE =
		xasprintf("31 23 0:27 / %s rw - cgroup cgroup rw,%s\n", f->dir, v1_controllers);
	char *v2_line CLEANUP_FREE = xasprintf("cgroup2 %s cgroup2 rw 0 0\n", v2_dir);
	char *v1_line CLEANUP_FREE = xasprintf("cgroup %s cgroup rw,%s 0 0\n", f->dir, v1_controllers);
	char *info CLEANUP_FREE = xasprintf("%s%s", v2_dir ? v2_info : "", v1_controllers ? v1_info : "");
	char *lines CLEANUP_FREE = xasprintf("%s%s", v2_dir ? v2_line : "", v1_controllers ? v1_line : "");
	struct vmm_cgroups found = {0};
	struct err err = ERR_INIT;
	int r;

	cover(f, "mountinfo", info, "/proc/self/mountinfo");
	cover(f, "mounts", lines, "/proc/self/mounts");
	r = vmm_cgroup_look(&found, &err);
	assert_int_equal(umount("/proc/self/mounts"), 0);
	assert_int_equal(umount("/proc/self/mountinfo"), 0);
	if (r < 0)
		fail_msg("%s", err.msg);
	return found;
}

static void cgroup_trees_are_told_apart(void **state)
{
	struct fixture *f = *state;
	char *cg CLEANUP_FREE = xasprintf("%s/cg", f->dir);
	char *bare CLEANUP_FREE = xasprintf("%s/bare", f->dir);
	struct vmm_cgroups found;

	put(f, "cg/cgroup.controllers", "cpuset cpu io memory pids\n", 0644);
	put(f, "cg/cgroup.procs", "1\n", 0644);
	put(f, "cg/cgroup.subtree_control", "", 0644);
	found = look_at(f, cg, NULL);
	assert_string_equal(found.layout, "v2");
	assert_true(found.cpu && found.memory && found.cpuset && found.pids && !found.read_only);
	assert_string_equal(found.crowded, ""); /* the root may hold processes */
	/* Only what is not the root has events: a container's top. */
	put(f, "cg/cgroup.events", "populated 1\n", 0644);
	found = look_at(f, cg, NULL);
	assert_true(str_ends(found.crowded, "/cg"));
	put(f, "cg/cgroup.subtree_control", "cpu memory\n", 0644);
	found = look_at(f, cg, NULL);
	assert_string_equal(found.crowded, "");
	put(f, "cg/cgroup.subtree_control", "cpu\n", 0644);
	put(f, "cg/cgroup.procs", "", 0644);
	found = look_at(f, cg, NULL);
	assert_string_equal(found.crowded, "");
	put(f, "cg/cgroup.controllers", "cpu pids\n", 0644);
	found = look_at(f, cg, NULL);
	assert_true(found.cpu && !found.memory && !found.cpuset && found.pids);

	found = look_at(f, NULL, "cpu,cpuacct");
	assert_string_equal(found.layout, "v1");
	assert_true(found.cpu && !found.memory && !found.cpuset && !found.pids);
	put(f, "bare/cgroup.controllers", "", 0644);
	found = look_at(f, bare, "memory");
	assert_string_equal(found.layout, "hybrid");
	assert_true(found.memory && !found.cpu);
}

/* ---- disk ---------------------------------------------------------------------------------------------- */

static void set_dirs(struct fixture *f, const char *state_dir, const char *run_dir)
{
	forget(f);
	assert_int_equal(str_set(&f->config.server.state_dir, state_dir), 0);
	assert_int_equal(str_set(&f->config.server.run_dir, run_dir), 0);
	check_disk(&f->check);
}

static void file_systems_are_judged(void **state)
{
	struct fixture *f = *state;
	char *mnt CLEANUP_FREE = xasprintf("%s/mnt", f->dir),
		  *below CLEANUP_FREE = xasprintf("%s/not/there/yet", mnt);
	char *overlay CLEANUP_FREE =
		xasprintf("lowerdir=%s/mnt,upperdir=%s/mnt/up,workdir=%s/mnt/work", f->dir, f->dir, f->dir);
	char *dir CLEANUP_FREE = xasprintf("%s/over", f->dir);

	assert_int_equal(mkdir_p(mnt, 0755), 0);
	assert_int_equal(mkdir_p(dir, 0755), 0);
	assert_int_equal(mount("t", mnt, "tmpfs", 0, "size=8m"), 0);
	set_dirs(f, below, below);
	assert_found(f, "state-dir", CHECK_MISSING, "is full: 8 MiB are free", "free some");
	assert_found(f, "run-dir", CHECK_MISSING, "is full: 8 MiB are free", "free some");
	assert_null(finding(f, "disk-space"));
	assert_int_equal(access(below, F_OK), -1);
	assert_int_equal(mount("t", mnt, NULL, MS_REMOUNT, "size=200m"), 0);
	set_dirs(f, below, below);
	assert_found(f, "state-dir", CHECK_NOTE, "tmpfs", "ext4");
	assert_found(f, "run-dir", CHECK_OK, "tmpfs", NULL);
	assert_found(f, "disk-space", CHECK_NOTE, "200 MiB are free", "free some");
	assert_int_equal(mount("t", mnt, NULL, MS_REMOUNT, "size=4g,nr_inodes=1000"), 0);
	set_dirs(f, below, below);
	assert_found(f, "disk-space", CHECK_NOTE, "inodes", "more inodes");
	assert_int_equal(mount("t", mnt, NULL, MS_REMOUNT, "size=4g,nr_inodes=100"), 0);
	set_dirs(f, below, below);
	assert_found(f, "state-dir", CHECK_MISSING, "no inodes left", "free some");
	assert_int_equal(mount("t", mnt, NULL, MS_REMOUNT, "size=4g,nr_inodes=0"), 0);
	set_dirs(f, below, below);
	assert_found(f, "disk-space", CHECK_OK, "4 GiB free", NULL);
	put(f, "mnt/up/x", "", 0644);
	put(f, "mnt/work/x", "", 0644);
	assert_int_equal(remove(put(f, "mnt/work/x", "", 0644)), 0);
	assert_int_equal(mount("o", dir, "overlay", 0, overlay), 0);
	set_dirs(f, dir, dir);
	assert_found(f, "state-dir", CHECK_MISSING, "is on overlay, which cannot hold", "ext4");
	assert_found(f, "run-dir", CHECK_NOTE, "is on overlay, not on tmpfs", "/run");
	assert_int_equal(umount(dir), 0);
	assert_int_equal(mount("t", mnt, NULL, MS_REMOUNT | MS_RDONLY, ""), 0);
	set_dirs(f, below, below);
	assert_found(f, "state-dir", CHECK_MISSING, "read-only", "writable");
	assert_found(f, "run-dir", CHECK_MISSING, "read-only", "writable");
	assert_null(finding(f, "disk-space"));
	assert_int_equal(umount(mnt), 0);
}

static void directories_that_cannot_be_are_missing(void **state)
{
	struct fixture *f = *state;
	char *below CLEANUP_FREE = xasprintf("%s/below", put(f, "file", "", 0644)), longest[128];

	set_dirs(f, below, below);
	assert_found(f, "state-dir", CHECK_MISSING, "is not a directory", "correct [server]");
	assert_found(f, "run-dir", CHECK_MISSING, "is not a directory", "correct [server]");
	/* The last length at which "/pods/<20>/vm/<16>" still fits into 107. */
	memset(longest, 'a', sizeof(longest));
	longest[0] = '/';
	longest[61] = 0;
	set_dirs(f, f->dir, longest);
	assert_int_not_equal(finding(f, "run-dir")->status, CHECK_MISSING);
	longest[61] = 'a';
	longest[62] = 0;
	set_dirs(f, f->dir, longest);
	assert_found(f, "run-dir", CHECK_MISSING, "1 bytes too long", "shorter");
}

static void socket_is_served_or_not(void **state)
{
	struct fixture *f = *state;
	char *path = put(f, "c.sock", "", 0644), long_path[128], want[64];
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd CLEANUP_CLOSE = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(str_set(&f->config.server.socket, path), 0);
	set_dirs(f, f->dir, f->dir);
	assert_found(f, "socket", CHECK_MISSING, "is not a socket", "remove it");
	assert_int_equal(unlink(path), 0);
	set_dirs(f, f->dir, f->dir);
	assert_found(f, "socket", CHECK_NOTE, "no server is running", "systemctl start crivisor");
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	set_dirs(f, f->dir, f->dir);
	assert_found(f, "socket", CHECK_NOTE, "no server is running", "systemctl start crivisor");
	assert_int_equal(listen(fd, 0), 0);
	set_dirs(f, f->dir, f->dir);
	snprintf(want, sizeof(want), "served by process %ld", (long)getpid());
	assert_found(f, "socket", CHECK_OK, want, NULL);
	/* The backlog is full by now. */
	set_dirs(f, f->dir, f->dir);
	assert_found(f, "socket", CHECK_NOTE, "does not accept connections", "restart");
	memset(long_path, 'a', sizeof(long_path));
	long_path[0] = '/';
	long_path[108] = 0;
	assert_int_equal(str_set(&f->config.server.socket, long_path), 0);
	set_dirs(f, f->dir, f->dir);
	assert_found(f, "socket", CHECK_MISSING, "108 bytes long, and 107", "shorter");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(namespaces_that_cannot_be_made_are_missing),
		TEST(taps_are_tried_and_leave_nothing),
		TEST(network_that_is_absent_or_wrong_is_missing),
		TEST(each_plugin_is_looked_for_once),
		TEST(plugins_ask_the_host_for_more),
		TEST(cgroup_trees_are_told_apart),
		TEST(file_systems_are_judged),
		TEST(directories_that_cannot_be_are_missing),
		TEST(socket_is_served_or_not),
	};

	/* Mounts of this test stay in a mount namespace of its own. */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both drivers against scripted stand-ins (test/fake/): every request is checked against the API's table, and
 * every way in which a VMM can misbehave must end in words, in time, and with no process left. Needs python3.
 */
#include "base/cpulist.h"
#include "base/util.h"
#include "vmm/cgroup.h"
#include "vmm/death.h"
#include "vmm/driver_internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

#define FAKE CRV_SOURCE_DIR "/test/fake/"
#define LONG (now_monotonic_ns() + 20 * NS_PER_SEC)

static char dir[] = "/tmp/crvtest-fake-XXXXXX";
static char run_dir[64], shared[64], file[64];
static struct vmm_config config;
static struct vmm_choice choice;
static struct vm_spec spec;

static void write_text(const char *at, const char *name, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", at, name);
	assert_int_equal(write_file(path, text, strlen(text), 0600), 0);
}

static char *read_text(const char *name)
{
	char path[128];
	char *text = NULL;

	snprintf(path, sizeof(path), "%s/%s", run_dir, name);
	assert_int_equal(read_file(path, 1 << 20, &text, NULL), 0);
	return text;
}

/* Processes that still name the test's directory on their command line. */
static int left_over(void)
{
	DIR *d = opendir("/proc");
	struct dirent *de;
	int n = 0;

	while ((de = readdir(d))) {
		char path[300];
		char *line CLEANUP_FREE = NULL;
		size_t len = 0;

		if (de->d_name[0] < '0' || de->d_name[0] > '9' || atoi(de->d_name) == getpid())
			continue;
		snprintf(path, sizeof(path), "/proc/%s/cmdline", de->d_name);
		if (read_file(path, 1 << 20, &line, &len) == 0 && memmem(line, len, dir, strlen(dir)))
			n++;
	}
	closedir(d);
	return n;
}

static int fresh(const char *driver, const char *script)
{
	static char fake_path[] = FAKE "fake_qmp.py", clh_path[] = FAKE "fake_clh.py",
		    helper[] = FAKE "fake_helper.py";
	bool qemu = str_eq(driver, "qemu");

	assert_int_equal(remove_tree(run_dir), 0);
	assert_int_equal(remove_tree(shared), 0);
	assert_int_equal(mkdir(run_dir, 0700), 0);
	assert_int_equal(mkdir(shared, 0700), 0);
	if (script)
		write_text(run_dir, "fake.json", script);
	config = (struct vmm_config){.driver = (char *)(uintptr_t)driver,
				     .path = qemu ? fake_path : clh_path,
				     .vcpus = 1,
				     .memory_bytes = 256 << 20,
				     .kernel_path = file,
				     .image_path = file,
				     .virtiofsd_path = helper,
				     .virtiofsd_thread_pool_size = 4,
				     .vsock_daemon_path = helper};
	choice = (struct vmm_choice){.driver = driver, .accel = "kvm"};
	snprintf(choice.path, sizeof(choice.path), "%s", config.path);
	spec = (struct vm_spec){.id = "test-1",
				.run_dir = run_dir,
				.shared_dir = shared,
				.vcpus_max = 4,
				.memory_max_bytes = 1 << 30};
	return 0;
}

static int setup(void **state)
{
	int fd;

	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(run_dir, sizeof(run_dir), "%s/run", dir);
	snprintf(shared, sizeof(shared), "%s/shared", dir);
	snprintf(file, sizeof(file), "%s/file", dir);
	fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 || ftruncate(fd, 4 << 20) < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
	(void)state;
	return remove_tree(dir);
}

static void check(int r, const struct err *err, const char *what)
{
	if (r < 0)
		fail_msg("%s: %s", what, err->msg);
}

static struct vm *start(const char *driver, const char *script)
{
	struct err err = ERR_INIT;
	struct vm *vm = NULL;

	fresh(driver, script);
	check(vm_start(&config, &choice, &spec, LONG, &vm, &err), &err, "start");
	return vm;
}

static void end(struct vm *vm)
{
	struct err err = ERR_INIT;

	check(vm_stop(vm, LONG, &err), &err, "stop");
	vm_free(vm);
	assert_int_equal(left_over(), 0);
}

static void start_must_fail(const char *driver, const char *script, const char *words)
{
	struct err err = ERR_INIT;
	struct vm *vm = NULL;

	fresh(driver, script);
	assert_true(vm_start(&config, &choice, &spec, LONG, &vm, &err) < 0);
	if (!strstr(err.msg, words))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, words);
	assert_null(vm);
	assert_int_equal(left_over(), 0);
}

static struct vm_event expect_event(struct vm *vm, enum vm_event_type type)
{
	int64_t until = now_monotonic_ns() + 10 * NS_PER_SEC;
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

/* ---- both drivers -------------------------------------------------------------------------------------- */

static const char *const drivers[] = {"cloud-hypervisor", "qemu"};

static void start_binary_that_dies_tells_its_words(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++)
		start_must_fail(drivers[i], "{\"exit\": [3, \"cannot allocate guest memory\"]}",
				"cannot allocate guest memory");
}

static void start_helper_that_dies_tells_its_words(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = NULL;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		fresh(drivers[i], "{\"greeting\": \"\", \"hang\": [\"vmm.ping\"]}");
		write_text(shared, "fake.json", "{\"fs_exit\": [4, \"no such shared directory\"]}");
		assert_true(vm_start(&config, &choice, &spec, now_monotonic_ns() + 2 * NS_PER_SEC, &vm,
				     &err) < 0);
		if (!strstr(err.msg, "no such shared directory"))
			fail_msg("%s", err.msg);
		assert_int_equal(left_over(), 0);
	}
}

static bool is_in(pid_t pid, const pid_t *pids, int n)
{
	for (int i = 0; i < n; i++) {
		if (pids[i] == pid)
			return true;
	}
	return false;
}

static void start_puts_every_process_in_the_cgroup(void **state)
{
	struct vmm_resources none = {0};
	struct vm_info info = {0};
	struct err err = ERR_INIT;
	struct vm *vm = NULL;
	char cgroup[64];
	pid_t pids[16];

	(void)state;
	snprintf(cgroup, sizeof(cgroup), "/crvtest-fake-%d", (int)getpid());
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		int n;

		fresh(drivers[i], NULL);
		check(vmm_cgroup_create(cgroup, &none, &err), &err, "cgroup");
		spec.cgroup = cgroup;
		check(vm_start(&config, &choice, &spec, LONG, &vm, &err), &err, "start");
		check(vm_info(vm, &info, &err), &err, "info");
		n = vmm_cgroup_pids(cgroup, pids, 16);
		assert_true(info.vmm_pid && is_in(info.vmm_pid, pids, n));
		assert_true(info.virtiofsd_pid && is_in(info.virtiofsd_pid, pids, n));
		assert_true(!info.vsock_pid || is_in(info.vsock_pid, pids, n));
		end(vm);
		check(vmm_cgroup_destroy(cgroup, LONG, &err), &err, "cgroup");
	}
}

static void start_missing_things_are_named(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = NULL;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		fresh(drivers[i], NULL);
		snprintf(choice.path, sizeof(choice.path), "/nonexistent/vmm");
		assert_true(vm_start(&config, &choice, &spec, LONG, &vm, &err) < 0);
		assert_non_null(strstr(err.msg, "/nonexistent/vmm"));
		fresh(drivers[i], NULL);
		config.virtiofsd_path = (char *)(uintptr_t) "/nonexistent/virtiofsd";
		assert_true(vm_start(&config, &choice, &spec, LONG, &vm, &err) < 0);
		assert_non_null(strstr(err.msg, "/nonexistent/virtiofsd"));
		fresh(drivers[i], NULL);
		config.kernel_path = (char *)(uintptr_t) "/nonexistent/kernel";
		assert_true(vm_start(&config, &choice, &spec, LONG, &vm, &err) < 0);
		assert_non_null(strstr(err.msg, "/nonexistent/kernel"));
		fresh(drivers[i], NULL);
		spec.netns_path = "/nonexistent/ns";
		assert_true(vm_start(&config, &choice, &spec, LONG, &vm, &err) < 0);
		assert_non_null(strstr(err.msg, "/nonexistent/ns"));
		fresh(drivers[i], NULL);
		spec.cgroup = "/crvtest-nonexistent";
		assert_true(vm_start(&config, &choice, &spec, LONG, &vm, &err) < 0);
		assert_non_null(strstr(err.msg, "/crvtest-nonexistent"));
		assert_int_equal(left_over(), 0);
	}
}

static void start_past_its_deadline_leaves_nothing(void **state)
{
	static const int ms[] = {0, 1, 3, 8, 20, 40};
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		for (size_t k = 0; k < ARRAY_SIZE(ms); k++) {
			struct vm *vm = NULL;

			/* The time may run out at any step. */
			fresh(drivers[i], "{\"hang\": [\"vmm.ping\", \"qmp_capabilities\"]}");
			assert_int_equal(vm_start(&config, &choice, &spec,
						  now_monotonic_ns() + ms[k] * NS_PER_MS, &vm, &err),
					 -ETIMEDOUT);
			assert_null(vm);
			assert_int_equal(left_over(), 0);
		}
	}
}

static void connect_retries_and_keeps_the_stream_whole(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		struct vm *vm = start(drivers[i], "{\"vsock_refuse\": 5}");
		char got[64] = "";
		int fd = vm_connect(vm, 1024, LONG, &err);
		size_t len = 0;

		check(fd, &err, "connect");
		assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
		assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
		while (len < strlen("first bytes of the stream")) {
			struct pollfd p = {.fd = fd, .events = POLLIN};
			ssize_t n;

			assert_int_equal(poll(&p, 1, 5000), 1);
			n = read(fd, got + len, sizeof(got) - 1 - len);
			assert_true(n > 0);
			len += (size_t)n;
		}
		assert_string_equal(got, "first bytes of the stream");
		close_fd(fd);
		end(vm);
		vm = start(drivers[i], "{\"vsock_refuse\": 1000000}");
		assert_int_equal(vm_connect(vm, 1024, now_monotonic_ns() + NS_PER_SEC / 5, &err), -ETIMEDOUT);
		end(vm);
		vm = start(drivers[i], "{\"vsock_answer\": \"NO 7\\n\"}");
		assert_int_equal(vm_connect(vm, 1024, LONG, &err), -EPROTO);
		assert_non_null(strstr(err.msg, "malformed reply from hybrid vsock"));
		end(vm);
	}
}

static void attach_all_kinds_and_detach(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		struct vm *vm = start(drivers[i], NULL);
		struct vm_device d = {.type = VM_DEVICE_DISK, .id = "vol_1", .path = file};
		char pci[VM_PCI_ADDRESS_MAX], first[VM_PCI_ADDRESS_MAX];
		struct vm_info info;
		char *json;

		check(vm_attach(vm, &d, first, LONG, &err), &err, "disk");
		assert_int_equal(strlen(first), 12);
		assert_int_equal(vm_attach(vm, &d, pci, LONG, &err), -EEXIST);
		d = (struct vm_device){.type = VM_DEVICE_PMEM, .id = "p", .path = file, .read_only = true};
		check(vm_attach(vm, &d, pci, LONG, &err), &err, "pmem");
		d = (struct vm_device){
			.type = VM_DEVICE_FS, .id = "f", .path = "/run/x.sock", .tag = "second"};
		check(vm_attach(vm, &d, pci, LONG, &err), &err, "fs");
		d = (struct vm_device){
			.type = VM_DEVICE_VFIO, .id = "v", .path = "/sys/bus/pci/devices/0000:01:00.0"};
		check(vm_attach(vm, &d, pci, LONG, &err), &err, "vfio");
		if (i == 0) { /* QEMU is handed the tap itself: see the test with the real one */
			d = (struct vm_device){.type = VM_DEVICE_NET,
					       .id = "n",
					       .path = "tap1",
					       .mac = {2, 0, 0, 0, 0, 1},
					       .mtu = 1450};
			check(vm_attach(vm, &d, pci, LONG, &err), &err, "net");
		}
		d = (struct vm_device){.type = VM_DEVICE_FS, .id = "bad id!", .path = "x", .tag = "t"};
		assert_int_equal(vm_attach(vm, &d, pci, LONG, &err), -EINVAL);
		json = vm_save(vm);
		vm_free(vm);
		check(vm_recover(json, &vm, &err), &err, "recover");
		free(json);
		check(vm_detach(vm, "vol_1", LONG, &err), &err, "detach disk");
		check(vm_detach(vm, "p", LONG, &err), &err, "detach pmem");
		assert_int_equal(vm_detach(vm, "p", LONG, &err), -ENOENT);
		expect_event(vm, VM_EVENT_DEVICE_REMOVED);
		check(vm_pause(vm, LONG, &err), &err, "pause");
		check(vm_info(vm, &info, &err), &err, "info");
		assert_int_equal(strcasecmp(info.state, "paused"), 0);
		assert_true(info.vmm_pid > 0 && info.virtiofsd_pid > 0);
		check(vm_resume(vm, LONG, &err), &err, "resume");
		end(vm);
	}
}

static void detach_without_the_guest_times_out(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		struct vm *vm = start(drivers[i], "{\"quiet_removal\": true}");
		struct vm_device d = {.type = VM_DEVICE_DISK, .id = "vol", .path = file};
		char pci[VM_PCI_ADDRESS_MAX];

		check(vm_attach(vm, &d, pci, LONG, &err), &err, "disk");
		assert_int_equal(vm_detach(vm, "vol", now_monotonic_ns() + NS_PER_SEC / 5, &err), -ETIMEDOUT);
		assert_non_null(strstr(err.msg, "to release the device"));
		end(vm);
	}
}

static void *stop_soon(void *arg)
{
	usleep(200000);
	vm_stop(arg, LONG, NULL);
	return NULL;
}

static void hanging_vmm_ends_at_the_deadline_or_the_stop(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		struct vm *vm =
			start(drivers[i], "{\"hang\": [\"vm.pause\", \"stop\"], \"vsock_refuse\": 1000000}");
		int64_t t0 = now_monotonic_ns();
		pthread_t t;

		assert_int_equal(vm_pause(vm, t0 + NS_PER_SEC / 5, &err), -ETIMEDOUT);
		assert_true(now_monotonic_ns() - t0 < 2 * NS_PER_SEC);
		t0 = now_monotonic_ns();
		pthread_create(&t, NULL, stop_soon, vm);
		assert_int_equal(vm_pause(vm, LONG, &err), -ECANCELED);
		assert_true(now_monotonic_ns() - t0 < 5 * NS_PER_SEC);
		assert_int_equal(vm_connect(vm, 1024, LONG, &err), -ECANCELED);
		pthread_join(t, NULL);
		end(vm);
	}
}

static void vmm_that_exits_in_a_call_is_reported(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		struct vm *vm =
			start(drivers[i], i ? "{\"exit_after\": [\"stop\", 7, \"assertion failed: x\"]}"
					    : "{\"exit_after\": [\"vm.pause\", 7, \"assertion failed: x\"]}");
		struct vm_event e;
		struct vm_info info;

		vm_pause(vm, LONG, &err);
		e = expect_event(vm, VM_EVENT_VMM_EXITED);
		assert_int_equal(e.status, 7);
		assert_non_null(strstr(e.detail, "assertion failed: x"));
		assert_int_equal(vm_info(vm, &info, &err), -ENOTCONN);
		assert_non_null(strstr(err.msg, "assertion failed: x"));
		end(vm);
	}
}

static void deaths_have_their_true_status(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		struct vm *vm = start(drivers[i], NULL);
		struct vm_info info;
		struct vm_event e;

		check(vm_info(vm, &info, &err), &err, "info");
		kill(info.virtiofsd_pid, SIGTERM);
		e = expect_event(vm, VM_EVENT_HELPER_EXITED);
		assert_int_equal(e.status, 128 + SIGTERM);
		kill(info.vmm_pid, SIGKILL);
		e = expect_event(vm, VM_EVENT_VMM_EXITED);
		assert_int_equal(e.status, 128 + SIGKILL);
		end(vm);
	}
}

static void guest_ends_are_told_apart(void **state)
{
	static const struct {
		const char *driver, *script;
		enum vm_event_type type;
	} cases[] = {
		{"cloud-hypervisor",
		 "{\"events\": [[\"guest\", \"panic\", {\"event\": \"panic\"}], [\"vm\", \"rebooting\", "
		 "null]]}",
		 VM_EVENT_GUEST_PANIC},
		{"cloud-hypervisor", "{\"events\": [[\"vm\", \"rebooting\", null]]}", VM_EVENT_GUEST_RESET},
		{"cloud-hypervisor", "{\"events\": [[\"vm\", \"shutdown\", null]]}", VM_EVENT_GUEST_SHUTDOWN},
		{"qemu",
		 "{\"events\": [[\"GUEST_PANICKED\", {\"action\": \"shutdown\"}], [\"SHUTDOWN\", {\"guest\": "
		 "true, \"reason\": "
		 "\"guest-panic\"}]]}",
		 VM_EVENT_GUEST_PANIC},
		{"qemu", "{\"events\": [[\"SHUTDOWN\", {\"guest\": true, \"reason\": \"guest-reset\"}]]}",
		 VM_EVENT_GUEST_RESET},
		{"qemu", "{\"events\": [[\"SHUTDOWN\", {\"guest\": true, \"reason\": \"guest-shutdown\"}]]}",
		 VM_EVENT_GUEST_SHUTDOWN},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct vm *vm = start(cases[i].driver, cases[i].script);

		expect_event(vm, cases[i].type);
		end(vm);
	}
}

/* The file's blocks in bytes. */
static off_t room_of(const char *name)
{
	char path[128];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", run_dir, name);
	return stat(path, &st) < 0 ? 0 : (off_t)st.st_blocks * 512;
}

/*
 * A guest or program that writes `bytes` to a file while the VM's events are dispatched; the most room it
 * took.
 */
static off_t flood(struct vm *vm, const char *name, off_t bytes)
{
	static char chunk[1 << 18];
	char path[128];
	int fd CLEANUP_CLOSE = -1;
	off_t most = 0;

	snprintf(path, sizeof(path), "%s/%s", run_dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	memset(chunk, 'A', sizeof(chunk));
	memcpy(chunk + sizeof(chunk) - 6, "\nlast\n", 6);
	for (off_t done = 0; done < bytes; done += (off_t)sizeof(chunk)) {
		struct pollfd p = {.fd = vm_fd(vm), .events = POLLIN};
		struct vm_event e;
		off_t now;

		assert_int_equal(write(fd, chunk, sizeof(chunk)), sizeof(chunk));
		poll(&p, 1, 2); /* 128 MiB a second at most */
		while (p.revents && vm_dispatch(vm, &e) > 0)
			;
		now = room_of(name);
		most = now > most ? now : most;
	}
	return most;
}

/*
 * Fault C: what the guest and the VM's programs write takes no more than 32 MiB of the run directory, and its
 * end stays readable.
 */
static void floods_into_files_take_bounded_room(void **state)
{
	static const char *const files[] = {"console.log", "virtiofsd.log", "vmm.log"};
	char tail[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		struct vm *vm = start(drivers[i], NULL);

		for (size_t k = 0; k < ARRAY_SIZE(files); k++) {
			off_t most = flood(vm, files[k], 96 << 20);

			if (most > 32 << 20)
				fail_msg("%s took %lld bytes", files[k], (long long)most);
		}
		vm_console_tail(run_dir, tail, sizeof(tail));
		assert_string_equal(tail, "last");
		end(vm);
	}
}

static off_t put_events(FILE *f, off_t bytes)
{
	off_t n = 0;

	while (n < bytes)
		n += fprintf(f,
			     "{\n  \"source\": \"virtio-device\",\n  \"event\": \"reset\",\n"
			     "  \"properties\": {\"id\": \"%0200d\"}\n}\n\n",
			     0);
	assert_int_equal(fflush(f), 0);
	return n;
}

/* Polls and dispatches until a turn finds nothing; the number of turns. */
static int turns(struct vm *vm, struct vm_event *ret_last)
{
	struct pollfd p = {.fd = vm_fd(vm), .events = POLLIN};
	struct vm_event e;
	int n = 0;

	for (; poll(&p, 1, 200) > 0; n++) {
		while (vm_dispatch(vm, &e) > 0)
			*ret_last = e;
	}
	return n;
}

/*
 * Fault C: the event file is read in turns of a bounded size, taken events are given back, and a server that
 * adopts the VM begins behind them.
 */
static void flood_of_events_is_read_in_turns_and_given_back(void **state)
{
	struct vm *vm = start("cloud-hypervisor", NULL), *again = NULL;
	char *saved CLEANUP_FREE = vm_save(vm);
	struct vm_event last = {0};
	struct err err = ERR_INIT;
	char path[128];
	FILE *f;

	(void)state;
	snprintf(path, sizeof(path), "%s/events.json", run_dir);
	f = fopen(path, "ae");
	assert_non_null(f);
	put_events(f, 16 << 20);
	assert_true(turns(vm, &last) >= (16 << 20) / (128 << 10));
	assert_in_range(room_of("events.json"), 0, 2 << 20);
	vm_free(vm);
	check(vm_recover(saved, &again, &err), &err, "recover");
	put_events(f, 1 << 10);
	fprintf(f, "{\"source\": \"guest\", \"event\": \"panic\"}\n\n");
	assert_int_equal(fclose(f), 0);
	turns(again, &last);
	assert_int_equal(last.type, VM_EVENT_GUEST_PANIC);
	end(again);
}

static void recover_knows_the_user_by_the_run_directory(void **state)
{
	struct vm *vm = start("cloud-hypervisor", NULL), *again = NULL;
	char *saved CLEANUP_FREE = vm_save(vm);
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(vm_uid(vm), 0);
	vm_free(vm);
	assert_int_equal(chown(run_dir, 4242, 4242), 0);
	check(vm_recover(saved, &again, &err), &err, "recover");
	assert_int_equal(vm_uid(again), 4242);
	assert_int_equal(chown(run_dir, 0, 0), 0);
	end(again);
}

static void recover_of_a_dead_vm_kills_what_is_left(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		struct vm *vm = start(drivers[i], NULL);
		struct vm_info info;
		char *json;

		check(vm_info(vm, &info, &err), &err, "info");
		json = vm_save(vm);
		kill(info.virtiofsd_pid, SIGKILL);
		expect_event(vm, VM_EVENT_HELPER_EXITED);
		vm_free(vm);
		vm = NULL;
		assert_int_equal(vm_recover(json, &vm, &err), -ESRCH);
		assert_non_null(strstr(err.msg, "virtiofsd"));
		assert_null(vm);
		assert_int_equal(left_over(), 0);
		free(json);
	}
	assert_int_equal(vm_recover("{", &(struct vm *){NULL}, &err), -EINVAL);
	assert_int_equal(vm_recover("{\"version\": 99}", &(struct vm *){NULL}, &err), -EINVAL);
}

/* As after a restart of the server: the VM is not our child, so its exit status is unknown. */
static void recover_of_somebody_else_s_vm_has_no_status(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		char *json CLEANUP_FREE = NULL;
		struct vm *vm = NULL;
		struct vm_event e;
		struct vm_info info;
		pid_t pid;

		fresh(drivers[i], NULL);
		pid = fork();
		if (pid == 0) {
			char *text = NULL;

			if (vm_start(&config, &choice, &spec, LONG, &vm, NULL) == 0)
				text = vm_save(vm);
			if (text)
				write_text(dir, "saved", text);
			_exit(text ? 0 : 1);
		}
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		json = read_text("../saved");
		check(vm_recover(json, &vm, &err), &err, "recover");
		check(vm_info(vm, &info, &err), &err, "info");
		kill(info.vmm_pid, SIGKILL);
		e = expect_event(vm, VM_EVENT_VMM_EXITED);
		assert_int_equal(e.status, -1);
		assert_non_null(strstr(e.detail, "unknown"));
		end(vm);
	}
}

/* ---- each for itself ----------------------------------------------------------------------------------- */

static void clh_command_line_has_the_described_order(void **state)
{
	static const char *const order[] = {"--api-socket", "--cpus", "--memory", "--kernel",  "--cmdline",
					    "--pmem",	    "--rng",  "--vsock",  "--console", "--fs"};
	struct vm *vm = start("cloud-hypervisor", NULL);
	char *argv = read_text("argv.json"), *at = argv;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
		at = strstr(at, order[i]);
		assert_non_null(at);
	}
	assert_non_null(strstr(argv, "shared=on"));
	assert_non_null(strstr(argv, ",id=rootfs,discard_writes=on"));
	assert_non_null(
		strstr(argv, "console=hvc0 root=/dev/pmem0p1 rootflags=data=ordered,errors=remount-ro,dax ro "
			     "rootfstype=ext4 task.sharefs_type=virtiofs panic=-1"));
	free(argv);
	end(vm);
}

static void clh_errors_carry_the_vmm_s_words(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = start(
		"cloud-hypervisor",
		"{\"replies\": {\"vm.add-disk\": [500, [\"Error from API\", \"The disk could not be added\", "
		"\"Device or resource busy\"]], \"vm.resize\": [429, [\"removal pending\"]], "
		"\"vm.add-pmem\": [200, \"<html>\"], \"vm.add-fs\": [204, null], \"vm.resume\": [500, "
		"null]}}");
	struct vm_device d = {.type = VM_DEVICE_DISK, .id = "vol", .path = file};
	char pci[VM_PCI_ADDRESS_MAX];

	(void)state;
	assert_true(vm_attach(vm, &d, pci, LONG, &err) < 0);
	assert_non_null(strstr(err.msg, "The disk could not be added: Device or resource busy"));
	/* What the guest has not let go of yet is waited for. */
	assert_int_equal(vm_resize(vm, 2, 0, now_monotonic_ns() + 100 * NS_PER_MS, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "removal pending"));
	assert_non_null(strstr(err.msg, "taking it back failed"));
	d.type = VM_DEVICE_PMEM;
	assert_int_equal(vm_attach(vm, &d, pci, LONG, &err), -EPROTO);
	d = (struct vm_device){.type = VM_DEVICE_FS, .id = "f", .path = "/x", .tag = "t"};
	assert_int_equal(vm_attach(vm, &d, pci, LONG, &err), -EPROTO);
	assert_true(vm_resume(vm, LONG, &err) < 0);
	assert_non_null(strstr(err.msg, "500"));
	/* A failed attach leaves no trace in the table. */
	assert_int_equal(vm_detach(vm, "vol", LONG, &err), -ENOENT);
	end(vm);
}

/* The thread of the VMM that runs on one CPU alone, by its affinity: how many of them. */
static unsigned int pinned_to(pid_t pid, size_t cpu)
{
	char path[64];
	const struct dirent *de;
	unsigned int n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	assert_non_null(d);
	while ((de = readdir(d))) {
		cpu_set_t set;

		if (de->d_name[0] != '.' && sched_getaffinity(atoi(de->d_name), sizeof(set), &set) == 0 &&
		    CPU_COUNT(&set) == 1 && CPU_ISSET(cpu, &set))
			n++;
	}
	closedir(d);
	return n;
}

/* fault K1: the VMM's vCPU threads run where they are told, and no other thread of it does. */
static void pin_moves_the_vcpu_threads_alone(const char *driver)
{
	struct err err = ERR_INIT;
	struct vm *vm;
	struct vm_info info;
	cpu_set_t sets[2], online;

	check(cpulist_online(&online), &err, "online");
	vm = start(driver, NULL);
	check(vm_info(vm, &info, &err), &err, "info");
	assert_int_equal(vm_vcpus(vm), 1);
	CPU_ZERO(&sets[0]);
	CPU_SET(0, &sets[0]);
	check(vm_pin(vm, sets, 1, LONG, &err), &err, "pin");
	if (CPU_COUNT(&online) > 1)
		assert_int_equal(pinned_to(info.vmm_pid, 0), 1);
	check(vm_pin(vm, &online, 1, LONG, &err), &err, "unpin");
	if (CPU_COUNT(&online) > 1)
		assert_int_equal(pinned_to(info.vmm_pid, 0), 0);
	/* A CPU that no host of this size has, and a vCPU that is not there. */
	CPU_ZERO(&sets[0]);
	CPU_SET(CPU_SETSIZE - 1, &sets[0]);
	assert_int_equal(vm_pin(vm, sets, 1, LONG, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "vCPU 0"));
	sets[0] = sets[1] = online;
	if (str_eq(driver, "cloud-hypervisor"))
		assert_int_equal(vm_pin(vm, sets, 2, LONG, &err), -ESRCH);
	end(vm);
}

static void qemu_pin_moves_the_vcpu_threads_alone(void **state)
{
	(void)state;
	pin_moves_the_vcpu_threads_alone("qemu");
}

static void clh_pin_moves_the_vcpu_threads_alone(void **state)
{
	(void)state;
	pin_moves_the_vcpu_threads_alone("cloud-hypervisor");
}

static void thread_parse_takes_the_innermost_number(void **state)
{
	char jailed[] = "Name:\tCPU 0/TCG\nState:\tS (sleeping)\nNSpid:\t4711\t7\nThreads:\t3\n";
	char plain[] = "Name:\tvcpu1\nNSpid:\t4712\n", bad[] = "State:\tS\n";
	struct vm_thread t;

	(void)state;
	assert_int_equal(vm_thread_parse(4711, jailed, &t), 0);
	assert_int_equal(t.tid, 4711);
	assert_int_equal(t.inner, 7);
	assert_string_equal(t.name, "CPU 0/TCG");
	assert_int_equal(vm_thread_parse(4712, plain, &t), 0);
	assert_int_equal(t.inner, 4712);
	assert_string_equal(t.name, "vcpu1");
	assert_int_equal(vm_thread_parse(4713, bad, &t), -EBADMSG);
}

static void clh_resize_waits_for_the_memory(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = start("cloud-hypervisor", NULL);
	struct vm_info info;

	(void)state;
	check(vm_resize(vm, 3, 512 << 20, LONG, &err), &err, "resize");
	check(vm_info(vm, &info, &err), &err, "info");
	assert_int_equal(info.vcpus, 3);
	assert_int_equal(info.memory_bytes, 512 << 20);
	assert_int_equal(vm_resize(vm, 9, 0, LONG, &err), -EINVAL);
	end(vm);
}

static void clh_snapshot_restores_into_its_own_place(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = start("cloud-hypervisor", NULL);
	struct vm_info info;
	char snap[96];
	char *argv;

	(void)state;
	snprintf(snap, sizeof(snap), "%s/snap", dir);
	assert_int_equal(mkdir(snap, 0700), 0);
	check(vm_pause(vm, LONG, &err), &err, "pause");
	check(vm_snapshot(vm, snap, LONG, &err), &err, "snapshot");
	end(vm);
	fresh("cloud-hypervisor", NULL);
	check(vm_restore(&config, &choice, &spec, snap, LONG, &vm, &err), &err, "restore");
	check(vm_info(vm, &info, &err), &err, "info");
	assert_string_equal(info.state, "Paused");
	argv = read_text("argv.json");
	assert_non_null(strstr(argv, "--restore"));
	free(argv);
	end(vm);
}

static void qmp_nonsense_is_an_error(void **state)
{
	(void)state;
	start_must_fail("qemu", "{\"greeting\": \"\"}", "QEMU has closed its monitor");
	start_must_fail("qemu", "{\"greeting\": \"hello\"}", "bad JSON");
	start_must_fail("qemu", "{\"greeting\": \"[1]\"}", "not an object");
	start_must_fail("qemu", "{\"greeting\": \"{}\"}", "neither greeting");
	start_must_fail("qemu", "{\"raw\": {\"qmp_capabilities\": \"{\\\"return\\\": [\"}}", "bad JSON");
	start_must_fail("qemu", "{\"errors\": {\"qmp_capabilities\": \"Capability oob is not there\"}}",
			"Capability oob is not there");
}

static void qmp_errors_carry_qemu_s_words_and_clean_up(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm =
		start("qemu", "{\"errors\": {\"device_add\": \"Bus 'rp0' does not support hotplugging\"}}");
	struct vm_device d = {.type = VM_DEVICE_DISK, .id = "vol", .path = file};
	char pci[VM_PCI_ADDRESS_MAX];

	(void)state;
	/* A second attempt would fail with a name in use if the first had left its backend. */
	for (int i = 0; i < 2; i++) {
		assert_true(vm_attach(vm, &d, pci, LONG, &err) < 0);
		assert_non_null(strstr(err.msg, "does not support hotplugging"));
	}
	assert_int_equal(vm_snapshot(vm, dir, LONG, &err), -EOPNOTSUPP);
	end(vm);
}

static void qmp_ports_run_out_with_words(void **state)
{
	struct err err = ERR_INIT;
	struct vm *vm = start("qemu", NULL);
	char pci[VM_PCI_ADDRESS_MAX], id[8];
	struct vm_device d = {.type = VM_DEVICE_DISK, .id = id, .path = file};

	(void)state;
	for (int i = 0; i < 8; i++) {
		snprintf(id, sizeof(id), "d%d", i);
		check(vm_attach(vm, &d, pci, LONG, &err), &err, "attach");
	}
	snprintf(id, sizeof(id), "d8");
	assert_int_equal(vm_attach(vm, &d, pci, LONG, &err), -ENOSPC);
	end(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(start_binary_that_dies_tells_its_words),
		cmocka_unit_test(start_helper_that_dies_tells_its_words),
		cmocka_unit_test(start_puts_every_process_in_the_cgroup),
		cmocka_unit_test(start_missing_things_are_named),
		cmocka_unit_test(start_past_its_deadline_leaves_nothing),
		cmocka_unit_test(connect_retries_and_keeps_the_stream_whole),
		cmocka_unit_test(attach_all_kinds_and_detach),
		cmocka_unit_test(detach_without_the_guest_times_out),
		cmocka_unit_test(hanging_vmm_ends_at_the_deadline_or_the_stop),
		cmocka_unit_test(vmm_that_exits_in_a_call_is_reported),
		cmocka_unit_test(deaths_have_their_true_status),
		cmocka_unit_test(guest_ends_are_told_apart),
		cmocka_unit_test(floods_into_files_take_bounded_room),
		cmocka_unit_test(flood_of_events_is_read_in_turns_and_given_back),
		cmocka_unit_test(recover_knows_the_user_by_the_run_directory),
		cmocka_unit_test(recover_of_a_dead_vm_kills_what_is_left),
		cmocka_unit_test(recover_of_somebody_else_s_vm_has_no_status),
		cmocka_unit_test(clh_command_line_has_the_described_order),
		cmocka_unit_test(clh_errors_carry_the_vmm_s_words),
		cmocka_unit_test(clh_resize_waits_for_the_memory),
		cmocka_unit_test(qemu_pin_moves_the_vcpu_threads_alone),
		cmocka_unit_test(clh_pin_moves_the_vcpu_threads_alone),
		cmocka_unit_test(thread_parse_takes_the_innermost_number),
		cmocka_unit_test(clh_snapshot_restores_into_its_own_place),
		cmocka_unit_test(qmp_nonsense_is_an_error),
		cmocka_unit_test(qmp_errors_carry_qemu_s_words_and_clean_up),
		cmocka_unit_test(qmp_ports_run_out_with_words),
	};

	return cmocka_run_group_tests_name("vmm_fake", tests, setup, teardown);
}

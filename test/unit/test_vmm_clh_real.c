/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The requests of the cloud-hypervisor driver, replayed to the real program where it is on PATH: created, not
 * booted, so that no KVM that virtualizes is needed. The OpenAPI file is not the whole truth; this is.
 * Skipped, by name, where the program or /dev/kvm is missing. Needs root (a tap in a namespace of its own).
 */
#include "base/util.h"
#include "vmm/ch_internal.h"
#include "vmm/wait_internal.h"
#include "vmm/network.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <cmocka.h>

#define LONG (now_monotonic_ns() + 20 * NS_PER_SEC)

static char dir[] = "/tmp/crvtest-clh-XXXXXX";
static char program[512], sock[64], ns[64], file[64], helper[512];
static struct child vmm;

static int setup(void **state)
{
	struct vmm_config config = {0};
	int fd;

	(void)state;
	if (!mkdtemp(dir) || find_spawn_helper(&config, helper, sizeof(helper), NULL) < 0)
		return -1;
	snprintf(sock, sizeof(sock), "%s/api.sock", dir);
	snprintf(ns, sizeof(ns), "%s/ns", dir);
	snprintf(file, sizeof(file), "%s/file", dir);
	fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, 4 << 20) < 0)
		return -1;
	close_fd(fd);
	if (find_program("cloud-hypervisor", program, sizeof(program)) < 0 ||
	    access("/dev/kvm", R_OK | W_OK) < 0) {
		fprintf(stderr, "skipping: cloud-hypervisor is not on PATH, or there is no /dev/kvm\n");
		program[0] = 0;
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vmm_netns_destroy(ns, NULL);
	return remove_tree(dir);
}

static void check(int r, const struct err *err, const char *what)
{
	if (r < 0)
		fail_msg("%s: %s", what, err->msg);
}

static int call(const char *method, const char *endpoint, const char *body, struct json_object **reply,
		struct err *err)
{
	struct ch_request rq = {.socket = sock,
				.method = method,
				.endpoint = endpoint,
				.stop_fd = -1,
				.pid_fd = vmm.pidfd,
				.body = body ? json_tokener_parse(body) : NULL};
	int r = ch_request(&rq, LONG, reply, err);

	json_object_put(rq.body);
	return r;
}

static void launch(void)
{
	char *argv[] = {program, (char *)(uintptr_t) "--api-socket", (char *)(uintptr_t) "fd=4", NULL};
	struct err err = ERR_INIT;
	int fd = sock_listen(sock, &err);
	struct child_spec spec = {.helper = helper, .argv = argv, .netns = ns, .fds = &fd, .n_fds = 1};

	check(fd, &err, "listen");
	check(vmm_netns_create(ns, &err), &err, "netns");
	check(child_spawn(&vmm, &spec, &err), &err, "spawn");
	check(child_confirm(&vmm, LONG, &err), &err, "spawn");
	close_fd(fd);
	check(call("GET", "vmm.ping", NULL, NULL, &err), &err, "vmm.ping");
}

static void devices_are_taken_by_the_real_one(void **state)
{
	static const struct vm_device devices[] = {
		{.type = VM_DEVICE_DISK, .id = "vol.1", .path = file, .read_only = true},
		{.type = VM_DEVICE_DISK, .id = "vol_2", .path = file, .read_only = true},
		{.type = VM_DEVICE_PMEM, .id = "p", .path = file, .read_only = true},
		{.type = VM_DEVICE_NET,
		 .id = "nic-1",
		 .path = "tap1",
		 .mac = {2, 0, 0, 0, 0, 1},
		 .mtu = 1450},
		{.type = VM_DEVICE_FS, .id = "f", .path = "/tmp/crvtest-clh.sock", .tag = "second"},
	};
	struct err err = ERR_INIT;
	char body[1024];

	(void)state;
	if (!program[0])
		skip();
	launch();
	check(vmm_tap_create(ns, "tap1", 1450, 0, &err), &err, "tap");
	snprintf(body, sizeof(body),
		 "{\"payload\": {\"kernel\": \"%s\", \"cmdline\": \"x\"}, \"cpus\": {\"boot_vcpus\": 1, "
		 "\"max_vcpus\": 2}, "
		 "\"memory\": {\"size\": 268435456, \"shared\": true}}",
		 file);
	check(call("PUT", "vm.create", body, NULL, &err), &err, "vm.create");
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
		struct json_object *rq_body = NULL;
		const char *endpoint = NULL;

		check(ch_device_request(&devices[i], &endpoint, &rq_body, &err), &err, "request");
		check(call("PUT", endpoint, json_object_to_json_string(rq_body), NULL, &err), &err, endpoint);
		json_object_put(rq_body);
	}
	check(call("PUT", "vm.remove-device", "{\"id\": \"hot-disk-vol_2\"}", NULL, &err), &err,
	      "vm.remove-device");
	/* The VMM's words reach the error: the id is in use. */
	snprintf(body, sizeof(body), "{\"id\": \"hot-pmem-p\", \"file\": \"%s\"}", file);
	if (call("PUT", "vm.add-pmem", body, NULL, &err) == 0 || !strstr(err.msg, "hot-pmem-p"))
		fail_msg("a second device of one id: %s", err.msg);
	assert_int_equal(call("PUT", "vm.no-such-thing", "{}", NULL, &err), -ENOENT);
	assert_true(call("PUT", "vm.pause", NULL, NULL, &err) < 0);
	child_kill_family(&vmm);
	assert_int_equal(child_wait(&vmm, LONG), 0);
	child_done(&vmm);
}

static void command_line_is_taken_by_the_real_one(void **state)
{
	struct vmm_config config = {.driver = (char *)(uintptr_t) "cloud-hypervisor",
				    .vcpus = 1,
				    .memory_bytes = 256 << 20,
				    .kernel_path = file,
				    .image_path = file,
				    .debug = true};
	struct vmm_choice choice = {.driver = "cloud-hypervisor", .accel = "kvm"};
	struct vm_spec spec = {
		.id = "test", .netns_path = ns, .tap = "tap2", .vcpus_max = 2, .memory_max_bytes = 512 << 20};
	struct err err = ERR_INIT;
	char run_dir[96], shared[96];
	struct vm *vm = NULL;

	(void)state;
	if (!program[0])
		skip();
	snprintf(run_dir, sizeof(run_dir), "%s/run", dir);
	snprintf(shared, sizeof(shared), "%s/shared", dir);
	assert_true(mkdir(run_dir, 0700) == 0 && mkdir(shared, 0700) == 0);
	snprintf(choice.path, sizeof(choice.path), "%s", program);
	spec.run_dir = run_dir;
	spec.shared_dir = shared;
	check(vmm_tap_create(ns, "tap2", 65521, 0, &err), &err, "tap");
	/* The VMM reads all options and makes every device before it finds that this file is not a kernel. */
	if (vm_start(&config, &choice, &spec, LONG, &vm, &err) == 0)
		fail_msg("a file of zeros has booted");
	if (!strstr(err.msg, "kernel"))
		fail_msg("%s", err.msg);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(devices_are_taken_by_the_real_one),
		cmocka_unit_test(command_line_is_taken_by_the_real_one),
	};

	return cmocka_run_group_tests_name("vmm_clh_real", tests, setup, teardown);
}

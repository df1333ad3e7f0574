/* SPDX-License-Identifier: Apache-2.0 */
/* The parsers and command lines of vmm/, without any process. */
#include "base/util.h"
#include "vmm/ch_internal.h"
#include "vmm/qemu_internal.h"
#include "vmm/vm_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <cmocka.h>

/* ---- QMP ----------------------------------------------------------------------------------------------- */

static char seen[256];

static void note_event(const char *name, struct json_object *data, void *arg)
{
	(void)arg;
	snprintf(seen + strlen(seen), sizeof(seen) - strlen(seen), "%s%s;", name, data ? "+" : "");
}

static void qmp_feed_byte_by_byte_tells_events_from_replies(void **state)
{
	static const char text[] =
		"{\"QMP\": {}}\r\n{\"event\": \"RESET\", \"data\": {}}\r\n{\"event\": \"STOP\"}\n"
		"{\"return\": 1, \"id\": \"crv-9\"}\n{\"id\": \"crv-1\", \"return\": {\"a\": 2}}\n\r\n";
	struct err err = ERR_INIT;
	struct json_object *v = NULL;
	struct qmp q;
	char *rq;

	(void)state;
	qmp_init(&q, note_event, NULL);
	rq = qmp_request(&q, "query-status", NULL);
	assert_string_equal(rq, "{\"execute\":\"query-status\",\"id\":\"crv-1\"}\n");
	free(rq);
	for (size_t i = 0; i < sizeof(text) - 1; i++) {
		assert_int_equal(buf_put(&q.in, text + i, 1), 0);
		assert_int_equal(qmp_feed(&q, &err), 0);
	}
	assert_true(q.greeted);
	assert_string_equal(seen, "RESET+;STOP;");
	/* A reply to a command that was never sent is ignored. */
	assert_non_null(q.reply);
	assert_int_equal(qmp_result(&q, &v, &err), 0);
	assert_true(json_object_is_type(v, json_type_object));
	qmp_done(&q);
}

static void qmp_feed_nonsense_fails(void **state)
{
	static const char *const bad[] = {"[]\n",    "{}\n",	      "nonsense\n", "{\"event\": \n",
					  "\"x\"\n", "{\"QMP\": 1\n", "1\n"};
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct qmp q;

		qmp_init(&q, NULL, NULL);
		assert_int_equal(buf_put(&q.in, bad[i], strlen(bad[i])), 0);
		assert_int_equal(qmp_feed(&q, &err), -EPROTO);
		qmp_done(&q);
	}
}

static void qmp_result_error_has_the_words(void **state)
{
	static const char text[] =
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such bus\"}, \"id\": \"crv-1\"}\n";
	struct err err = ERR_INIT;
	struct qmp q;

	(void)state;
	qmp_init(&q, NULL, NULL);
	free(qmp_request(&q, "device_add", json_object_new_object()));
	assert_int_equal(buf_put(&q.in, text, strlen(text)), 0);
	assert_int_equal(qmp_feed(&q, &err), 0);
	assert_int_equal(qmp_result(&q, NULL, &err), -EREMOTEIO);
	assert_string_equal(err.msg, "QEMU: no such bus");
	qmp_done(&q);
}

static void qemu_read_ports_strange_answers_are_left_out(void **state)
{
	static const char *const odd[] = {"1",
					  "[]",
					  "[{}]",
					  "[{\"devices\": 3}]",
					  "[{\"devices\": [1, {}, {\"qdev_id\": \"rp99\"}]}]",
					  "[{\"devices\": [{\"qdev_id\": \"rp0\", \"pci_bridge\": 3}]}]"};
	struct qemu_port ports[QEMU_ROOT_PORTS];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
		struct json_object *o = json_tokener_parse(odd[i]);

		qemu_read_ports(o, ports);
		for (int k = 0; k < QEMU_ROOT_PORTS; k++)
			assert_false(ports[k].present);
		json_object_put(o);
	}
}

/* ---- Cloud Hypervisor ---------------------------------------------------------------------------------- */

static void ch_error_words_joins_the_chain(void **state)
{
	static const struct {
		const char *body, *words;
	} cases[] = {
		{"[\"outer\",\"middle\",\"inner\"]", "outer: middle: inner"},
		{"\"one\"", "one"},
		{"plain\nwords", "plain words"},
		{"", ""},
		{"[]", ""},
		{"[1,null]", "1: null"},
	};
	char words[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		ch_error_words(cases[i].body, strlen(cases[i].body), words, sizeof(words));
		assert_string_equal(words, cases[i].words);
	}
	ch_error_words("[\"0123456789012345678901234567890123456789\", "
		       "\"0123456789012345678901234567890123456789\"]",
		       86, words, sizeof(words));
	assert_int_equal(strlen(words), sizeof(words) - 1);
}

static struct vm *bare_vm(const struct vmm_driver *driver)
{
	struct err err = ERR_INIT;
	struct vm *vm = vm_new(driver, "t", "/tmp", &err);

	assert_non_null(vm);
	return vm;
}

static void ch_events_in_pieces_are_taken_once_whole(void **state)
{
	static const char text[] =
		"{\n  \"timestamp\": {\"secs\": 1},\n  \"source\": \"vm\",\n  \"event\": \"booted\"\n}\n\n"
		"{\"source\": \"guest\", \"event\": \"panic\", \"properties\": {\"event\": \"panic\"}}\n\n";
	struct vm *vm = bare_vm(&vmm_driver_cloud_hypervisor);
	struct ch *c = calloc(1, sizeof(*c));
	struct err err = ERR_INIT;
	struct vm_event e;

	(void)state;
	c->events = -1;
	vm->state = c;
	for (size_t i = 0; i < sizeof(text) - 1; i++) {
		assert_int_equal(buf_put(&c->in, text + i, 1), 0);
		assert_int_equal(ch_feed_events(vm, &c->in, &err), 0);
	}
	assert_true(c->up);
	assert_int_equal(vm_dispatch(vm, &e), 1);
	assert_int_equal(e.type, VM_EVENT_GUEST_PANIC);
	assert_int_equal(vm_dispatch(vm, &e), 0);
	assert_int_equal(buf_put(&c->in, "[]\n\n", 4), 0);
	assert_int_equal(ch_feed_events(vm, &c->in, &err), -EPROTO);
	vm_free(vm);
}

/* Fault V: device events that nobody takes leave room for each death that a VM can have. */
static void full_ring_of_events_drops_no_death(void **state)
{
	struct vm *vm = bare_vm(&vmm_driver_cloud_hypervisor);
	struct err err = ERR_INIT;
	unsigned removed = 0, exited = 0, panics = 0;
	struct vm_event e;

	(void)state;
	assert_int_equal(vm_slot_add(vm, VM_DEVICE_DISK, "d", "", &err), 0);
	for (int i = 0; i < 100; i++)
		vm_device_removed(vm, "d");
	vm_push_event(vm, VM_EVENT_GUEST_PANIC, 0, "guest", "");
	vm_push_event(vm, VM_EVENT_HELPER_EXITED, 1, "virtiofsd", "");
	vm_push_event(vm, VM_EVENT_HELPER_EXITED, 1, "vsock", "");
	vm_push_event(vm, VM_EVENT_VMM_EXITED, 1, "vmm", "");
	while (vm_dispatch(vm, &e) == 1) {
		removed += e.type == VM_EVENT_DEVICE_REMOVED;
		panics += e.type == VM_EVENT_GUEST_PANIC;
		exited += e.type == VM_EVENT_HELPER_EXITED || e.type == VM_EVENT_VMM_EXITED;
	}
	assert_int_equal(removed, VM_EVENTS_MAX - VM_DEATHS_MAX);
	assert_int_equal(panics, 1);
	assert_int_equal(exited, 3);
	vm_free(vm);
}

/* ---- vsock, console, names ----------------------------------------------------------------------------- */

static void vsock_parse_ok_takes_only_the_whole_line(void **state)
{
	(void)state;
	assert_int_equal(vsock_parse_ok("", 0), 0);
	assert_int_equal(vsock_parse_ok("O", 1), 0);
	assert_int_equal(vsock_parse_ok("OK ", 3), 0);
	assert_int_equal(vsock_parse_ok("OK 12", 5), 0);
	assert_int_equal(vsock_parse_ok("OK 12\n", 6), 1);
	assert_int_equal(vsock_parse_ok("OK \n", 4), -EPROTO);
	assert_int_equal(vsock_parse_ok("OK 1x", 5), -EPROTO);
	assert_int_equal(vsock_parse_ok("NO 1\n", 5), -EPROTO);
	assert_int_equal(vsock_parse_ok("OK 1111111111111111111111111111111111", 37), -EPROTO);
}

static void console_sign_cut_in_two_is_seen(void **state)
{
	static const char text[] = "[    0.84] Run /sbin/init as init process\n";

	(void)state;
	for (size_t cut = 0; cut < sizeof(text) - 1; cut++) {
		struct console c = {.fd = -1, .watch = -1};

		console_sign(&c, text, cut);
		assert_true(console_sign(&c, text + cut, sizeof(text) - 1 - cut));
	}
	assert_false(console_sign(&(struct console){.fd = -1}, "Linux version 6.12", 18));
}

static void device_names_tell_type_and_id(void **state)
{
	char name[VM_DEVICE_NAME_MAX];
	enum vm_device_type type;

	(void)state;
	vm_device_name(VM_DEVICE_NET, "disk-1", name);
	assert_string_equal(vm_device_id(name, &type), "disk-1");
	assert_int_equal(type, VM_DEVICE_NET);
	assert_null(vm_device_id("rootfs", &type));
	assert_null(vm_device_id("hot-disk-", &type));
	assert_null(vm_device_id("hot-xyz-1", &type));
}

static void status_words_name_the_signal(void **state)
{
	char words[96];

	(void)state;
	child_status_words(137, words, sizeof(words));
	assert_string_equal(words, "was killed by signal 9 (Killed)");
	child_status_words(3, words, sizeof(words));
	assert_string_equal(words, "exited with 3");
	child_status_words(-1, words, sizeof(words));
	assert_non_null(strstr(words, "unknown"));
}

/* ---- command lines ------------------------------------------------------------------------------------- */

static bool has(char *const *argv, const char *option, const char *part)
{
	for (size_t i = 0; argv[i] && argv[i + 1]; i++) {
		if (str_eq(argv[i], option) && strstr(argv[i + 1], part))
			return true;
	}
	return false;
}

static void qemu_command_has_what_the_vm_needs(void **state)
{
	struct vmm_config config = {.kernel_path = (char *)(uintptr_t) "/k",
				    .image_path = (char *)(uintptr_t) "/i",
				    .kernel_params = (char *)(uintptr_t) "quiet",
				    .task_debug = true,
				    .hugepages = true};
	struct vmm_choice choice = {.driver = "qemu", .path = "/usr/bin/qemu-system-x86_64", .accel = "tcg"};
	struct vm_spec spec = {.mtu = 9000, .extra_params = "a=b"};
	struct vm_launch l = {.config = &config,
			      .choice = &choice,
			      .spec = &spec,
			      .image_bytes = 4 << 20,
			      .fs = 0,
			      .vsock = 1,
			      .tap = 2,
			      .monitor = 3,
			      .mac = {2, 0, 0, 0, 0, 9}};
	struct vm *vm = bare_vm(&vmm_driver_qemu);
	struct err err = ERR_INIT;
	char **argv CLEANUP_STRV = NULL;

	(void)state;
	snprintf(vm->accel, sizeof(vm->accel), "tcg");
	vm->vcpus_boot = 1;
	vm->vcpus_max = 4;
	vm->memory_boot = 256 << 20;
	vm->memory_max = 1 << 30;
	assert_int_equal(qemu_command(vm, &l, &argv, &err), 0);
	assert_true(has(argv, "-accel", "tcg"));
	assert_true(has(argv, "-cpu", "max"));
	assert_true(has(argv, "-smp", "cpus=1,"));
	assert_true(has(argv, "-object", "mem-path=/i,size=4194304,share=on,readonly=on"));
	assert_true(has(argv, "-object", "hugetlb=on"));
	assert_true(
		has(argv, "-append",
		    "dax ro rootfstype=ext4 task.sharefs_type=virtiofs panic=-1 task.debug=true quiet a=b"));
	assert_true(has(argv, "-append", " no_timer_check init_on_alloc=1"));
	assert_true(has(argv, "-device",
			"virtio-net-pci,id=net0,netdev=net0-tap,mac=02:00:00:00:00:09,host_mtu=9000"));
	assert_true(has(argv, "-device", "vhost-user-fs-pci,id=fs0,chardev=fs0-sock,tag=kuasar"));
	assert_true(has(argv, "-device", "pcie-root-port,id=rp7"));
	assert_true(has(argv, "-device", "virtio-mem-pci"));
	assert_true(has(argv, "-sandbox", "on,"));
	vm->cid = 77777;
	argv = strv_free(argv);
	assert_int_equal(qemu_command(vm, &l, &argv, &err), 0);
	assert_true(has(argv, "-device", "vhost-vsock-pci,id=vsock0,guest-cid=77777,vhostfd=5"));
	vm_free(vm);
}

static void commands_refuse_what_options_cannot_carry(void **state)
{
	struct vmm_config config = {.kernel_path = (char *)(uintptr_t) "/k",
				    .image_path = (char *)(uintptr_t) "/i,readonly=off"};
	struct vmm_choice choice = {.path = "x"};
	struct vm_spec spec = {0};
	struct vm_launch l = {.config = &config, .choice = &choice, .spec = &spec, .tap = -1};
	struct err err = ERR_INIT;
	char **argv = NULL;
	const struct vmm_driver *const all[] = {&vmm_driver_qemu, &vmm_driver_cloud_hypervisor};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		struct vm *vm = bare_vm(all[i]);

		assert_int_equal(all[i]->command(vm, &l, &argv, &err), -EINVAL);
		assert_non_null(strstr(err.msg, "/i,readonly=off"));
		vm_free(vm);
	}
	assert_int_equal(virtiofsd_command(&config, "v", false, "/shared,dir", 4, &argv, &err), -EINVAL);
}

static void virtiofsd_command_speaks_both_dialects(void **state)
{
	struct vmm_config config = {.virtiofsd_cache = (char *)(uintptr_t) "never",
				    .virtiofsd_thread_pool_size = 4};
	struct err err = ERR_INIT;
	char **rust CLEANUP_STRV = NULL, **legacy CLEANUP_STRV = NULL;

	(void)state;
	assert_int_equal(virtiofsd_command(&config, "v", false, "/s", 4, &rust, &err), 0);
	assert_string_equal(rust[1], "--shared-dir=/s");
	assert_string_equal(rust[2], "--fd=4");
	assert_string_equal(rust[3], "--cache=never");
	assert_string_equal(rust[4], "--allow-mmap");
	assert_int_equal(virtiofsd_command(&config, "v", true, "/s", 4, &legacy, &err), 0);
	assert_true(has(
		legacy, "-o",
		"source=/s,cache=auto,timeout=0,log_level=info,sandbox=namespace,xattr,announce_submounts"));
}

/* The bound on the descriptors of a virtiofsd; what the server itself may not have, it cannot give. */
static void virtiofsd_command_bounds_the_files(void **state)
{
	struct vmm_config config = {.virtiofsd_max_files = 300};
	char **few CLEANUP_STRV = NULL, **legacy CLEANUP_STRV = NULL, **many CLEANUP_STRV = NULL,
		   **any CLEANUP_STRV = NULL;
	struct err err = ERR_INIT;
	struct rlimit own;
	char text[64];

	(void)state;
	assert_int_equal(virtiofsd_command(&config, "v", false, "/s", 4, &few, &err), 0);
	assert_string_equal(few[strv_len(few) - 1], "--rlimit-nofile=300");
	assert_int_equal(virtiofsd_command(&config, "v", true, "/s", 4, &legacy, &err), 0);
	assert_string_equal(legacy[strv_len(legacy) - 1], "--rlimit-nofile=300");
	config.virtiofsd_max_files = 0;
	assert_int_equal(virtiofsd_command(&config, "v", false, "/s", 4, &any, &err), 0);
	assert_string_equal(any[strv_len(any) - 1], "--rlimit-nofile=0");
	config.virtiofsd_max_files = UINT32_MAX;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &own), 0);
	snprintf(text, sizeof(text), "--rlimit-nofile=%llu", (unsigned long long)own.rlim_max);
	assert_int_equal(virtiofsd_command(&config, "v", false, "/s", 4, &many, &err), 0);
	assert_string_equal(many[strv_len(many) - 1], text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(qmp_feed_byte_by_byte_tells_events_from_replies),
		cmocka_unit_test(qmp_feed_nonsense_fails),
		cmocka_unit_test(qmp_result_error_has_the_words),
		cmocka_unit_test(qemu_read_ports_strange_answers_are_left_out),
		cmocka_unit_test(ch_error_words_joins_the_chain),
		cmocka_unit_test(ch_events_in_pieces_are_taken_once_whole),
		cmocka_unit_test(full_ring_of_events_drops_no_death),
		cmocka_unit_test(vsock_parse_ok_takes_only_the_whole_line),
		cmocka_unit_test(console_sign_cut_in_two_is_seen),
		cmocka_unit_test(device_names_tell_type_and_id),
		cmocka_unit_test(status_words_name_the_signal),
		cmocka_unit_test(qemu_command_has_what_the_vm_needs),
		cmocka_unit_test(commands_refuse_what_options_cannot_carry),
		cmocka_unit_test(virtiofsd_command_speaks_both_dialects),
		cmocka_unit_test(virtiofsd_command_bounds_the_files),
	};

	return cmocka_run_group_tests_name("vmm_parse", tests, NULL, NULL);
}

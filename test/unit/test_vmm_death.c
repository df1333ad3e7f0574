/* SPDX-License-Identifier: Apache-2.0 */
/* What a VM's end is called, and what is told from its console and its files. */
#include "base/util.h"
#include "vmm/death.h"
#include "vmm/driver_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <cmocka.h>

static char dir[] = "/tmp/crvtest-death-XXXXXX";

static int setup(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	return remove_tree(dir);
}

static void write_text(const char *name, const char *text, size_t len)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(write_file(path, text, len, 0600), 0);
}

static const char *tail_of(const char *console, size_t len)
{
	static char out[128];

	write_text("console.log", console, len);
	vm_console_tail(dir, out, sizeof(out));
	return out;
}

#define TAIL(text) tail_of(text, sizeof(text) - 1)

static void death_words_name_the_end(void **state)
{
	static const struct {
		struct vm_event event;
		bool death;
		const char *words;
	} table[] = {
		{{.type = VM_EVENT_NONE}, false, ""},
		{{.type = VM_EVENT_DEVICE_REMOVED, .what = "d1"}, false, ""},
		{{.type = VM_EVENT_GUEST_PANIC}, true, "the guest kernel panicked"},
		{{.type = VM_EVENT_GUEST_PANIC, .detail = "Kernel panic - not syncing"},
		 true,
		 "the guest kernel panicked: Kernel panic - not syncing"},
		{{.type = VM_EVENT_GUEST_RESET}, true, "the guest reset itself"},
		{{.type = VM_EVENT_GUEST_SHUTDOWN}, true, "the guest powered off"},
		{{.type = VM_EVENT_HELPER_EXITED, .what = "virtiofsd", .detail = "virtiofsd exited with 1"},
		 true,
		 "virtiofsd of the VM ended: virtiofsd exited with 1"},
		{{.type = VM_EVENT_VMM_EXITED, .status = 137}, true, "the VMM ended with status 137"},
		{{.type = VM_EVENT_VMM_EXITED, .status = -1, .detail = "adopted"},
		 true,
		 "the VMM ended, status unknown: adopted"},
	};
	char words[512];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		vm_death_words(&table[i].event, words, sizeof(words));
		assert_string_equal(words, table[i].words);
		assert_int_equal(vm_event_is_death(&table[i].event), table[i].death);
	}
	vm_death_words(&table[3].event, words, 8);
	assert_string_equal(words, "the gue");
}

static void console_tail_prefers_the_telling_line(void **state)
{
	(void)state;
	assert_string_equal(TAIL("boot\nKernel panic - not syncing: x\r\nReboot in 1\n"),
			    "Kernel panic - not syncing: x");
	assert_string_equal(TAIL("[ 1.0] VFS: Cannot open root\nKernel panic\nend\n"), "Kernel panic");
	assert_string_equal(TAIL("VFS: Cannot open root device\nlast\n"), "VFS: Cannot open root device");
	assert_string_equal(TAIL("Kernel panic\ncrivisor-agent: fatal: no share\n"),
			    "crivisor-agent: fatal: no share");
	assert_string_equal(TAIL("first\nsecond line\n\n  \r\n"), "second line");
	assert_string_equal(TAIL("only"), "only");
	assert_string_equal(TAIL("\n \n"), "");
	assert_string_equal(TAIL(""), "");
}

static void console_tail_of_a_hostile_guest_is_printable_and_bounded(void **state)
{
	char big[40000], out[64];

	(void)state;
	assert_string_equal(TAIL("\x1b[2Jred\x80\x07.\n"), "?[2Jred??.");
	assert_string_equal(TAIL("a\0b"), "a?b");
	memset(big, 'x', sizeof(big));
	write_text("console.log", big, sizeof(big));
	vm_console_tail(dir, out, sizeof(out));
	assert_int_equal(strlen(out), sizeof(out) - 1);
	memcpy(big, "Kernel panic: long ago", 22); /* before the part that is looked at */
	big[sizeof(big) - 5] = '\n';
	write_text("console.log", big, sizeof(big));
	vm_console_tail(dir, out, sizeof(out));
	assert_string_equal(out, "xxxx");
}

static void console_that_is_no_file_tells_nothing(void **state)
{
	char path[128], out[64] = "old";

	(void)state;
	snprintf(path, sizeof(path), "%s/console.log", dir);
	unlink(path);
	vm_console_tail(dir, out, sizeof(out));
	assert_string_equal(out, "");
	assert_false(vm_said_nothing(dir)); /* there was none to write to */
	assert_int_equal(mkfifo(path, 0600), 0);
	vm_console_tail(dir, out, sizeof(out)); /* does not wait for a writer */
	assert_string_equal(out, "");
	assert_false(vm_said_nothing(dir));
	unlink(path);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	vm_console_tail(dir, out, sizeof(out));
	assert_string_equal(out, "");
	unlink(path);
}

static void said_nothing_is_an_empty_console(void **state)
{
	(void)state;
	write_text("console.log", "", 0);
	assert_true(vm_said_nothing(dir));
	write_text("console.log", "\n", 1);
	assert_false(vm_said_nothing(dir));
}

static void explain_start_adds_the_console(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	write_text("console.log", "VFS: Cannot open root device\n", 29);
	err_set_status(&err, -ENOTCONN, ERR_UNAVAILABLE, "nobody there");
	assert_int_equal(vm_explain_start(NULL, dir, &err), -ENOTCONN);
	assert_string_equal(
		err.msg, "booting the VM: nobody there; the guest's console: VFS: Cannot open root device");
	assert_int_equal(err.status, ERR_INTERNAL);
	write_text("console.log", "", 0);
	err_set_status(&err, -ETIMEDOUT, ERR_DEADLINE_EXCEEDED, "too late");
	assert_int_equal(vm_explain_start(NULL, dir, &err), -ETIMEDOUT);
	assert_string_equal(err.msg, "booting the VM: too late");
	assert_int_equal(err.status, ERR_DEADLINE_EXCEEDED);
}

/* The VM's own event comes first, and what it says is not said twice. */
static void explain_start_names_the_vm_s_end(void **state)
{
	struct vm vm = {.epoll_fd = -1, .stop_fd = -1, .wake_fd = -1, .progress_fd = -1};
	struct err err = ERR_INIT;

	(void)state;
	pthread_mutex_init(&vm.io, NULL);
	pthread_mutex_init(&vm.lock, NULL);
	write_text("console.log", "Kernel panic: x\n", 16);
	vm_push_event(&vm, VM_EVENT_DEVICE_REMOVED, 0, "d", "");
	vm_push_event(&vm, VM_EVENT_GUEST_PANIC, 0, "", "Kernel panic: x");
	err_set_status(&err, -ENOTCONN, ERR_UNAVAILABLE, "gone");
	assert_int_equal(vm_explain_start(&vm, dir, &err), -ENOTCONN);
	assert_string_equal(err.msg, "the guest kernel panicked: Kernel panic: x: gone");
	pthread_mutex_destroy(&vm.io);
	pthread_mutex_destroy(&vm.lock);
}

static void clear_files_takes_the_vm_s_and_no_others(void **state)
{
	static const char *const ours[] = {"api.sock",
					   "qmp.sock",
					   "virtiofs.sock",
					   "task.vsock",
					   "vhost-vsock.sock",
					   "console.log",
					   "serial.log",
					   "cpu.log",
					   "events.json",
					   "vmm.log",
					   "virtiofsd.log",
					   "vsock.log",
					   "cloud-hypervisor.log"};
	char path[160];
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
		write_text(ours[i], "x", 1);
	write_text("hosts", "x", 1);
	assert_int_equal(vm_clear_files(dir, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(ours); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, ours[i]);
		assert_int_equal(access(path, F_OK), -1);
	}
	snprintf(path, sizeof(path), "%s/hosts", dir);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(vm_clear_files(dir, &err), 0);
	assert_int_equal(vm_clear_files("/nonexistent/run", &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(death_words_name_the_end),
		cmocka_unit_test(console_tail_prefers_the_telling_line),
		cmocka_unit_test(console_tail_of_a_hostile_guest_is_printable_and_bounded),
		cmocka_unit_test(console_that_is_no_file_tells_nothing),
		cmocka_unit_test(said_nothing_is_an_empty_console),
		cmocka_unit_test(explain_start_adds_the_console),
		cmocka_unit_test(explain_start_names_the_vm_s_end),
		cmocka_unit_test(clear_files_takes_the_vm_s_and_no_others),
	};

	return cmocka_run_group_tests_name("vmm_death", tests, setup, teardown);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* death.c: a VM's end in words, and what its console and its files tell afterwards. */
#include "vmm/death.h"

#include "base/text.h"
#include "base/util.h"
#include "vmm/driver_internal.h"

#include <fcntl.h>
#include <sys/stat.h>

#define TAIL_BYTES     16384
#define LINE_MAX_BYTES 300

/* ---- events -------------------------------------------------------------------------------------------- */

bool vm_event_is_death(const struct vm_event *event)
{
	return event->type != VM_EVENT_NONE && event->type != VM_EVENT_DEVICE_REMOVED;
}

void vm_death_words(const struct vm_event *event, char *out, size_t size)
{
	const char *colon = event->detail[0] ? ": " : "";

	switch (event->type) {
	case VM_EVENT_GUEST_PANIC:
		snprintf(out, size, "the guest kernel panicked%s%s", colon, event->detail);
		return;
	case VM_EVENT_GUEST_RESET:
		snprintf(out, size, "the guest reset itself%s%s", colon, event->detail);
		return;
	case VM_EVENT_GUEST_SHUTDOWN:
		snprintf(out, size, "the guest powered off%s%s", colon, event->detail);
		return;
	case VM_EVENT_HELPER_EXITED:
		snprintf(out, size, "%s of the VM ended%s%s", event->what, colon, event->detail);
		return;
	case VM_EVENT_VMM_EXITED:
		if (event->status < 0)
			snprintf(out, size, "the VMM ended, status unknown%s%s", colon, event->detail);
		else
			snprintf(out, size, "the VMM ended with status %d%s%s", event->status, colon,
				 event->detail);
		return;
	case VM_EVENT_NONE:
	case VM_EVENT_DEVICE_REMOVED:
		break;
	}
	out[0] = 0;
}

/* ---- the console --------------------------------------------------------------------------------------- */

/* The console's file, or -1. The guest's VMM writes it: whatever it has become must not block or mislead. */
static int open_console(const char *run_dir, struct stat *ret_st)
{
	char *path CLEANUP_FREE = xasprintf("%s/" VM_FILE_CONSOLE, run_dir);
	int fd CLEANUP_CLOSE = path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW) : -1;

	if (fd < 0 || fstat(fd, ret_st) < 0 || !S_ISREG(ret_st->st_mode))
		return -1;
	return move_fd(fd);
}

/* One line, printable. */
static void copy_line(const char *line, size_t len, char *out, size_t size)
{
	size_t n = 0;

	while (n < len && n < LINE_MAX_BYTES && line[n] != '\r' && line[n] != '\n')
		n++;
	text_copy_ascii(out, size, line, n);
}

/* The last line that holds anything; *len is that of the text, and then of the line. */
static const char *last_line(const char *text, size_t *len)
{
	const char *newline;
	size_t end = *len, start;

	while (end > 0 && (unsigned char)text[end - 1] <= ' ')
		end--;
	newline = memrchr(text, '\n', end);
	start = newline ? (size_t)(newline + 1 - text) : 0;
	*len = end - start;
	return text + start;
}

void vm_console_tail(const char *run_dir, char *out, size_t size)
{
	static const char *const telling[] = {"crivisor-agent: fatal:", "Kernel panic", "VFS: ", "FAILED"};
	char *text CLEANUP_FREE = malloc(TAIL_BYTES);
	struct stat st;
	int fd CLEANUP_CLOSE = open_console(run_dir, &st);
	const char *line = NULL;
	ssize_t n = -1;
	size_t len;

	out[0] = 0;
	if (fd >= 0 && text)
		n = pread(fd, text, TAIL_BYTES, st.st_size > TAIL_BYTES ? st.st_size - TAIL_BYTES : 0);
	if (n <= 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(telling) && !line; i++)
		line = memmem(text, (size_t)n, telling[i], strlen(telling[i]));
	len = line ? (size_t)(text + n - line) : (size_t)n;
	if (!line)
		line = last_line(text, &len);
	copy_line(line, len, out, size);
}

bool vm_said_nothing(const char *run_dir)
{
	struct stat st;
	int fd CLEANUP_CLOSE = open_console(run_dir, &st);

	return fd >= 0 && st.st_size == 0;
}

/* ---- a start that failed ------------------------------------------------------------------------------- */

int vm_explain_start(struct vm *vm, const char *run_dir, struct err *err)
{
	struct vm_event event = {.type = VM_EVENT_NONE};
	char words[sizeof(event.detail) + 128], tail[LINE_MAX_BYTES + 1];

	while (vm && !vm_event_is_death(&event) && vm_dispatch(vm, &event) == 1)
		;
	vm_death_words(&event, words, sizeof(words));
	err_wrap(err, "%s", words[0] ? words : "booting the VM");
	vm_console_tail(run_dir, tail, sizeof(tail));
	if (tail[0] && !strstr(words, tail)) {
		struct err old = *err;

		err_set_status(err, old.code, old.status, "%s; the guest's console: %s", old.msg, tail);
	}
	if (err->status != ERR_DEADLINE_EXCEEDED)
		err->status = ERR_INTERNAL;
	return err->code;
}

int vm_clear_files(const char *run_dir, struct err *err)
{
	static const char *const files[] = {
		VM_FILE_API,	 VM_FILE_QMP,	 VM_FILE_FS,	 VM_FILE_VSOCK,	 VM_FILE_VHOST,
		VM_FILE_CONSOLE, VM_FILE_SERIAL, VM_FILE_CPU,	 VM_FILE_EVENTS, VM_FILE_LOG,
		VM_FILE_FS_LOG,	 VM_FILE_VS_LOG, VM_FILE_CH_LOG,
	};
	int dir CLEANUP_CLOSE = open(run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0)
		return errno == ENOENT ? 0 : err_set_errno(err, -errno, "run directory %s", run_dir);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		if (unlinkat(dir, files[i], 0) < 0 && errno != ENOENT)
			return err_set_errno(err, -errno, "removing %s/%s", run_dir, files[i]);
	}
	return 0;
}

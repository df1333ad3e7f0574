/* SPDX-License-Identifier: Apache-2.0 */
/* On which CPUs of the host a VM's vCPUs run: the affinity of the VMM's vCPU threads. */
#include "vmm/vm_internal.h"

#include "base/util.h"
#include "vmm/wait_internal.h"

#include <dirent.h>

#define STATUS_MAX 8192

uint32_t vm_vcpus(struct vm *vm)
{
	uint32_t n;

	pthread_mutex_lock(&vm->lock);
	n = vm->vcpus;
	pthread_mutex_unlock(&vm->lock);
	return n;
}

/* The value of a field ("NSpid:") of a status file, up to the end of its line; NULL if it is missing. */
static char *field(char *text, const char *name)
{
	char *p = text;
	size_t len = strlen(name);

	while (p && strncmp(p, name, len) != 0) {
		p = strchr(p, '\n');
		p = p ? p + 1 : NULL;
	}
	if (!p)
		return NULL;
	p += len;
	p += strspn(p, " \t");
	p[strcspn(p, "\n")] = 0;
	return p;
}

int vm_thread_parse(pid_t tid, char *status, struct vm_thread *ret_thread)
{
	char copy[STATUS_MAX];
	char *name, *ids, *last;

	snprintf(copy, sizeof(copy), "%s", status);
	name = field(copy, "Name:");
	ids = field(status, "NSpid:");
	if (!name)
		return -EBADMSG;
	last = ids ? strrchr(ids, '\t') : NULL;
	*ret_thread = (struct vm_thread){.tid = tid, .inner = tid};
	snprintf(ret_thread->name, sizeof(ret_thread->name), "%s", name);
	if (ids)
		ret_thread->inner = (pid_t)strtol(last ? last + 1 : ids, NULL, 10);
	return 0;
}

/* 0, or -ESRCH once the thread is gone. */
static int read_thread(pid_t pid, const char *tid, struct vm_thread *ret_thread)
{
	char path[64];
	char *text CLEANUP_FREE = NULL;

	snprintf(path, sizeof(path), "/proc/%d/task/%.16s/status", (int)pid, tid);
	if (read_file(path, STATUS_MAX, &text, NULL) < 0)
		return -ESRCH;
	return vm_thread_parse((pid_t)strtol(tid, NULL, 10), text, ret_thread);
}

int vm_threads(struct vm *vm, vm_thread_fn *fn, void *arg, struct err *err)
{
	pid_t pid;
	char path[64];
	const struct dirent *de;
	DIR *d;

	pthread_mutex_lock(&vm->lock);
	pid = vm->procs[VM_ROLE_VMM].pid;
	pthread_mutex_unlock(&vm->lock);
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	if (!d)
		return err_set_errno(err, -errno, "the threads of %s", vm->driver->name);
	while ((de = readdir(d))) {
		struct vm_thread t;

		if (de->d_name[0] >= '0' && de->d_name[0] <= '9' && read_thread(pid, de->d_name, &t) == 0)
			fn(arg, &t);
	}
	closedir(d);
	return 0;
}

/* With the turn held. */
static int pin(struct vm *vm, const cpu_set_t *sets, uint32_t n, int64_t deadline_ns, struct err *err)
{
	pid_t *tids CLEANUP_FREE = calloc(n, sizeof(*tids));
	int r;

	if (!tids)
		return err_oom(err);
	r = vm->driver->vcpu_threads(vm, tids, n, deadline_ns, err);
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		if (tids[i] == 0)
			return err_set(err, -ESRCH, "vCPU %u has no thread", i);
		if (sched_setaffinity(tids[i], sizeof(sets[i]), &sets[i]) < 0)
			r = err_set_errno(err, -errno, "the affinity of vCPU %u", i);
	}
	return r;
}

int vm_pin(struct vm *vm, const cpu_set_t *sets, uint32_t n, int64_t deadline_ns, struct err *err)
{
	int r;

	if (n == 0)
		return 0;
	deadline_ns = wait_deadline(deadline_ns);
	r = vm_turn_take(vm, deadline_ns, err);
	if (r == 0) {
		r = vm_check_alive(vm, err);
		if (r == 0)
			r = pin(vm, sets, n, deadline_ns, err);
		vm_turn_give(vm);
	}
	return r < 0 ? err_wrap(err, "pinning the VM's vCPUs") : 0;
}

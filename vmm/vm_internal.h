/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm_internal.h: the life of struct vm, shared by vm.c, start.c, recover.c and device.c; drivers do not use
 * it.
 *
 * Threads:   as driver_internal.h says; no lock is held by the caller.
 * Ownership: vm_new's result goes to vm_free.
 */
#ifndef VMM_VM_INTERNAL_H
#define VMM_VM_INTERNAL_H

#include "vmm/driver_internal.h"

/* A VM without processes; its own fds are open. NULL with err. */
struct vm *vm_new(const struct vmm_driver *driver, const char *id, const char *run_dir, struct err *err);
/* Fills epoll_fd: from now on vm_dispatch sees everything. */
int vm_watch(struct vm *vm, struct err *err);
/* Reads the monitor, reaps what has died, queues events. Any thread, never blocks. */
void vm_service(struct vm *vm);
/*
 * As vm_check_alive, and -ENOTCONN too when the guest has ended while its VMM still runs. Handles pending
 * events first.
 */
int vm_check_guest(struct vm *vm, struct err *err);
/* Kills all processes of the VM and waits for them; used by failed starts and by vm_stop. 0 or -ETIMEDOUT. */
int vm_kill_all(struct vm *vm, int64_t deadline_ns);
/* One caller at a time. */
int vm_turn_take(struct vm *vm, int64_t deadline_ns, struct err *err);
void vm_turn_give(struct vm *vm);

/* ---- trim.c -------------------------------------------------------------------------------------------- */

/* The fds; run_dir is set. Without inotify the logs are looked at every second. */
void trim_init(struct vm *vm);
void trim_done(struct vm *vm);
/* Puts the fds into epoll_fd, with lock held. 0 or a negative errno. */
int trim_watch(struct vm *vm);
/*
 * Trims what has grown. Any thread, no lock held; before the driver's pump, which reads what the watch told
 * of.
 */
void trim_service(struct vm *vm);

#endif

/*
 * vm_internal.h: the life of struct vmm, shared by vm.c, start.c, recover.c and device.c. Not for drivers, not for
 * others.
 */
#ifndef VMM_VM_INTERNAL_H
#define VMM_VM_INTERNAL_H

#include "vmm/driver_internal.h"

/* A VM without processes; every fd open. NULL with err. */
struct vmm *vm_new(const struct vmm_driver *driver, const char *id, const char *run_dir, struct err *err);
/* Fills epoll_fd: from now on vmm_dispatch sees everything. */
int vm_watch(struct vmm *vm, struct err *err);
/* Reads the monitor, reaps what has died, queues events. Any thread, never blocks. */
void vm_service(struct vmm *vm);
/*
 * As vm_check_alive, and -ENOTCONN too when the guest has ended though its VMM still runs. Services the VM
 * first.
 */
int vm_check_guest(struct vmm *vm, struct err *err);
/* Kills whatever runs and waits for it; used by failed starts and by vmm_stop. 0 or -ETIMEDOUT. */
int vm_kill_all(struct vmm *vm, int64_t deadline_ns);
/* One caller at a time. */
int vm_turn_take(struct vmm *vm, int64_t deadline_ns, struct err *err);
void vm_turn_give(struct vmm *vm);

#endif

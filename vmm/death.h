/* SPDX-License-Identifier: Apache-2.0 */
/*
 * death.h: why a VM ended or never came up, in words for people.
 *
 * Threads:   any; nothing blocks but the reading of the console's file.
 * Ownership: results go into the caller's buffers, always terminated.
 * Limits:    the guest writes its console, so what is read from it is untrusted: the last 16 KiB are looked
 *            at, and every byte that is not printable ASCII becomes "?".
 */
#ifndef VMM_DEATH_H
#define VMM_DEATH_H

#include "vmm/vm.h"

#include <stddef.h>

/* True if the event is the end of the VM, or makes it one that must be killed. */
bool vm_event_is_death(const struct vm_event *event);
/*
 * Such an event in words: "the guest kernel panicked", "qemu exited with 1: <its last words>"; "" for others.
 */
void vm_death_words(const struct vm_event *event, char *out, size_t size);
/*
 * The most telling line of the console of the VM in run_dir: the agent's fatal error, a panic, a failed
 * mount; else the last line that holds anything. "": none.
 */
void vm_console_tail(const char *run_dir, char *out, size_t size);
/*
 * True if the console of the VM in run_dir exists and is empty: the VM ended, or hangs, before its kernel
 * printed anything, so that nothing in the guest can be the reason.
 */
bool vm_said_nothing(const char *run_dir);
/*
 * For a guest that could not be reached: puts in front of err how the VM has ended, if it has, and adds the
 * console's most telling line. vm may be NULL. Takes events from the VM, so that nobody else may dispatch it
 * at the same time. Keeps err's code; a status other than DEADLINE_EXCEEDED becomes INTERNAL. Returns
 * err->code.
 */
int vm_explain_start(struct vm *vm, const char *run_dir, struct err *err);

#endif

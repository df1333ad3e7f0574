/* SPDX-License-Identifier: Apache-2.0 */
/*
 * readiness.h: whether this host can run new pods at the moment, and if not, what keeps it from that.
 *
 * Purpose:   one answer for Status (RuntimeReady) and for RunPodSandbox, so that both name the same cause.
 *            Looked at anew at each call: a host that is put right needs no restart.
 * Threads:   any; blocks for some stat(2), and at the first look for reading guest kernel and image.
 * Not here:  the pod network (cni_status). Pods that run are never touched by what is found here.
 */
#ifndef CRI_HEALTH_READINESS_H
#define CRI_HEALTH_READINESS_H

#include "cri/command/server.h"

/* The VMM driver for new pods. */
int server_vmm_choice(struct server *server, struct vmm_choice *ret_choice, struct err *err);

/*
 * All of it: VMM, KVM, guest kernel and image; room for state_dir and run_dir; memory of the host for a VM of
 * that size. On failure *ret_reason is the one word that a CRI condition carries (static).
 */
int server_ready(struct server *server, uint64_t memory_bytes, struct vmm_choice *ret_choice,
		 const char **ret_reason, struct err *err);

/* Beyond that, for one pod: whether what the host has is not taken by others just now. */
int server_fits_now(struct server *server, uint64_t memory_bytes, struct err *err);

/*
 * Its parts that need no server: room for new pods in that directory (`key` names it); memory for such a VM.
 */
int readiness_room(const char *key, const char *dir, struct err *err);
int readiness_memory(uint64_t memory_bytes, struct err *err);

#endif

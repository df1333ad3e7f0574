/* SPDX-License-Identifier: Apache-2.0 */
/*
 * readiness.h: whether this host can run new pods at the moment, and if not, what keeps it from that.
 *
 * Purpose:   one answer for Status (RuntimeReady) and for RunPodSandbox, so that both name the same cause.
 *            Looked at anew at each call: a host that is put right needs no restart.
 * Threads:   any; blocks for some stat(2), and at the first look for reading guest kernel and image. No lock
 *            is held meanwhile.
 * Not here:  the pod network (cni_status). Pods that run are never touched by what is found here.
 */
#ifndef CRI_HEALTH_READINESS_H
#define CRI_HEALTH_READINESS_H

#include "base/err.h"
#include "cri/config/config.h"
#include "vmm/choose.h"

struct health;

/* The config outlives it; it lives as long as the process. */
int health_new(const struct config *config, struct health **ret_health, struct err *err);

/*
 * All of it: VMM, KVM, guest kernel and image; room for state_dir and run_dir; memory of the host for a VM of
 * that size. On failure *ret_reason is the one word that a CRI condition carries (static).
 */
int health_ready(struct health *health, uint64_t memory_bytes, struct vmm_choice *ret_choice,
		 const char **ret_reason, struct err *err);

/* Beyond that, for one pod: whether what the host has is not taken by others at the moment. */
int health_fits_now(struct health *health, uint64_t memory_bytes, struct err *err);

/* Its parts: room for new pods in that directory (`key` names it); memory for such a VM. */
int readiness_room(const char *key, const char *dir, struct err *err);
int readiness_memory(uint64_t memory_bytes, struct err *err);

#endif

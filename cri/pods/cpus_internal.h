/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpus_internal.h: containers' sets of host CPUs, as vCPUs of the pod's VM.
 *
 * Purpose:   kubelet names the host's CPUs. A vCPU stands for one of them: its thread runs there, and the
 *            container gets that vCPU. The table keeps who stands for whom, so that a container that starts
 *            or ends moves no other one. Rules: a set of at most as many CPUs as the VM has vCPUs gets a vCPU
 *            for each CPU; CPUs that two containers share have one vCPU. Where no vCPU is free for a CPU, the
 *            container shares others'. A set of more CPUs gets all vCPUs and stands in no table. A vCPU that
 *            stands for no CPU runs on the CPUs of all the pod's sets, or anywhere if a container of the pod
 *            has none.
 * Threads:   no shared state.
 */
#ifndef CRI_PODS_CPUS_INTERNAL_H
#define CRI_PODS_CPUS_INTERNAL_H

#include <sched.h>
#include <stdint.h>

/* host[i]: the host's CPU that vCPU i stands for, plus one; 0: none. */
/* Frees the vCPUs whose CPU is not in `used`. */
void cpus_keep(uint32_t *host, uint32_t vcpus, const cpu_set_t *used);
/* Gives a container with the set `wanted` its vCPUs: never none. */
void cpus_take(uint32_t *host, uint32_t vcpus, const cpu_set_t *wanted, cpu_set_t *ret_guest);
/* Where each vCPU's thread runs. `others`: for those that stand for no CPU. */
void cpus_places(const uint32_t *host, uint32_t vcpus, const cpu_set_t *others, cpu_set_t *ret_sets);

#endif

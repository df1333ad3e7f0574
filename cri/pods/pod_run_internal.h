/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pod_run_internal.h: what the files of RunPodSandbox (pod_run*.c) share.
 *
 * Threads:   one run is one call on a worker thread; CNI's ADD runs beside it on another, from inside
 *            pod_run_boot until pod_run_cni_wait has returned.
 * Ownership: `struct pod_run` lives on the stack of pod_run and lends out its parts.
 * Errors:    a failed step leaves what it has begun in the journal; pod_run undoes it.
 */
#ifndef CRI_PODS_POD_RUN_INTERNAL_H
#define CRI_PODS_POD_RUN_INTERNAL_H

#include "cri/network/cni.h"
#include "cri/pods/pod.h"

#include <stdbool.h>
#include <stdint.h>

#define MIB	  (UINT64_C(1) << 20)
#define TAP	  "tap0"
#define IFNAME	  "eth0"
#define PORTS_MAX 64
#define SETUP_NS  (20 * NS_PER_SEC) /* for one call of the agent */

/* What one run carries from step to step. */
struct pod_run {
	struct pod *pod;
	struct server *server;
	const Runtime__V1__PodSandboxConfig *config;
	struct vmm_choice choice;
	char netns[300];
	char cgroup[512];
	uint64_t memory_bytes;
	uint32_t vcpus;
	int64_t client_deadline_ns;
	struct call *call;   /* the client's */
	int64_t deadline_ns; /* of the boot: set before anything else may look */
	int64_t traced_ns;   /* when the last step ended */
	bool cni_begun;

	/* CNI runs beside the boot; under pod->lock. */
	bool cni_done;
	int cni_code;
	struct err cni_err;
	struct cni_result cni;
};

/* pod_run_check.c: -EINVAL or -EOPNOTSUPP, naming the field. */
int pod_run_check(const Runtime__V1__PodSandboxConfig *config, const char *handler, struct err *err);
/* What CNI would refuse, likewise. */
int pod_run_check_network(const char *id, const Runtime__V1__PodSandboxConfig *config, struct err *err);

/* pod_run_host.c: directories, files, namespaces and cgroup, each journalled before it is made. */
int pod_run_prepare(struct pod_run *run, struct err *err);
/* As the pod's processes see it; lives as long as the run's config. */
const char *pod_run_hostname(const struct pod_run *run);

/*
 * pod_run_boot.c: waits for its turn, prepares the host, begins CNI and boots, until the agent has answered.
 */
int pod_run_boot(struct pod_run *run, struct err *err);
/*
 * The end of CNI's ADD, and its error. Must be called once cni_begun is set, whatever else has failed; err
 * may be NULL.
 */
int pod_run_cni_wait(struct pod_run *run, struct err *err);

/* pod_run_assign.c: gives a booted VM that knows nothing of the pod its network and name. */
int pod_run_assign(struct pod_run *run, struct err *err);

/* pod_run.c: notes a step that will have to be undone. */
int pod_run_journal(struct pod_run *run, const char *kind, const char *arg, struct err *err);
/* With [sandbox] enable_tracing: how long the step that ends here took. */
void pod_run_trace(struct pod_run *run, const char *step);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server.h: the one object that owns all others, and the tables of pods and containers.
 *
 * Locks, in the order in which they may nest:
 *   server.tables the two tables and the reference counts of what they hold; held for a look-up or a walk,
 *   never across
 *                   I/O. pod.lock one pod's fields and those of its containers; held for an access, never
 *                   across a call to a VMM, a guest, a CNI plugin, a registry or the store. pod.rows before
 *                   pod.lock: the rows of one pod and of its containers in the store; held while a state is
 *                   read and written, so that an older state never overwrites a newer one and no row comes
 *                   back after its removal. Long work is marked, not locked: pod.op and container.op say who
 *                   is changing the object ("the turn"); others wait on pod.changed, or overtake by setting
 *                   pod.cancel and killing the VM. Reads take pod.lock alone, so they never wait for work.
 */
#ifndef CRI_COMMAND_SERVER_H
#define CRI_COMMAND_SERVER_H

#include "base/err.h"
#include "cri/network/cni.h"
#include "cri/config/config.h"
#include "cri/core/gate.h"
#include "cri/image/image.h"
#include "cri/core/loop.h"
#include "cri/core/workers.h"
#include "cri/rootfs/rootfs.h"
#include "cri/store/store.h"
#include "vmm/choose.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct pod;
struct container;
struct health;

struct server {
	const struct config *config;
	struct loop *loop;
	struct workers *workers;
	struct store *store;
	struct image_store *images;
	struct rootfs *rootfs;
	struct cni *cni;
	struct gate boots; /* VMs that boot: twice as many as the host has CPUs */

	pthread_mutex_t tables;
	struct pod *pods; /* newest first */
	struct container *containers;

	struct health *health;

	/* What a pod without limits boots with: the configuration's, read again on SIGHUP. */
	_Atomic uint32_t pod_vcpus;
	_Atomic uint64_t pod_memory_bytes;
	int64_t started_ns; /* wall clock */
	bool stopping;
};

/*
 * Runs the server until SIGTERM or SIGINT; VMs keep running. `version` of the config is the caller's to log.
 */
int server_run(const struct config *config, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * follow_internal.h: the network of a pod's namespace on its way into the guest, at the assignment and for as
 * long as the sandbox lives.
 *
 * Flow:      the namespace is read whole (vmm/netview.h); its further interfaces get taps; the filters
 *            against forged addresses are set; the NICs are plugged; the agent is told. That is one look. The
 *            assignment takes the first; later a socket in the namespace tells that something has changed,
 *            and after a short rest a worker takes another. What is the same as before is not done again.
 * State:     none on the host but the taps, which go with the namespace, and the NICs, which go with the VM.
 *            Both are named after their interface's index: a later server finds them again.
 * Threads:   follow_new, follow_first and follow_look block, one at a time for a sandbox. follow_begin: any.
 *            follow_stop: the loop's.
 * Failure:   of the first look: the assignment's. Of a later one: logged, and tried again after 1 s, then
 *            more and more seldom, up to once a minute.
 * Limits:    at most two looks a second for a sandbox.
 */
#ifndef CRI_SANDBOX_FOLLOW_INTERNAL_H
#define CRI_SANDBOX_FOLLOW_INTERNAL_H

#include "api/agent/sandbox.pb-c.h"
#include "cri/sandbox/sandbox_internal.h"

struct follow {
	/* Immutable. */
	char ifname[IF_NAMESIZE];
	bool spoof_check;
	char **ips; /* NULL-terminated; they count where the interface has no address */
	size_t n_ips;

	/* Of the one who looks. */
	int index;     /* of ifname when it was joined; 0: not known */
	char *guarded; /* what the filters were made from; NULL: they are to be made */
	void *told;    /* what the agent was told last, packed; NULL: not known */
	size_t told_len;
	bool own_told;	  /* the pod's own interface was in it */
	bool refused;	  /* the log says that the agent is too old */
	struct err err;	  /* of the last look */
	char logged[128]; /* the last failure that is in the log */

	/* The loop's. */
	int fd; /* tells of changes; -1: none */
	struct loop_source *source, *timer;
	bool armed, news;
	unsigned int failures;
	atomic_bool busy; /* a worker looks */
};

/* Makes s->follow, and the socket where the driver has one. Once, before the first look. */
int follow_new(struct sandbox *sandbox, const struct sandbox_network *network, struct err *err);
/* NULL-safe. Returns NULL. */
struct follow *follow_free(struct follow *follow);
/*
 * The look of the assignment: taps, filters, NICs; the message for SetupSandbox. *ret_told false: the
 * interface has no address in the namespace (its plugin leaves them to the runtime).
 */
int follow_first(struct sandbox *sandbox, struct agent *agent, struct call *call, Grpc__Network **ret_network,
		 bool *ret_told, struct err *err);
/* A later one. */
int follow_look(struct sandbox *sandbox, struct err *err);
/* Any thread. From now on it is followed; `look`: with a look at once. */
void follow_begin(struct sandbox *sandbox, bool look);
void follow_stop(struct sandbox *sandbox);

#endif

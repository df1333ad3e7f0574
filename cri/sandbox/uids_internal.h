/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uids_internal.h: the users that sandboxes' VMMs run as.
 *
 * Purpose:   each sandbox has one of the range, alone, from before its first step until all else that it has
 *            left on the host is undone. The journal is the truth: a step "uid" holds the number.
 * Threads:   any thread; one lock, held for an access.
 * Ownership: embedded; uids_done.
 * Limits:    UIDS_MAX users in a range.
 */
#ifndef CRI_SANDBOX_UIDS_INTERNAL_H
#define CRI_SANDBOX_UIDS_INTERNAL_H

#include "base/err.h"
#include "cri/store/store.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#define UIDS_MAX (1U << 20)

struct uids {
	pthread_mutex_t lock;
	uid_t first;
	uint32_t count; /* 0: there are none, and VMMs run as root */
	uint32_t next;	/* lock: where the search begins */
	uint8_t *taken; /* lock: a bit for each */
};

/* Takes what the journal says that sandboxes of earlier servers have. */
int uids_init(struct uids *uids, uid_t first, uint32_t count, struct store *store, struct err *err);
void uids_done(struct uids *uids);
/* One that no sandbox has and no process runs as. -EAGAIN (ResourceExhausted) if all are taken. */
int uids_take(struct uids *uids, uid_t *ret_uid, struct err *err);
/* One that is not of the range, or not taken: nothing. */
void uids_give(struct uids *uids, uid_t uid);
/*
 * True if a process runs as this user; one that is ending, or has and is not reaped, does not. Reads /proc.
 */
bool uids_runs(uid_t uid);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/core/gate.h"

#include "base/util.h"

#define ASK_NS (100 * NS_PER_MS)

struct gate_waiter {
	struct gate_waiter *next;
};

void gate_init(struct gate *gate, unsigned int slots)
{
	pthread_condattr_t attr;

	*gate = (struct gate){.slots = slots};
	gate->last = &gate->first;
	pthread_mutex_init(&gate->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&gate->moved, &attr);
	pthread_condattr_destroy(&attr);
}

/* Lock held. */
static void unlink_waiter(struct gate *gate, struct gate_waiter *waiter)
{
	struct gate_waiter **at = &gate->first;

	while (*at != waiter)
		at = &(*at)->next;
	*at = waiter->next;
	if (!*at)
		gate->last = at;
	pthread_cond_broadcast(&gate->moved); /* another is the first now */
}

/* Lock held; let go of while it waits. 0 once this waiter is the first and there is a place. */
static int wait_turn(struct gate *gate, struct gate_waiter *waiter, int64_t deadline_ns,
		     bool (*given_up)(void *arg), void *arg)
{
	while (gate->first != waiter || gate->inside >= gate->slots) {
		int64_t now = now_monotonic_ns(), until = now + ASK_NS;
		struct timespec ts;
		bool over;

		if (now >= deadline_ns)
			return -ETIMEDOUT;
		if (until > deadline_ns)
			until = deadline_ns;
		ts = (struct timespec){.tv_sec = until / NS_PER_SEC, .tv_nsec = until % NS_PER_SEC};
		pthread_cond_timedwait(&gate->moved, &gate->lock, &ts);
		pthread_mutex_unlock(&gate->lock);
		over = given_up && given_up(arg);
		pthread_mutex_lock(&gate->lock);
		if (over)
			return -ECANCELED;
	}
	return 0;
}

int gate_enter(struct gate *gate, int64_t deadline_ns, bool (*given_up)(void *arg), void *arg,
	       struct err *err)
{
	struct gate_waiter waiter = {NULL};
	int r;

	pthread_mutex_lock(&gate->lock);
	*gate->last = &waiter;
	gate->last = &waiter.next;
	r = wait_turn(gate, &waiter, deadline_ns, given_up, arg);
	if (r == 0)
		gate->inside++;
	unlink_waiter(gate, &waiter);
	pthread_mutex_unlock(&gate->lock);
	if (r == -ETIMEDOUT)
		return err_set_status(err, r, ERR_DEADLINE_EXCEEDED,
				      "no turn within the time given: %u are at it", gate->slots);
	return r < 0 ? err_set(err, r, "given up while waiting for a turn") : 0;
}

void gate_leave(struct gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	gate->inside--;
	pthread_cond_broadcast(&gate->moved);
	pthread_mutex_unlock(&gate->lock);
}

void gate_load(struct gate *gate, unsigned int *ret_inside, unsigned int *ret_waiting)
{
	pthread_mutex_lock(&gate->lock);
	*ret_inside = gate->inside;
	*ret_waiting = 0;
	for (const struct gate_waiter *w = gate->first; w; w = w->next)
		(*ret_waiting)++;
	pthread_mutex_unlock(&gate->lock);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/core/gate.h"

#include "base/cond.h"

struct gate_waiter {
	struct gate_waiter *next;
};

void gate_init(struct gate *gate, unsigned int slots)
{
	*gate = (struct gate){.slots = slots};
	gate->last = &gate->first;
	pthread_mutex_init(&gate->lock, NULL);
	cond_init(&gate->moved);
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
	pthread_cond_broadcast(&gate->moved); /* another one is the first now */
}

/* Lock held; released while it waits. 0 once this waiter is the first and there is a slot. */
static int wait_turn(struct gate *gate, struct gate_waiter *waiter, struct call *call)
{
	int r = 0;

	while (r == 0 && (gate->first != waiter || gate->inside >= gate->slots))
		r = call_wait(call, &gate->moved, &gate->lock, INT64_MAX);
	return r;
}

int gate_enter(struct gate *gate, struct call *call, struct err *err)
{
	struct gate_waiter waiter = {NULL};
	unsigned int inside;
	int r;

	pthread_mutex_lock(&gate->lock);
	*gate->last = &waiter;
	gate->last = &waiter.next;
	r = wait_turn(gate, &waiter, call);
	inside = gate->inside;
	if (r == 0)
		gate->inside++;
	unlink_waiter(gate, &waiter);
	pthread_mutex_unlock(&gate->lock);
	if (r == 0)
		return 0;
	if (r == -ETIMEDOUT)
		return err_set_status(err, r, ERR_DEADLINE_EXCEEDED,
				      "timed out waiting for a boot slot (%u boots in progress)", inside);
	(void)call_check(call, err);
	return err_wrap(err, "cancelled while waiting for a boot slot");
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

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "cri/core/gate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdatomic.h>

#define LONG_NS (30 * NS_PER_SEC)

struct visitor {
	struct gate *gate;
	pthread_t thread;
	struct call *call;
	atomic_int *order;
	atomic_int place; /* when it came in, counted from 1; 0: not yet */
	int result;
	struct err err;
};

static void *visit(void *arg)
{
	struct visitor *v = arg;

	v->result = gate_enter(v->gate, v->call, &v->err);
	if (v->result == 0)
		v->place = atomic_fetch_add(v->order, 1) + 1;
	return NULL;
}

static void come(struct visitor *v, struct gate *gate, atomic_int *order, int64_t patience_ns)
{
	v->gate = gate;
	v->order = order;
	assert_int_equal(call_new(now_monotonic_ns() + patience_ns, &v->call, NULL), 0);
	assert_int_equal(pthread_create(&v->thread, NULL, visit, v), 0);
}

static void leave(struct visitor *v)
{
	pthread_join(v->thread, NULL);
	call_unref(v->call);
}

static void until_load_is(struct gate *gate, unsigned int inside, unsigned int waiting)
{
	int64_t deadline = now_monotonic_ns() + LONG_NS;
	const struct timespec pause = {.tv_nsec = NS_PER_MS};

	for (;;) {
		unsigned int in, out;

		gate_load(gate, &in, &out);
		if (in == inside && out == waiting)
			return;
		if (now_monotonic_ns() > deadline)
			fail_msg("%u inside and %u waiting instead of %u and %u", in, out, inside, waiting);
		nanosleep(&pause, NULL);
	}
}

static void as_many_as_slots_and_then_in_order(void **state)
{
	struct visitor v[6] = {0};
	atomic_int order = 0;
	struct gate gate;

	(void)state;
	gate_init(&gate, 2);
	for (unsigned int i = 0; i < ARRAY_SIZE(v); i++) {
		come(&v[i], &gate, &order, LONG_NS);
		until_load_is(&gate, i < 2 ? i + 1 : 2, i < 2 ? 0 : i - 1);
		if (i < 2)
			leave(&v[i]);
	}
	for (unsigned int i = 2; i < ARRAY_SIZE(v); i++) {
		assert_int_equal(v[i].place, 0);
		gate_leave(&gate);
		leave(&v[i]);
		assert_int_equal(v[i].place, i + 1);
	}
	gate_leave(&gate);
	gate_leave(&gate);
	until_load_is(&gate, 0, 0);
}

static void cancelled_or_late_waiter_goes_and_the_next_moves_up(void **state)
{
	struct visitor in = {0}, late = {0}, gone = {0}, last = {0};
	int64_t begin;
	atomic_int order = 0;
	struct gate gate;

	(void)state;
	gate_init(&gate, 1);
	come(&in, &gate, &order, LONG_NS);
	until_load_is(&gate, 1, 0);
	come(&late, &gate, &order, 200 * NS_PER_MS);
	until_load_is(&gate, 1, 1);
	come(&gone, &gate, &order, LONG_NS);
	until_load_is(&gate, 1, 2);
	come(&last, &gate, &order, LONG_NS);
	leave(&late);
	assert_int_equal(late.result, -ETIMEDOUT);
	assert_int_equal(late.err.status, ERR_DEADLINE_EXCEEDED);
	assert_string_equal(late.err.msg, "timed out waiting for a boot slot (1 boots in progress)");
	begin = now_monotonic_ns();
	call_cancel(gone.call, "the client has left");
	leave(&gone);
	assert_true(now_monotonic_ns() - begin < 100 * NS_PER_MS);
	assert_int_equal(gone.result, -ECANCELED);
	assert_string_equal(gone.err.msg, "cancelled while waiting for a boot slot: the client has left");
	until_load_is(&gate, 1, 1);
	gate_leave(&gate);
	leave(&last);
	assert_int_equal(last.result, 0);
	leave(&in);
	gate_leave(&gate);
	until_load_is(&gate, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_many_as_slots_and_then_in_order),
		cmocka_unit_test(cancelled_or_late_waiter_goes_and_the_next_moves_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the commands of ExecSync may hold of the server: threads and memory. Both are shared by the same rule:
 * a pod may have as much as a part of what is still free. So a pod alone gets plenty, pods that take all they
 * can share it, and something is always left for one that has none.
 */
#include "cri/pods/pods_internal.h"

#define EXECS_MAX  512 /* threads of LANE_EXEC */
#define EXECS_POD  128
#define OUTPUT_MAX (256u << 20)
#define OUTPUT_ANY (64u << 10) /* every command may hold that much */

int exec_enter(struct pod *pod, struct err *err)
{
	struct pods *pods = pod->pods;
	unsigned int all = atomic_fetch_add(&pods->execs, 1), own = atomic_fetch_add(&pod->execs, 1);

	if (own < EXECS_POD && all < EXECS_MAX && own <= (EXECS_MAX - all) / 2)
		return 0;
	exec_leave(pod, 0);
	return err_set_status(err, -EAGAIN, ERR_RESOURCE_EXHAUSTED,
			      "pod sandbox \"%s\" runs %u commands already (%u in all pods)", pod->object.id,
			      own, all);
}

void exec_leave(struct pod *pod, size_t held)
{
	size_t charged = held > OUTPUT_ANY ? held - OUTPUT_ANY : 0;

	atomic_fetch_sub(&pod->execs, 1);
	atomic_fetch_sub(&pod->pods->execs, 1);
	atomic_fetch_sub(&pod->exec_bytes, charged);
	atomic_fetch_sub(&pod->pods->exec_bytes, charged);
}

int exec_hold(struct pod *pod, size_t held, size_t more, struct err *err)
{
	struct pods *pods = pod->pods;
	size_t before = held > OUTPUT_ANY ? held : OUTPUT_ANY;
	size_t add = held + more > before ? held + more - before : 0;
	size_t all, own;

	if (add == 0)
		return 0;
	all = atomic_fetch_add(&pods->exec_bytes, add) + add;
	own = atomic_fetch_add(&pod->exec_bytes, add) + add;
	if (all <= OUTPUT_MAX && own <= OUTPUT_MAX - all + add)
		return 0;
	atomic_fetch_sub(&pod->exec_bytes, add);
	atomic_fetch_sub(&pods->exec_bytes, add);
	return err_set_status(
		err, -ENOBUFS, ERR_RESOURCE_EXHAUSTED,
		"the commands of pod sandbox \"%s\" hold %zu bytes of output, those of all pods %zu",
		pod->object.id, own - add, all - add);
}

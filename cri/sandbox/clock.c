/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/sandbox/clock.h"

#include "api/agent/sandbox.pb-c.h"
#include "base/log.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "cri/pods/pod.h"

#include <inttypes.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#define CALL_NS	     (30 * NS_PER_SEC)
#define TOLERATED_NS (100 * NS_PER_MS)
#define TRIP_MAX_NS  (2 * NS_PER_SEC) /* what took longer tells too little about the time it was given */
#define JUMP_NS	     (10 * NS_PER_MS)
#define TIME_MAX_NS  (INT64_MAX / 2) /* the year 2116: keeps the arithmetic from overflowing */

/* ---- one guest ----------------------------------------------------------------------------------------- */

struct question {
	struct pod *pod;
	int64_t asked_ns, asked_mono_ns;
};

static void set_answered(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct pod *pod = arg;

	(void)msg;
	if (err)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", pod->id), "setting the guest's clock: %s",
			 err->msg);
	pod_unref(pod);
}

static void set(struct pod *pod, int64_t delta_ns)
{
	Grpc__SyncClockPacket req = GRPC__SYNC_CLOCK_PACKET__INIT;

	req.delta = delta_ns;
	pod_ref(pod);
	if (agent_call_async(pod->agent, &AGENT_SYNC_CLOCK, &req.base, CALL_NS, set_answered, pod) < 0)
		pod_unref(pod);
	else
		log_line(LOG_LEVEL_INFO, LOG_FIELDS("pod", pod->id),
			 "the guest's clock is moved by %+.3f s to the host's", (double)delta_ns / 1e9);
}

static bool plausible(int64_t time_ns)
{
	return time_ns >= 0 && time_ns <= TIME_MAX_NS;
}

/* The guest's time is taken to be that of the middle between question and answer, as NTP does. */
static void time_answered(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct question *q = arg;
	const Grpc__SyncClockPacket *answer = (const void *)msg;
	int64_t now = now_realtime_ns(), trip = now_monotonic_ns() - q->asked_mono_ns, delta;

	if (err) {
		log_line(LOG_LEVEL_DEBUG, LOG_FIELDS("pod", q->pod->id), "asking for the guest's time: %s",
			 err->msg);
	} else if (!plausible(answer->clientarrivetime) || !plausible(answer->serversendtime)) {
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("pod", q->pod->id),
			 "the guest's agent gives a time that cannot be");
	} else if (trip > TRIP_MAX_NS || llabs(now - q->asked_ns - trip) > JUMP_NS) {
		q->pod->looks =
			0; /* too slow, or the host's clock was set meanwhile: at the next look again */
	} else {
		delta = (q->asked_ns + now) / 2 - (answer->clientarrivetime + answer->serversendtime) / 2;
		if (llabs(delta) > TOLERATED_NS)
			set(q->pod, delta);
	}
	pod_unref(q->pod);
	free(q);
}

void clock_sync(struct pod *pod)
{
	Grpc__SyncClockPacket req = GRPC__SYNC_CLOCK_PACKET__INIT;
	struct question *q = malloc(sizeof(*q));

	if (!q)
		return;
	*q = (struct question){
		.pod = pod_ref(pod), .asked_ns = now_realtime_ns(), .asked_mono_ns = now_monotonic_ns()};
	req.clientsendtime = q->asked_ns;
	if (agent_call_async(pod->agent, &AGENT_SYNC_CLOCK, &req.base, CALL_NS, time_answered, q) < 0) {
		pod_unref(q->pod);
		free(q);
	}
}

/* ---- the host ------------------------------------------------------------------------------------------ */

struct watch {
	struct server *server;
	int fd;
	int64_t offset_ns; /* of the wall clock to CLOCK_BOOTTIME, which nobody sets */
	struct loop_source *source;
};

static int64_t offset_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return now_realtime_ns() - (ts.tv_sec * NS_PER_SEC + ts.tv_nsec);
}

/* A timer that never comes: it is there to be cancelled when the clock is set (timerfd_create(2)). */
static int arm(int fd)
{
	struct itimerspec never = {.it_value.tv_sec = INT32_MAX};

	return timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, NULL) < 0 ? -errno
												  : 0;
}

static void sync_all(struct server *server)
{
	struct pod **list;

	if (pod_list(server, &list, NULL) < 0)
		return;
	for (size_t i = 0; list[i]; i++) {
		struct agent *agent;

		if (pod_agent(list[i], &agent, NULL) == 0)
			clock_sync(list[i]);
	}
	pod_list_free(list);
}

static void clock_was_set(void *arg, int fd, uint32_t revents)
{
	struct watch *w = arg;
	int64_t offset, by;
	uint64_t ticks;

	(void)revents;
	if (read(fd, &ticks, sizeof(ticks)) < 0 && errno == EAGAIN)
		return;
	if (arm(fd) < 0) {
		log_warn("the wall clock is no longer watched: %s", strerrordesc_np(errno));
		w->source = loop_source_free(w->source);
		return;
	}
	offset = offset_now();
	by = offset - w->offset_ns;
	w->offset_ns = offset;
	if (llabs(by) < TOLERATED_NS)
		return;
	log_warn("the host's wall clock was set, by %+.3f s; the guests follow", (double)by / 1e9);
	sync_all(w->server);
}

int clock_watch(struct server *server, struct err *err)
{
	static struct watch watch; /* for the life of the process */
	int r;

	watch = (struct watch){.server = server, .offset_ns = offset_now()};
	watch.fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (watch.fd < 0)
		return err_set_errno(err, -errno, "a timer on the wall clock");
	r = arm(watch.fd);
	if (r < 0)
		err_set_errno(err, r, "a timer on the wall clock");
	else
		r = loop_add_fd(server->loop, watch.fd, EPOLLIN, clock_was_set, &watch, &watch.source, err);
	if (r < 0)
		watch.fd = close_fd(watch.fd);
	return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/sandbox/clock_internal.h"

#include "api/agent/sandbox.pb-c.h"
#include "base/log.h"
#include "base/util.h"

#include <inttypes.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#define CALL_NS	     (30 * NS_PER_SEC)
#define TOLERATED_NS (100 * NS_PER_MS)
#define TRIP_MAX_NS  (2 * NS_PER_SEC) /* what took longer tells too little about the time it was given */
#define JUMP_NS	     (10 * NS_PER_MS)
#define TIME_MAX_NS  (INT64_MAX / 2) /* the year 2116: keeps the arithmetic from overflowing */

/* ---- one guest ----------------------------------------------------------------------------------------- */

/* A question, and then an order, to one guest. */
struct question {
	struct agent *agent; /* a reference */
	char name[65];
	int64_t asked_ns, asked_mono_ns;
	void (*done)(void *arg, bool again);
	void *arg;
};

static void question_end(struct question *q, bool again)
{
	if (q->done)
		q->done(q->arg, again);
	agent_unref(q->agent);
	free(q);
}

static void set_answered(void *arg, const struct err *err, const ProtobufCMessage *msg)
{
	struct question *q = arg;

	(void)msg;
	if (err)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("sandbox", q->name), "setting the guest's clock: %s",
			 err->msg);
	question_end(q, false);
}

static void set(struct question *q, int64_t delta_ns)
{
	Grpc__SyncClockPacket req = GRPC__SYNC_CLOCK_PACKET__INIT;

	req.delta = delta_ns;
	log_line(LOG_LEVEL_INFO, LOG_FIELDS("sandbox", q->name),
		 "the guest's clock is moved by %+.3f s to the host's", (double)delta_ns / 1e9);
	if (agent_call_async(q->agent, &AGENT_SYNC_CLOCK, &req.base, CALL_NS, set_answered, q) < 0)
		question_end(q, true);
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
		log_line(LOG_LEVEL_DEBUG, LOG_FIELDS("sandbox", q->name), "asking for the guest's time: %s",
			 err->msg);
		question_end(q, true);
	} else if (!plausible(answer->clientarrivetime) || !plausible(answer->serversendtime)) {
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("sandbox", q->name),
			 "the guest agent sent an impossible time");
		question_end(q, false);
	} else if (trip > TRIP_MAX_NS || llabs(now - q->asked_ns - trip) > JUMP_NS) {
		question_end(q, true); /* too slow, or the host's clock was set meanwhile */
	} else {
		delta = (q->asked_ns + now) / 2 - (answer->clientarrivetime + answer->serversendtime) / 2;
		if (llabs(delta) > TOLERATED_NS)
			set(q, delta);
		else
			question_end(q, false);
	}
}

void clock_sync(struct agent *agent, const char *name, void (*done)(void *arg, bool again), void *arg)
{
	Grpc__SyncClockPacket req = GRPC__SYNC_CLOCK_PACKET__INIT;
	struct question *q = malloc(sizeof(*q));

	if (!q) {
		if (done)
			done(arg, true);
		return;
	}
	*q = (struct question){.agent = agent_ref(agent),
			       .asked_ns = now_realtime_ns(),
			       .asked_mono_ns = now_monotonic_ns(),
			       .done = done,
			       .arg = arg};
	snprintf(q->name, sizeof(q->name), "%s", name);
	req.clientsendtime = q->asked_ns;
	if (agent_call_async(agent, &AGENT_SYNC_CLOCK, &req.base, CALL_NS, time_answered, q) < 0)
		question_end(q, true);
}

/* ---- the host ------------------------------------------------------------------------------------------ */

struct clock_watch {
	int fd;
	int64_t offset_ns; /* of the wall clock to CLOCK_BOOTTIME, which nobody sets */
	struct loop_source *source;
	void (*jumped)(void *arg);
	void *arg;
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

static void clock_was_set(void *arg, int fd, uint32_t revents)
{
	struct clock_watch *w = arg;
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
	w->jumped(w->arg);
}

struct clock_watch *clock_unwatch(struct clock_watch *watch)
{
	if (!watch)
		return NULL;
	loop_source_free(watch->source);
	close_fd(watch->fd);
	free(watch);
	return NULL;
}
DEFINE_CLEANUP(clock_watch, struct clock_watch, clock_unwatch)

int clock_watch(struct loop *loop, void (*jumped)(void *arg), void *arg, struct clock_watch **ret_watch,
		struct err *err)
{
	struct clock_watch *w CLEANUP(clock_watch_cleanup) = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_oom(err);
	w->offset_ns = offset_now();
	w->jumped = jumped;
	w->arg = arg;
	w->fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (w->fd < 0)
		return err_set_errno(err, -errno, "a timer on the wall clock");
	r = arm(w->fd);
	if (r < 0)
		return err_set_errno(err, r, "a timer on the wall clock");
	r = loop_add_fd(loop, w->fd, EPOLLIN, clock_was_set, w, &w->source, err);
	if (r < 0)
		return r;
	*ret_watch = move_ptr(w);
	return 0;
}

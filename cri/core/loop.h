/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.h: the server's one event loop (sd-event), which owns every watched fd, timer and pidfd.
 *
 * Threads:   loop_post and loop_on_thread from any thread; everything else on the loop's own thread only
 *            (asserted), before loop_run or inside a callback. Callbacks never block.
 * Ownership: loop_source_free detaches and frees a source at once, also from inside its own callback; its
 *            callback does not run again. loop_free frees what is left. Free a source before closing its fd.
 * Limits:    the post queue grows as needed; a post fails only with -ENOMEM.
 */
#ifndef CRI_CORE_LOOP_H
#define CRI_CORE_LOOP_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct loop_source;

typedef void loop_fn(void *arg);
/* revents: EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR. */
typedef void loop_fd_fn(void *arg, int fd, uint32_t revents);

int loop_new(struct loop **ret_loop, struct err *err);
/* On the loop's thread. Posts that have not run by then never run: see that nothing waits for one. */
struct loop *loop_free(struct loop *loop);
/* Runs on the calling thread, which becomes the loop's, until loop_stop (also one from before loop_run). May
 * be run again. */
int loop_run(struct loop *loop, struct err *err);
/* Any thread. What was posted before it still runs. */
void loop_stop(struct loop *loop);
bool loop_on_thread(const struct loop *loop);
/* Runs fn(arg) on the loop's thread, in the order of posting. Any thread. */
int loop_post(struct loop *loop, loop_fn *fn, void *arg);

/* The fd stays the caller's; level-triggered. */
int loop_add_fd(struct loop *loop, int fd, uint32_t events, loop_fd_fn *fn, void *arg,
		struct loop_source **ret_source, struct err *err);
int loop_source_set_events(struct loop_source *source, uint32_t events);
/* One-shot at CLOCK_MONOTONIC when_ns; loop_timer_set arms it again (INT64_MAX disarms). */
int loop_add_timer(struct loop *loop, int64_t when_ns, loop_fn *fn, void *arg,
		   struct loop_source **ret_source, struct err *err);
int loop_timer_set(struct loop_source *source, int64_t when_ns);
/* A blocked signal, as an event. */
int loop_add_signal(struct loop *loop, int signo, void (*fn)(void *arg, int signo), void *arg,
		    struct loop_source **ret_source, struct err *err);
struct loop_source *loop_source_free(struct loop_source *source);

#endif

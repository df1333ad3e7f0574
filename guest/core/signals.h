/* SPDX-License-Identifier: Apache-2.0 */
/*
 * signals.h: the signals of the agent, taken in its loop.
 *
 * Purpose:   SIGCHLD reaps, SIGTERM and SIGINT begin the orderly end (ops->shutdown), SIGUSR1 is
 *            ops->on_usr1, SIGPIPE is ignored. They are blocked otherwise; spawn.h gives children a clean
 *            mask.
 * Threads:   the loop's.
 * Ownership: signals_watch's file descriptor and source live until signals_unwatch.
 */
#ifndef GUEST_CORE_SIGNALS_H
#define GUEST_CORE_SIGNALS_H

#include "guest/core/agent.h"

int signals_watch(struct agent *agent, struct err *err);
void signals_unwatch(void);

#endif

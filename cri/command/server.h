/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server.h: the server as a whole: it owns all rooms, and gives each the parts that it needs.
 */
#ifndef CRI_COMMAND_SERVER_H
#define CRI_COMMAND_SERVER_H

#include "base/err.h"

struct config;

/* Runs the server until SIGTERM or SIGINT; VMs keep running. Once in a process, which ends afterwards. */
int server_run(const struct config *config, struct err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * logsink.h: where the server's log lines go.
 *
 * Purpose:   with stderr connected to the journal, lines go there by its own protocol, each with its
 *            priority; else to stderr.
 * Threads:   logsink_init once, before threads start.
 * Source:    systemd.exec(5), $JOURNAL_STREAM; sd_journal_sendv(3).
 */
#ifndef CRI_COMMAND_LOGSINK_H
#define CRI_COMMAND_LOGSINK_H

#include <stdbool.h>

/* True if the journal takes the lines from now on. */
bool logsink_init(void);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * command.h: the subcommands of the crivisor binary.
 *
 * Contract: argv[0] is the subcommand's own name. The result is the process's exit status: 0, 1 (failed, the
 * reason is on stderr) or CMD_USAGE. Called on the main thread, before any other exists.
 */
#ifndef CRI_COMMAND_COMMAND_H
#define CRI_COMMAND_COMMAND_H

#include <stdbool.h>

#define CMD_USAGE 2

int cmd_serve(int argc, char **argv);
int cmd_config(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_image(int argc, char **argv);
int cmd_version(int argc, char **argv);

/* Prints "crivisor: <text>" and a hint to --help; returns CMD_USAGE. */
int cmd_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Prints "crivisor: <text>"; returns 1. */
int cmd_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* One option of a subcommand, "--name VALUE" or "--name=VALUE" (value), or "--name" (flag). The last has no
 * name. */
struct cmd_option {
	const char *name;
	const char **value;
	bool *flag;
};
/*
 * Takes options from anywhere in argv[1…] ("--" ends them), moves the operands to argv[1…] and returns their
 * number, or -1 after saying what is wrong.
 */
int cmd_options(int argc, char **argv, const struct cmd_option *options);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * command.h: the subcommands of the crivisor binary.
 *
 * Contract:  argv[0] is the subcommand's own name. The result is the process's exit status: 0, 1 (failed, the
 *            reason is on stderr) or CMD_USAGE.
 * Threads:   called on the main thread, before any other exists.
 */
#ifndef CRI_COMMAND_COMMAND_H
#define CRI_COMMAND_COMMAND_H

#include <stdbool.h>

#define CMD_USAGE 2

struct cmd {
	const char *name;
	const char *operands; /* for the usage line; "" if none are taken */
	const char *about;    /* one line */
	int (*run)(int argc, char **argv);
};
extern const struct cmd cmd_serve, cmd_check, cmd_config, cmd_image, cmd_version;

/*
 * Prints "crivisor: <name>: <text>" and a hint to its --help (`cmd` NULL: the binary's); returns CMD_USAGE.
 */
int cmd_usage(const struct cmd *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Prints "crivisor: <text>"; returns 1. */
int cmd_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* One option of a subcommand: "--name VALUE" or "--name=VALUE" (value), or "--name" (flag). */
struct cmd_option {
	const char *name; /* NULL: the end of the list */
	const char **value;
	bool *flag;
	const char *value_name; /* "FILE"; NULL for a flag */
	const char *about;
};
#define CMD_OPTIONS_MAX 8
#define CMD_CONFIG_OPTION(to)                                                                                \
	{                                                                                                    \
		"config", to, NULL, "FILE", "read FILE instead of /etc/crivisor/config.toml and config.d"    \
	}

/*
 * Takes options from anywhere in argv[1…] ("--" ends them), moves the operands to argv[1…] and returns their
 * number. -1: there is nothing more to do than to end with *ret_status, 0 after --help (printed to stdout) or
 * CMD_USAGE after saying what is wrong. At most CMD_OPTIONS_MAX options.
 */
int cmd_options(const struct cmd *cmd, int argc, char **argv, const struct cmd_option *options,
		int *ret_status);

#endif

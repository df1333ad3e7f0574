/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/command/command.h"

#include "base/util.h"

#include <assert.h>
#include <getopt.h>

#define HELP  'h' /* what getopt_long returns for --help; options return FIRST plus their index */
#define FIRST 256

static void say(const struct cmd *cmd, const char *fmt, va_list ap)
{
	fputs("crivisor: ", stderr);
	if (cmd)
		fprintf(stderr, "%s: ", cmd->name);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

int cmd_usage(const struct cmd *cmd, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(cmd, fmt, ap);
	va_end(ap);
	fprintf(stderr, "Try 'crivisor%s%s --help'.\n", cmd ? " " : "", cmd ? cmd->name : "");
	return CMD_USAGE;
}

int cmd_fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(NULL, fmt, ap);
	va_end(ap);
	return 1;
}

/* ---- options ------------------------------------------------------------------------------------------- */

static int help(const struct cmd *cmd, const struct cmd_option *options)
{
	printf("Usage: crivisor %s [OPTION]…%s%s\n%s.\n\nOptions:\n", cmd->name, *cmd->operands ? " " : "",
	       cmd->operands, cmd->about);
	for (const struct cmd_option *o = options; o->name; o++) {
		char left[64];

		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "",
			 o->value ? o->value_name : "");
		printf("  %-20s %s\n", left, o->about);
	}
	printf("  %-20s %s\n", "-h, --help", "print this and exit");
	return fflush(stdout) == 0 ? 0 : cmd_fail("cannot write");
}

static void fill(struct option *list, const struct cmd_option *options)
{
	int n = 0;

	for (; options[n].name; n++) {
		assert(n < CMD_OPTIONS_MAX);
		list[n] = (struct option){.name = options[n].name,
					  .has_arg = options[n].value ? required_argument : no_argument,
					  .val = FIRST + n};
	}
	list[n] = (struct option){.name = "help", .has_arg = no_argument, .val = HELP};
}

/* After getopt_long has refused argv[optind - 1]. */
static int refuse(const struct cmd *cmd, int code, char *const *argv, const struct cmd_option *options)
{
	if (code == ':')
		return cmd_usage(cmd, "option --%s needs a value", options[optopt - FIRST].name);
	if (optopt >= FIRST)
		return cmd_usage(cmd, "option --%s takes no value", options[optopt - FIRST].name);
	if (optopt == HELP)
		return cmd_usage(cmd, "option --help takes no value");
	if (optopt)
		return cmd_usage(cmd, "unknown option -%c", optopt);
	return cmd_usage(cmd, "unknown option %s", argv[optind - 1]);
}

int cmd_options(const struct cmd *cmd, int argc, char **argv, const struct cmd_option *options,
		int *ret_status)
{
	struct option list[CMD_OPTIONS_MAX + 2] = {0};
	int code;

	fill(list, options);
	optind = 0; /* glibc: begin anew */
	opterr = 0;
	while ((code = getopt_long(argc, argv, ":h", list, NULL)) >= 0) {
		if (code == HELP) {
			*ret_status = help(cmd, options);
			return -1;
		}
		if (code < FIRST) {
			*ret_status = refuse(cmd, code, argv, options);
			return -1;
		}
		if (options[code - FIRST].value)
			*options[code - FIRST].value = optarg;
		else
			*options[code - FIRST].flag = true;
	}
	/* getopt_long has moved the operands to the end. */
	for (int i = optind; i < argc; i++)
		argv[1 + i - optind] = argv[i];
	return argc - optind;
}

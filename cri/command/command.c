/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/command/command.h"

#include "base/util.h"

static void say(const char *fmt, va_list ap)
{
	fputs("crivisor: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

int cmd_usage(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	fputs("Try 'crivisor --help'.\n", stderr);
	return CMD_USAGE;
}

int cmd_fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	return 1;
}

/* True if arg is "--name", or "--name=value" with *ret_value behind the sign. */
static bool names(const char *arg, const char *name, const char **ret_value)
{
	size_t len = strlen(name);

	if (strncmp(arg + 2, name, len) != 0 || (arg[2 + len] != 0 && arg[2 + len] != '='))
		return false;
	*ret_value = arg[2 + len] == '=' ? arg + 3 + len : NULL;
	return true;
}

/* Takes the option at argv[*at]; false after saying what is wrong. */
static bool take(int argc, char **argv, int *at, const struct cmd_option *options)
{
	const char *arg = argv[*at], *value;

	for (const struct cmd_option *o = options; o->name; o++) {
		if (!str_starts(arg, "--") || !names(arg, o->name, &value))
			continue;
		if (o->flag) {
			*o->flag = true;
			if (value)
				cmd_usage("option --%s takes no value", o->name);
			return !value;
		}
		if (!value && *at + 1 < argc)
			value = argv[++*at];
		if (!value)
			cmd_usage("option --%s needs a value", o->name);
		*o->value = value;
		return value != NULL;
	}
	cmd_usage("unknown option %s", arg);
	return false;
}

int cmd_options(int argc, char **argv, const struct cmd_option *options)
{
	int operands = 0;
	bool ended = false;

	for (int i = 1; i < argc; i++) {
		if (!ended && str_eq(argv[i], "--"))
			ended = true;
		else if (ended || argv[i][0] != '-' || argv[i][1] == 0)
			argv[++operands] = argv[i];
		else if (!take(argc, argv, &i, options))
			return -1;
	}
	return operands;
}

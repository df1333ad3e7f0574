/* SPDX-License-Identifier: Apache-2.0 */
/* The crivisor binary: finds the subcommand. */
#include "base/util.h"
#include "base/version.h"
#include "cri/command/command.h"

static const struct cmd *const commands[] = {&cmd_serve, &cmd_check, &cmd_config, &cmd_image, &cmd_version};

static int help(void)
{
	printf("crivisor %s: a Kubernetes CRI server that gives every pod its own virtual machine\n\n"
	       "Usage: crivisor COMMAND [OPTION]… [OPERAND]…\n\nCommands:\n",
	       crv_version);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-10s %s\n", commands[i]->name, commands[i]->about);
	puts("\nOptions:\n"
	     "  -h, --help print this and exit\n"
	     "  --version  print the version and exit\n\n"
	     "'crivisor COMMAND --help' describes a command. Without --config, the configuration is read "
	     "from\n"
	     "/etc/crivisor/config.toml and then from /etc/crivisor/config.d/*.toml.");
	return fflush(stdout) == 0 ? 0 : cmd_fail("cannot write");
}

static int run_version(int argc, char **argv)
{
	static const struct cmd_option none[] = {{0}};
	int status = 0, n = cmd_options(&cmd_version, argc, argv, none, &status);

	if (n < 0)
		return status;
	if (n > 0)
		return cmd_usage(&cmd_version, "unexpected operand \"%s\"", argv[1]);
	printf("crivisor %s\n", crv_version);
	return fflush(stdout) == 0 ? 0 : cmd_fail("cannot write");
}
const struct cmd cmd_version = {"version", "", "Print the version", run_version};

/*
 * libcurl brings libgnutls along, by way of protocols that are never spoken here; its constructor costs a
 * megabyte of resident memory at every start. This is its documented way to do without it (gnutls/gnutls.h,
 * GNUTLS_SKIP_GLOBAL_INIT): whoever does use it initialises it then.
 */
int _gnutls_global_init_skip(void);
int _gnutls_global_init_skip(void)
{
	return 1;
}

static const struct cmd *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (str_eq(name, commands[i]->name))
			return commands[i];
	return NULL;
}

int main(int argc, char **argv)
{
	char *version[] = {(char *)"version", NULL};
	const char *name = argc > 1 ? argv[1] : NULL;
	const struct cmd *cmd;

	if (!name)
		return cmd_usage(NULL, "no command given");
	if (str_eq(name, "--help") || str_eq(name, "-h") || str_eq(name, "help"))
		return help();
	if (str_eq(name, "--version"))
		return run_version(1, version);
	cmd = find(name);
	if (!cmd)
		return cmd_usage(NULL, "unknown %s \"%s\"", name[0] == '-' ? "option" : "command", name);
	return cmd->run(argc - 1, argv + 1);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The crivisor binary: finds the subcommand. */
#include "base/util.h"
#include "base/version.h"
#include "cri/command/command.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *usage, *what;
} commands[] = {
	{"serve", cmd_serve, "serve [--config FILE] [--log-level LEVEL]", "answer CRI calls until SIGTERM"},
	{"check", cmd_check, "check [--config FILE] [--json]", "say what this host lacks and how to fix it"},
	{"config", cmd_config, "config default | check [--config FILE]",
	 "print every key with its default; check a file"},
	{"image", cmd_image, "image list | import PATH [NAME] | export REF PATH",
	 "images of the local store; OCI layouts and archives [--config FILE] [--json]"},
	{"version", cmd_version, "version", "print the version"},
};

static int help(void)
{
	printf("crivisor %s: a Kubernetes CRI server that gives every pod its own virtual "
	       "machine\n\nUsage:\n",
	       crv_version);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  crivisor %s\n      %s\n", commands[i].usage, commands[i].what);
	puts("\nWithout --config, /etc/crivisor/config.toml is read, then /etc/crivisor/config.d/*.toml.");
	return 0;
}

int cmd_version(int argc, char **argv)
{
	if (argc > 1)
		return cmd_usage("version: unexpected operand \"%s\"", argv[1]);
	printf("crivisor %s\n", crv_version);
	return 0;
}

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

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;

	if (!name)
		return cmd_usage("no command given");
	if (str_eq(name, "--help") || str_eq(name, "-h") || str_eq(name, "help"))
		return help();
	if (str_eq(name, "--version"))
		return cmd_version(1, argv);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (str_eq(name, commands[i].name))
			return commands[i].run(argc - 1, argv + 1);
	return cmd_usage("unknown command \"%s\"", name);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "cri/command/command.h"
#include "cri/config/config.h"

static int check(const char *path)
{
	struct config config;
	struct err err = ERR_INIT;

	if (config_load(path, &config, &err) < 0)
		return cmd_fail("%s", err.msg);
	printf("%s: valid\n", path ? path : CONFIG_PATH);
	config_done(&config);
	return 0;
}

int cmd_config(int argc, char **argv)
{
	const char *path = NULL;
	const struct cmd_option options[] = {{"config", &path, NULL}, {0}};
	int n = cmd_options(argc, argv, options);

	if (n < 0)
		return CMD_USAGE;
	if (n == 1 && str_eq(argv[1], "default") && !path)
		return config_write_default(stdout) < 0 || fflush(stdout) ? cmd_fail("cannot write") : 0;
	if (n == 1 && str_eq(argv[1], "check"))
		return check(path);
	return cmd_usage("config: expected 'default' or 'check [--config FILE]'");
}

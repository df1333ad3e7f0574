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

static int run(int argc, char **argv)
{
	const char *path = NULL;
	const struct cmd_option options[] = {CMD_CONFIG_OPTION(&path), {0}};
	int status = 0, n = cmd_options(&cmd_config, argc, argv, options, &status);

	if (n < 0)
		return status;
	if (n == 1 && str_eq(argv[1], "default") && !path)
		return config_write_default(stdout) < 0 || fflush(stdout) ? cmd_fail("cannot write") : 0;
	if (n == 1 && str_eq(argv[1], "check"))
		return check(path);
	return cmd_usage(&cmd_config, "expected 'default' or 'check [--config FILE]'");
}

const struct cmd cmd_config = {"config", "default | check",
			       "Print every key with its default, or check the configuration", run};

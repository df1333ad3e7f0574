/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "cri/health/check.h"
#include "cri/command/command.h"

static void check_everything(struct check *check)
{
	struct vmm_cgroups cgroups;
	struct err err = ERR_INIT;

	check_host(check);
	check_vm(check);
	check_memory(check);
	vmm_cgroup_look(&cgroups, &err);
	check_cgroups(check, &cgroups, err.code ? &err : NULL);
	check_net(check);
	check_disk(check);
}

static int run(int argc, char **argv)
{
	const char *path = NULL;
	bool json = false;
	const struct cmd_option options[] = {
		CMD_CONFIG_OPTION(&path), {"json", NULL, &json, NULL, "print the findings as JSON"}, {0}};
	struct err err = ERR_INIT;
	struct config config;
	struct check check = {.config = &config, .root = ""};
	int status = 0, n = cmd_options(&cmd_check, argc, argv, options, &status), r;
	size_t missing;

	if (n < 0)
		return status;
	if (n > 0)
		return cmd_usage(&cmd_check, "unexpected operand \"%s\"", argv[1]);
	if (config_load(path, &config, &err) < 0) {
		/* Nothing more can be said: what this host must have depends on it. */
		check_add(&check, "configuration", CHECK_MISSING,
			  "correct it; 'crivisor config default' prints every key with its meaning", "%s",
			  err.msg);
	} else {
		check_ok(&check, "configuration", "%s", path ? path : CONFIG_PATH);
		check_everything(&check);
		config_done(&config);
	}
	missing = check_missing(&check);
	r = check.oom ? -ENOMEM : json ? check_print_json(&check, stdout) : check_print_text(&check, stdout);
	check_done(&check);
	if (r < 0 || fflush(stdout) != 0)
		return cmd_fail("%s", r == -ENOMEM ? "out of memory" : "cannot write");
	return missing > 0;
}

const struct cmd cmd_check = {"check", "", "Say what this host lacks and how to fix it", run};

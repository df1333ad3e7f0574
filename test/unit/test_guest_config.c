/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's configuration from the kernel command line. */
#include "guest/init/config_internal.h"
#include "guest/core/agent.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static struct config parse(const char *cmdline)
{
	struct config c;
	struct err err = ERR_INIT;

	if (config_parse(cmdline, &c, &err) < 0)
		fail_msg("%s", err.msg);
	return c;
}

static void config_parse_empty_gives_defaults(void **state)
{
	struct config c = parse("");

	(void)state;
	assert_int_equal(c.share, CONFIG_SHARE_VIRTIOFS);
	assert_int_equal(c.log_level, LOG_LEVEL_INFO);
	assert_false(c.debug);
	assert_false(c.tracing);
	assert_string_equal(c.debug_shell, "/bin/sh");
}

static void config_parse_A17_bare_keys_and_values_work(void **state)
{
	struct config c = parse("console=hvc0 root=/dev/pmem0p1 ro task.sharefs_type=9p task.debug "
				"task.enable_tracing=true\n");

	(void)state;
	assert_int_equal(c.share, CONFIG_SHARE_9P);
	assert_true(c.debug);
	assert_true(c.tracing);
	assert_int_equal(c.log_level, LOG_LEVEL_TRACE);
	assert_false(parse("task.debug=false").debug);
	assert_true(parse("task.debug=1").debug);
	assert_int_equal(parse("task.debug").log_level, LOG_LEVEL_DEBUG);
	assert_string_equal(parse("task.debug_shell=/bin/ash").debug_shell, "/bin/ash");
	assert_string_equal(parse("task.debug_shell").debug_shell, "/bin/sh");
}

static void config_parse_last_of_a_key_wins(void **state)
{
	(void)state;
	assert_false(parse("task.debug task.debug=false").debug);
	assert_int_equal(parse("task.log_level=error task.debug").log_level, LOG_LEVEL_ERROR);
	assert_int_equal(parse("task.log_level=error task.log_level=warn").log_level, LOG_LEVEL_WARN);
}

static void config_parse_quotes_keep_blanks_together(void **state)
{
	(void)state;
	assert_false(parse("foo=\"a task.debug b\"").debug);
	assert_true(parse("  task.debug=\"true\"  ").debug);
}

static void config_parse_bad_values_are_named(void **state)
{
	static const char *const bad[] = {"task.debug=maybe",  "task.sharefs_type=nfs",
					  "task.sharefs_type", "task.log_level=loud",
					  "task.no_such=1",    "task.debug_shell=sh"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct config c;
		struct err err = ERR_INIT;
		char key[64];

		snprintf(key, sizeof(key), "%.*s", (int)strcspn(bad[i], "="), bad[i]);
		assert_int_equal(config_parse(bad[i], &c, &err), -EINVAL);
		assert_non_null(strstr(err.msg, key));
	}
}

static void config_parse_long_words_are_the_kernels_affair(void **state)
{
	char line[5000];

	(void)state;
	memset(line, 'x', sizeof(line));
	memcpy(line + sizeof(line) - 12, " task.debug", 12);
	assert_true(parse(line).debug);
}

static void guest_id_valid_takes_names_only(void **state)
{
	char longest[AGENT_ID_MAX + 2];

	(void)state;
	assert_true(agent_id_valid("a"));
	assert_true(agent_id_valid("3f2c_A-b.c"));
	assert_false(agent_id_valid(NULL));
	assert_false(agent_id_valid(""));
	assert_false(agent_id_valid("."));
	assert_false(agent_id_valid(".."));
	assert_false(agent_id_valid(".hidden"));
	assert_false(agent_id_valid("a/b"));
	assert_false(agent_id_valid("a b"));
	assert_false(agent_id_valid("a\n"));
	assert_false(agent_id_valid("\xc3\xa4"));
	memset(longest, 'x', sizeof(longest));
	longest[AGENT_ID_MAX + 1] = 0;
	assert_false(agent_id_valid(longest));
	longest[AGENT_ID_MAX] = 0;
	assert_true(agent_id_valid(longest));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(config_parse_empty_gives_defaults),
		cmocka_unit_test(config_parse_A17_bare_keys_and_values_work),
		cmocka_unit_test(config_parse_last_of_a_key_wins),
		cmocka_unit_test(config_parse_quotes_keep_blanks_together),
		cmocka_unit_test(config_parse_bad_values_are_named),
		cmocka_unit_test(config_parse_long_words_are_the_kernels_affair),
		cmocka_unit_test(guest_id_valid_takes_names_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

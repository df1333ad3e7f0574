/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "base/version.h"
#include "cri/command/command.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const char *config;
static bool json;
static const struct cmd_option options[] = {
	CMD_CONFIG_OPTION(&config), {"json", NULL, &json, NULL, "print JSON"}, {0}};
static const struct cmd cmd = {"image", "", "Images", NULL};
static int status;

static int setup(void **state)
{
	(void)state;
	config = NULL;
	json = false;
	return 0;
}

#define PARSE(...)                                                                                           \
	cmd_options(&cmd, (int)ARRAY_SIZE(((char *[]){__VA_ARGS__})), argv = (char *[]){__VA_ARGS__, NULL},  \
		    options, &status)

static void options_between_operands_are_taken(void **state)
{
	char **argv;

	(void)state;
	assert_int_equal(PARSE("image", "--config", "/x", "list", "--json", "ref"), 2);
	assert_string_equal(config, "/x");
	assert_true(json);
	assert_string_equal(argv[1], "list");
	assert_string_equal(argv[2], "ref");
	assert_int_equal(PARSE("image", "--config=/y=z"), 0);
	assert_string_equal(config, "/y=z");
	assert_int_equal(PARSE("image", "--config="), 0);
	assert_string_equal(config, "");
}

static void two_dashes_end_the_options(void **state)
{
	char **argv;

	(void)state;
	assert_int_equal(PARSE("image", "--", "--json", "-"), 2);
	assert_false(json);
	assert_string_equal(argv[1], "--json");
	assert_int_equal(PARSE("image", "-"), 1);
}

static void wrong_options_are_refused(void **state)
{
	char **argv;

	(void)state;
	assert_int_equal(PARSE("image", "--nonsense"), -1);
	assert_int_equal(PARSE("image", "-c"), -1);
	assert_int_equal(PARSE("image", "--config"), -1);
	assert_int_equal(PARSE("image", "--configs", "x"), -1);
	assert_int_equal(PARSE("image", "--json=true"), -1);
	assert_int_equal(PARSE("image", "--help=me"), -1);
	assert_int_equal(status, CMD_USAGE);
	(void)argv;
}

/* The binary itself: its status, and what it printed to stdout, or to stderr. */
static int run_to(const char *args, const char *redirect, char *out, size_t size)
{
	char *command CLEANUP_FREE = xasprintf("%s/crivisor %s %s", CRV_BUILD_DIR, args, redirect);
	FILE *pipe = popen(command, "r");
	size_t n = fread(out, 1, size - 1, pipe);

	out[n] = 0;
	return WEXITSTATUS(pclose(pipe));
}

static int run(const char *args, char *out, size_t size)
{
	return run_to(args, "2>/dev/null", out, size);
}

static void help_of_each_command_goes_to_stdout(void **state)
{
	static const char *const names[] = {"serve", "check", "config", "image", "version"};
	char out[16384];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char *args CLEANUP_FREE = xasprintf("%s --help", names[i]);
		char *usage CLEANUP_FREE = xasprintf("Usage: crivisor %s [OPTION]…", names[i]);

		assert_int_equal(run(args, out, sizeof(out)), 0);
		assert_memory_equal(out, usage, strlen(usage));
		assert_non_null(strstr(out, "--help"));
		assert_int_equal(strstr(out, "--config FILE") != NULL, !str_eq(names[i], "version"));
		assert_int_equal(run_to(args, "2>&1 >/dev/null", out, sizeof(out)), 0);
		assert_string_equal(out, "");
	}
	assert_int_equal(run("serve -h", out, sizeof(out)), 0);
	assert_non_null(strstr(out, "--log-level LEVEL"));
	assert_int_equal(run("--help", out, sizeof(out)), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		assert_non_null(strstr(out, names[i]));
}

static void unknown_options_are_refused_with_a_hint(void **state)
{
	static const char *const wrong[][2] = {
		{"serve --nonsense",
		 "crivisor: serve: unknown option --nonsense\nTry 'crivisor serve --help'.\n"},
		{"check -x", "crivisor: check: unknown option -x\nTry 'crivisor check --help'.\n"},
		{"image --config",
		 "crivisor: image: option --config needs a value\nTry 'crivisor image --help'.\n"},
		{"check --json=1",
		 "crivisor: check: option --json takes no value\nTry 'crivisor check --help'.\n"},
		{"--nonsense", "crivisor: unknown option \"--nonsense\"\nTry 'crivisor --help'.\n"},
		{"nonsense", "crivisor: unknown command \"nonsense\"\nTry 'crivisor --help'.\n"},
		{"version now",
		 "crivisor: version: unexpected operand \"now\"\nTry 'crivisor version --help'.\n"},
	};
	char out[1024];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_int_equal(run_to(wrong[i][0], "2>&1 >/dev/null", out, sizeof(out)), 2);
		assert_string_equal(out, wrong[i][1]);
		assert_int_equal(run(wrong[i][0], out, sizeof(out)), 2);
		assert_string_equal(out, "");
	}
}

static void binary_answers_with_the_right_status(void **state)
{
	char out[16384], version[64];

	(void)state;
	assert_int_equal(run("version", out, sizeof(out)), 0);
	snprintf(version, sizeof(version), "crivisor %s\n", crv_version);
	assert_string_equal(out, version);
	assert_int_equal(run("--version", out, sizeof(out)), 0);
	assert_int_equal(run("--help", out, sizeof(out)), 0);
	assert_non_null(strstr(out, "Usage: crivisor COMMAND"));
	assert_int_equal(run("config default", out, sizeof(out)), 0);
	assert_non_null(strstr(out, "[hypervisor.virtiofsd]"));
	assert_int_equal(run("config check --config /nonexistent", out, sizeof(out)), 1);
	assert_int_equal(run("serve --config /nonexistent", out, sizeof(out)), 1);
	assert_int_equal(run("", out, sizeof(out)), 2);
	assert_int_equal(run("nonsense", out, sizeof(out)), 2);
	assert_int_equal(run("serve here", out, sizeof(out)), 2);
	assert_int_equal(run("image", out, sizeof(out)), 2);
	assert_int_equal(run("config", out, sizeof(out)), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(options_between_operands_are_taken, setup),
		cmocka_unit_test_setup(two_dashes_end_the_options, setup),
		cmocka_unit_test_setup(wrong_options_are_refused, setup),
		cmocka_unit_test(help_of_each_command_goes_to_stdout),
		cmocka_unit_test(unknown_options_are_refused_with_a_hint),
		cmocka_unit_test(binary_answers_with_the_right_status),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

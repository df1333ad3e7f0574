/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"
#include "base/version.h"
#include "cri/command/command.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const char *config;
static bool json;
static const struct cmd_option options[] = {{"config", &config, NULL}, {"json", NULL, &json}, {0}};

static int setup(void **state)
{
	(void)state;
	config = NULL;
	json = false;
	return 0;
}

#define PARSE(...)                                                                                           \
	cmd_options((int)ARRAY_SIZE(((char *[]){__VA_ARGS__})), argv = (char *[]){__VA_ARGS__}, options)

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
	(void)argv;
}

/* The binary itself: its status, and whether it spoke on stdout. */
static int run(const char *args, char *out, size_t size)
{
	char *command CLEANUP_FREE = xasprintf("%s/crivisor %s 2>/dev/null", CRV_BUILD_DIR, args);
	FILE *pipe = popen(command, "r");
	size_t n = fread(out, 1, size - 1, pipe);

	out[n] = 0;
	return WEXITSTATUS(pclose(pipe));
}

static void binary_answers_with_the_right_status(void **state)
{
	char out[16384], version[64];

	(void)state;
	if (access(CRV_BUILD_DIR "/crivisor", X_OK) < 0)
		skip();
	assert_int_equal(run("version", out, sizeof(out)), 0);
	snprintf(version, sizeof(version), "crivisor %s\n", crv_version);
	assert_string_equal(out, version);
	assert_int_equal(run("--version", out, sizeof(out)), 0);
	assert_int_equal(run("--help", out, sizeof(out)), 0);
	assert_non_null(strstr(out, "crivisor serve"));
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
		cmocka_unit_test(binary_answers_with_the_right_status),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

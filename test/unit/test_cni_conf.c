/* SPDX-License-Identifier: Apache-2.0 */
/* Configurations and results of CNI: which are taken, and which refused with what words. */
#include "cni_fixture.h"

/* ---- configurations ------------------------------------------------------------------------------------ */

static void status_without_configuration_names_the_directory(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	assert_int_equal(cni_status(f->cni, &err), -ENOENT);
	assert_contains(err.msg, f->conf);
	assert_int_equal(err.status, ERR_FAILED_PRECONDITION);
}

static void status_fixed_in_place_is_seen(void **state)
{
	struct fixture *f = *state;
	char *path CLEANUP_FREE = xasprintf("%s/10-a.conflist", f->conf);
	const char *bad = "{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":[{}]}",
		   *good = LIST("1.0.0", "{\"type\":\"p\"}");
	struct err err = ERR_INIT;

	put_plugin(f, "p", GOOD);
	assert_int_equal(write_file(path, bad, strlen(bad), 0600), 0);
	assert_int_equal(cni_status(f->cni, &err), -EINVAL);
	assert_contains(err.msg, "10-a.conflist: plugins[0]: \"type\"");
	assert_int_equal(write_file(path, good, strlen(good), 0600), 0);
	assert_int_equal(cni_status(f->cni, &err), 0);
	assert_int_equal(write_file(path, bad, strlen(bad), 0600), 0);
	assert_int_equal(cni_status(f->cni, &err), -EINVAL);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(cni_status(f->cni, &err), -ENOENT);
}

static void status_missing_plugin_is_named(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct cni_result result;

	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"p\",\"ipam\":{\"type\":\"nowhere\"}}"),
		 0600);
	put_plugin(f, "p", GOOD);
	assert_true(cni_status(f->cni, &err) < 0);
	assert_contains(err.msg, "CNI plugin \"nowhere\" is not installed in");
	assert_contains(err.msg, f->bin);
	assert_int_equal(err.status, ERR_FAILED_PRECONDITION);
	assert_true(cni_add(f->cni, &pod, NULL, 0, &result, &err) < 0);
	assert_calls(f, "");
	assert_false(is_cached(f));
}

static void parse_conf(const char *file, const char *text, const char *words)
{
	struct cni_conf *conf = NULL;
	struct err err = ERR_INIT;
	int r = cni_conf_parse(text, strlen(text), file, &conf, &err);

	if (!words) {
		if (r < 0)
			fail_msg("%s: %s", text, err.msg);
		cni_conf_free(conf);
		return;
	}
	assert_true(r < 0);
	assert_contains(err.msg, file);
	assert_contains(err.msg, words);
}

static void conf_parse_bad_ones_name_the_field(void **state)
{
	char deep[200];

	(void)state;
	parse_conf("a.conflist", "", "unexpected end");
	parse_conf("a.conflist", "{\"a\":1", "unexpected end");
	parse_conf("a.conflist", "{} x", "unexpected data");
	parse_conf("a.conflist", "[]", "must be a JSON object");
	parse_conf("a.conflist", "{\"name\":\"n\",\"plugins\":[{\"type\":\"p\"}]}",
		   "\"cniVersion\" is missing");
	parse_conf("a.conflist", LIST("0.2.0", "{\"type\":\"p\"}"), "\"0.2.0\" is not supported");
	parse_conf("a.conflist", "{\"cniVersion\":\"1.0.0\",\"plugins\":[{\"type\":\"p\"}]}", "\"name\"");
	parse_conf("a.conflist", "{\"cniVersion\":\"1.0.0\",\"name\":\"a/b\",\"plugins\":[{\"type\":\"p\"}]}",
		   "\"name\"");
	parse_conf("a.conflist", "{\"cniVersion\":\"1.0.0\",\"name\":7,\"plugins\":[{\"type\":\"p\"}]}",
		   "must be a string");
	parse_conf("a.conflist", "{\"cniVersion\":\"1.0.0\",\"name\":\"n\"}", "\"plugins\"");
	parse_conf("a.conflist", LIST("1.0.0", ""), "\"plugins\" is empty");
	parse_conf("a.conflist", LIST("1.0.0", "7"), "plugins[0] must be an object");
	parse_conf("a.conflist", LIST("1.0.0", "{\"type\":\"../sh\"}"), "must be the name of a plugin");
	parse_conf("a.conflist", LIST("1.0.0", "{\"type\":\"..\"}"), "must be the name of a plugin");
	parse_conf("a.conflist", LIST("1.0.0", "{\"type\":\"p\",\"ipam\":{\"type\":\"a/b\"}}"), "ipam.type");
	parse_conf("a.conflist",
		   LIST("1.0.0", "{\"type\":\"p\"},{\"type\":\"q\",\"capabilities\":{\"x\":1}}"),
		   "plugins[1]: \"capabilities.x\"");
	parse_conf("a.conf", "{\"cniVersion\":\"1.0.0\",\"name\":\"n\"}", "\"type\"");
	memset(deep, '[', sizeof(deep));
	deep[sizeof(deep) - 1] = '\0';
	parse_conf("a.conflist", deep, "nesting too deep");
}

static void conf_parse_good_ones(void **state)
{
	struct cni_conf *conf;
	struct err err = ERR_INIT;
	const char *many =
		"{\"cniVersion\":\"0.4.0\",\"cniVersions\":[\"0.4.0\",\"1.1.0\",\"2.0.0\"],\"name\":\"n\","
		"\"disableCheck\":true,\"plugins\":[{\"type\":\"p\"}]}";

	(void)state;
	parse_conf("a.conflist", LIST("0.3.1", "{\"type\":\"p\"}"), NULL);
	parse_conf("a.conflist", LIST("0.4.0", "{\"type\":\"p\"}"), NULL);
	parse_conf("a.conflist",
		   LIST("1.1.0", "{\"type\":\"p\",\"capabilities\":{\"portMappings\":true}}") "\n", NULL);
	parse_conf("a.conf", "{\"cniVersion\":\"0.4.0\",\"name\":\"n\",\"type\":\"bridge\",\"ipam\":{}}",
		   NULL);
	assert_int_equal(cni_conf_parse(many, strlen(many), "a.conflist", &conf, &err), 0);
	assert_string_equal(conf->version, "1.1.0");
	assert_true(conf->disable_check);
	cni_conf_free(conf);
}

static void bandwidth_parse_quantities(void **state)
{
	static const struct {
		const char *text;
		uint64_t bps;
	} good[] = {
		{"1000", 1000},	  {"10M", 10000000}, {"1.5Gi", 1610612736}, {"2e6", 2000000},
		{"0.5M", 500000}, {"1k", 1000},	     {"1Ki", 1024},	    {"1P", 1000000000000000},
		{".5M", 500000},  {"1E3", 1000},
	};
	static const char *const bad[] = {"",	 "M",	 "999",	 "2P",	 "1m",
					  "-1M", "1 M",	 "10MB", "1e99", "Ki",
					  "1K",	 "1Mi3", "1e",	 ".",	 "99999999999999999999999"};
	struct err err = ERR_INIT;
	uint64_t bps;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		if (cni_bandwidth_parse(good[i].text, &bps, &err) < 0)
			fail_msg("%s", err.msg);
		assert_int_equal(bps, good[i].bps);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (cni_bandwidth_parse(bad[i], &bps, &err) == 0)
			fail_msg("taken: %s", bad[i]);
}

/* ---- results ------------------------------------------------------------------------------------------- */

static void result_parse_takes_the_pods_own_addresses(void **state)
{
	const char *text =
		"{\"cniVersion\":\"0.4.0\",\"interfaces\":[{\"name\":\"veth1\"},{\"name\":\"eth0\","
		"\"sandbox\":\"/n\",\"mtu\":1400},"
		"{\"name\":\"eth1\",\"sandbox\":\"/n\"}],"
		"\"ips\":[{\"version\":\"4\",\"interface\":0,\"address\":\"1.2.3.4/8\"},"
		"{\"version\":\"6\",\"interface\":1,\"address\":\"fd00::2/64\",\"gateway\":\"fd00::1\"},"
		"{\"address\":\"10.0.0.2/32\"}],"
		"\"routes\":[{\"dst\":\"::/0\"},{\"dst\":\"0.0.0.0/0\",\"mtu\":1300}],\"dns\":{}}";
	struct cni_result result = {0};
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(cni_result_parse(text, strlen(text), "eth0", &result, &err), 0);
	assert_int_equal(result.n_ips, 2);
	assert_string_equal(result.ips[0].address, "fd00::2/64");
	assert_int_equal(result.mtu, 1400);
	assert_string_equal(result.routes[0].gw, "fd00::1");
	assert_string_equal(result.routes[1].gw, "");
	assert_int_equal(result.routes[1].mtu, 1300);
}

static void result_parse_bad_ones_are_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"[]",
		"{\"ips\":{}}",
		"{\"ips\":[7]}",
		"{\"ips\":[{\"address\":\"10.0.0.1\"}]}",
		"{\"ips\":[{\"address\":\"10.0.0.1/24\",\"interface\":0}]}",
		"{\"interfaces\":[{\"name\":\"a/b\"}]}",
		"{\"interfaces\":[{\"name\":\"interface-name-too-long\"}]}",
		"{\"interfaces\":[{\"name\":\"a\",\"mac\":\"zz\"}]}",
		"{\"routes\":[{\"dst\":\"default\"}]}",
		"{\"routes\":[{\"dst\":\"0.0.0.0/0\",\"gw\":\"x\"}]}",
		"{\"cniVersion\":\"0.2.0\",\"ip4\":{}}",
		"{\"routes\":[{\"dst\":\"0.0.0.0/0\",\"mtu\":-1}]}",
	};
	struct cni_result result = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = ERR_INIT;

		if (cni_result_parse(bad[i], strlen(bad[i]), "eth0", &result, &err) == 0)
			fail_msg("taken: %s", bad[i]);
		assert_string_not_equal(err.msg, "");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(conf_parse_bad_ones_name_the_field),
		cmocka_unit_test(conf_parse_good_ones),
		cmocka_unit_test(bandwidth_parse_quantities),
		cmocka_unit_test(result_parse_takes_the_pods_own_addresses),
		cmocka_unit_test(result_parse_bad_ones_are_refused),
		T(status_without_configuration_names_the_directory),
		T(status_fixed_in_place_is_seen),
		T(status_missing_plugin_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The image store's parsers: references, challenges, manifests, configs, hosts.toml, paths. */
#include "base/util.h"
#include "cri/image/registry/auth.h"
#include "cri/image/oci/digest.h"
#include "cri/image/registry/hosts_internal.h"
#include "cri/image/registry/http_internal.h"
#include "cri/image/oci/manifest.h"
#include "cri/image/oci/reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define D1    "sha256:" HEX64

static void expect_ref(const char *text, const char *name, const char *tag, const char *digest)
{
	struct image_ref ref = {0};
	struct err err = ERR_INIT;
	int r = image_ref_parse(text, &ref, &err);

	if (r < 0)
		fail_msg("%s: %s", text, err.msg);
	assert_string_equal(ref.name, name);
	assert_true(str_eq(ref.tag, tag));
	assert_true(str_eq(ref.digest, digest));
	image_ref_done(&ref);
}

static void image_ref_parse_names_are_normalised(void **state)
{
	(void)state;
	expect_ref("busybox", "docker.io/library/busybox", "latest", NULL);
	expect_ref("busybox:1.36", "docker.io/library/busybox", "1.36", NULL);
	expect_ref("team/app", "docker.io/team/app", "latest", NULL);
	expect_ref("docker.io/busybox", "docker.io/library/busybox", "latest", NULL);
	expect_ref("index.docker.io/a/b:c", "docker.io/a/b", "c", NULL);
	expect_ref("localhost/app", "localhost/app", "latest", NULL);
	expect_ref("localhost:5000/app:v1", "localhost:5000/app", "v1", NULL);
	expect_ref("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c", "latest", NULL);
	expect_ref("[::1]:5000/app", "[::1]:5000/app", "latest", NULL);
	expect_ref("registry.k8s.io/pause:3.9", "registry.k8s.io/pause", "3.9", NULL);
	expect_ref("quay.io/x/y@" D1, "quay.io/x/y", NULL, D1);
	expect_ref("quay.io/x/y:tag@" D1, "quay.io/x/y", "tag", D1);
	expect_ref("a__b/c-d.e---f:A_.-", "docker.io/a__b/c-d.e---f", "A_.-", NULL);
	expect_ref("MyHost/app", "MyHost/app", "latest", NULL);
}

static void image_ref_parse_bad_names_are_refused(void **state)
{
	static const char *const bad[] = {
		"",	     "/",	    "a/",	"/a",		"A",	  "a:",	    "a:b:c",  "a b",
		"a\n",	     "a@",	    "a@x",	"a@" D1 "0",	"a___b",  "a..b",   "-a",     "a-",
		"host.x/",   "host.x:/a",   "h.x:1a/b", "h.x:123456/a", "h..x/a", "[::1/a", "a:-tag", HEX64,
		"a@sha512:", "caf\xc3\xa9", "a//b",	"a/./b",	"a/../b", "-h.x/a",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct image_ref ref = {0};
		struct err err = ERR_INIT;

		if (image_ref_parse(bad[i], &ref, &err) == 0)
			fail_msg("accepted: %s", bad[i]);
		assert_int_equal(err.status, ERR_INVALID_ARGUMENT);
		assert_true(err.msg[0]);
	}
}

static void image_ref_parse_long_names_are_refused(void **state)
{
	char text[2000], tag[140];
	struct image_ref ref = {0};

	(void)state;
	memset(text, 'a', sizeof(text));
	text[256] = 0;
	assert_int_equal(image_ref_parse(text, &ref, NULL), -EINVAL);
	text[256] = 'a';
	text[1999] = 0;
	assert_int_equal(image_ref_parse(text, &ref, NULL), -EINVAL);
	memset(tag, 'b', sizeof(tag));
	memcpy(tag, "x:", 2);
	tag[2 + 129] = 0;
	assert_int_equal(image_ref_parse(tag, &ref, NULL), -EINVAL);
	tag[2 + 128] = 0;
	assert_int_equal(image_ref_parse(tag, &ref, NULL), 0);
	image_ref_done(&ref);
}

static void image_host_is_loopback_knows_what_is(void **state)
{
	(void)state;
	assert_true(image_host_is_loopback("localhost"));
	assert_true(image_host_is_loopback("localhost:5000"));
	assert_true(image_host_is_loopback("127.0.0.1"));
	assert_true(image_host_is_loopback("127.1.2.3:80"));
	assert_true(image_host_is_loopback("[::1]:80"));
	assert_false(image_host_is_loopback("localhost.evil.test"));
	assert_false(image_host_is_loopback("127.evil.test"));
	assert_false(image_host_is_loopback("[::2]"));
	assert_false(image_host_is_loopback("registry"));
}

/* ---- challenges ---------------------------------------------------------------------------------------- */

static void auth_challenge_parse_takes_bearer_before_basic(void **state)
{
	struct auth_challenge c = {0};

	(void)state;
	assert_int_equal(auth_challenge_parse("Basic realm=\"a\"", &c), 0);
	assert_int_equal(c.scheme, AUTH_BASIC);
	assert_int_equal(
		auth_challenge_parse(
			"Negotiate abc==, bEaReR realm = \"https://t/?a=b\\\"c\" , scope=\"x,y\", service=z",
			&c),
		0);
	assert_int_equal(c.scheme, AUTH_BEARER);
	assert_string_equal(c.realm, "https://t/?a=b\"c");
	assert_string_equal(c.scope, "x,y");
	assert_string_equal(c.service, "z");
	assert_int_equal(auth_challenge_parse("Basic realm=\"later\"", &c), 0);
	assert_int_equal(c.scheme, AUTH_BEARER);
	auth_challenge_done(&c);
}

static void auth_challenge_parse_two_in_one_header(void **state)
{
	struct auth_challenge c = {0};

	(void)state;
	auth_challenge_parse("Basic realm=\"a\", charset=\"UTF-8\", Bearer realm=\"http://t\",service=\"s\"",
			     &c);
	assert_int_equal(c.scheme, AUTH_BEARER);
	assert_string_equal(c.realm, "http://t");
	auth_challenge_done(&c);
}

static void auth_challenge_parse_nonsense_is_passed_over(void **state)
{
	static const char *const bad[] = {
		"",   "=",   ",,,",	"Bearer",	  "Bearer realm", "Bearer realm=\"x",
		"\"", "a=b", "Bearer=", "Bearer scope=x", "; ;",	  "Bearer realm=\"a\\"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct auth_challenge c = {0};

		assert_int_equal(auth_challenge_parse(bad[i], &c), 0);
		assert_int_equal(c.scheme, AUTH_NONE);
		auth_challenge_done(&c);
	}
}

static void auth_token_parse_answers(void **state)
{
	char *header = NULL;
	struct err err = ERR_INIT;
	const char *good = "{\"access_token\": \"abc.def\", \"expires_in\": 60}",
		   *both = "{\"token\":\"one\",\"access_token\":\"two\"}";
	static const char *const bad[] = {
		"",	   "[]", "{}", "{\"token\": 3}", "{\"token\": \"a\\r\\nX: y\"}", "{\"token\": \"\"}",
		"nonsense"};

	(void)state;
	assert_int_equal(auth_token_parse(good, strlen(good), &header, &err), 0);
	assert_string_equal(header, "Bearer abc.def");
	image_secret_free(header);
	assert_int_equal(auth_token_parse(both, strlen(both), &header, &err), 0);
	assert_string_equal(header, "Bearer one");
	image_secret_free(header);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(auth_token_parse(bad[i], strlen(bad[i]), &header, &err), -EBADMSG);
}

static void auth_basic_header_encodes(void **state)
{
	char *header = auth_basic_header("Aladdin", "open sesame"); /* RFC 7617 section 2 */

	(void)state;
	assert_string_equal(header, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
	image_secret_free(header);
}

static void http_same_origin_compares_scheme_host_port(void **state)
{
	(void)state;
	assert_true(http_same_origin("https://a/x", "https://A:443/y?z"));
	assert_false(http_same_origin("https://a/", "http://a/"));
	assert_false(http_same_origin("https://a/", "https://a:444/"));
	assert_false(http_same_origin("https://a/", "https://a.b/"));
	assert_false(http_same_origin("https://a/", "https://a@b/"));
	assert_false(http_same_origin("https://a/", "nonsense"));
}

/* ---- documents ----------------------------------------------------------------------------------------- */

#define DESC(type) "{\"mediaType\":\"" type "\",\"digest\":\"" D1 "\",\"size\":5}"

static void oci_manifest_parse_reads_both_kinds(void **state)
{
	const char *manifest = "{\"schemaVersion\":2,\"config\":" DESC(OCI_TYPE_CONFIG) ",\"layers\":[" DESC(
		OCI_TYPE_LAYER_ZSTD) "," DESC(OCI_TYPE_LAYER) "]}";
	const char *index = "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"" OCI_TYPE_MANIFEST
			    "\",\"digest\":\"" D1 "\",\"size\":1,\"platform\":{\"os\":\"linux\","
			    "\"architecture\":\"amd64\",\"variant\":\"v3\"}},"
			    "{\"mediaType\":\"" OCI_TYPE_MANIFEST "\",\"digest\":\"" D1
			    "\",\"size\":2,\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}}]} \n";
	const struct oci_descriptor *entry;
	struct oci_manifest m = {0};
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(oci_manifest_parse(manifest, strlen(manifest), "text/plain", &m, &err), 0);
	assert_int_equal(m.kind, OCI_KIND_MANIFEST);
	assert_int_equal(m.n_items, 2);
	assert_int_equal(oci_manifest_check_types(&m, &err), 0);
	oci_manifest_done(&m);
	assert_int_equal(oci_manifest_parse(manifest, strlen(manifest), OCI_TYPE_INDEX, &m, &err), -EBADMSG);
	assert_int_equal(oci_manifest_parse(index, strlen(index), OCI_TYPE_INDEX "; charset=utf-8", &m, &err),
			 0);
	assert_int_equal(m.kind, OCI_KIND_INDEX);
#ifdef __x86_64__
	assert_int_equal(oci_index_select(&m, &entry, &err), 0);
	assert_int_equal(entry->size_bytes, 2);
#else
	(void)entry;
#endif
	oci_manifest_done(&m);
}

static void oci_config_parse_reads_what_runs(void **state)
{
	const char *text =
		"{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{\"Env\":[\"A=b\"],\"Cmd\":null,"
		"\"Entrypoint\":[\"/e\"],\"User\":\"1:2\",\"Labels\":{\"a\":\"b\"},\"Volumes\":{\"/v\":{}},"
		"\"StopSignal\":\"SIGINT\"},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"" D1 "\",\"" D1
		"\"]}}";
	struct image_config c = {0};
	struct err err = ERR_INIT;
	char **diff_ids = NULL, **chain;
	char both[200], expected[IMAGE_DIGEST_LEN + 1];

	(void)state;
	assert_int_equal(oci_config_parse(text, strlen(text), &c, &diff_ids, &err), 0);
	assert_string_equal(c.env[0], "A=b");
	assert_null(c.cmd);
	assert_string_equal(c.entrypoint[0], "/e");
	assert_string_equal(c.stop_signal, "SIGINT");
	assert_string_equal(c.labels[1], "b");
	assert_string_equal(c.volumes[0], "/v");
	assert_int_equal(strv_len(diff_ids), 2);
	chain = oci_chain_ids(diff_ids);
	assert_string_equal(chain[0], D1);
	snprintf(both, sizeof(both), "%s %s", D1, D1);
	image_digest_of(both, strlen(both), expected);
	assert_string_equal(chain[1], expected);
	strv_free(chain);
	strv_free(diff_ids);
	image_config_done(&c);
}

static void oci_config_parse_refuses_nonsense(void **state)
{
	static const char *const bad[] = {
		"{}",
		"[]",
		"{\"rootfs\":{\"diff_ids\":[3]}}",
		"{\"rootfs\":{\"diff_ids\":[\"x\"]}}",
		"{\"rootfs\":{\"diff_ids\":[]},\"config\":{\"Env\":\"A=b\"}}",
		"{\"rootfs\":{\"diff_ids\":[]},\"config\":{\"Env\":[\"a\\u0000b\"]}}",
		"{\"rootfs\":{\"diff_ids\":[]},\"os\":\"windows\"}",
		"{\"rootfs\":{\"diff_ids\":[]}} x",
		"{\"rootfs\":{\"diff_ids\":[]}",
		"\xff\xfe",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct image_config c = {0};
		struct err err = ERR_INIT;

		if (oci_config_parse(bad[i], strlen(bad[i]), &c, NULL, &err) == 0)
			fail_msg("accepted: %s", bad[i]);
		assert_true(err.msg[0]);
	}
}

/* ---- hosts.toml ---------------------------------------------------------------------------------------- */

static void registry_hosts_parse_keeps_the_files_order(void **state)
{
	const char *text =
		"server = \"registry.test\"\n[host.\"https://z.test\"]\ncapabilities = [\"pull\"]\n"
		"[host.\"https://z.test\".header]\nA = \"b\"\n[host.\"http://a.test:5000/deep/v2/\"]\n"
		"skip_verify = true\nca = [\"x.pem\", \"/y.pem\"]\nclient = [[\"c\", \"k\"]]\ndial_timeout = "
		"\"1m1.5s\"\n";
	struct registry_hosts h = {0};
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(registry_hosts_parse(text, strlen(text), "f", "/base", "x.test", &h, &err), 0);
	assert_int_equal(h.n_items, 3);
	assert_string_equal(h.items[0].base, "https://z.test/v2");
	assert_true(h.items[0].pull && !h.items[0].resolve && !h.items[0].is_registry);
	assert_string_equal(h.items[0].headers[0], "A: b");
	assert_string_equal(h.items[1].base, "http://a.test:5000/deep/v2");
	assert_string_equal(h.items[1].host, "a.test:5000");
	assert_string_equal(h.items[1].ca[0], "/base/x.pem");
	assert_string_equal(h.items[1].ca[1], "/y.pem");
	assert_string_equal(h.items[1].client_key, "/base/k");
	assert_int_equal(h.items[1].connect_timeout_ms, 61500);
	assert_string_equal(h.items[2].base, "https://registry.test/v2");
	assert_true(h.items[2].is_registry);
	registry_hosts_done(&h);
}

static void registry_hosts_parse_faults_name_the_line(void **state)
{
	static const char *const bad[] = {
		"\nserver = 3",
		"\nserver = \"gopher://x\"\n[host]",
		"\n[host.\"https://a b\"]",
		"\n[host.\"https://u:p@h\"]",
		"\n[host.\"https://h/../x\"]",
		"\n[host.\"https://h\"]\ncapabilities = [\"fly\"]",
		"\n[host.\"https://h\"]\nheader = {\"A b\" = \"c\"}",
		"\n[host.\"https://h\"]\nheader = {A = \"c\\r\\nX: y\"}",
		"\n[host.\"https://h\"]\ndial_timeout = \"soon\"",
		"\n[host.\"https://h\"]\ndial_timeout = \"nans\"",
		"\nhost = 3",
		"\n[(",
		"\n= 3",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct registry_hosts h = {0};
		struct err err = ERR_INIT;

		if (registry_hosts_parse(bad[i], strlen(bad[i]), "file", "/b", "x.test", &h, &err) == 0)
			fail_msg("accepted: %s", bad[i]);
		if (!str_starts(err.msg, "file:") || str_starts(err.msg, "file:0"))
			fail_msg("no line in: %s", err.msg);
	}
}

static void registry_hosts_parse_takes_any_character_in_text(void **state)
{
	const char *text = "# \xc3\xa9\n[host.\"https://h\"]\nca = \"/\xc3\xa9<@@\\u00fc.pem\"\n";
	const char *stray = "a\xef\xbb\xbe = 3\n", *broken = "# \xff\n";
	struct registry_hosts h = {0};
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(registry_hosts_parse(text, strlen(text), "f", "/b", "x.test", &h, &err), 0);
	assert_string_equal(h.items[0].ca[0], "/\xc3\xa9<@@\xc3\xbc.pem");
	registry_hosts_done(&h);
	assert_int_equal(registry_hosts_parse(stray, strlen(stray), "f", "/b", "x.test", &h, &err), -EINVAL);
	assert_int_equal(registry_hosts_parse(broken, strlen(broken), "f", "/b", "x.test", &h, &err),
			 -EINVAL);
}

static void registry_hosts_load_without_configuration(void **state)
{
	struct registry_hosts h = {0};
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(registry_hosts_load("/nonexistent", "docker.io", &h, &err), 0);
	assert_string_equal(h.items[0].base, "https://registry-1.docker.io/v2");
	assert_false(h.items[0].http_fallback || h.items[0].skip_verify);
	registry_hosts_done(&h);
	assert_int_equal(registry_hosts_load(NULL, "localhost:5000", &h, &err), 0);
	assert_true(h.items[0].http_fallback && h.items[0].skip_verify);
	registry_hosts_done(&h);
	assert_int_equal(registry_hosts_load(NULL, "localhost:80", &h, &err), 0);
	assert_string_equal(h.items[0].base, "http://localhost:80/v2");
	registry_hosts_done(&h);
	assert_int_equal(registry_hosts_load(NULL, "localhost", &h, &err), 0);
	assert_false(h.items[0].http_fallback);
	registry_hosts_done(&h);
}

/* ---- paths --------------------------------------------------------------------------------------------- */

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(image_ref_parse_names_are_normalised),
		cmocka_unit_test(image_ref_parse_bad_names_are_refused),
		cmocka_unit_test(image_ref_parse_long_names_are_refused),
		cmocka_unit_test(image_host_is_loopback_knows_what_is),
		cmocka_unit_test(auth_challenge_parse_takes_bearer_before_basic),
		cmocka_unit_test(auth_challenge_parse_two_in_one_header),
		cmocka_unit_test(auth_challenge_parse_nonsense_is_passed_over),
		cmocka_unit_test(auth_token_parse_answers),
		cmocka_unit_test(auth_basic_header_encodes),
		cmocka_unit_test(http_same_origin_compares_scheme_host_port),
		cmocka_unit_test(oci_manifest_parse_reads_both_kinds),
		cmocka_unit_test(oci_config_parse_reads_what_runs),
		cmocka_unit_test(oci_config_parse_refuses_nonsense),
		cmocka_unit_test(registry_hosts_parse_keeps_the_files_order),
		cmocka_unit_test(registry_hosts_parse_faults_name_the_line),
		cmocka_unit_test(registry_hosts_parse_takes_any_character_in_text),
		cmocka_unit_test(registry_hosts_load_without_configuration),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

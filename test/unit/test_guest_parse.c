/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's small parsers: cgroup files, crun's log, sysctl names, PCI addresses, /proc/net/dev. */
#include "base/util.h"
#include "guest/container/config_internal.h"
#include "guest/container/crun_internal.h"
#include "guest/container/cgroup.h"
#include "guest/container/figures_internal.h"
#include "guest/device/device_internal.h"
#include "guest/host/options_internal.h"
#include "guest/pod/setup_internal.h"
#include "guest/pod/stats_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void cgroup_parse_v2_takes_the_unified_line(void **state)
{
	char *path = NULL;

	(void)state;
	assert_int_equal(cgroup_parse(true, "0::/crivisor/abc\n", &path), 0);
	assert_string_equal(path, "/crivisor/abc");
	free(path);
	assert_int_equal(cgroup_parse(true, "4:memory:/x\n0::/y\n", &path), 0);
	assert_string_equal(path, "/y");
	free(path);
	assert_int_equal(cgroup_parse(false, "4:memory:/x\n0::/y\n", &path), 0);
	assert_string_equal(path, "/x");
	free(path);
	assert_int_equal(cgroup_parse(true, "4:memory:/x\n", &path), -ENOENT);
	assert_int_equal(cgroup_parse(true, "nonsense", &path), -EBADMSG);
	assert_int_equal(cgroup_parse(true, "", &path), -ENOENT);
}

static void cgroup_keyed_finds_whole_keys_only(void **state)
{
	const char *text = "low 1\nhigh 2\noom 3\noom_kill 4\noom_group_kill 5\n";

	(void)state;
	assert_int_equal(cgroup_keyed(text, "oom"), 3);
	assert_int_equal(cgroup_keyed(text, "oom_kill"), 4);
	assert_int_equal(cgroup_keyed(text, "kill"), 0);
	assert_int_equal(cgroup_keyed("", "oom"), 0);
	assert_int_equal(cgroup_keyed(NULL, "oom"), 0);
}

static void crun_fifo_known_takes_whole_versions(void **state)
{
	(void)state;
	assert_true(crun_fifo_known("crun version 1.8.1\ncommit: f8a0\n"));
	assert_true(crun_fifo_known("crun version 1.21\n"));
	assert_false(crun_fifo_known("crun version 1.8.10\n"));
	assert_false(crun_fifo_known("crun version 1.8\n"));
	assert_false(crun_fifo_known("crun version 1.8.1-dirty\n"));
	assert_false(crun_fifo_known("crun version 99.9\n"));
	assert_false(crun_fifo_known("runc version 1.8.1\n"));
	assert_false(crun_fifo_known(""));
}

static void check_hooks(const char *text, bool want)
{
	bool hooks = !want;
	struct err err = ERR_INIT;

	if (config_hooks(text, strlen(text), &hooks, &err) < 0)
		fail_msg("%s: %s", text, err.msg);
	assert_int_equal(hooks, want);
}

/*
 * fault K9: the score of a container's execs is read from their process, for the runtime does not apply it.
 */
static void config_oom_score_is_the_process_s(void **state)
{
	static const char *const bad[] = {"", "[]", "{\"oomScoreAdj\":1001}", "{\"oomScoreAdj\":-1001}",
					  "{\"oomScoreAdj\":\"5\"}"};
	int score = 7;

	(void)state;
	assert_int_equal(config_oom_score("{\"args\":[]}", 11, &score, NULL), 0);
	assert_int_equal(score, 0);
	assert_int_equal(config_oom_score("{\"oomScoreAdj\":-997}", 20, &score, NULL), 0);
	assert_int_equal(score, -997);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_true(config_oom_score(bad[i], strlen(bad[i]), &score, NULL) < 0);
	assert_int_equal(score, -997);
}

static void config_hooks_are_those_of_the_top_level(void **state)
{
	static const char *const bad[] = {"", "[]", "null", "{\"hooks\":", "{\"a\":1", "hooks"};

	(void)state;
	check_hooks("{}", false);
	check_hooks("{\"annotations\":{\"hooks\":\"x\"},\"process\":{\"args\":[\"\\\"hooks\\\"\"]}}", false);
	check_hooks("{\"hooks\":{}}", false);
	check_hooks("{\"hooks\":{\"prestart\":[]}}", false);
	check_hooks("{\"hooks\":null}", false);
	check_hooks("{\"hooks\":{\"prestart\":[],\"poststart\":[{\"path\":\"/bin/true\"}]}}", true);
	check_hooks("{\"h\\u006foks\":{\"createRuntime\":[{\"path\":\"/x\"}]}}", true);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = ERR_INIT;
		bool hooks;

		assert_int_equal(config_hooks(bad[i], strlen(bad[i]), &hooks, &err), -EBADMSG);
		assert_non_null(strstr(err.msg, "JSON"));
	}
}

static void options_parse_wants_what_it_needs(void **state)
{
	static const char *const good[] = {"x",	 "--socket=/a/s", "--bundles",
					   "/b", "--run-dir=/r",  "--cgroup-parent=/crivisor/p"};
	static const char *const extra[] = {"--nonsense",  "--log-level=loud",	"--runtime=crun",
					    "--run-dir=/", "--bundles=/b/../c", "--cgroup-parent=/",
					    "word",	   "--socket"};
	char *argv[8];
	struct options o;
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		argv[i] = (char *)(uintptr_t)good[i];
	argv[ARRAY_SIZE(good)] = NULL;
	if (options_parse(ARRAY_SIZE(good), argv, &o, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(o.socket, "/a/s");
	assert_string_equal(o.bundles, "/b");
	assert_string_equal(o.runtime, "/usr/bin/crun");
	for (size_t i = 0; i < ARRAY_SIZE(extra); i++) {
		argv[ARRAY_SIZE(good)] = (char *)(uintptr_t)extra[i];
		argv[ARRAY_SIZE(good) + 1] = NULL;
		assert_int_equal(options_parse(ARRAY_SIZE(good) + 1, argv, &o, &err), -EINVAL);
	}
	argv[1] = argv[0];
	assert_int_equal(options_parse(1, argv, &o, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "--socket"));
}

static void crun_log_message_takes_the_last_msg(void **state)
{
	char out[256];

	(void)state;
	crun_log_message("{\"msg\":\"first\",\"level\":\"warn\"}\n{ \"msg\" : \"executable file `x` not "
			 "found: \\\"y\\\"\\n\", "
			 "\"level\": \"error\"}\n",
			 out, sizeof(out));
	assert_string_equal(out, "executable file `x` not found: \"y\" ");
	crun_log_message("usage: nothing\nunknown option", out, sizeof(out));
	assert_string_equal(out, "unknown option");
	crun_log_message("", out, sizeof(out));
	assert_string_equal(out, "");
	/* A line that was cut counts only where no other is whole. */
	crun_log_message("{\"msg\":\"whole\"}\n{\"msg\":\"cut \\", out, sizeof(out));
	assert_string_equal(out, "whole");
	crun_log_message("{\"msg\":\"cut", out, sizeof(out));
	assert_string_equal(out, "{\"msg\":\"cut");
	crun_log_message("{\"msg\":\"too long for this\"}", out, 5);
	assert_string_equal(out, "too ");
}

static void check_sysctl(const char *name, const char *want)
{
	char *path CLEANUP_FREE = pod_sysctl_path(name);

	if (want)
		assert_string_equal(path, want);
	else
		assert_null(path);
}

static void pod_sysctl_path_stays_below_proc_sys(void **state)
{
	(void)state;
	check_sysctl("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward");
	check_sysctl("net/ipv4/conf/eth0.1/forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding");
	check_sysctl("kernel.shm_rmid_forced", "/proc/sys/kernel/shm_rmid_forced");
	check_sysctl("", NULL);
	check_sysctl("..", NULL);
	check_sysctl("net/../../etc/passwd", NULL);
	check_sysctl("/etc/passwd", NULL);
	check_sysctl("a//b", NULL);
	check_sysctl("a b", NULL);
	check_sysctl("a\nb", NULL);
}

static void device_parse_pci_takes_short_and_long(void **state)
{
	char out[16];

	(void)state;
	assert_int_equal(device_parse_pci("0000:00:05.0", out, NULL), 0);
	assert_string_equal(out, "0000:00:05.0");
	assert_int_equal(device_parse_pci("1f:1d.7", out, NULL), 0);
	assert_string_equal(out, "0000:1f:1d.7");
	assert_int_equal(device_parse_pci("00:20.0", out, NULL), -EINVAL);
	assert_int_equal(device_parse_pci("00:05.8", out, NULL), -EINVAL);
	assert_int_equal(device_parse_pci("0000:00:05.0/..", out, NULL), -EINVAL);
	assert_int_equal(device_parse_pci("", out, NULL), -EINVAL);
	assert_int_equal(device_parse_pci(NULL, out, NULL), -EINVAL);
}

static void device_mount_path_valid_stays_below_run(void **state)
{
	(void)state;
	assert_true(device_mount_path_valid("/run/crivisor/volumes/a"));
	assert_false(device_mount_path_valid("/etc"));
	assert_false(device_mount_path_valid("/run/../etc"));
	assert_false(device_mount_path_valid("/run//x"));
	assert_false(device_mount_path_valid("run/x"));
	assert_false(device_mount_path_valid(""));
}

static void stats_parse_netdev_takes_lines_and_no_headings(void **state)
{
	uint64_t n[8];
	char name[16];

	(void)state;
	assert_false(stats_parse_netdev(
		"Inter-|   Receive                                                |  Transmit", name, n));
	assert_false(stats_parse_netdev(
		" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs",
		name, n));
	assert_true(stats_parse_netdev("  eth0: 1000 10 2 1 0 0 0 0 2000 20 4 3 0 0 0 0", name, n));
	assert_string_equal(name, "eth0");
	assert_int_equal(n[0], 1000);
	assert_int_equal(n[1], 10);
	assert_int_equal(n[2], 2);
	assert_int_equal(n[3], 1);
	assert_int_equal(n[4], 2000);
	assert_int_equal(n[5], 20);
	assert_int_equal(n[6], 4);
	assert_int_equal(n[7], 3);
	assert_false(stats_parse_netdev("aaaaaaaaaaaaaaaaaaaaaaaaaa: 1 1 1 1 1 1 1 1 1 1 1", name, n));
	assert_false(stats_parse_netdev("eth0: 1 2", name, n));
	assert_false(stats_parse_netdev("", name, n));
}

static void figures_parse_pressure_takes_both_lines(void **state)
{
	Crivisor__Agent__V1__Pressure p;

	(void)state;
	assert_true(figures_parse_pressure("some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\n"
					   "full avg10=0.50 avg60=0.00 avg300=0.00 total=99\n",
					   &p));
	assert_int_equal(p.some_total_ns, 1234000);
	assert_true(p.some_avg10 > 1.49 && p.some_avg10 < 1.51);
	assert_int_equal(p.full_total_ns, 99000);
	assert_true(p.full_avg10 > 0.49 && p.full_avg10 < 0.51);
	assert_true(figures_parse_pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n", &p));
	assert_int_equal(p.full_total_ns, 0);
	assert_false(figures_parse_pressure("", &p));
	assert_false(figures_parse_pressure(NULL, &p));
	assert_false(figures_parse_pressure("some avg10=x", &p));
}

static void figures_io_sum_adds_the_devices(void **state)
{
	const char *text = "254:0 rbytes=10 wbytes=1 rios=2 wios=3 dbytes=0 dios=0\n"
			   "254:16 rbytes=5 wbytes=7 rios=1 wios=1 dbytes=0 dios=0\n";

	(void)state;
	assert_int_equal(figures_io_sum(text, "rbytes"), 15);
	assert_int_equal(figures_io_sum(text, "wbytes"), 8);
	assert_int_equal(figures_io_sum(text, "rios"), 3);
	assert_int_equal(figures_io_sum(text, "ios"), 0);
	assert_int_equal(figures_io_sum(NULL, "rios"), 0);
	assert_int_equal(figures_count_lines("1\n22\n"), 2);
	assert_int_equal(figures_count_lines(NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(config_oom_score_is_the_process_s),
		cmocka_unit_test(cgroup_parse_v2_takes_the_unified_line),
		cmocka_unit_test(cgroup_keyed_finds_whole_keys_only),
		cmocka_unit_test(crun_log_message_takes_the_last_msg),
		cmocka_unit_test(crun_fifo_known_takes_whole_versions),
		cmocka_unit_test(config_hooks_are_those_of_the_top_level),
		cmocka_unit_test(options_parse_wants_what_it_needs),
		cmocka_unit_test(pod_sysctl_path_stays_below_proc_sys),
		cmocka_unit_test(device_parse_pci_takes_short_and_long),
		cmocka_unit_test(device_mount_path_valid_stays_below_run),
		cmocka_unit_test(stats_parse_netdev_takes_lines_and_no_headings),
		cmocka_unit_test(figures_parse_pressure_takes_both_lines),
		cmocka_unit_test(figures_io_sum_adds_the_devices),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* ADD, DEL, CHECK and GC: plugins in a chain, what they are called with, how they fail. */
#include "cni_fixture.h"

/* ---- ADD ----------------------------------------------------------------------------------------------- */

static void add_chain_passes_results_capabilities_and_environment(void **state)
{
	char *servers[] = {(char *)(uintptr_t) "10.0.0.10"};
	static const struct cni_port ports[] = {
		{8080, 80, "tcp", ""}, {0, 81, "tcp", ""}, {5353, 53, "udp", "127.0.0.1"}};
	struct fixture *f = *state;
	struct cni_pod full = pod;
	struct cni_result result;
	struct err err = ERR_INIT;
	struct json_object *in, *rc, *value;
	char *env CLEANUP_FREE = NULL;

	full.ports = ports;
	full.n_ports = ARRAY_SIZE(ports);
	full.dns_servers = servers;
	full.n_dns_servers = 1;
	full.ingress_bps = 1000000;
	put_plugin(f, "first", GOOD);
	put_plugin(f, "second", GOOD);
	put_file(f->conf, "10-a.conflist",
		 LIST("1.0.0", "{\"type\":\"first\",\"capabilities\":{\"dns\":true,\"bandwidth\":false,"
			       "\"ipRanges\":true}},"
			       "{\"type\":\"second\",\"x\":{\"y\":[1]},\"capabilities\":{\"portMappings\":"
			       "true,\"bandwidth\":true}}"),
		 0600);
	assert_int_equal(cni_set_pod_cidr(f->cni, "10.9.0.0/24,fd00::/64", &err), 0);
	if (cni_add(f->cni, &full, NULL, 0, &result, &err) < 0)
		fail_msg("%s", err.msg);
	assert_calls(f, "ADD first\nADD second\n");
	assert_int_equal(result.n_ips, 1);
	assert_string_equal(result.ips[0].address, "10.1.2.3/24");
	assert_string_equal(result.ips[0].gateway, "10.1.2.1");
	assert_int_equal(result.n_routes, 1);
	assert_string_equal(result.routes[0].gw, "10.1.2.1");
	assert_string_equal(result.mac, "02:00:00:00:00:02");
	assert_non_null(result.json);
	cni_result_done(&result);

	in = input_of(f, "in.first.ADD");
	assert_false(json_object_object_get_ex(in, "prevResult", NULL));
	assert_false(json_object_object_get_ex(in, "capabilities", NULL));
	assert_true(json_object_object_get_ex(in, "runtimeConfig", &rc));
	assert_string_equal(
		json_object_to_json_string_ext(rc, JSON_C_TO_STRING_PLAIN),
		"{\"dns\":{\"servers\":[\"10.0.0.10\"],\"searches\":[],\"options\":[]},"
		"\"ipRanges\":[[{\"subnet\":\"10.9.0.0\\/24\"}],[{\"subnet\":\"fd00::\\/64\"}]]}");
	json_object_put(in);
	in = input_of(f, "in.second.ADD");
	assert_true(json_object_object_get_ex(in, "prevResult", &value));
	assert_true(json_object_object_get_ex(value, "ips", NULL));
	assert_true(json_object_object_get_ex(in, "runtimeConfig", &rc));
	assert_string_equal(
		json_object_to_json_string_ext(rc, JSON_C_TO_STRING_PLAIN),
		"{\"portMappings\":[{\"hostPort\":8080,\"containerPort\":80,\"protocol\":\"tcp\"},"
		"{\"hostPort\":5353,\"containerPort\":53,\"protocol\":\"udp\",\"hostIP\":\"127.0.0.1\"}],"
		"\"bandwidth\":{\"ingressRate\":1000000,\"ingressBurst\":2147483647}}");
	assert_true(json_object_object_get_ex(in, "name", &value));
	assert_string_equal(json_object_get_string(value), "net1");
	assert_true(json_object_object_get_ex(in, "cniVersion", &value));
	assert_string_equal(json_object_get_string(value), "1.0.0");
	json_object_put(in);

	env = get_file(f->dir, "env.second.ADD");
	assert_contains(env, "CNI_CONTAINERID=pod1\n");
	assert_contains(env, "CNI_IFNAME=eth0\n");
	assert_contains(env, "CNI_NETNS=/proc/self/ns/net\n");
	assert_contains(env, f->bin);
	assert_contains(env, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;"
			     "K8S_POD_INFRA_CONTAINER_ID=pod1;K8S_POD_UID=u-1\n");
	assert_null(strstr(env, "HOME="));
}

static void del_after_restart_uses_the_record(void **state)
{
	struct fixture *f = *state;
	char *bins[] = {f->bin, NULL};
	struct cni_result result;
	struct cni_pod bare = {.id = "pod1", .ifname = "eth0"};
	struct err err = ERR_INIT;
	struct json_object *in;
	char *env CLEANUP_FREE = NULL;

	put_plugin(f, "first", GOOD);
	put_plugin(f, "second", GOOD);
	put_file(f->conf, "10-a.conflist", LIST("0.4.0", "{\"type\":\"first\"},{\"type\":\"second\"}"), 0600);
	assert_int_equal(cni_add(f->cni, &pod, NULL, 0, &result, &err), 0);
	cni_result_done(&result);
	assert_true(is_cached(f));
	assert_int_equal(cni_check(f->cni, bare.id, 0, &err), 0);
	/* The configuration changes, the server starts anew. */
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"other\"}"), 0600);
	cni_free(f->cni);
	assert_int_equal(cni_new(bins, f->conf, f->cache, &f->cni, &err), 0);
	if (cni_del(f->cni, &bare, 0, &err) < 0)
		fail_msg("%s", err.msg);
	assert_calls(f, "ADD first\nADD second\nCHECK first\nCHECK second\nDEL second\nDEL first\n");
	assert_false(is_cached(f));
	in = input_of(f, "in.first.DEL");
	assert_true(json_object_object_get_ex(in, "prevResult", NULL));
	json_object_put(in);
	env = get_file(f->dir, "env.first.DEL");
	assert_contains(env, "CNI_NETNS=/proc/self/ns/net\n");
}

/* Fault K4: a file that is left at the path of a namespace is no namespace, and plugins are told of none. */
static void annotation_at(const void *arg, size_t i, const char **ret_key, const char **ret_value)
{
	const char *const *pairs = arg;

	*ret_key = pairs[2 * i];
	*ret_value = pairs[2 * i + 1];
}

/*
 * Fault K5: a plugin that declares io.kubernetes.cri.pod-annotations gets the pod's annotations; others do
 * not.
 */
static void add_passes_the_pods_annotations(void **state)
{
	static const char *const pairs[] = {"example.org/a", "1", "k8s.v1.cni.cncf.io/networks", "[\"x\"]"};
	struct fixture *f = *state;
	struct cni_pod full = pod;
	struct cni_result result;
	struct err err = ERR_INIT;
	struct json_object *in, *rc;

	full.annotation = annotation_at;
	full.annotation_arg = pairs;
	full.n_annotations = 2;
	put_plugin(f, "first", GOOD);
	put_plugin(f, "second", GOOD);
	put_file(f->conf, "10-a.conflist",
		 LIST("1.0.0",
		      "{\"type\":\"first\",\"capabilities\":{\"io.kubernetes.cri.pod-annotations\":true}},"
		      "{\"type\":\"second\"}"),
		 0600);
	if (cni_add(f->cni, &full, NULL, 0, &result, &err) < 0)
		fail_msg("%s", err.msg);
	cni_result_done(&result);
	in = input_of(f, "in.first.ADD");
	assert_true(json_object_object_get_ex(in, "runtimeConfig", &rc));
	assert_string_equal(
		json_object_to_json_string_ext(rc, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
		"{\"io.kubernetes.cri.pod-annotations\":{\"example.org/a\":\"1\","
		"\"k8s.v1.cni.cncf.io/networks\":\"[\\\"x\\\"]\"}}");
	json_object_put(in);
	in = input_of(f, "in.second.ADD");
	assert_false(json_object_object_get_ex(in, "runtimeConfig", &rc));
	json_object_put(in);
}

/*
 * Fault K6: STATUS of CNI 1.1 decides; it is asked once for many calls; older configurations are not asked.
 */
static void status_asks_plugins_of_1_1(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	put_plugin(f, "first", GOOD);
	put_plugin(f, "second",
		   "[ $CNI_COMMAND = STATUS ] && echo '{\"code\":50,\"msg\":\"no addresses left\"}' && exit "
		   "1; exit 0");
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"},{\"type\":\"second\"}"), 0600);
	assert_int_equal(cni_status(f->cni, &err), 0);
	assert_calls(f, "");
	put_file(f->conf, "10-a.conflist", LIST("1.1.0", "{\"type\":\"first\"},{\"type\":\"second\"}"), 0600);
	usleep(250000); /* until the file counts as settled */
	assert_true(cni_status(f->cni, &err) < 0);
	assert_contains(err.msg, "no addresses left");
	assert_contains(err.msg, "STATUS");
	assert_true(cni_status(f->cni, &err) < 0);
	assert_contains(err.msg, "no addresses left");
	assert_calls(f, "STATUS first\nSTATUS second\n");
	/* Another configuration is asked anew. */
	put_file(f->conf, "10-a.conflist", LIST("1.1.0", "{\"type\":\"first\"}"), 0600);
	usleep(250000);
	if (cni_status(f->cni, &err) < 0)
		fail_msg("%s", err.msg);
	assert_calls(f, "STATUS first\nSTATUS second\nSTATUS first\n");
}

/*
 * Fault K6 and N5: a result of CNI 1.1 with all that a route may have. Fault N2: the route to the gateway
 * itself.
 */
static void add_takes_the_routes_of_1_1(void **state)
{
	struct fixture *f = *state;
	struct cni_result result;
	struct err err = ERR_INIT;

	put_plugin(f, "first",
		   "[ $CNI_COMMAND = ADD ] && echo "
		   "'{\"cniVersion\":\"1.1.0\",\"interfaces\":[{\"name\":\"eth0\",\"mtu\":1300,"
		   "\"sandbox\":\"/x\"}],\"ips\":[{\"interface\":0,\"address\":\"10.97.64.1/32\",\"gateway\":"
		   "\"10.97.65.1\"}],\"routes\":[{\"dst\":\"10.97.65.1/"
		   "32\",\"scope\":253},{\"dst\":\"0.0.0.0/0\",\"gw\":"
		   "\"10.97.65.1\",\"mtu\":1280,\"advmss\":1240,\"table\":77,\"priority\":9},{\"dst\":\"10.8."
		   "0.0/16\"}]}'; "
		   "exit 0");
	put_file(f->conf, "10-a.conflist", LIST("1.1.0", "{\"type\":\"first\"}"), 0600);
	if (cni_add(f->cni, &pod, NULL, 0, &result, &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(result.mtu, 1300);
	assert_int_equal(result.n_routes, 3);
	assert_string_equal(result.routes[0].gw, "");
	assert_int_equal(result.routes[0].scope, 253);
	assert_int_equal(result.routes[1].mtu, 1280);
	assert_int_equal(result.routes[1].advmss, 1240);
	assert_int_equal(result.routes[1].table, 77);
	assert_int_equal(result.routes[1].priority, 9);
	assert_string_equal(result.routes[2].gw, "10.97.65.1");
	cni_result_done(&result);
}

static void del_with_a_plain_file_for_a_netns_tells_none(void **state)
{
	struct fixture *f = *state;
	struct cni_pod odd = pod;
	struct err err = ERR_INIT;
	char *path CLEANUP_FREE = xasprintf("%s/netns", f->dir), *env CLEANUP_FREE = NULL;

	put_plugin(f, "first", GOOD);
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"}"), 0600);
	put_file(f->dir, "netns", "", 0600);
	odd.netns = path;
	assert_int_equal(cni_del(f->cni, &odd, 0, &err), 0);
	env = get_file(f->dir, "env.first.DEL");
	assert_contains(env, "CNI_NETNS=\n");
}

static void del_again_and_without_anything_succeeds(void **state)
{
	struct fixture *f = *state;
	struct cni_pod gone = pod;
	struct err err = ERR_INIT;
	char *env CLEANUP_FREE = NULL;

	assert_int_equal(cni_del(f->cni, &pod, 0, &err), 0); /* no configuration, no record */
	put_plugin(f, "first", GOOD);
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"}"), 0600);
	gone.netns = "/run/netns/never-was";
	assert_int_equal(cni_del(f->cni, &gone, 0, &err), 0);
	assert_calls(f, "DEL first\n");
	env = get_file(f->dir, "env.first.DEL");
	assert_contains(env, "CNI_NETNS=\n");
	put_file(f->cache, "pod1.json", "{\"version\":1,", 0600); /* damaged */
	assert_int_equal(cni_del(f->cni, &gone, 0, &err), 0);
	assert_false(is_cached(f));
}

/* One way to fail in the chain's second plugin: words and status, DEL of both run, nothing left. */
static void add_fails(struct fixture *f, const char *body, int64_t deadline_ms, int code,
		      enum err_status status, const char *words)
{
	struct cni_result result;
	struct err err = ERR_INIT;

	put_plugin(f, "first", GOOD);
	put_plugin(f, "second", body);
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"},{\"type\":\"second\"}"), 0600);
	assert_int_equal(cni_add(f->cni, &pod, NULL, in_ms(deadline_ms), &result, &err), code);
	assert_contains(err.msg, words);
	assert_contains(err.msg, "network \"net1\": plugin \"second\": ADD");
	assert_int_equal(err.status, status);
	assert_calls(f, "ADD first\nADD second\nDEL second\nDEL first\n");
	assert_false(is_cached(f));
}

static void *cancel_soon(void *call)
{
	usleep(100000);
	call_cancel(call, "the caller has left");
	return NULL;
}

static void add_of_a_call_that_ends_is_killed_and_undone(void **state)
{
	struct fixture *f = *state;
	struct call *call CLEANUP_CALL = NULL;
	struct cni_result result;
	struct err err = ERR_INIT;
	int64_t begin = now_monotonic_ns();
	pthread_t thread;

	put_plugin(f, "first", GOOD);
	put_plugin(f, "second", "[ $CNI_COMMAND = DEL ] && exit 0; sleep 20");
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"},{\"type\":\"second\"}"), 0600);
	assert_int_equal(call_new(0, &call, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, call), 0);
	assert_int_equal(cni_add(f->cni, &pod, call, in_ms(20000), &result, &err), -ECANCELED);
	pthread_join(thread, NULL);
	assert_true(now_monotonic_ns() - begin < 5 * NS_PER_SEC);
	assert_contains(err.msg, "not wanted any more");
	assert_calls(f, "ADD first\nADD second\nDEL second\nDEL first\n");
	assert_false(is_cached(f));
}

static void add_error_json_is_carried_and_undone(void **state)
{
	add_fails(*state,
		  /* Not by echo: dash's would make a newline of the escape, which is not JSON any more. */
		  "[ $CNI_COMMAND = DEL ] && exit 0; printf '%s\\n' '{\"code\":7,\"msg\":\"no "
		  "more\\naddresses\",\"details\":\"in 10/8\"}'; exit 1",
		  20000, -EIO, ERR_INTERNAL, "no more addresses: in 10/8 (CNI code 7)");
}

static void add_try_again_is_unavailable(void **state)
{
	add_fails(*state, "[ $CNI_COMMAND = DEL ] && exit 0; echo '{\"code\":11,\"msg\":\"busy\"}'; exit 1",
		  20000, -EAGAIN, ERR_UNAVAILABLE, "busy (CNI code 11)");
}

static void add_garbage_exit_is_quoted_with_stderr(void **state)
{
	add_fails(
		*state,
		"[ $CNI_COMMAND = DEL ] && exit 0; echo 'panic: \\033[31mboom'; echo 'it hurts' >&2; exit 2",
		20000, -EIO, ERR_INTERNAL, "it hurts");
}

static void add_garbage_success_is_malformed(void **state)
{
	add_fails(*state, "[ $CNI_COMMAND = DEL ] && exit 0; echo 'hello'; exit 0", 20000, -EINVAL,
		  ERR_INTERNAL, "gave a malformed result");
}

static void add_bad_address_is_malformed(void **state)
{
	add_fails(*state,
		  "[ $CNI_COMMAND = DEL ] && exit 0; echo "
		  "'{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.0.0.300/24\"}]}'; exit 0",
		  20000, -EBADMSG, ERR_INTERNAL, "ips[0]: \"address\"");
}

static void add_killed_by_signal_is_told(void **state)
{
	add_fails(*state, "[ $CNI_COMMAND = DEL ] && exit 0; kill -SEGV $$", 20000, -EIO, ERR_INTERNAL,
		  "killed by signal 11");
}

static void add_hanging_plugin_is_killed_with_its_children(void **state)
{
	struct fixture *f = *state;
	int64_t begin = now_monotonic_ns();
	char *pids CLEANUP_FREE = NULL;
	char *body CLEANUP_FREE = xasprintf(
		"[ $CNI_COMMAND = DEL ] && exit 0; sleep 1000 & echo $$ $! > %s/pids; wait", f->dir);
	int shell = 0, child = 0;

	add_fails(f, body, 1500, -ETIMEDOUT, ERR_DEADLINE_EXCEEDED, "did not end before the deadline");
	assert_true(now_monotonic_ns() - begin < 20 * NS_PER_SEC);
	pids = get_file(f->dir, "pids");
	assert_non_null(pids);
	assert_int_equal(sscanf(pids, "%d %d", &shell, &child), 2);
	for (int i = 0; i < 2; i++) {
		char path[64], *stat_line = NULL;

		/* The child may be a zombie of the machine's init for a moment. */
		snprintf(path, sizeof(path), "/proc/%d/stat", i ? child : shell);
		if (read_file(path, 4096, &stat_line, NULL) == 0)
			assert_non_null(strstr(stat_line, ") Z "));
		free(stat_line);
	}
}

static void add_huge_output_is_cut_short(void **state)
{
	add_fails(*state, "[ $CNI_COMMAND = DEL ] && exit 0; exec yes", 20000, -EMSGSIZE, ERR_INTERNAL,
		  "more than");
}

static void add_plugin_that_leaves_a_daemon_does_not_hang(void **state)
{
	struct fixture *f = *state;
	struct cni_result result;
	struct err err = ERR_INIT;
	int64_t begin = now_monotonic_ns();

	put_plugin(f, "first", "sleep 15 & " GOOD);
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"}"), 0600);
	assert_int_equal(cni_add(f->cni, &pod, NULL, 0, &result, &err), 0);
	cni_result_done(&result);
	assert_true(now_monotonic_ns() - begin < 10 * NS_PER_SEC);
}

static void add_undo_fails_keeps_the_record(void **state)
{
	struct fixture *f = *state;
	struct cni_result result;
	struct err err = ERR_INIT;

	put_plugin(f, "first", "echo '{\"code\":99,\"msg\":\"no '$CNI_COMMAND'\"}'; exit 1");
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"}"), 0600);
	assert_int_equal(cni_add(f->cni, &pod, NULL, 0, &result, &err), -EIO);
	assert_contains(err.msg, "no ADD");
	assert_contains(err.msg, "no DEL");
	assert_true(is_cached(f));
	put_plugin(f, "first", GOOD);
	assert_int_equal(cni_del(f->cni, &pod, 0, &err), 0);
	assert_false(is_cached(f));
}

static void add_without_address_fails(void **state)
{
	struct fixture *f = *state;
	struct cni_result result;
	struct err err = ERR_INIT;

	put_plugin(f, "first", "[ $CNI_COMMAND = ADD ] && echo '{\"cniVersion\":\"1.0.0\"}'; exit 0");
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"}"), 0600);
	assert_int_equal(cni_add(f->cni, &pod, NULL, 0, &result, &err), -EIO);
	assert_contains(err.msg, "gave eth0 no IP address");
	assert_calls(f, "ADD first\nDEL first\n");
	assert_false(is_cached(f));
}

static void del_goes_on_behind_a_failing_plugin(void **state)
{
	struct fixture *f = *state;
	struct cni_result result;
	struct err err = ERR_INIT;

	put_plugin(f, "first", GOOD);
	put_plugin(f, "second", "[ $CNI_COMMAND = DEL ] && exit 3; " GOOD);
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"},{\"type\":\"second\"}"), 0600);
	assert_int_equal(cni_add(f->cni, &pod, NULL, 0, &result, &err), 0);
	cni_result_done(&result);
	assert_int_equal(cni_del(f->cni, &pod, 0, &err), -EIO);
	assert_contains(err.msg, "plugin \"second\": DEL failed");
	assert_calls(f, "ADD first\nADD second\nDEL second\nDEL first\n");
	assert_true(is_cached(f));
}

static void check_honours_version_and_disable(void **state)
{
	struct fixture *f = *state;
	struct cni_result result;
	struct err err = ERR_INIT;

	assert_int_equal(cni_check(f->cni, pod.id, 0, &err), -ENOENT);
	put_plugin(f, "first", GOOD);
	put_file(f->conf, "10-a.conflist",
		 "{\"cniVersion\":\"1.0.0\",\"name\":\"net1\",\"disableCheck\":true,\"plugins\":[{\"type\":"
		 "\"first\"}]}",
		 0600);
	assert_int_equal(cni_add(f->cni, &pod, NULL, 0, &result, &err), 0);
	cni_result_done(&result);
	assert_int_equal(cni_check(f->cni, pod.id, 0, &err), 0);
	assert_calls(f, "ADD first\n");
}

static void gc_removes_what_no_pod_owns(void **state)
{
	struct fixture *f = *state;
	char living[] = "pod2";
	char *ids[] = {living, NULL};
	struct cni_pod other = pod;
	struct cni_result result;
	struct err err = ERR_INIT;
	struct json_object *in, *valid;

	other.id = "pod2";
	put_plugin(f, "first", GOOD);
	put_file(f->conf, "10-a.conflist", LIST("1.1.0", "{\"type\":\"first\"}"), 0600);
	assert_int_equal(cni_add(f->cni, &pod, NULL, 0, &result, &err), 0);
	cni_result_done(&result);
	assert_int_equal(cni_add(f->cni, &other, NULL, 0, &result, &err), 0);
	cni_result_done(&result);
	if (cni_gc(f->cni, ids, 0, &err) < 0)
		fail_msg("%s", err.msg);
	assert_calls(f, "ADD first\nADD first\nDEL first\nGC first\n");
	assert_false(is_cached(f));
	in = input_of(f, "in.first.GC");
	assert_true(json_object_object_get_ex(in, "cni.dev/valid-attachments", &valid));
	assert_string_equal(json_object_to_json_string_ext(valid, JSON_C_TO_STRING_PLAIN),
			    "[{\"containerID\":\"pod2\",\"ifname\":\"eth0\"}]");
	json_object_put(in);
}

static void *attach_detach(void *arg)
{
	struct fixture *f = arg;
	static _Atomic int serial;
	struct cni_pod mine = pod;
	char id[32];

	snprintf(id, sizeof(id), "pod-%d", serial++);
	mine.id = id;
	for (int i = 0; i < 3; i++) {
		struct cni_result result;
		struct err err = ERR_INIT;

		if (cni_status(f->cni, &err) < 0 || cni_add(f->cni, &mine, NULL, 0, &result, &err) < 0)
			return strdup(err.msg);
		cni_result_done(&result);
		if (cni_check(f->cni, mine.id, 0, &err) < 0 || cni_del(f->cni, &mine, 0, &err) < 0)
			return strdup(err.msg);
	}
	return NULL;
}

static void ten_pods_at_once_while_the_configuration_changes(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[10];
	struct err err = ERR_INIT;

	put_plugin(f, "first", GOOD);
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"}"), 0600);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, attach_detach, f), 0);
	for (int i = 0; i < 20; i++) {
		put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"},{\"type\":\"first\"}"),
			 0600);
		assert_int_equal(cni_set_pod_cidr(f->cni, i % 2 ? "10.0.0.0/8" : NULL, &err), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		void *words = NULL;

		pthread_join(threads[i], &words);
		if (words)
			fail_msg("%s", (char *)words);
	}
}

static void add_bad_pod_is_refused(void **state)
{
	struct fixture *f = *state;
	struct cni_pod bad = pod;
	const struct cni_port port = {80, 80, "icmp", NULL};
	struct cni_result result;
	struct err err = ERR_INIT;

	put_plugin(f, "first", GOOD);
	put_file(f->conf, "10-a.conflist", LIST("1.0.0", "{\"type\":\"first\"}"), 0600);
	bad.id = "../x";
	assert_int_equal(cni_add(f->cni, &bad, NULL, 0, &result, &err), -EINVAL);
	assert_int_equal(cni_del(f->cni, &bad, 0, &err), -EINVAL);
	bad = pod;
	bad.name = "a;K8S_POD_NAMESPACE=kube-system";
	assert_int_equal(cni_add(f->cni, &bad, NULL, 0, &result, &err), -EINVAL);
	assert_contains(err.msg, "the pod's name");
	bad = pod;
	bad.ports = &port;
	bad.n_ports = 1;
	assert_int_equal(cni_add(f->cni, &bad, NULL, 0, &result, &err), -EINVAL);
	assert_contains(err.msg, "port_mappings[0]: protocol");
	assert_int_equal(cni_pod_check(&bad, &err), -EINVAL);
	assert_int_equal(cni_pod_check(&pod, &err), 0);
	assert_int_equal(cni_del(f->cni, &bad, 0, &err), 0); /* it cannot have been attached */
	assert_int_equal(cni_set_pod_cidr(f->cni, "10.0.0.0/33", &err), -EINVAL);
	assert_calls(f, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(add_chain_passes_results_capabilities_and_environment),
		T(del_after_restart_uses_the_record),
		T(del_again_and_without_anything_succeeds),
		T(del_with_a_plain_file_for_a_netns_tells_none),
		T(add_passes_the_pods_annotations),
		T(status_asks_plugins_of_1_1),
		T(add_takes_the_routes_of_1_1),
		T(add_of_a_call_that_ends_is_killed_and_undone),
		T(add_error_json_is_carried_and_undone),
		T(add_try_again_is_unavailable),
		T(add_garbage_exit_is_quoted_with_stderr),
		T(add_garbage_success_is_malformed),
		T(add_bad_address_is_malformed),
		T(add_killed_by_signal_is_told),
		T(add_hanging_plugin_is_killed_with_its_children),
		T(add_huge_output_is_cut_short),
		T(add_plugin_that_leaves_a_daemon_does_not_hang),
		T(add_undo_fails_keeps_the_record),
		T(add_without_address_fails),
		T(del_goes_on_behind_a_failing_plugin),
		T(check_honours_version_and_disable),
		T(gc_removes_what_no_pod_owns),
		T(ten_pods_at_once_while_the_configuration_changes),
		T(add_bad_pod_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

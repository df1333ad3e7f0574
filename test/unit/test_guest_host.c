/* SPDX-License-Identifier: Apache-2.0 */
/* The agent beside the VMs: real containers by the real crun, on this machine and without a VM. */
#include "guest_host_fixture.h"

/* ---- a container's life -------------------------------------------------------------------------------- */

static void state_is(struct peer *p, const char *id, Containerd__V1__Types__Status want)
{
	Containerd__Task__V2__StateRequest req = CONTAINERD__TASK__V2__STATE_REQUEST__INIT;
	Containerd__Task__V2__StateResponse *m;

	req.id = (char *)(uintptr_t)id;
	m = call(p, TASK, "State", &req.base, &containerd__task__v2__state_response__descriptor);
	assert_int_equal(m->status, want);
	protobuf_c_message_free_unpacked(&m->base, NULL);
}

static void exec_in(struct peer *p, const char *id, const char *exec, const char *script)
{
	Containerd__Task__V2__ExecProcessRequest req = CONTAINERD__TASK__V2__EXEC_PROCESS_REQUEST__INIT;
	Google__Protobuf__Any spec = GOOGLE__PROTOBUF__ANY__INIT;
	char text[512];

	snprintf(text, sizeof(text),
		 "{\"user\":{\"uid\":0,\"gid\":0},\"cwd\":\"/\",\"env\":[\"PATH=/bin\"],"
		 "\"oomScoreAdj\":321,\"args\":[\"/bin/busybox\",\"sh\",\"-c\",\"%s\"]}",
		 script);
	spec.value.data = (uint8_t *)text;
	spec.value.len = strlen(text);
	req.id = (char *)(uintptr_t)id;
	req.exec_id = (char *)(uintptr_t)exec;
	req.spec = &spec;
	must(p, TASK, "Exec", &req.base);
	start(p, id, exec);
}

static void container_lives_without_a_vm(void **state)
{
	char out[256] = "", path[160];
	struct peer p;
	pid_t pid;

	(void)state;
	peer_open(&p);
	make_bundle("c1", "trap 'exit 7' TERM; echo out; echo err >&2; while :; do busybox sleep 0.05; done",
		    "");
	pid = create(&p, "c1");
	assert_true(pid > 1);
	state_is(&p, "c1", CONTAINERD__V1__TYPES__STATUS__CREATED);
	start(&p, "c1", "");
	state_is(&p, "c1", CONTAINERD__V1__TYPES__STATUS__RUNNING);
	assert_true(has_cgroup("c1"));

	exec_in(&p, "c1", "e1", "echo in $(busybox hostname >/dev/null && echo it); exit 3");
	expect_wait(&p, "c1", "e1", 3);
	read_log(&p, "c1", "e1", out, sizeof(out));
	assert_string_equal(out, "1:in it\n");
	assert_int_equal(delete_it(&p, "c1", "e1"), ERR_OK);

	assert_int_equal(delete_it(&p, "c1", ""), ERR_FAILED_PRECONDITION);
	assert_int_equal(kill_it(&p, "c1", SIGTERM), ERR_OK);
	expect_wait(&p, "c1", "", 7);
	state_is(&p, "c1", CONTAINERD__V1__TYPES__STATUS__STOPPED);
	read_log(&p, "c1", "", out, sizeof(out));
	assert_non_null(strstr(out, "1:out\n"));
	assert_non_null(strstr(out, "2:err\n"));
	assert_int_equal(kill_it(&p, "c1", SIGTERM), ERR_NOT_FOUND);
	assert_int_equal(delete_it(&p, "c1", ""), ERR_OK);
	assert_int_equal(delete_it(&p, "c1", ""), ERR_NOT_FOUND);
	/* Nothing of it is left; the bundle is the caller's and stays. */
	assert_int_equal(kill(pid, 0), -1);
	snprintf(path, sizeof(path), "%s/crun/c1", run_dir);
	assert_int_equal(access(path, F_OK), -1);
	assert_false(has_cgroup("c1"));
	snprintf(path, sizeof(path), "%s/c1/config.json", bundles);
	assert_int_equal(access(path, F_OK), 0);
	peer_close(&p);
}

/*
 * fault K9: an exec has its process's oom_score_adj, which the runtime gives to a container's first process
 * alone.
 */
static void exec_has_the_score_of_its_process(void **state)
{
	char out[64] = "";
	struct peer p;

	(void)state;
	peer_open(&p);
	run(&p, "c1", "while :; do busybox sleep 0.05; done");
	exec_in(&p, "c1", "e1", "read n </proc/self/oom_score_adj; echo $n");
	expect_wait(&p, "c1", "e1", 0);
	read_log(&p, "c1", "e1", out, sizeof(out));
	assert_string_equal(out, "1:321\n");
	assert_int_equal(delete_it(&p, "c1", "e1"), ERR_OK);
	assert_int_equal(kill_it(&p, "c1", SIGKILL), ERR_OK);
	expect_wait(&p, "c1", "", 137);
	assert_int_equal(delete_it(&p, "c1", ""), ERR_OK);
	peer_close(&p);
}

/* fault K3: an exec's output lasts until its last writer, not 2 s beyond its first process. */
static void exec_output_lasts_until_its_last_writer(void **state)
{
	char out[64] = "";
	struct peer p;

	(void)state;
	peer_open(&p);
	run(&p, "c1", "while :; do busybox sleep 0.05; done");
	exec_in(&p, "c1", "e1", "(busybox sleep 4; echo late) & echo early");
	expect_wait(&p, "c1", "e1", 0);
	read_log(&p, "c1", "e1", out, sizeof(out));
	assert_true(str_starts(out, "1:early\n"));
	assert_true(str_ends(out, "late\n"));
	assert_int_equal(delete_it(&p, "c1", "e1"), ERR_OK);
	assert_int_equal(kill_it(&p, "c1", SIGKILL), ERR_OK);
	expect_wait(&p, "c1", "", 137);
	assert_int_equal(delete_it(&p, "c1", ""), ERR_OK);
	peer_close(&p);
}

static void failed_create_says_why_and_leaves_nothing(void **state)
{
	Containerd__Task__V2__CreateTaskRequest req = CONTAINERD__TASK__V2__CREATE_TASK_REQUEST__INIT;
	struct reply r = {.type = NULL};
	char path[160];
	struct peer p;

	(void)state;
	peer_open(&p);
	make_bundle("bad", "true", "");
	snprintf(path, sizeof(path), "%s/root", dir);
	assert_int_equal(remove_tree(path), 0);
	req.id = (char *)"bad";
	ask(&p, &r, TASK, "Create", &req.base);
	await_reply(&p, &r);
	assert_true(r.err.code < 0);
	assert_non_null(strstr(r.err.msg, "crun create: "));
	snprintf(path, sizeof(path), "%s/crun/bad", run_dir);
	assert_int_equal(access(path, F_OK), -1);
	snprintf(path, sizeof(path), "%s/bad/config.json", bundles);
	assert_int_equal(write_file(path, "{\"a\":", 5, 0644), 0);
	assert_int_equal(status_of(&p, TASK, "Create", &req.base), ERR_INVALID_ARGUMENT);
	assert_false(has_cgroup("bad"));
	peer_close(&p);
}

/* ---- connections --------------------------------------------------------------------------------------- */

static unsigned int count_fds(void)
{
	char path[64];
	unsigned int n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", agent_pid);
	d = opendir(path);
	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static unsigned int fds_before;

static bool fds_as_before(void)
{
	return count_fds() == fds_before;
}

static void wait_asked_again_on_another_connection_is_answered_once_per_ask(void **state)
{
	struct peer a, b, c;
	struct reply lost, first, second, third, late;
	Crivisor__Agent__V1__InfoResponse *one, *two;

	(void)state;
	peer_open(&a);
	run(&a, "w", "while :; do busybox sleep 0.05; done");
	one = info(&a);
	ask_wait(&a, &lost, "w", "");
	/* The agent has it: an answer that was asked for later has come. */
	state_is(&a, "w", CONTAINERD__V1__TYPES__STATUS__RUNNING);
	assert_int_equal(lost.times, 0);
	peer_close(&a);
	assert_int_equal(lost.times, 1); /* the client's own end of the call */

	peer_open(&b);
	peer_open(&c);
	two = info(&b);
	assert_int_equal(strlen(one->instance_id), 32);
	assert_string_equal(one->instance_id, two->instance_id);
	ask_wait(&b, &first, "w", "");
	ask_wait(&b, &second, "w", "");
	ask_wait(&c, &third, "w", "");
	assert_int_equal(kill_it(&b, "w", SIGKILL), ERR_OK);
	await_reply(&b, &first);
	await_reply(&b, &second);
	await_reply(&c, &third);
	for (int i = 0; i < 5; i++) {
		peer_turn(&b, 10);
		peer_turn(&c, 10);
	}
	assert_int_equal(lost.times, 1);
	expect_exit(&first, 128 + SIGKILL);
	expect_exit(&second, 128 + SIGKILL);
	expect_exit(&third, 128 + SIGKILL);
	ask_wait(&c, &late, "w", "");
	await_reply(&c, &late);
	expect_exit(&late, 128 + SIGKILL);
	assert_int_equal(delete_it(&c, "w", ""), ERR_OK);
	protobuf_c_message_free_unpacked(&one->base, NULL);
	protobuf_c_message_free_unpacked(&two->base, NULL);
	peer_close(&b);
	peer_close(&c);
}

static void connections_that_break_in_a_wait_leave_nothing(void **state)
{
	struct peer p;
	uint64_t before, after;
	Crivisor__Agent__V1__InfoResponse *m;

	(void)state;
	peer_open(&p);
	run(&p, "w", "while :; do busybox sleep 0.05; done");
	peer_close(&p);
	fds_before = 0;
	for (int i = 0; i < 500; i++) {
		struct reply r;

		peer_open(&p);
		ask_wait(&p, &r, "w", "");
		if (i == 250 || i == 499) {
			m = info(&p);
			after = m->rss;
			protobuf_c_message_free_unpacked(&m->base, NULL);
			if (i == 250)
				before = after;
		}
		peer_close(&p);
		if (i == 250) {
			usleep(100000);
			fds_before = count_fds();
		}
	}
	assert_true(wait_until(fds_as_before));
	/*
	 * Under sanitizers freed memory is kept back, up to a bound: the first half fills it, the rest must
	 * not grow.
	 */
	assert_in_range(after, 1, before + (4 << 20));
	peer_open(&p);
	assert_int_equal(kill_it(&p, "w", SIGKILL), ERR_OK);
	expect_wait(&p, "w", "", 128 + SIGKILL);
	assert_int_equal(delete_it(&p, "w", ""), ERR_OK);
	peer_close(&p);
}

static void exit_while_nobody_is_connected_is_kept(void **state)
{
	char out[64] = "";
	struct peer p;

	(void)state;
	peer_open(&p);
	run(&p, "quick", "echo gone; exit 5");
	peer_close(&p);
	usleep(300000);
	peer_open(&p);
	expect_wait(&p, "quick", "", 5);
	read_log(&p, "quick", "", out, sizeof(out));
	assert_string_equal(out, "1:gone\n");
	assert_int_equal(delete_it(&p, "quick", ""), ERR_OK);
	peer_close(&p);
}

static void another_run_of_the_agent_has_another_instance_id(void **state)
{
	char first[64];
	Crivisor__Agent__V1__InfoResponse *m;
	struct peer p;

	(void)state;
	peer_open(&p);
	m = info(&p);
	snprintf(first, sizeof(first), "%s", m->instance_id);
	protobuf_c_message_free_unpacked(&m->base, NULL);
	peer_close(&p);
	kill(agent_pid, SIGTERM);
	assert_int_equal(await_agent(), 0);
	start_agent(CRUN);
	peer_open(&p);
	m = info(&p);
	assert_string_not_equal(m->instance_id, first);
	protobuf_c_message_free_unpacked(&m->base, NULL);
	peer_close(&p);
}

/*
 * As `user`, connects and asks for Info: 1 if answered, 2 if the connection was closed, 3 if it was refused.
 */
static int try_as(uid_t user)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		struct sockaddr_un addr = {.sun_family = AF_UNIX};
		struct peer p = {.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
		Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
		struct reply r = {.type = NULL};

		snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
		if (setresuid(user, user, user) < 0)
			_exit(9);
		if (connect(p.fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
			_exit(3);
		p.t = ttrpc_client_new(on_output, NULL);
		ask(&p, &r, AGENT, "Info", &req.base);
		for (int i = 0; i < 200 && r.times == 0; i++)
			peer_turn(&p, 50);
		_exit(p.closed ? 2 : r.times == 1 && r.err.code == 0 ? 1 : 8);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void only_root_may_connect(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(stat(socket_path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(chmod(dir, 0755), 0);
	assert_int_equal(try_as(0), 1);
	assert_int_equal(try_as(65534), 3);
	/* Even where somebody has widened the mode. */
	assert_int_equal(chmod(socket_path, 0666), 0);
	assert_int_equal(try_as(65534), 2);
	assert_true(log_has("user 65534 refused"));
	assert_int_equal(try_as(0), 1);
}

static void a_socket_that_is_served_is_not_taken_over(void **state)
{
	pid_t first = agent_pid, second;
	int status = 0;

	(void)state;
	second = fork();
	if (second == 0) {
		int null = open("/dev/null", O_WRONLY);

		dup2(null, 2);
		execl(CRV_BUILD_DIR "/crivisor-agent-host", "crivisor-agent-host", "--socket", socket_path,
		      "--bundles", bundles, "--run-dir", run_dir, "--cgroup-parent", parent, (char *)NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(second, &status, 0), second);
	assert_int_equal(WEXITSTATUS(status), 1);
	assert_true(serves());
	/* One that nobody serves any more is. */
	kill(first, SIGKILL);
	waitpid(first, &status, 0);
	start_agent(CRUN);
	assert_true(serves());
}

/* ---- the runtime --------------------------------------------------------------------------------------- */

/* A crun that says it is of this version (NULL: its own) and notes what it is asked. */
static void make_wrapper(char path[128], const char *version)
{
	char text[512], say[64] = "exec " CRUN " --version";

	if (version)
		snprintf(say, sizeof(say), "echo crun version %s; exit 0", version);
	snprintf(path, 128, "%s/crun-wrapper", dir);
	snprintf(text, sizeof(text),
		 "#!/bin/sh\nif [ \"$1\" = --version ]; then %s; fi\necho \"$*\" >>%s/asked\nexec " CRUN
		 " \"$@\"\n",
		 say, dir);
	assert_int_equal(write_file(path, text, strlen(text), 0755), 0);
}

static bool was_asked_to_start(void)
{
	char path[96];
	char *asked CLEANUP_FREE = NULL;

	snprintf(path, sizeof(path), "%s/asked", dir);
	assert_int_equal(read_file(path, 1 << 16, &asked, NULL), 0);
	return strstr(asked, " start ") != NULL;
}

static void run_once(const char *more)
{
	struct peer p;

	peer_open(&p);
	make_bundle("once", "exit 4", more);
	create(&p, "once");
	start(&p, "once", "");
	expect_wait(&p, "once", "", 4);
	assert_int_equal(delete_it(&p, "once", ""), ERR_OK);
	peer_close(&p);
}

static void unknown_version_of_crun_starts_containers_itself(void **state)
{
	char wrapper[128];

	(void)state;
	make_wrapper(wrapper, "99.9");
	start_agent(wrapper);
	run_once("");
	assert_true(was_asked_to_start());
}

static void known_version_of_crun_is_started_by_its_fifo(void **state)
{
	char wrapper[128];

	(void)state;
	make_wrapper(wrapper, NULL);
	start_agent(wrapper);
	if (!log_has("containers are started by its FIFO"))
		fail_msg("this machine's crun is of no version whose FIFO is known: see "
			 "guest/container/crun_version.c");
	run_once("\"annotations\":{\"a\":\"\\\"hooks\\\":\"},");
	assert_false(was_asked_to_start());
}

static void hooks_are_left_to_crun(void **state)
{
	char wrapper[128], more[256], mark[96];

	(void)state;
	make_wrapper(wrapper, NULL);
	start_agent(wrapper);
	snprintf(mark, sizeof(mark), "%s/hooked", dir);
	/* It reads its stdin: crun dies of SIGPIPE when a hook ends before crun has written the state. */
	snprintf(more, sizeof(more),
		 "\"hooks\":{\"poststart\":[{\"path\":\"/bin/busybox\",\"args\":[\"tee\",\"%s\"]}]},", mark);
	run_once(more);
	assert_true(was_asked_to_start());
	assert_int_equal(access(mark, F_OK), 0);
}

/* ---- what is the host's -------------------------------------------------------------------------------- */

static void things_of_the_host_are_refused(void **state)
{
	Grpc__SetupSandboxRequest sr = GRPC__SETUP_SANDBOX_REQUEST__INIT;
	Grpc__SyncClockPacket clock = GRPC__SYNC_CLOCK_PACKET__INIT;
	Grpc__UpdateInterfacesRequest ui = GRPC__UPDATE_INTERFACES_REQUEST__INIT;
	Grpc__UpdateRoutesRequest ur = GRPC__UPDATE_ROUTES_REQUEST__INIT;
	Grpc__ExecVMProcessRequest ex = GRPC__EXEC_VMPROCESS_REQUEST__INIT;
	Crivisor__Agent__V1__AttachDeviceRequest at = CRIVISOR__AGENT__V1__ATTACH_DEVICE_REQUEST__INIT;
	Crivisor__Agent__V1__OnlineResourcesRequest on = CRIVISOR__AGENT__V1__ONLINE_RESOURCES_REQUEST__INIT;
	Crivisor__Agent__V1__Sandbox sb = CRIVISOR__AGENT__V1__SANDBOX__INIT;
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	char before[65] = "", after[65] = "";
	unsigned char data[128];
	struct peer p;

	(void)state;
	peer_open(&p);
	gethostname(before, sizeof(before) - 1);
	sb.hostname = (char *)"not-this-host";
	any.type_url = (char *)"type.googleapis.com/crivisor.agent.v1.Sandbox";
	any.value.len = protobuf_c_message_pack(&sb.base, data);
	any.value.data = data;
	sr.config = &any;
	assert_int_equal(status_of(&p, SANDBOX, "SetupSandbox", &sr.base), ERR_UNIMPLEMENTED);
	gethostname(after, sizeof(after) - 1);
	assert_string_equal(before, after);
	clock.delta = 1;
	assert_int_equal(status_of(&p, SANDBOX, "SyncClock", &clock.base), ERR_UNIMPLEMENTED);
	assert_int_equal(status_of(&p, SANDBOX, "UpdateInterfaces", &ui.base), ERR_UNIMPLEMENTED);
	assert_int_equal(status_of(&p, SANDBOX, "UpdateRoutes", &ur.base), ERR_UNIMPLEMENTED);
	at.pci_address = (char *)"0000:00:05.0";
	assert_int_equal(status_of(&p, AGENT, "AttachDevice", &at.base), ERR_UNIMPLEMENTED);
	assert_int_equal(status_of(&p, AGENT, "OnlineResources", &on.base), ERR_UNIMPLEMENTED);
	ex.command = (char *)"true";
	assert_int_equal(status_of(&p, SANDBOX, "ExecVMProcess", &ex.base), ERR_PERMISSION_DENIED);
	peer_close(&p);
}

/* ---- the end ------------------------------------------------------------------------------------------- */

static void shutdown_ends_containers_answers_and_ends_the_agent(void **state)
{
	Crivisor__Agent__V1__ShutdownRequest req = CRIVISOR__AGENT__V1__SHUTDOWN_REQUEST__INIT;
	Crivisor__Agent__V1__ShutdownResponse *m;
	Crivisor__Agent__V1__Sandbox sb = CRIVISOR__AGENT__V1__SANDBOX__INIT;
	Grpc__SetupSandboxRequest sr = GRPC__SETUP_SANDBOX_REQUEST__INIT;
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	unsigned char data[128];
	struct statfs fs;
	char path[160];
	struct peer p;
	pid_t one, two;

	(void)state;
	peer_open(&p);
	sb.shared_pid_namespace = true;
	any.type_url = (char *)"type.googleapis.com/crivisor.agent.v1.Sandbox";
	any.value.len = protobuf_c_message_pack(&sb.base, data);
	any.value.data = data;
	sr.config = &any;
	must(&p, SANDBOX, "SetupSandbox", &sr.base);
	snprintf(path, sizeof(path), "%s/shm", run_dir);
	assert_int_equal(statfs(path, &fs), 0);
	assert_int_equal(fs.f_type, TMPFS_MAGIC);
	one = run(&p, "one", "trap '' TERM; while :; do busybox sleep 0.05; done");
	two = run(&p, "two", "busybox sleep 1000 & busybox sleep 1000");
	req.timeout_ns = 10 * (uint64_t)NS_PER_SEC;
	m = call(&p, AGENT, "Shutdown", &req.base, &crivisor__agent__v1__shutdown_response__descriptor);
	assert_true(m->synced);
	assert_true(m->unmounted);
	assert_int_equal(m->containers_left, 0);
	protobuf_c_message_free_unpacked(&m->base, NULL);
	assert_int_equal(await_agent(), 0);
	assert_int_equal(kill(one, 0), -1);
	assert_int_equal(kill(two, 0), -1);
	assert_int_equal(access(socket_path, F_OK), -1);
	snprintf(path, sizeof(path), "%s/crun/one", run_dir);
	assert_int_equal(access(path, F_OK), -1);
	assert_false(has_cgroup("two"));
	peer_close(&p);
}

static void task_shutdown_and_its_calls_in_between(void **state)
{
	Containerd__Task__V2__ShutdownRequest req = CONTAINERD__TASK__V2__SHUTDOWN_REQUEST__INIT;
	struct reply waiting;
	struct peer p;
	pid_t pid;

	(void)state;
	peer_open(&p);
	pid = run(&p, "c", "while :; do busybox sleep 0.05; done");
	ask_wait(&p, &waiting, "c", "");
	must(&p, TASK, "Shutdown", &req.base);
	/* Who waits for a container hears how it ended. */
	await_reply(&p, &waiting);
	expect_exit(&waiting, 128 + SIGKILL);
	assert_int_equal(await_agent(), 0);
	assert_int_equal(kill(pid, 0), -1);
	peer_close(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(container_lives_without_a_vm),
		T(exec_has_the_score_of_its_process),
		T(exec_output_lasts_until_its_last_writer),
		T(failed_create_says_why_and_leaves_nothing),
		T(wait_asked_again_on_another_connection_is_answered_once_per_ask),
		T(connections_that_break_in_a_wait_leave_nothing),
		T(exit_while_nobody_is_connected_is_kept),
		T(another_run_of_the_agent_has_another_instance_id),
		T(only_root_may_connect),
		T(a_socket_that_is_served_is_not_taken_over),
		cmocka_unit_test_setup_teardown(unknown_version_of_crun_starts_containers_itself, setup_dirs,
						teardown),
		cmocka_unit_test_setup_teardown(known_version_of_crun_is_started_by_its_fifo, setup_dirs,
						teardown),
		cmocka_unit_test_setup_teardown(hooks_are_left_to_crun, setup_dirs, teardown),
		T(things_of_the_host_are_refused),
		T(shutdown_ends_containers_answers_and_ends_the_agent),
		T(task_shutdown_and_its_calls_in_between),
	};

	return cmocka_run_group_tests(tests, host_group_setup, NULL);
}

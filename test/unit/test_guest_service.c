/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's services from the wire inwards: requests and processes. */
#include "guest_service_fixture.h"

/* ---- tests ---------------------------------------------------------------------------------------- */

static void check_known_services_only(void **state)
{
	Grpc__CheckRequest req = GRPC__CHECK_REQUEST__INIT;

	(void)state;
	assert_int_equal(status_of(SANDBOX, "Check", &req.base), ERR_OK);
	req.service = (char *)TASK;
	assert_int_equal(status_of(SANDBOX, "Check", &req.base), ERR_OK);
	req.service = (char *)"no.such";
	assert_int_equal(status_of(SANDBOX, "Check", &req.base), ERR_NOT_FOUND);
	assert_int_equal(status_of("no.such", "Check", &req.base), ERR_UNIMPLEMENTED);
	assert_int_equal(status_of(SANDBOX, "NoSuch", &req.base), ERR_UNIMPLEMENTED);
}

static void info_says_who_answers(void **state)
{
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;
	Crivisor__Agent__V1__InfoResponse *m =
		call(AGENT, "Info", &req.base, &crivisor__agent__v1__info_response__descriptor, NULL);

	(void)state;
	assert_string_equal(m->version, crv_version);
	assert_int_equal(strlen(m->boot_id), 36);
	assert_true(m->rss > 0);
	assert_true(m->n_features > 0);
	protobuf_c_message_free_unpacked(&m->base, NULL);
}

static void task_of_unknown_or_bad_ids_names_them(void **state)
{
	Containerd__Task__V2__StateRequest st = CONTAINERD__TASK__V2__STATE_REQUEST__INIT;
	Containerd__Task__V2__CreateTaskRequest cr = CONTAINERD__TASK__V2__CREATE_TASK_REQUEST__INIT;
	Containerd__Types__Mount mount = CONTAINERD__TYPES__MOUNT__INIT, *mounts[] = {&mount};
	Containerd__Task__V2__KillRequest ki = CONTAINERD__TASK__V2__KILL_REQUEST__INIT;

	(void)state;
	st.id = (char *)"nobody";
	assert_int_equal(status_of(TASK, "State", &st.base), ERR_NOT_FOUND);
	st.id = (char *)"../etc";
	assert_int_equal(status_of(TASK, "State", &st.base), ERR_INVALID_ARGUMENT);
	st.id = (char *)"box";
	assert_int_equal(status_of(TASK, "State", &st.base), ERR_OK);
	st.exec_id = (char *)"none";
	assert_int_equal(status_of(TASK, "State", &st.base), ERR_NOT_FOUND);
	cr.id = (char *)"box";
	assert_int_equal(status_of(TASK, "Create", &cr.base), ERR_ALREADY_EXISTS);
	cr.id = (char *)"new";
	cr.bundle = (char *)"/etc";
	assert_int_equal(status_of(TASK, "Create", &cr.base), ERR_INVALID_ARGUMENT);
	cr.bundle = (char *)GUEST_SHARE_DIR "/new";
	assert_int_equal(status_of(TASK, "Create", &cr.base), ERR_NOT_FOUND);
	cr.rootfs = mounts;
	cr.n_rootfs = 1;
	assert_int_equal(status_of(TASK, "Create", &cr.base), ERR_UNIMPLEMENTED);
	ki.id = (char *)"box";
	ki.signal = 9999;
	assert_int_equal(status_of(TASK, "Kill", &ki.base), ERR_INVALID_ARGUMENT);
	ki.signal = 9;
	assert_int_equal(status_of(TASK, "Kill", &ki.base), ERR_FAILED_PRECONDITION);
}

static void exec_output_exit_and_delete(void **state)
{
	Containerd__Task__V2__DeleteRequest del = CONTAINERD__TASK__V2__DELETE_REQUEST__INIT;
	Crivisor__Agent__V1__ReadLogRequest far = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;
	struct proc_io io = {.terminal = false};
	char out[256] = "";

	(void)state;
	run_exec("e", &io, "echo out; sleep 0.05; echo err >&2; sleep 0.05; exit 5");
	del.id = (char *)"box";
	del.exec_id = (char *)"e";
	assert_int_equal(status_of(TASK, "Delete", &del.base), ERR_FAILED_PRECONDITION);
	read_log("e", false, out, sizeof(out));
	assert_string_equal(out, "1:out\n2:err\n");
	expect_exit("e", 5);
	expect_exit("e", 5);
	/* What is not acknowledged is there again. */
	read_log("e", true, out, sizeof(out));
	assert_string_equal(out, "1:out\n2:err\n");
	assert_int_equal(agent.containers->logs.used, 0);
	far.container_id = (char *)"box";
	far.exec_id = (char *)"e";
	far.offset = 1000;
	assert_int_equal(status_of(AGENT, "ReadLog", &far.base), ERR_OUT_OF_RANGE);
	assert_int_equal(status_of(TASK, "Delete", &del.base), ERR_OK);
	assert_int_equal(status_of(TASK, "Delete", &del.base), ERR_NOT_FOUND);
}

static void wait_and_readlog_end_when_the_process_is_deleted(void **state)
{
	Containerd__Task__V2__WaitRequest wa = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;
	Containerd__Task__V2__DeleteRequest del = CONTAINERD__TASK__V2__DELETE_REQUEST__INIT;
	Crivisor__Agent__V1__ReadLogRequest rl = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;
	struct reply waiting = {.done = false}, reading = {.done = false};
	struct proc_io io = {.terminal = false};

	(void)state;
	assert_int_equal(ctr_exec_add(box, "n", &io, "{}", 2, NULL), 0);
	wa.id = rl.container_id = del.id = (char *)"box";
	wa.exec_id = rl.exec_id = del.exec_id = (char *)"n";
	rl.wait_ms = 60000;
	start_call(&waiting, TASK, "Wait", &wa.base);
	start_call(&reading, AGENT, "ReadLog", &rl.base);
	for (int i = 0; i < 5; i++)
		turn();
	assert_false(waiting.done || reading.done);
	assert_int_equal(status_of(TASK, "Delete", &del.base), ERR_OK);
	await(&waiting.done);
	await(&reading.done);
	assert_int_equal(waiting.err.status, ERR_NOT_FOUND);
	assert_int_equal(reading.err.status, ERR_NOT_FOUND);
}

static void calls_of_a_lost_connection_are_forgotten(void **state)
{
	Containerd__Task__V2__WaitRequest wa = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;
	Crivisor__Agent__V1__ReadLogRequest rl = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;
	Google__Protobuf__Empty empty = GOOGLE__PROTOBUF__EMPTY__INIT;
	struct reply r[3] = {{.done = false}};
	struct proc_io io = {.terminal = false};
	struct proc *p;

	(void)state;
	p = run_exec("l", &io, "sleep 0.3; echo late");
	wa.id = rl.container_id = (char *)"box";
	wa.exec_id = rl.exec_id = (char *)"l";
	rl.wait_ms = 60000;
	start_call(&r[0], TASK, "Wait", &wa.base);
	start_call(&r[1], AGENT, "ReadLog", &rl.base);
	start_call(&r[2], SANDBOX, "GetEvents", &empty.base);
	for (int i = 0; i < 5; i++)
		turn();
	client = ttrpc_conn_free(client);
	sock = close_fd(sock);
	while (p->state != PROC_STOPPED || !stdio_all_ended(p->stdio))
		turn();
	assert_null(p->waiters);
	assert_int_equal(outlog_end(&p->stdio->log), 5);
}

/* The client's side of a connection that breaks, and another one. */
static void reconnect(void)
{
	int pair[2];

	client = ttrpc_conn_free(client);
	sock = close_fd(sock);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	sock = pair[0];
	assert_int_equal(server_take(agent.server, pair[1]), 0);
	client = ttrpc_client_new(on_output, NULL);
}

static unsigned int count_waiters(const struct proc *p)
{
	unsigned int n = 0;

	for (const struct proc_waiter *w = p->waiters; w; w = w->next)
		n++;
	return n;
}

static void wait_of_a_broken_connection_is_no_longer_registered(void **state)
{
	Containerd__Task__V2__WaitRequest wa = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;
	struct reply r[2] = {{.type = NULL}, {.type = NULL}};
	struct proc_io io = {.terminal = false};
	struct proc *p;

	(void)state;
	p = run_exec("w", &io, "sleep 0.5; exit 6");
	wa.id = (char *)"box";
	wa.exec_id = (char *)"w";
	for (int i = 0; i < 50; i++) {
		struct reply *lost = calloc(1, sizeof(*lost));

		start_call(lost, TASK, "Wait", &wa.base);
		for (int k = 0; k < 3; k++)
			turn();
		/* Asked on the new connection while the agent may not have seen the old one's end. */
		reconnect();
		assert_true(lost->done);
		free(lost);
	}
	start_call(&r[0], TASK, "Wait", &wa.base);
	start_call(&r[1], TASK, "Wait", &wa.base);
	for (int k = 0; k < 5; k++)
		turn();
	assert_int_equal(count_waiters(p), 2);
	await(&r[0].done);
	await(&r[1].done);
	assert_int_equal(r[0].err.code, 0);
	assert_int_equal(r[1].err.code, 0);
	assert_null(p->waiters);
	expect_exit("w", 6);
}

/* ---- the rest ------------------------------------------------------------------------------------- */

static void execvmprocess_needs_debug_and_is_bounded(void **state)
{
	Grpc__ExecVMProcessRequest req = GRPC__EXEC_VMPROCESS_REQUEST__INIT;
	Grpc__ExecVMProcessResponse *m;
	enum err_status status;

	(void)state;
	req.command = (char *)"cat; echo more";
	req.stdin.data = (uint8_t *)"in ";
	req.stdin.len = 3;
	assert_int_equal(status_of(SANDBOX, "ExecVMProcess", &req.base), ERR_PERMISSION_DENIED);
	agent.debug = true;
	m = call(SANDBOX, "ExecVMProcess", &req.base, &grpc__exec_vmprocess_response__descriptor, NULL);
	assert_string_equal(m->out, "in more\n");
	protobuf_c_message_free_unpacked(&m->base, NULL);
	req.command = (char *)"exit 3";
	assert_int_equal(status_of(SANDBOX, "ExecVMProcess", &req.base), ERR_UNKNOWN);
	req.command = (char *)"head -c 3000000 /dev/zero | tr '\\0' a";
	call(SANDBOX, "ExecVMProcess", &req.base, NULL, &status);
	assert_int_equal(status, ERR_RESOURCE_EXHAUSTED);
	req.command = (char *)"printf '\\377'";
	assert_int_equal(status_of(SANDBOX, "ExecVMProcess", &req.base), ERR_DATA_LOSS);
	req.command = (char *)"sleep 100 & echo x";
	assert_int_equal(status_of(SANDBOX, "ExecVMProcess", &req.base), ERR_OK);
}

static void getevents_waits_for_one(void **state)
{
	Google__Protobuf__Empty empty = GOOGLE__PROTOBUF__EMPTY__INIT;
	struct reply r = {.done = false};
	struct proc_io io = {.terminal = false};

	(void)state;
	start_call(&r, SANDBOX, "GetEvents", &empty.base);
	for (int i = 0; i < 5; i++)
		turn();
	assert_false(r.done);
	run_exec("ev", &io, "exit 1");
	await(&r.done);
	assert_int_equal(r.err.code, 0);
	/* Nobody fetches: bounded. */
	for (int i = 0; i < 2 * EVENTS_MAX; i++) {
		Containerd__Task__V2__StateRequest any = CONTAINERD__TASK__V2__STATE_REQUEST__INIT;

		events_push(agent.events, "/x", &any.base);
	}
}

/* Random bytes and random valid requests to the methods that cannot harm this machine. */
static void methods_take_garbage_without_harm(void **state)
{
	static const char *const methods[][2] = {
		{TASK, "State"},      {TASK, "Delete"}, {TASK, "Pids"},	    {TASK, "Pause"},
		{TASK, "Resume"},     {TASK, "Kill"},	{TASK, "Exec"},	    {TASK, "ResizePty"},
		{TASK, "CloseIO"},    {TASK, "Wait"},	{TASK, "Stats"},    {TASK, "Connect"},
		{TASK, "Checkpoint"}, {AGENT, "Info"},	{AGENT, "ReadLog"}, {AGENT, "Ack"},
		{SANDBOX, "Check"},
	};
	unsigned int seed = 7;

	(void)state;
	for (int i = 0; i < 3000; i++) {
		unsigned char data[64];
		struct reply r = {.done = false};
		const char *const *m = methods[(seed >> 16) % ARRAY_SIZE(methods)];
		size_t len;
		uint32_t id;

		for (size_t k = 0; k < sizeof(data); k++) {
			seed = seed * 1103515245 + 12345;
			data[k] = (unsigned char)(seed >> 16);
		}
		len = data[63] % 60u;
		if (i % 2) /* half of them name the container */
			memcpy(data,
			       "\x0a\x03"
			       "box",
			       5);
		assert_int_equal(ttrpc_call(client, m[0], m[1], data, len, 0, on_reply, &r, &id, NULL), 0);
		for (int k = 0; k < 3 && !r.done; k++)
			turn();
		ttrpc_cancel(client, id);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(check_known_services_only),
		T(info_says_who_answers),
		T(task_of_unknown_or_bad_ids_names_them),
		T(exec_output_exit_and_delete),
		T(wait_and_readlog_end_when_the_process_is_deleted),
		T(calls_of_a_lost_connection_are_forgotten),
		T(wait_of_a_broken_connection_is_no_longer_registered),
		T(execvmprocess_needs_debug_and_is_bounded),
		T(getevents_waits_for_one),
		T(methods_take_garbage_without_harm),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

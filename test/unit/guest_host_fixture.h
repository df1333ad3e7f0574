/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest_host_fixture.h: a crivisor-agent-host of the test's own with the real crun, and ttrpc clients on its
 * socket.
 *
 * It needs root and crun, and fails with words where they are missing. Everything lies in a directory below
 * /tmp and in a mount namespace of the test's own; containers live in a cgroup of their own.
 */
#ifndef TEST_UNIT_GUEST_HOST_FIXTURE_H
#define TEST_UNIT_GUEST_HOST_FIXTURE_H

#include "api/agent/agent.pb-c.h"
#include "api/agent/sandbox.pb-c.h"
#include "api/agent/task.pb-c.h"
#include "api/ttrpc/ttrpc.h"
#include "base/buf.h"
#include "base/util.h"
#include "google/protobuf/any.pb-c.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define TASK	    "containerd.task.v2.Task"
#define SANDBOX	    "grpc.SandboxService"
#define AGENT	    "crivisor.agent.v1.Agent"
#define CRUN	    "/usr/bin/crun"
#define BUSYBOX	    "/bin/busybox"
#define PATIENCE_NS (20 * NS_PER_SEC)

static char dir[48], socket_path[96], bundles[64], run_dir[64], log_path[64], parent[64];
static pid_t agent_pid;

/* ---- the machine -------------------------------------------------------------------------------------- */

/*
 * crun 1.8.1 refuses a hybrid machine while a controller is in the v2 tree. Nothing here needs that tree: in
 * this mount namespace an empty directory covers it, and the machine is one of v1 alone.
 */
static inline void settle_hybrid(void)
{
	static const char *const unified = "/sys/fs/cgroup/unified";

	if (access(unified, F_OK) == 0 && mount("none", unified, "tmpfs", 0, "size=64k") < 0)
		fail_msg("cover %s: %s", unified, strerror(errno));
}

/* A root that is no mount point, as in a chroot, is one afterwards: crun's pivot_root wants it. 0 or -1. */
static inline int settle_root(void)
{
	static const char *const over = "/mnt";

	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
		return 0;
	if (errno != EINVAL || mount("/", over, NULL, MS_BIND | MS_REC, NULL) < 0)
		return -1;
	return mount("none", over, NULL, MS_REC | MS_PRIVATE, NULL) < 0 || chdir(over) < 0 || chroot(".") < 0
		       ? -1
		       : 0;
}

static inline int host_group_setup(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	if (geteuid() != 0)
		fail_msg("these tests make containers: they must run as root");
	if (access(CRUN, X_OK) < 0)
		fail_msg("these tests make containers: " CRUN " is missing (package crun)");
	if (access(BUSYBOX, X_OK) < 0)
		fail_msg("these tests make a small root: " BUSYBOX " is missing (package busybox-static)");
	if (unshare(CLONE_NEWNS) < 0 || settle_root() < 0)
		fail_msg("mount namespace: %s", strerror(errno));
	settle_hybrid();
	return 0;
}

/* ---- the agent ---------------------------------------------------------------------------------------- */

static inline void copy_file(const char *from, const char *to)
{
	char *data CLEANUP_FREE = NULL;
	size_t len;

	assert_int_equal(read_file(from, 64 << 20, &data, &len), 0);
	assert_int_equal(write_file(to, data, len, 0755), 0);
}

static inline bool wait_until(bool (*is)(void))
{
	int64_t end = now_monotonic_ns() + PATIENCE_NS;

	while (!is() && now_monotonic_ns() < end)
		usleep(5000);
	return is();
}

static inline bool serves(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd CLEANUP_CLOSE = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	return connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0;
}

static inline bool log_has(const char *text)
{
	char *log CLEANUP_FREE = NULL;

	return read_file(log_path, 1 << 20, &log, NULL) == 0 && strstr(log, text);
}

static inline bool probed(void)
{
	return log_has("containers are started by");
}

static inline void start_agent(const char *runtime)
{
	agent_pid = fork();
	assert_true(agent_pid >= 0);
	if (agent_pid == 0) {
		int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);

		dup2(log, 2);
		execl(CRV_BUILD_DIR "/crivisor-agent-host", "crivisor-agent-host", "--socket", socket_path,
		      "--bundles", bundles, "--run-dir", run_dir, "--cgroup-parent", parent, "--runtime",
		      runtime, "--log-level", "debug", (char *)NULL);
		_exit(127);
	}
	if (!wait_until(serves) || !wait_until(probed)) {
		char *log CLEANUP_FREE = NULL;

		(void)read_file(log_path, 1 << 20, &log, NULL);
		fail_msg("the agent does not serve: %s", log ? log : "");
	}
}

/* The status of its end. */
static inline int await_agent(void)
{
	int64_t end = now_monotonic_ns() + PATIENCE_NS;
	int status = -1;

	while (waitpid(agent_pid, &status, WNOHANG) == 0 && now_monotonic_ns() < end)
		usleep(5000);
	agent_pid = 0;
	return status;
}

static inline int setup_dirs(void **state)
{
	char path[128];

	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/crvtest-agent-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(socket_path, sizeof(socket_path), "%s/agent.sock", dir);
	snprintf(bundles, sizeof(bundles), "%s/bundles", dir);
	snprintf(run_dir, sizeof(run_dir), "%s/run", dir);
	snprintf(log_path, sizeof(log_path), "%s/log", dir);
	snprintf(parent, sizeof(parent), "/crvtest-agent-%d", getpid());
	snprintf(path, sizeof(path), "%s/root/bin", dir);
	assert_int_equal(mkdir_p(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/root/bin/busybox", dir);
	copy_file(BUSYBOX, path);
	snprintf(path, sizeof(path), "%s/root/proc", dir);
	assert_int_equal(mkdir(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/root/dev", dir);
	assert_int_equal(mkdir(path, 0755), 0);
	assert_int_equal(mkdir(bundles, 0755), 0);
	return 0;
}

/* The cgroup of all containers of this test in every hierarchy; only its own, by its name. */
static inline void remove_cgroups(void)
{
	DIR *d = opendir("/sys/fs/cgroup");
	const struct dirent *de;
	char path[400];

	snprintf(path, sizeof(path), "/sys/fs/cgroup%s", parent);
	rmdir(path);
	while (d && (de = readdir(d))) {
		snprintf(path, sizeof(path), "/sys/fs/cgroup/%s%s", de->d_name, parent);
		rmdir(path);
	}
	if (d)
		closedir(d);
}

static inline bool is_cgroup(const char *path)
{
	struct statfs fs;

	return statfs(path, &fs) == 0 &&
	       (fs.f_type == CGROUP_SUPER_MAGIC || fs.f_type == CGROUP2_SUPER_MAGIC);
}

/* Whether a hierarchy has the container's cgroup. */
static inline bool has_cgroup(const char *id)
{
	DIR *d = opendir("/sys/fs/cgroup");
	const struct dirent *de;
	char path[400];
	bool has;

	snprintf(path, sizeof(path), "/sys/fs/cgroup%s/%s", parent, id);
	has = is_cgroup(path);
	while (d && (de = readdir(d))) {
		snprintf(path, sizeof(path), "/sys/fs/cgroup/%s%s/%s", de->d_name, parent, id);
		has = has || is_cgroup(path);
	}
	if (d)
		closedir(d);
	return has;
}

static inline int setup(void **state)
{
	setup_dirs(state);
	start_agent(CRUN);
	return 0;
}

static inline int teardown(void **state)
{
	int status = 0;
	bool was_up = agent_pid > 0;

	(void)state;
	if (was_up) {
		kill(agent_pid, SIGTERM);
		status = await_agent();
	}
	remove_cgroups();
	if (status != 0) {
		char *log CLEANUP_FREE = NULL;

		(void)read_file(log_path, 1 << 20, &log, NULL);
		print_error("status %d of the agent: %s\n", status, log ? log : "");
	}
	if (remove_tree(dir) < 0)
		return -1;
	return status;
}

/* ---- clients ------------------------------------------------------------------------------------------ */

struct peer {
	int fd;
	struct ttrpc_conn *t;
	bool closed; /* by the agent */
};

static inline void on_output(void *owner)
{
	(void)owner;
}

static inline void peer_open(struct peer *p)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	*p = (struct peer){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	if (connect(p->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		fail_msg("connect to %s: %s", socket_path, strerror(errno));
	assert_int_equal(set_nonblock(p->fd, true), 0);
	p->t = ttrpc_client_new(on_output, NULL);
}

static inline void peer_close(struct peer *p)
{
	p->fd = close_fd(p->fd);
	p->t = ttrpc_conn_free(p->t);
}

static inline void peer_turn(struct peer *p, int wait_ms)
{
	unsigned char data[65536];
	struct pollfd pfd = {.fd = p->fd, .events = POLLIN};
	ssize_t n;

	while (ttrpc_out(p->t)->len > 0 && buf_write_fd(ttrpc_out(p->t), p->fd) > 0)
		;
	if (poll(&pfd, 1, wait_ms) <= 0)
		return;
	n = read(p->fd, data, sizeof(data));
	if (n > 0) {
		assert_int_equal(ttrpc_feed(p->t, data, (size_t)n, NULL), 0);
	} else if (n == 0 || errno != EAGAIN) {
		struct err err;

		p->closed = true;
		err_set(&err, -ECONNRESET, "closed by the agent");
		ttrpc_abort(p->t, &err);
	}
}

struct reply {
	unsigned int times;
	struct err err;
	void *msg;
	const ProtobufCMessageDescriptor *type;
};

static inline void on_reply(void *arg, const struct err *err, const void *payload, size_t len)
{
	struct reply *r = arg;

	r->times++;
	if (err)
		r->err = *err;
	else if (r->type)
		r->msg = protobuf_c_message_unpack(r->type, NULL, len, payload);
}

static inline void reply_done(struct reply *r)
{
	if (r->msg)
		protobuf_c_message_free_unpacked(r->msg, NULL);
	r->msg = NULL;
}

static inline void ask(struct peer *p, struct reply *r, const char *service, const char *method,
		       const ProtobufCMessage *req)
{
	unsigned char data[65536];
	size_t len = protobuf_c_message_get_packed_size(req);

	assert_true(len <= sizeof(data));
	protobuf_c_message_pack(req, data);
	assert_int_equal(ttrpc_call(p->t, service, method, data, len, 0, on_reply, r, NULL, NULL), 0);
	peer_turn(p, 0);
}

static inline void await_reply(struct peer *p, struct reply *r)
{
	int64_t end = now_monotonic_ns() + PATIENCE_NS;

	while (r->times == 0 && now_monotonic_ns() < end)
		peer_turn(p, 50);
	assert_int_equal(r->times, 1);
}

static inline void *call(struct peer *p, const char *service, const char *method, const ProtobufCMessage *req,
			 const ProtobufCMessageDescriptor *type)
{
	struct reply r = {.type = type};

	ask(p, &r, service, method, req);
	await_reply(p, &r);
	if (r.err.code)
		fail_msg("%s: %s", method, r.err.msg);
	return r.msg;
}

static inline enum err_status status_of(struct peer *p, const char *service, const char *method,
					const ProtobufCMessage *req)
{
	struct reply r = {.type = NULL};

	ask(p, &r, service, method, req);
	await_reply(p, &r);
	return r.err.status;
}

static inline void must(struct peer *p, const char *service, const char *method, const ProtobufCMessage *req)
{
	call(p, service, method, req, NULL);
}

/* ---- containers --------------------------------------------------------------------------------------- */

/* A bundle whose process runs `script`; more: further members of the configuration, or "". */
static inline void make_bundle(const char *id, const char *script, const char *more)
{
	char path[128], text[4096];

	snprintf(path, sizeof(path), "%s/%s", bundles, id);
	assert_int_equal(mkdir(path, 0755), 0);
	snprintf(text, sizeof(text),
		 "{\"ociVersion\":\"1.0.0\",%s"
		 "\"process\":{\"user\":{\"uid\":0,\"gid\":0},\"cwd\":\"/\",\"env\":[\"PATH=/bin\"],"
		 "\"args\":[\"/bin/busybox\",\"sh\",\"-c\",\"%s\"]},"
		 "\"root\":{\"path\":\"%s/root\",\"readonly\":true},"
		 "\"mounts\":[{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"}],"
		 "\"linux\":{\"cgroupsPath\":\"%s/"
		 "%s\",\"namespaces\":[{\"type\":\"pid\"},{\"type\":\"mount\"},"
		 "{\"type\":\"ipc\"},{\"type\":\"uts\"}]}}",
		 more, script, dir, parent, id);
	snprintf(path, sizeof(path), "%s/%s/config.json", bundles, id);
	assert_int_equal(write_file(path, text, strlen(text), 0644), 0);
}

static inline pid_t create(struct peer *p, const char *id)
{
	Containerd__Task__V2__CreateTaskRequest req = CONTAINERD__TASK__V2__CREATE_TASK_REQUEST__INIT;
	Containerd__Task__V2__CreateTaskResponse *m;
	pid_t pid;

	req.id = (char *)(uintptr_t)id;
	m = call(p, TASK, "Create", &req.base, &containerd__task__v2__create_task_response__descriptor);
	pid = (pid_t)m->pid;
	protobuf_c_message_free_unpacked(&m->base, NULL);
	return pid;
}

static inline void start(struct peer *p, const char *id, const char *exec)
{
	Containerd__Task__V2__StartRequest req = CONTAINERD__TASK__V2__START_REQUEST__INIT;

	req.id = (char *)(uintptr_t)id;
	req.exec_id = (char *)(uintptr_t)exec;
	must(p, TASK, "Start", &req.base);
}

static inline pid_t run(struct peer *p, const char *id, const char *script)
{
	pid_t pid;

	make_bundle(id, script, "");
	pid = create(p, id);
	start(p, id, "");
	return pid;
}

static inline void ask_wait(struct peer *p, struct reply *r, const char *id, const char *exec)
{
	Containerd__Task__V2__WaitRequest req = CONTAINERD__TASK__V2__WAIT_REQUEST__INIT;

	req.id = (char *)(uintptr_t)id;
	req.exec_id = (char *)(uintptr_t)exec;
	*r = (struct reply){.type = &containerd__task__v2__wait_response__descriptor};
	ask(p, r, TASK, "Wait", &req.base);
}

static inline void expect_exit(struct reply *r, unsigned int status)
{
	const Containerd__Task__V2__WaitResponse *m = r->msg;

	assert_int_equal(r->times, 1);
	if (r->err.code)
		fail_msg("Wait: %s", r->err.msg);
	assert_int_equal(m->exit_status, status);
	reply_done(r);
}

static inline void expect_wait(struct peer *p, const char *id, const char *exec, unsigned int status)
{
	struct reply r;

	ask_wait(p, &r, id, exec);
	await_reply(p, &r);
	expect_exit(&r, status);
}

static inline enum err_status kill_it(struct peer *p, const char *id, unsigned int sig)
{
	Containerd__Task__V2__KillRequest req = CONTAINERD__TASK__V2__KILL_REQUEST__INIT;

	req.id = (char *)(uintptr_t)id;
	req.signal = sig;
	return status_of(p, TASK, "Kill", &req.base);
}

static inline enum err_status delete_it(struct peer *p, const char *id, const char *exec)
{
	Containerd__Task__V2__DeleteRequest req = CONTAINERD__TASK__V2__DELETE_REQUEST__INIT;

	req.id = (char *)(uintptr_t)id;
	req.exec_id = (char *)(uintptr_t)exec;
	return status_of(p, TASK, "Delete", &req.base);
}

/* Both streams of a process to their end, each record as "<stream>:<data>". */
static inline void read_log(struct peer *p, const char *id, const char *exec, char *out, size_t room)
{
	uint64_t offset = 0;
	size_t n = 0;
	bool eof = false;

	while (!eof) {
		Crivisor__Agent__V1__ReadLogRequest req = CRIVISOR__AGENT__V1__READ_LOG_REQUEST__INIT;
		Crivisor__Agent__V1__ReadLogResponse *m;

		req.container_id = (char *)(uintptr_t)id;
		req.exec_id = (char *)(uintptr_t)exec;
		req.offset = offset;
		req.wait_ms = 1000;
		m = call(p, AGENT, "ReadLog", &req.base, &crivisor__agent__v1__read_log_response__descriptor);
		for (size_t i = 0; i < m->n_records; i++) {
			n += (size_t)snprintf(out + n, room - n, "%d:%.*s", (int)m->records[i]->stream,
					      (int)m->records[i]->data.len, m->records[i]->data.data);
			offset += m->records[i]->data.len;
		}
		eof = m->eof;
		protobuf_c_message_free_unpacked(&m->base, NULL);
	}
}

static inline Crivisor__Agent__V1__InfoResponse *info(struct peer *p)
{
	Crivisor__Agent__V1__InfoRequest req = CRIVISOR__AGENT__V1__INFO_REQUEST__INIT;

	return call(p, AGENT, "Info", &req.base, &crivisor__agent__v1__info_response__descriptor);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif

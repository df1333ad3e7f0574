/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/container/crun_internal.h"

#include "base/log.h"
#include "base/util.h"
#include "guest/container/containers_internal.h"
#include "guest/core/loop.h"
#include "guest/core/reap.h"
#include "guest/core/spawn.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>

#define LOG_MAX	   65536
#define SUBCOMMAND 5 /* its place in argv, behind the global options */

struct crun_run {
	struct crun_run *next;			/* in the queue */
	struct crun_run *all_next, **all_prevp; /* of all */
	struct agent *agent;
	char **argv;
	int stdio[3];
	int oom_score_adj;
	char log[64], pidfile[64]; /* pidfile empty: not wanted */
	pid_t pid;		   /* 0: queued */
	uint64_t since;
	bool killed, late;
	struct reap_watch watch;
	struct loop_timer deadline;
	struct loop_task fail; /* for ends that must not come inside crun_start or crun_kill */
	void (*before)(void *arg);
	void *before_arg;
	crun_done_fn *done;
	void *arg;
};

static struct {
	struct crun_run *all;
	struct crun_run *queue, **tail;
	unsigned int running;
} runs = {.tail = &runs.queue};

static void run_free(struct crun_run *run)
{
	if (run->all_prevp) {
		*run->all_prevp = run->all_next;
		if (run->all_next)
			run->all_next->all_prevp = run->all_prevp;
	}
	for (int i = 0; i < 3; i++)
		close_fd(run->stdio[i]);
	unlink(run->log);
	if (run->pidfile[0])
		unlink(run->pidfile);
	strv_free(run->argv);
	free(run);
}

/* The "msg" of a line of JSON into out; false if the line is not JSON or has no message. */
static bool line_message(const char *line, size_t len, char *out, size_t out_len)
{
	struct json_tokener *tok = json_tokener_new();
	struct json_object *o = tok ? json_tokener_parse_ex(tok, line, (int)len) : NULL;
	struct json_object *msg = NULL;
	bool found =
		o && json_object_object_get_ex(o, "msg", &msg) && json_object_is_type(msg, json_type_string);

	if (found)
		snprintf(out, out_len, "%s", json_object_get_string(msg));
	json_object_put(o);
	json_tokener_free(tok);
	/* Error messages are one line. */
	for (char *p = out; found && *p; p++) {
		if (*p == '\n' || *p == '\t')
			*p = ' ';
	}
	return found;
}

void crun_log_message(const char *log, char *out, size_t out_len)
{
	const char *last = log, *next;
	bool found = false;

	*out = 0;
	/* The last message is the outermost error; crun writes one line a message. */
	for (const char *line = log; *line; line = next) {
		size_t len = strcspn(line, "\n");

		next = line + len + (line[len] == '\n');
		if (len > 0)
			last = line;
		found = line_message(line, len, out, out_len) || found;
	}
	/* Not JSON (crun died before it read its options): the last line as it is. */
	if (!found)
		snprintf(out, out_len, "%.*s", (int)strcspn(last, "\n"), last);
}

static int run_error(struct crun_run *run, int status, struct err *err)
{
	char msg[ERR_MSG_MAX / 2] = "";
	char *log CLEANUP_FREE = NULL;
	const char *what = run->argv[SUBCOMMAND];

	if (run->killed)
		return err_set_status(err, -ECANCELED, ERR_ABORTED, "crun %s: ended by a later Kill", what);
	if (run->late)
		return err_set(err, -ETIMEDOUT, "crun %s: not finished after %lld s", what,
			       CRUN_DEADLINE_NS / NS_PER_SEC);
	if (status == 0)
		return 0;
	if (read_file(run->log, LOG_MAX, &log, NULL) == 0)
		crun_log_message(log, msg, sizeof(msg));
	if (msg[0])
		return err_set_status(err, -EIO, ERR_UNKNOWN, "crun %s: %s", what, msg);
	if (status == 127)
		return err_set_status(err, -EIO, ERR_INTERNAL, "crun %s: %s cannot be run", what,
				      run->agent->paths.crun);
	return err_set_status(err, -EIO, ERR_UNKNOWN, "crun %s: exit status %d without an error message",
			      what, status);
}

static int run_pid(const struct crun_run *run, pid_t *ret, struct err *err)
{
	char *text CLEANUP_FREE = NULL;
	uint64_t pid = 0;
	int r = read_file(run->pidfile, 64, &text, NULL);

	if (r == 0) {
		text[strcspn(text, "\n")] = 0;
		r = parse_u64(text, &pid);
	}
	if (r == 0 && (pid <= 1 || pid > INT32_MAX))
		r = -ERANGE;
	if (r < 0)
		return err_set_status(err, r, ERR_INTERNAL, "crun %s: no pid in its pid file: %s",
				      run->argv[SUBCOMMAND], strerror(-r));
	*ret = (pid_t)pid;
	return 0;
}

static void start_next(void);

static void run_end(struct crun_run *run, int status)
{
	struct err err = ERR_INIT;
	pid_t pid = 0;
	bool ran = run->pid != 0;
	int r = run_error(run, status, &err);

	loop_timer_clear(&run->deadline);
	if (r == 0 && run->pidfile[0])
		r = run_pid(run, &pid, &err);
	run->done(run->arg, r < 0 ? &err : NULL, pid, run->since);
	run_free(run);
	if (ran) {
		reap_keep_orphans(false);
		runs.running--;
	}
	start_next();
}

static void on_exit_(void *arg, pid_t pid, int status, int64_t at_ns)
{
	(void)pid;
	(void)at_ns;
	run_end(arg, status);
}

static void on_fail(void *arg)
{
	run_end(arg, 126);
}

static void on_late(void *arg)
{
	struct crun_run *run = arg;

	run->late = true;
	kill(-run->pid, SIGKILL);
	kill(run->pid, SIGKILL);
}

static void run_now(struct crun_run *run)
{
	struct spawn s = {.argv = run->argv,
			  .stdio = {run->stdio[0], run->stdio[1], run->stdio[2]},
			  .oom_score_adj = run->oom_score_adj,
			  .before = run->before,
			  .before_arg = run->before_arg};
	pid_t pid;

	run->since = reap_seq();
	reap_keep_orphans(true);
	runs.running++;
	pid = spawn_run(&s, NULL);
	run->pid = pid > 0 ? pid : -1;
	/* The container has its own copies now; ours would keep its pipes open. */
	for (int i = 0; i < 3; i++)
		run->stdio[i] = close_fd(run->stdio[i]);
	if (pid < 0) {
		loop_later(run->agent->loop, &run->fail, on_fail, run);
		return;
	}
	reap_watch(&run->watch, pid, UINT64_MAX, on_exit_, run);
	loop_timer_set(run->agent->loop, &run->deadline, now_monotonic_ns() + CRUN_DEADLINE_NS, on_late, run);
}

static void start_next(void)
{
	while (runs.queue && runs.running < CRUN_PARALLEL) {
		struct crun_run *run = runs.queue;

		runs.queue = run->next;
		if (!runs.queue)
			runs.tail = &runs.queue;
		run->next = NULL;
		run_now(run);
	}
}

static int build_argv(struct crun_run *run, const struct crun_args *args)
{
	char ***v = &run->argv;
	int r = strv_add(v, run->agent->paths.crun);

	if (r == 0)
		r = strv_addf(v, "--root=%s", run->agent->paths.crun_root);
	if (r == 0)
		r = strv_add(v, "--cgroup-manager=cgroupfs");
	if (r == 0)
		r = strv_addf(v, "--log=%s", run->log);
	if (r == 0)
		r = strv_add(v, "--log-format=json");
	for (size_t i = 0; r == 0 && args->args[i]; i++) {
		r = strv_add(v, args->args[i]);
		if (r == 0 && i == 0 && run->pidfile[0])
			r = strv_addf(v, "--pid-file=%s", run->pidfile);
	}
	return r == 0 ? strv_add(v, args->id) : r;
}

static int dup_stdio(struct crun_run *run, const struct crun_args *args)
{
	for (int i = 0; i < 3; i++) {
		if (args->stdio[i] < 0)
			continue;
		run->stdio[i] = fcntl(args->stdio[i], F_DUPFD_CLOEXEC, 3);
		if (run->stdio[i] < 0)
			return -errno;
	}
	return 0;
}

struct crun_run *crun_start(struct agent *agent, const struct crun_args *args, crun_done_fn *done, void *arg,
			    struct err *err)
{
	struct crun_run *run = calloc(1, sizeof(*run));
	unsigned int serial = agent_serial();
	int r;

	if (!run) {
		err_oom(err);
		return NULL;
	}
	*run = (struct crun_run){.agent = agent,
				 .stdio = {-1, -1, -1},
				 .before = args->before,
				 .before_arg = args->before_arg,
				 .done = done,
				 .arg = arg};
	snprintf(run->log, sizeof(run->log), "%s/%u.log", agent->paths.tmp, serial);
	run->oom_score_adj = args->oom_score_adj;
	if (args->want_pid)
		snprintf(run->pidfile, sizeof(run->pidfile), "%s/%u.pid", agent->paths.tmp, serial);
	r = build_argv(run, args);
	if (r == 0)
		r = dup_stdio(run, args);
	if (r < 0) {
		err_set_errno(err, r, "crun %s", args->args[0]);
		run_free(run);
		return NULL;
	}
	run->all_next = runs.all;
	run->all_prevp = &runs.all;
	if (run->all_next)
		run->all_next->all_prevp = &run->all_next;
	runs.all = run;
	*runs.tail = run;
	runs.tail = &run->next;
	start_next();
	return run;
}

void crun_kill(struct crun_run *run)
{
	struct crun_run **p = &runs.queue;

	run->killed = true;
	if (run->pid > 0) {
		kill(-run->pid, SIGKILL);
		kill(run->pid, SIGKILL);
	}
	if (run->pid != 0)
		return;
	while (*p && *p != run)
		p = &(*p)->next;
	if (*p)
		*p = run->next;
	if (runs.tail == &run->next)
		runs.tail = p;
	loop_later(run->agent->loop, &run->fail, on_fail, run);
}

void crun_forget_all(void)
{
	while (runs.all) {
		struct crun_run *run = runs.all;

		if (run->pid > 0) {
			kill(-run->pid, SIGKILL);
			kill(run->pid, SIGKILL);
			reap_unwatch(&run->watch);
		}
		if (run->pid != 0) {
			reap_keep_orphans(false);
			runs.running--;
		}
		loop_timer_clear(&run->deadline);
		loop_task_clear(run->agent->loop, &run->fail);
		run_free(run);
	}
	runs.queue = NULL;
	runs.tail = &runs.queue;
}

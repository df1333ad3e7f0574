/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/child_internal.h"

#include "base/process.h"
#include "base/procfs.h"
#include "base/text.h"
#include "base/util.h"
#include "vmm/cgroup_internal.h"
#include "vmm/spawn_internal.h"
#include "vmm/wait_internal.h"

#include <ctype.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define STATUS_FD    3
#define LAST_LINES   4
#define HELPER_NS    (30 * NS_PER_SEC) /* it waits for nothing but the kernel */
#define TAIL_BYTES   4096
#define CHILDREN_MAX 4096

/* What a process runs; unknown if it cannot be told. */
static void read_exe(pid_t pid, struct child_exe *ret_exe)
{
	char path[64], target[512];
	struct stat st;
	char *base;
	ssize_t n;

	*ret_exe = (struct child_exe){0};
	snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
	if (stat(path, &st) == 0) {
		ret_exe->device = st.st_dev;
		ret_exe->inode = st.st_ino;
	}
	n = readlink(path, target, sizeof(target) - 1);
	if (n <= 0)
		return;
	target[n] = 0;
	base = strrchr(target, '/');
	base = base ? base + 1 : target;
	/* The kernel's mark for a file that has been replaced since. */
	if (str_ends(base, " (deleted)"))
		base[strlen(base) - strlen(" (deleted)")] = 0;
	snprintf(ret_exe->name, sizeof(ret_exe->name), "%.63s", base);
}

static bool is_same_exe(const struct child_exe *a, const struct child_exe *b)
{
	if (a->inode && b->inode)
		return a->device == b->device && a->inode == b->inode;
	return str_empty(a->name) || str_empty(b->name) || str_eq(a->name, b->name);
}

static int add_jail(char ***argv, const struct child_spec *spec)
{
	int r = strv_add(argv, "--uid");

	if (r == 0)
		r = strv_addf(argv, "%u", spec->uid);
	if (r == 0)
		r = strv_add(argv, "--home");
	if (r == 0)
		r = strv_add(argv, spec->home);
	/* A program that is named without a slash comes from PATH, whose directories are the system's. */
	if (r == 0 && spec->argv[0][0] == '/')
		r = strv_add(argv, "--path");
	if (r == 0 && spec->argv[0][0] == '/')
		r = strv_add(argv, spec->argv[0]);
	for (size_t i = 0; r == 0 && spec->paths && spec->paths[i]; i++) {
		r = strv_add(argv, "--path");
		if (r == 0)
			r = strv_add(argv, spec->paths[i]);
	}
	return r;
}

static char **helper_argv(const struct child_spec *spec)
{
	char **argv = NULL;
	int r = strv_add(&argv, spec->helper);

	if (r == 0)
		r = strv_add(&argv, "--status-fd");
	if (r == 0)
		r = strv_addf(&argv, "%d", STATUS_FD);
	if (r == 0 && spec->cgroup) {
		r = strv_add(&argv, "--hold-fd");
		if (r == 0)
			r = strv_addf(&argv, "%d", STATUS_FD);
	}
	if (r == 0 && spec->netns) {
		r = strv_add(&argv, "--netns");
		if (r == 0)
			r = strv_add(&argv, spec->netns);
	}
	if (r == 0 && spec->log) {
		r = strv_add(&argv, "--log");
		if (r == 0)
			r = strv_add(&argv, spec->log);
	}
	if (r == 0)
		r = strv_add(&argv, "--caps");
	if (r == 0)
		r = strv_addf(&argv, "%llu", (unsigned long long)spec->caps);
	if (r == 0)
		r = strv_add(&argv, "--oom-score-adj");
	if (r == 0)
		r = strv_addf(&argv, "%d", spec->oom_score_adj);
	if (r == 0 && spec->uid)
		r = add_jail(&argv, spec);
	for (size_t i = 0; r == 0 && i < spec->n_fds; i++) {
		r = strv_add(&argv, "--keep-fd");
		if (r == 0)
			r = strv_addf(&argv, "%zu", CHILD_FD_BASE + i);
	}
	if (r == 0)
		r = strv_add(&argv, "--");
	for (size_t i = 0; r == 0 && spec->argv[i]; i++)
		r = strv_add(&argv, spec->argv[i]);
	return r == 0 ? argv : strv_free(argv);
}

/* The status socket becomes STATUS_FD in the helper, the inherited ones follow. */
static int spawn_helper(struct child *p, const struct child_spec *spec, char **argv, int status_fd)
{
	int fds[CHILD_FDS_MAX + 1] = {status_fd};
	struct process_spec ps = {.path = spec->helper,
				  .argv = argv,
				  .stdio = {-1, -1, -1},
				  .fds = fds,
				  .n_fds = spec->n_fds + 1};

	for (size_t i = 0; i < spec->n_fds; i++)
		fds[i + 1] = spec->fds[i];
	return process_spawn(&ps, &p->pid, &p->pidfd);
}

/* Ends and reaps a helper that must not go on. */
static void drop_helper(struct child *p)
{
	kill(p->pid, SIGKILL); /* our child, not reaped yet: the number is still its own */
	waitpid(p->pid, NULL, 0);
	child_done(p);
	*p = CHILD_INIT;
}

/*
 * Moves the helper, which waits for a byte before it executes its program. One that has ended meanwhile is no
 * error here: child_confirm reports its message.
 */
static int enter_cgroup(const struct child *p, const char *cgroup, int helper, struct err *err)
{
	struct err e = ERR_INIT;
	int r = cgr_attach(cgroup, p->pid, &e);

	if (r == -ESRCH)
		return 0;
	if (r < 0)
		return err_copy(err, &e);
	if (send(helper, "", 1, MSG_NOSIGNAL) == 1 || errno == EPIPE || errno == ECONNRESET)
		return 0;
	return err_set_errno(err, -errno, "releasing the spawn helper");
}

static void settle_pid(struct child *p)
{
	struct procfs_stat stat;

	if (procfs_stat(p->pid, &stat) == 0)
		p->start_time = stat.start_time;
}

/*
 * The helper's first words, of which none is lost: the program's pid, or why there is none. Returns the
 * length; 0: the helper has said nothing until the deadline, or until it ended.
 */
static size_t read_first_words(int fd, char *text, size_t size, int64_t deadline_ns)
{
	size_t len = 0;

	/* Byte by byte: what follows the pid is child_confirm's. */
	while (len < size - 1 && wait_fd(fd, POLLIN, deadline_ns) > 0) {
		ssize_t n = read(fd, text + len, 1);

		if (n < 0 && errno == EINTR)
			continue;
		if (n != 1 || (text[0] == SPAWN_PID_MARK && text[len] == '\n'))
			break;
		len++;
	}
	text[len] = 0;
	return len;
}

/*
 * The program of a PID namespace is a child of this process beside the helper. p becomes the program; the
 * helper is reaped.
 */
static int take_program(struct child *p, int fd, struct err *err)
{
	pid_t helper = p->pid;
	char text[512], more[16];
	uint64_t pid = 0;
	size_t len = read_first_words(fd, text, sizeof(text), now_monotonic_ns() + HELPER_NS);

	if (len == 0)
		kill(helper, SIGKILL);
	waitpid(helper, NULL, 0);
	/* It may have made the program just before it was killed. */
	if (len == 0 && read_first_words(fd, more, sizeof(more), 0) > 0)
		memcpy(text, more, sizeof(more));
	child_done(p);
	*p = CHILD_INIT;
	if (text[0] != SPAWN_PID_MARK || parse_u64(text + 1, &pid) < 0 || pid == 0 || pid > INT32_MAX)
		return err_set_status(err, -ECHILD, ERR_INTERNAL, "%s",
				      text[0] ? text : "the spawn helper has ended without a word");
	p->pid = (pid_t)pid; /* our child, not reaped yet: the number is its own */
	p->pidfd = pidfd_open(p->pid, 0);
	if (p->pidfd >= 0)
		return 0;
	err_set_errno(err, -errno, "opening the program's pidfd");
	drop_helper(p);
	return -EMFILE;
}

int child_spawn(struct child *p, const struct child_spec *spec, struct err *err)
{
	char **argv CLEANUP_STRV = helper_argv(spec);
	int ours CLEANUP_CLOSE = -1, helpers CLEANUP_CLOSE = -1;
	int fds[2];
	int r;

	*p = CHILD_INIT;
	if (!argv)
		return err_set(err, -ENOMEM, "starting %s: out of memory", spec->argv[0]);
	if (spec->n_fds > CHILD_FDS_MAX)
		return err_set(err, -E2BIG, "starting %s: too many file descriptors", spec->argv[0]);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set_errno(err, -errno, "starting %s: socketpair", spec->argv[0]);
	ours = fds[0];
	helpers = fds[1];
	r = spawn_helper(p, spec, argv, helpers);
	if (r < 0) {
		*p = CHILD_INIT;
		return err_set_errno(err, r, "running the spawn helper %s", spec->helper);
	}
	helpers = close_fd(helpers);
	if (spec->cgroup)
		r = enter_cgroup(p, spec->cgroup, ours, err);
	if (r < 0) {
		drop_helper(p);
		return err_wrap(err, "starting %s", spec->argv[0]);
	}
	if (spec->uid)
		r = take_program(p, ours, err);
	if (r < 0)
		return r;
	settle_pid(p);
	p->confirm_fd = move_fd(ours);
	return 0;
}

/* By pidfd; a dead process is no error. */
static void send_signal(const struct child *p, int sig)
{
	if (p->pidfd >= 0 && !p->exited)
		pidfd_send_signal(p->pidfd, sig, NULL, 0);
}

int child_confirm(struct child *p, int64_t deadline_ns, struct err *err)
{
	int fd CLEANUP_CLOSE = move_fd(p->confirm_fd);
	char text[512];
	size_t len = 0;
	int r = 0;

	while (fd >= 0 && len < sizeof(text) - 1) {
		ssize_t n;

		r = wait_fd(fd, POLLIN, deadline_ns);
		if (r < 0)
			break;
		n = read(fd, text + len, sizeof(text) - 1 - len);
		if (n == 0)
			break;
		if (n < 0) {
			r = -errno;
			break;
		}
		len += (size_t)n;
	}
	if (r >= 0 && len == 0) {
		read_exe(p->pid, &p->exe);
		return 0;
	}
	send_signal(p, SIGKILL);
	child_wait(p, now_monotonic_ns() + NS_PER_SEC);
	child_done(p);
	*p = CHILD_INIT;
	text[len] = 0;
	if (len > 0)
		return err_set_status(err, -ECHILD, ERR_INTERNAL, "%s", text);
	return err_set_errno(err, r, "waiting for the spawn helper");
}

int child_adopt(struct child *p, pid_t pid, uint64_t start_time, const struct child_exe *exe, struct err *err)
{
	struct child_exe runs;
	int fd CLEANUP_CLOSE = pid > 0 ? pidfd_open(pid, 0) : -1;
	struct procfs_stat stat;

	*p = CHILD_INIT;
	if (fd < 0)
		return err_set(err, -ESRCH, "process %d is gone", (int)pid);
	/*
	 * The pidfd comes first: if the start time is right after it was opened, it belongs to the right
	 * process.
	 */
	if (procfs_stat(pid, &stat) < 0 || stat.start_time != start_time)
		return err_set(err, -ESRCH, "process %d is gone; its number belongs to another one now",
			       (int)pid);
	read_exe(pid, &runs);
	if (!is_same_exe(&runs, exe))
		return err_set(err, -ESRCH, "process %d runs another program (\"%s\") than it did (\"%s\")",
			       (int)pid, runs.name, exe->name);
	p->exe = runs;
	p->pid = pid;
	p->pidfd = move_fd(fd);
	p->start_time = start_time;
	p->adopted = true;
	if (child_poll(p)) {
		child_done(p);
		*p = CHILD_INIT;
		return err_set(err, -ESRCH, "process %d has exited", (int)pid);
	}
	return 0;
}

bool child_poll(struct child *p)
{
	siginfo_t si = {0};

	if (p->pid == 0 || p->exited)
		return p->exited;
	if (wait_fd(p->pidfd, POLLIN, 0) <= 0)
		return false;
	p->exited = true;
	p->status = -1;
	if (waitid(P_PIDFD, (id_t)p->pidfd, &si, WEXITED | WNOHANG) == 0 && si.si_pid == p->pid)
		p->status = si.si_code == CLD_EXITED ? si.si_status : 128 + si.si_status;
	return true;
}

int child_wait(struct child *p, int64_t deadline_ns)
{
	if (p->pid == 0 || child_poll(p))
		return 0;
	if (wait_fd(p->pidfd, POLLIN, deadline_ns) <= 0)
		return -ETIMEDOUT;
	return child_poll(p) ? 0 : -ETIMEDOUT;
}

/*
 * SIGKILL to pid if it is a child of parent. The pidfd is opened first, so that the number cannot change
 * hands in between.
 */
static void kill_child_of(pid_t pid, pid_t parent)
{
	int fd CLEANUP_CLOSE = pidfd_open(pid, 0);
	char path[64];
	char *data CLEANUP_FREE = NULL;
	const char *p;
	int ppid = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (fd < 0 || read_file(path, 8192, &data, NULL) < 0)
		return;
	p = strrchr(data, ')');
	if (p && sscanf(p + 1, " %*c %d", &ppid) == 1 && ppid == parent)
		pidfd_send_signal(fd, SIGKILL, NULL, 0);
}

void child_kill_family(const struct child *p)
{
	char path[64];
	char *data CLEANUP_FREE = NULL;
	char *save = NULL;

	if (p->pidfd < 0 || p->exited)
		return;
	/* A stopped process cannot fork while its children are looked up. */
	send_signal(p, SIGSTOP);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)p->pid, (int)p->pid);
	if (read_file(path, CHILDREN_MAX, &data, NULL) == 0) {
		for (char *t = strtok_r(data, " \n", &save); t; t = strtok_r(NULL, " \n", &save)) {
			uint64_t child;

			if (parse_u64(t, &child) == 0 && child > 1 && child < INT32_MAX)
				kill_child_of((pid_t)child, p->pid);
		}
	}
	send_signal(p, SIGKILL);
}

bool child_is_dying(const struct child *p)
{
	struct procfs_stat stat;

	if (p->pid == 0 || p->exited)
		return true;
	if (procfs_stat(p->pid, &stat) < 0 || stat.start_time != p->start_time)
		return true;
	return procfs_stat_ending(&stat);
}

void child_done(struct child *p)
{
	p->pidfd = close_fd(p->pidfd);
	p->confirm_fd = close_fd(p->confirm_fd);
}

void child_status_words(int status, char *out, size_t size)
{
	if (status < 0)
		snprintf(out, size, "exited, status unknown (it was not started by this run of the server)");
	else if (status > 128 && status < 128 + NSIG)
		snprintf(out, size, "was killed by signal %d (%s)", status - 128, sigdescr_np(status - 128));
	else
		snprintf(out, size, "exited with %d", status);
}

void child_last_words(const char *log, char *out, size_t size)
{
	int fd CLEANUP_CLOSE = open(log, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	char tail[TAIL_BYTES + 1];
	struct stat st;
	size_t len, start;
	int lines = 0;
	ssize_t n;

	out[0] = 0;
	if (fd < 0 || size < 8 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	n = pread(fd, tail, TAIL_BYTES, st.st_size > TAIL_BYTES ? st.st_size - TAIL_BYTES : 0);
	if (n <= 0)
		return;
	len = (size_t)n;
	while (len > 0 && isspace((unsigned char)tail[len - 1]))
		len--;
	for (start = len; start > 0; start--) {
		if (tail[start - 1] == '\n' && ++lines == LAST_LINES)
			break;
	}
	if (len - start > size - 1)
		start = len - (size - 1);
	text_copy_ascii(out, size, tail + start, len - start);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crivisor-spawn: enters a network namespace, waits until it is in its cgroup, then becomes the program it is
 * given.
 *
 * Usage: crivisor-spawn [--status-fd N] [--hold-fd N] [--netns PATH] [--log FILE] [--keep-fd N]…
 *        [--caps MASK] [--oom-score-adj N] [--uid N --home DIR [--path PATH]…] -- PROGRAM ARG…
 *
 * So the program is in its place from its first instruction, and nothing is moved afterwards. The parent
 * moves this process to its cgroup and then writes a byte to the hold fd; if the parent ends before, so does
 * this process. The program gets a session of its own, default signals, /dev/null as stdin, the log file as
 * stdout and stderr, no core dumps and no fd but the kept ones. It may gain no privilege (no_new_privs), and
 * of the capabilities it has those of MASK at most (bit n: capability n; default 0, none), be it root or not,
 * as have all that it starts. With --uid it runs as that user, of the group of the same number alone, in a
 * root directory that holds DIR, the paths and the system's programs, and nothing else, and in mount, IPC and
 * PID namespaces of its own (spawn_internal.h). Then the program is another child of the parent's: its pid
 * comes over the status fd, after SPAWN_PID_MARK and before a newline, and this process ends.
 * What fails is written as text to the status fd, which is close-on-exec: a reader sees the reason, or EOF
 * once the program runs. Exit status 127 after a failure. Static and single-threaded, so that setns concerns
 * no other thread.
 */
#include "vmm/spawn_internal.h"

#include "base/util.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <linux/capability.h>
#include <linux/close_range.h>

#define KEEP_MAX 16

static int status_fd = STDERR_FILENO;

struct confinement {
	uint64_t caps;
	const char *oom_score_adj;
	struct spawn_jail jail; /* uid 0: none */
};

void spawn_die(const char *fmt, ...)
{
	char msg[512];
	int saved = errno;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	if (n < 0)
		n = 0;
	if ((size_t)n >= sizeof(msg))
		n = (int)sizeof(msg) - 1;
	if (saved)
		n += snprintf(msg + n, sizeof(msg) - (size_t)n, ": %s", strerror(saved));
	if ((size_t)n >= sizeof(msg))
		n = (int)sizeof(msg) - 1;
	write_full(status_fd, msg, (size_t)n);
	_exit(127);
}

static int fd_arg(const char *s)
{
	uint64_t v;

	if (parse_u64(s, &v) < 0 || v > 1023) {
		errno = EINVAL;
		spawn_die("file descriptor \"%s\"", s);
	}
	return (int)v;
}

static uint64_t number_arg(const char *s)
{
	uint64_t v;

	if (parse_u64(s, &v) < 0) {
		errno = EINVAL;
		spawn_die("number \"%s\"", s);
	}
	return v;
}

static uid_t uid_arg(const char *s)
{
	uint64_t v = number_arg(s);

	if (v >= UINT32_MAX) {
		errno = EINVAL;
		spawn_die("user \"%s\"", s);
	}
	return (uid_t)v;
}

/* Waits for the byte that says that this process has been moved. EOF: the parent has ended or gives up. */
static void wait_for_word(int fd)
{
	char byte;
	ssize_t n;

	do
		n = read(fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		_exit(127);
}

static void enter_netns(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		spawn_die("opening the network namespace %s", path);
	if (setns(fd, CLONE_NEWNET) < 0)
		spawn_die("entering the network namespace %s", path);
	close_fd(fd);
}

static void open_stdio(const char *log)
{
	int in = open("/dev/null", O_RDWR);
	int out = log ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0600) : in;

	if (in < 0)
		spawn_die("opening /dev/null");
	if (out < 0)
		spawn_die("opening the log %s", log);
	if (dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0)
		spawn_die("dup2");
}

static void close_others(const int *keep, size_t n_keep)
{
	if (close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		spawn_die("close_range");
	for (size_t i = 0; i < n_keep; i++) {
		if (fcntl(keep[i], F_SETFD, 0) < 0)
			spawn_die("keeping fd %d", keep[i]);
	}
}

static void reset_process(void)
{
	struct rlimit no_core = {0, 0}, files;
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	setsid();
	umask(0077);
	if (chdir("/") < 0)
		spawn_die("chdir /");
	setrlimit(RLIMIT_CORE, &no_core); /* a core would hold the guest's memory */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

/* ---- confinement --------------------------------------------------------------------------------------- */

/* Lowering the score below what a privileged process has set needs CAP_SYS_RESOURCE: best effort. */
static void set_oom_score(const char *score)
{
	write_file("/proc/self/oom_score_adj", score, strlen(score), 0);
}

/* No execve(2) gets past it. */
static void drop_bounding_set(uint64_t keep)
{
	for (unsigned cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
		if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			spawn_die("dropping capability %u", cap);
	}
	errno = 0;
}

static void drop_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		spawn_die("clearing the ambient capabilities");
	if (syscall(SYS_capget, &head, data) < 0)
		spawn_die("capget");
	for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		data[i].permitted &= (uint32_t)(keep >> (32 * i));
		data[i].effective = data[i].permitted;
		data[i].inheritable = 0;
	}
	if (syscall(SYS_capset, &head, data) < 0)
		spawn_die("capset");
}

/* All ids, so that there is no way back. */
static void become_user(uid_t uid)
{
	if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
		spawn_die("becoming user %u", uid);
}

static void confine(const struct confinement *c)
{
	set_oom_score(c->oom_score_adj);
	if (c->jail.uid) {
		spawn_pidns_make();
		spawn_jail_enter(&c->jail);
		spawn_jail_limits();
	}
	drop_bounding_set(c->caps);
	if (c->jail.uid)
		become_user(c->jail.uid);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		spawn_die("no_new_privs");
	drop_capabilities(c->caps);
}

int main(int argc, char **argv)
{
	struct confinement confinement = {.oom_score_adj = "0"};
	const char *netns = NULL, *log = NULL;
	int keep[KEEP_MAX];
	size_t n_keep = 0;
	int hold_fd = -1, i;

	for (i = 1; i + 1 < argc && !str_eq(argv[i], "--"); i += 2) {
		const char *value = argv[i + 1];

		errno = 0;
		if (str_eq(argv[i], "--status-fd")) {
			status_fd = fd_arg(value);
		} else if (str_eq(argv[i], "--hold-fd")) {
			hold_fd = fd_arg(value);
		} else if (str_eq(argv[i], "--netns")) {
			netns = value;
		} else if (str_eq(argv[i], "--caps")) {
			confinement.caps = number_arg(value);
		} else if (str_eq(argv[i], "--oom-score-adj")) {
			confinement.oom_score_adj = value;
		} else if (str_eq(argv[i], "--log")) {
			log = value;
		} else if (str_eq(argv[i], "--uid")) {
			confinement.jail.uid = uid_arg(value);
		} else if (str_eq(argv[i], "--home")) {
			confinement.jail.home = value;
		} else if (str_eq(argv[i], "--path") && confinement.jail.n_paths < SPAWN_PATHS_MAX) {
			confinement.jail.paths[confinement.jail.n_paths++] = value;
		} else if (str_eq(argv[i], "--keep-fd") && n_keep < KEEP_MAX) {
			keep[n_keep++] = fd_arg(value);
		} else {
			spawn_die("crivisor-spawn: option \"%s\" is unknown or comes too often", argv[i]);
		}
	}
	errno = 0;
	if (i >= argc - 1 || !str_eq(argv[i], "--"))
		spawn_die("crivisor-spawn: no program given after --");
	if (confinement.jail.uid && !confinement.jail.home)
		spawn_die("crivisor-spawn: --uid without --home");
	if (netns)
		enter_netns(netns);
	open_stdio(log);
	reset_process();
	close_others(keep, n_keep);
	if (hold_fd >= 0)
		wait_for_word(hold_fd);
	confine(&confinement);
	if (confinement.jail.uid)
		spawn_pidns_enter(status_fd, argc, argv);
	execvp(argv[i + 1], argv + i + 1);
	spawn_die("running %s", argv[i + 1]);
}

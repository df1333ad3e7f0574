/* SPDX-License-Identifier: Apache-2.0 */
/*
 * child_internal.h: child processes of a VM: started through crivisor-spawn, watched by pidfd, adopted after
 * a restart.
 *
 * Threads:   no shared state; one struct child is used by one thread at a time (the VM's lock ensures that).
 * Ownership: struct child is embedded; child_done closes its fds and never touches the process.
 * Limits:    CHILD_FDS_MAX inherited fds.
 */
#ifndef VMM_CHILD_INTERNAL_H
#define VMM_CHILD_INTERNAL_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CHILD_FDS_MAX 8
#define CHILD_FD_BASE 4 /* the i-th inherited fd is CHILD_FD_BASE + i in the child */

/* What a process executes. The file is told by device and inode: in a root of its own a path says little. */
struct child_exe {
	char name[64];		/* base name of /proc/<pid>/exe; "": unknown */
	uint64_t device, inode; /* of that file (stat(2)); inode 0: unknown */
};

struct child {
	pid_t pid;	      /* 0: none */
	int pidfd;	      /* -1: none */
	int confirm_fd;	      /* -1, or the status socket that child_confirm has yet to read */
	bool adopted;	      /* not our child: its exit status is unknown */
	bool exited;	      /* reaped or known dead; status is valid */
	int status;	      /* exit code, 128+n for a signal, -1 unknown */
	struct child_exe exe; /* unknown until confirmed */
	uint64_t start_time;  /* /proc/<pid>/stat field 22 (proc(5)): with pid, names the process until reboot
			      */
};

#define CHILD_INIT ((struct child){.pidfd = -1, .confirm_fd = -1})

struct child_spec {
	const char *helper; /* crivisor-spawn */
	char *const *argv;  /* argv[0]: program, searched in PATH unless it holds a slash */
	const char *log;    /* file for stdout and stderr, appended; NULL: none */
	const char *netns;  /* NULL: the caller's */
	const char *cgroup; /* in which the program starts; NULL: the caller's */
	const int *fds;	    /* inherited, in order */
	size_t n_fds;
	uint64_t caps; /* the most capabilities that it and what it starts can have; bit n: capability n */
	/*
	 * Not 0: it runs as this user, and as the group of the same number, in mount, IPC and PID namespaces
	 * of its own, and not as the first process of the last. Of the host's files it sees the program, the
	 * system's programs and libraries, the paths, and `home`, which alone it may write
	 * (spawn_internal.h).
	 */
	uid_t uid;
	const char *home;   /* where uid is not 0 */
	char *const *paths; /* NULL-terminated; NULL: none */
	int oom_score_adj;  /* proc(5); below the server's own only where the server has CAP_SYS_RESOURCE */
};

/*
 * Starts the program and returns once it has a process; child_confirm tells whether it really runs. On
 * failure nothing is left.
 */
int child_spawn(struct child *p, const struct child_spec *spec, struct err *err);
/*
 * Waits until the program has been executed. On failure the helper is gone and reaped, and err holds its
 * message.
 */
int child_confirm(struct child *p, int64_t deadline_ns, struct err *err);
/*
 * Takes over a process that was started by somebody else. -ESRCH if pid is gone or names another process by
 * now: its start time or its executable (from struct child) differs. Of an executable, device and inode are
 * compared; the name, where they are unknown, as in what earlier versions have saved; nothing, where the name
 * is unknown too. The kernel hides a process's executable from a server without CAP_SYS_PTRACE.
 */
int child_adopt(struct child *p, pid_t pid, uint64_t start_time, const struct child_exe *exe,
		struct err *err);
/* True once it has exited; reaps it then and sets status. Never blocks. */
bool child_poll(struct child *p);
/* Waits for the exit: 0, or -ETIMEDOUT. */
int child_wait(struct child *p, int64_t deadline_ns);
/* SIGKILL to it and to its direct children, without waiting. */
void child_kill_family(const struct child *p);
/* True while the kernel is taking the process down, or once it is gone. */
bool child_is_dying(const struct child *p);
void child_done(struct child *p);

/* "exited with 1", "was killed by signal 9 (Killed)", "exited, status unknown". */
void child_status_words(int status, char *out, size_t size);
/* The last lines of a log, on one line, printable, for error messages; "" if there are none. */
void child_last_words(const char *log, char *out, size_t size);

#endif

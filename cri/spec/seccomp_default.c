/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/spec/spec_internal.h"

#include "base/util.h"

#include <linux/capability.h>

/*
 * The default seccomp profile: RuntimeDefault.
 *
 * What it lets through is what the defaults of containerd, CRI-O and Docker let through on x86-64 (facts:
 * their published profiles, August 2026), with three differences that the VM allows or asks for:
 *
 * 1. The guest kernel runs no 32-bit programs, so there is one architecture. Others kill the process.
 * 2. What is not named is ENOSYS, so that a C library newer than this list falls back to older calls. What is
 *    named and refused is EPERM, as programs expect of those.
 * 3. AF_VSOCK and AF_ALG are refused by the 32 bits of socket's first argument that the kernel looks at. To
 *    compare all 64, as others do, lets 0x100000028 through, which the kernel takes for 40, AF_VSOCK.
 */

/* Names that the guest's libseccomp does not know yet are skipped by the runtime and end as ENOSYS. */
static const char allowed[] =
	"accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod "
	"chown clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect "
	"copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait "
	"epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 "
	"fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl "
	"fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate "
	"futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area "
	"getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername "
	"getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage "
	"getsid getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch "
	"inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents "
	"io_setup io_submit ioctl ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset "
	"landlock_restrict_self lchown lgetxattr link linkat listen listmount listxattr llistxattr "
	"lremovexattr lseek lsetxattr lsm_get_self_attr lsm_list_modules lsm_set_self_attr lstat madvise "
	"map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock "
	"mlock2 mlockall mmap modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive "
	"mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap "
	"name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal "
	"pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 "
	"process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 "
	"read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr "
	"rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask "
	"rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo "
	"sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam "
	"sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam "
	"sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg "
	"sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid "
	"setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid "
	"setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 "
	"socketpair splice stat statfs statmount statx symlink symlinkat sync sync_file_range syncfs "
	"sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime "
	"timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat "
	"uretprobe utime utimensat utimes vfork vmsplice wait4 waitid write writev ";

/* Refused unless a capability below says otherwise. */
static const char refused[] =
	"acct add_key bpf chroot clock_settime delete_module fanotify_init finit_module fsconfig fsmount "
	"fsopen fspick get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm "
	"iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount "
	"mount_setattr move_mount move_pages open_by_handle_at open_tree perf_event_open pidfd_getfd "
	"pivot_root process_madvise quotactl quotactl_fd reboot request_key set_mempolicy "
	"set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon sysfs "
	"syslog umount2 unshare userfaultfd ustat vhangup ";

/* What a capability in the bounding set lets through. */
static const struct {
	unsigned int cap;
	const char *names;
} by_capability[] = {
	{CAP_DAC_READ_SEARCH, "open_by_handle_at"},
	{CAP_SYS_ADMIN,
	 "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount "
	 "mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname "
	 "sethostname setns syslog umount2 unshare "},
	{CAP_SYS_BOOT, "reboot"},
	{CAP_SYS_CHROOT, "chroot"},
	{CAP_SYS_MODULE, "delete_module finit_module init_module"},
	{CAP_SYS_PACCT, "acct"},
	{CAP_SYS_PTRACE, "kcmp pidfd_getfd process_madvise"},
	{CAP_SYS_RAWIO, "ioperm iopl"},
	{CAP_SYS_TIME, "clock_settime settimeofday"},
	{CAP_SYS_TTY_CONFIG, "vhangup"},
	{CAP_SYS_NICE, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"},
	{CAP_SYSLOG, "syslog"},
	{CAP_BPF, "bpf"},
	{CAP_PERFMON, "perf_event_open"},
};

struct match {
	uint64_t mask, value;
};

/* CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET: linux/sched.h */
#define NAMESPACE_FLAGS 0x7e020000

/* Families below 48 but 38 (AF_ALG) and 40 (AF_VSOCK), as sets of numbers that share all bits of the mask. */
static const struct match families[] = {
	{0xffffffe0, 0},  {0xfffffffc, 32}, {0xfffffffe, 36}, {0xffffffff, 39},
	{0xffffffff, 41}, {0xfffffffe, 42}, {0xfffffffc, 44},
};
static const struct match refused_families[] = {{0xffffffff, 38}, {0xffffffff, 40}};

/* PER_LINUX and PER_LINUX32, with and without UNAME26, and the question which it is. */
static const uint64_t personalities[] = {0, 0x0008, 0x20000, 0x20008, 0xffffffff};

/* ---- building ------------------------------------------------------------------------------------------ */

static struct json_object *put_rule(bool *oom, struct json_object *list, const char *action,
				    struct json_object **ret_names)
{
	struct json_object *rule = oci_object(oom, list, NULL);

	*ret_names = oci_array(oom, rule, "names");
	oci_string(oom, rule, "action", action);
	if (str_eq(action, "SCMP_ACT_ERRNO"))
		oci_int(oom, rule, "errnoRet", EPERM);
	return rule;
}

/* Adds the names of a list, but those also found in `except`. */
static void put_names(bool *oom, struct json_object *array, const char *names, const char *except)
{
	for (size_t n; *names; names += n + strspn(names + n, " ")) {
		char name[64], padded[66];

		n = strcspn(names, " ");
		snprintf(name, sizeof(name), "%.*s", (int)n, names);
		snprintf(padded, sizeof(padded), " %s ", name);
		if (!strstr(except, padded))
			oci_string(oom, array, NULL, name);
	}
}

/* One rule that looks at the first argument. */
static void put_match(bool *oom, struct json_object *list, const char *action, const char *name,
		      uint64_t mask, uint64_t value)
{
	struct json_object *names, *rule = put_rule(oom, list, action, &names);
	struct json_object *arg = oci_object(oom, oci_array(oom, rule, "args"), NULL);

	oci_string(oom, names, NULL, name);
	oci_int(oom, arg, "index", 0);
	oci_int(oom, arg, "value", (int64_t)mask);
	oci_int(oom, arg, "valueTwo", (int64_t)value);
	oci_string(oom, arg, "op", "SCMP_CMP_MASKED_EQ");
}

static void put_conditional(bool *oom, struct json_object *list, bool admin)
{
	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		put_match(oom, list, "SCMP_ACT_ALLOW", "socket", families[i].mask, families[i].value);
	for (size_t i = 0; i < ARRAY_SIZE(refused_families); i++)
		put_match(oom, list, "SCMP_ACT_ERRNO", "socket", refused_families[i].mask,
			  refused_families[i].value);
	for (size_t i = 0; i < ARRAY_SIZE(personalities); i++)
		put_match(oom, list, "SCMP_ACT_ALLOW", "personality", 0xffffffff, personalities[i]);
	if (admin)
		return;
	/* Without new namespaces. clone3 hides its flags in memory: ENOSYS makes callers take clone. */
	put_match(oom, list, "SCMP_ACT_ALLOW", "clone", NAMESPACE_FLAGS, 0);
	for (uint64_t flag = 1; flag <= NAMESPACE_FLAGS; flag <<= 1)
		if (flag & NAMESPACE_FLAGS)
			put_match(oom, list, "SCMP_ACT_ERRNO", "clone", flag, flag);
}

struct json_object *seccomp_default(uint64_t caps, bool *oom)
{
	struct json_object *profile = json_object_new_object(), *list, *names;
	char granted[2048] = " ";
	size_t at = 1;

	oci_string(oom, profile, "defaultAction", "SCMP_ACT_ERRNO");
	oci_int(oom, profile, "defaultErrnoRet", ENOSYS);
	oci_string(oom, oci_array(oom, profile, "architectures"), NULL, "SCMP_ARCH_X86_64");
	list = oci_array(oom, profile, "syscalls");
	for (size_t i = 0; i < ARRAY_SIZE(by_capability); i++)
		if (caps & (UINT64_C(1) << by_capability[i].cap))
			at += (size_t)snprintf(granted + at, sizeof(granted) - at, "%s ",
					       by_capability[i].names);
	put_rule(oom, list, "SCMP_ACT_ALLOW", &names);
	put_names(oom, names, allowed, "");
	put_names(oom, names, granted + 1, "");
	put_rule(oom, list, "SCMP_ACT_ERRNO", &names);
	put_names(oom, names, refused, granted);
	put_conditional(oom, list, caps & (UINT64_C(1) << CAP_SYS_ADMIN));
	return profile;
}

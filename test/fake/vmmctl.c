/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmmctl: one VM from the command line, through the public headers of vmm/ alone: for trials, tests and
 *         measurements.
 *
 *   vmmctl boot --kernel K --image I --run-dir D --shared S [--driver auto] [--memory-mb 512] [--vcpus 1]
 *               [--params P] [--netns N --tap T] [--mtu U] [--cgroup C] [--seconds N] [--debug]
 *               [--memory-max-mb M] [--vcpus-max C] [--uid U] [--commands]
 *   vmmctl restore …the same… --from SNAPSHOT-DIR
 *   vmmctl adopt …the same… --state FILE
 *
 * Prints when the VMM's API answered and when port 1024 did, then the VM's events, until it ends, N seconds
 * have passed (0: at once) or SIGINT or SIGTERM comes; then it stops the VM. With --commands it takes lines
 * from its standard input and answers each with a line that begins with `ok` or `error`; at the end of the
 * input it stops the VM:
 *
 *   attach disk|pmem|net|fs ID PATH [TAG]   detach ID   resize VCPUS MEMORY-MB   pause   resume
 *   snapshot DIR   tap NAME MTU   connect PORT   info   save FILE   leave (ends and leaves the VM alone)
 */
#include "base/log.h"
#include "base/util.h"
#include "vmm/choose.h"
#include "vmm/config.h"
#include "vmm/network.h"
#include "vmm/vm.h"

#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

#define PORT 1024

struct args {
	struct vmm_config config;
	struct vm_spec spec;
	const char *from, *state;
	int64_t seconds;
	bool forever, commands;
};

static double ms_since(int64_t t0)
{
	return (double)(now_monotonic_ns() - t0) / 1e6;
}

static int fail(const struct err *err)
{
	fprintf(stderr, "vmmctl: %s\n", err->msg);
	return 1;
}

static int parse_args(int argc, char **argv, struct args *a)
{
	static const struct option options[] = {
		{"kernel", 1, NULL, 'k'},
		{"image", 1, NULL, 'i'},
		{"run-dir", 1, NULL, 'r'},
		{"shared", 1, NULL, 's'},
		{"driver", 1, NULL, 'd'},
		{"memory-mb", 1, NULL, 'm'},
		{"vcpus", 1, NULL, 'c'},
		{"params", 1, NULL, 'p'},
		{"netns", 1, NULL, 'n'},
		{"tap", 1, NULL, 't'},
		{"cgroup", 1, NULL, 'g'},
		{"seconds", 1, NULL, 'S'},
		{"debug", 0, NULL, 'D'},
		{"virtiofsd", 1, NULL, 'v'},
		{"helper", 1, NULL, 'h'},
		{"memory-max-mb", 1, NULL, 'M'},
		{"vcpus-max", 1, NULL, 'C'},
		{"from", 1, NULL, 'f'},
		{"state", 1, NULL, 'a'},
		{"commands", 0, NULL, 'x'},
		{"mtu", 1, NULL, 'u'},
		{"uid", 1, NULL, 'U'},
		{0},
	};
	int c;

	*a = (struct args){.forever = true};
	a->config.driver = (char *)(uintptr_t) "auto";
	a->config.vcpus = 1;
	a->config.memory_bytes = 512ULL << 20;
	a->config.virtiofsd_thread_pool_size = 4;
	a->config.virtiofsd_max_files = 262144; /* as the server's */
	a->spec.id = "vmmctl";
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'k':
			a->config.kernel_path = optarg;
			break;
		case 'i':
			a->config.image_path = optarg;
			break;
		case 'r':
			a->spec.run_dir = optarg;
			break;
		case 's':
			a->spec.shared_dir = optarg;
			break;
		case 'd':
			a->config.driver = optarg;
			break;
		case 'm':
			a->config.memory_bytes = strtoull(optarg, NULL, 10) << 20;
			break;
		case 'M':
			a->spec.memory_max_bytes = strtoull(optarg, NULL, 10) << 20;
			break;
		case 'c':
			a->config.vcpus = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		case 'C':
			a->spec.vcpus_max = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		case 'p':
			a->config.kernel_params = optarg;
			break;
		case 'n':
			a->spec.netns_path = optarg;
			break;
		case 't':
			a->spec.tap = optarg;
			break;
		case 'g':
			a->spec.cgroup = optarg;
			break;
		case 'v':
			a->config.virtiofsd_path = optarg;
			break;
		case 'h':
			a->config.spawn_helper = optarg;
			break;
		case 'D':
			a->config.debug = true;
			break;
		case 'f':
			a->from = optarg;
			break;
		case 'a':
			a->state = optarg;
			break;
		case 'u':
			a->spec.mtu = (uint32_t)strtoul(optarg, NULL, 10);
			break;
		case 'U':
			a->spec.uid = (uid_t)strtoul(optarg, NULL, 10);
			break;
		case 'x':
			a->commands = true;
			break;
		case 'S':
			a->forever = false;
			a->seconds = strtoll(optarg, NULL, 10);
			break;
		default:
			return -EINVAL;
		}
	}
	return a->spec.run_dir && a->spec.shared_dir ? 0 : -EINVAL;
}

/* ---- commands ------------------------------------------------------------------------------------------ */

#define WORDS_MAX 6

static int run_attach(struct vm *vm, char *const *w, struct err *err)
{
	static const char *const types[] = {"disk", "pmem", "net", "fs"};
	struct vm_device d = {.id = w[2], .path = w[3], .tag = w[4]};
	char pci[VM_PCI_ADDRESS_MAX];
	size_t type = 0;
	int r;

	while (type < ARRAY_SIZE(types) && !str_eq(types[type], w[1]))
		type++;
	if (type == ARRAY_SIZE(types) || !w[2] || !w[3])
		return err_set(err, -EINVAL, "attach disk|pmem|net|fs ID PATH [TAG]");
	d.type = (enum vm_device_type)type;
	r = vm_attach(vm, &d, pci, 0, err);
	if (r == 0)
		printf("ok attach %s\n", pci);
	return r;
}

static int run_info(struct vm *vm, struct err *err)
{
	struct vm_info i;
	int r = vm_info(vm, &i, err);

	if (r == 0)
		printf("ok info driver=%s accel=%s state=%s vmm=%d virtiofsd=%d vsock=%d vcpus=%u "
		       "memory=%llu\n",
		       i.driver, i.accel, i.state, (int)i.vmm_pid, (int)i.virtiofsd_pid, (int)i.vsock_pid,
		       i.vcpus, (unsigned long long)i.memory_bytes);
	return r;
}

static int run_save(struct vm *vm, const char *path, struct err *err)
{
	char *json CLEANUP_FREE = vm_save(vm);
	int r = json ? write_file(path, json, strlen(json), 0600) : -ENOMEM;

	return r < 0 ? err_set_errno(err, r, "writing %s", path) : 0;
}

static int run_connect(struct vm *vm, const char *port, struct err *err)
{
	int fd = vm_connect(vm, (uint32_t)strtoul(port, NULL, 10), 0, err);

	close_fd(fd);
	return fd < 0 ? fd : 0;
}

/* One line; 1 for `leave`. */
static int command(struct vm *vm, const struct args *a, char *line)
{
	struct err err = ERR_INIT;
	char *w[WORDS_MAX] = {0}, *save = NULL;
	size_t n = 0;
	int r;

	for (char *t = strtok_r(line, " \n", &save); t && n < WORDS_MAX - 1; t = strtok_r(NULL, " \n", &save))
		w[n++] = t;
	if (n == 0)
		return 0;
	if (str_eq(w[0], "leave"))
		return 1;
	if (str_eq(w[0], "attach"))
		r = run_attach(vm, w, &err);
	else if (str_eq(w[0], "info"))
		r = run_info(vm, &err);
	else if (str_eq(w[0], "pause"))
		r = vm_pause(vm, 0, &err);
	else if (str_eq(w[0], "resume"))
		r = vm_resume(vm, 0, &err);
	else if (str_eq(w[0], "detach") && n == 2)
		r = vm_detach(vm, w[1], 0, &err);
	else if (str_eq(w[0], "resize") && n == 3)
		r = vm_resize(vm, (uint32_t)strtoul(w[1], NULL, 10), strtoull(w[2], NULL, 10) << 20, 0, &err);
	else if (str_eq(w[0], "snapshot") && n == 2)
		r = vm_snapshot(vm, w[1], 0, &err);
	else if (str_eq(w[0], "tap") && n == 3)
		r = vmm_tap_create(a->spec.netns_path, w[1], (uint32_t)strtoul(w[2], NULL, 10), 0, &err);
	else if (str_eq(w[0], "save") && n == 2)
		r = run_save(vm, w[1], &err);
	else if (str_eq(w[0], "connect") && n == 2)
		r = run_connect(vm, w[1], &err);
	else
		r = err_set(&err, -EINVAL, "unknown command");
	if (r < 0)
		printf("error %s: %s\n", w[0], err.msg);
	else if (!str_eq(w[0], "attach") && !str_eq(w[0], "info"))
		printf("ok %s\n", w[0]);
	fflush(stdout);
	return 0;
}

/* ---- watching ------------------------------------------------------------------------------------------ */

/* Prints the events; true once the VM has ended. */
static bool print_events(struct vm *vm, int64_t t0)
{
	static const char *const names[] = {"none",  "vmm exited",     "helper exited", "guest panic",
					    "reset", "guest shutdown", "device removed"};
	bool ended = false;
	struct vm_event e;

	while (vm_dispatch(vm, &e) > 0) {
		printf("%9.1f ms  event: %s, status %d, %s: %s\n", ms_since(t0), names[e.type], e.status,
		       e.what, e.detail);
		ended = ended || e.type == VM_EVENT_VMM_EXITED;
	}
	fflush(stdout);
	return ended;
}

/* Runs until the VM has ended or its time is over. True if the VM is to be left alone. */
static bool watch(struct vm *vm, const struct args *a, int sfd, int64_t t0)
{
	int64_t until = now_monotonic_ns() + a->seconds * NS_PER_SEC;
	char line[1024];

	/* Unbuffered: poll does not see what stdio keeps in its buffer. */
	setvbuf(stdin, NULL, _IONBF, 0);
	for (;;) {
		struct pollfd p[] = {{.fd = vm_fd(vm), .events = POLLIN},
				     {.fd = sfd, .events = POLLIN},
				     {.fd = a->commands ? STDIN_FILENO : -1, .events = POLLIN}};
		int64_t left = (until - now_monotonic_ns()) / NS_PER_MS;

		if (!a->forever && left <= 0)
			return false;
		if (poll(p, ARRAY_SIZE(p), a->forever ? -1 : (int)left + 1) < 0 || p[1].revents)
			return false;
		if (print_events(vm, t0) && !a->commands)
			return false;
		if (p[2].revents) {
			if (!fgets(line, sizeof(line), stdin))
				return false;
			if (command(vm, a, line))
				return true;
		}
	}
}

/* Boots, restores or adopts. */
static int obtain(const struct args *a, const struct vmm_choice *choice, struct vm **ret, struct err *err)
{
	char *json CLEANUP_FREE = NULL;
	int r;

	if (a->from)
		return vm_restore(&a->config, choice, &a->spec, a->from, 0, ret, err);
	if (!a->state)
		return vm_start(&a->config, choice, &a->spec, 0, ret, err);
	r = read_file(a->state, 65536, &json, NULL);
	return r < 0 ? err_set_errno(err, r, "reading %s", a->state) : vm_recover(json, ret, err);
}

static int run(const struct args *a, int sfd)
{
	struct err err = ERR_INIT;
	struct vmm_choice choice;
	struct vm *vm = NULL;
	int64_t t0 = now_monotonic_ns();
	int fd, r = 0;

	if (vmm_choose(&a->config, NULL, &choice, &err) < 0)
		return fail(&err);
	printf("%9.1f ms  %s (%s), %s: %s\n", ms_since(t0), choice.driver, choice.accel, choice.version,
	       choice.reason);
	t0 = now_monotonic_ns();
	if (obtain(a, &choice, &vm, &err) < 0)
		return fail(&err);
	printf("%9.1f ms  the VMM answers\n", ms_since(t0));
	fflush(stdout);
	/* A restored VM is paused: nobody answers before the command to resume. */
	fd = a->from ? -1 : vm_connect(vm, PORT, 0, &err);
	if (fd < 0 && !a->from)
		r = fail(&err);
	else if (fd >= 0)
		printf("%9.1f ms  port %d answers\n", ms_since(t0), PORT);
	printf("ready\n");
	fflush(stdout);
	close_fd(fd);
	if (!watch(vm, a, sfd, t0)) {
		t0 = now_monotonic_ns();
		if (vm_stop(vm, 0, &err) < 0)
			r = fail(&err);
		printf("%9.1f ms  stopped\n", ms_since(t0));
	}
	vm_free(vm);
	return r;
}

int main(int argc, char **argv)
{
	struct args a;
	sigset_t set;

	if (argc < 2 ||
	    (!str_eq(argv[1], "boot") && !str_eq(argv[1], "restore") && !str_eq(argv[1], "adopt")) ||
	    parse_args(argc - 1, argv + 1, &a) < 0 || str_eq(argv[1], "restore") != (a.from != NULL) ||
	    str_eq(argv[1], "adopt") != (a.state != NULL)) {
		fprintf(stderr, "usage: vmmctl boot|restore|adopt --kernel K --image I --run-dir D --shared "
				"S [options]\n");
		return 2;
	}
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return run(&a, signalfd(-1, &set, SFD_CLOEXEC));
}

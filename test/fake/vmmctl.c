/*
 * vmmctl: one VM from the command line, through vmm.h alone. For trying things out and for measurements.
 *
 *   vmmctl boot --kernel K --image I --run-dir D --shared S [--driver auto] [--memory-mb 512] [--vcpus 1] [--params P]
 *               [--netns N --tap T] [--cgroup C] [--seconds N] [--debug]
 *
 * Prints when the VMM's API answered and when port 1024 did, then the VM's events, until it ends, N seconds have passed (0: at
 * once) or the terminal sends EOF or SIGINT; stops the VM then.
 */
#include "base/log.h"
#include "base/util.h"
#include "vmm/vmm.h"

#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

#define PORT 1024

struct args {
	struct vmm_config config;
	struct vmm_spec spec;
	int64_t seconds;
	bool forever;
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
		{"kernel", 1, NULL, 'k'},  {"image", 1, NULL, 'i'},    {"run-dir", 1, NULL, 'r'}, {"shared", 1, NULL, 's'},
		{"driver", 1, NULL, 'd'},  {"memory-mb", 1, NULL, 'm'}, {"vcpus", 1, NULL, 'c'},   {"params", 1, NULL, 'p'},
		{"netns", 1, NULL, 'n'},   {"tap", 1, NULL, 't'},	{"cgroup", 1, NULL, 'g'},  {"seconds", 1, NULL, 'S'},
		{"debug", 0, NULL, 'D'},   {"virtiofsd", 1, NULL, 'v'}, {"helper", 1, NULL, 'h'},  {"memory-max-mb", 1, NULL, 'M'},
		{"vcpus-max", 1, NULL, 'C'}, {0},
	};
	int c;

	*a = (struct args){.forever = true};
	a->config.driver = (char *)(uintptr_t)"auto";
	a->config.vcpus = 1;
	a->config.memory_bytes = 512ULL << 20;
	a->config.virtiofsd_thread_pool_size = 4;
	a->spec.id = "vmmctl";
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'k': a->config.kernel_path = optarg; break;
		case 'i': a->config.image_path = optarg; break;
		case 'r': a->spec.run_dir = optarg; break;
		case 's': a->spec.shared_dir = optarg; break;
		case 'd': a->config.driver = optarg; break;
		case 'm': a->config.memory_bytes = strtoull(optarg, NULL, 10) << 20; break;
		case 'M': a->spec.memory_max_bytes = strtoull(optarg, NULL, 10) << 20; break;
		case 'c': a->config.vcpus = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'C': a->spec.vcpus_max = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'p': a->config.kernel_params = optarg; break;
		case 'n': a->spec.netns_path = optarg; break;
		case 't': a->spec.tap = optarg; break;
		case 'g': a->spec.cgroup = optarg; break;
		case 'v': a->config.virtiofsd_path = optarg; break;
		case 'h': a->config.spawn_helper = optarg; break;
		case 'D': a->config.debug = true; break;
		case 'S':
			a->forever = false;
			a->seconds = strtoll(optarg, NULL, 10);
			break;
		default: return -EINVAL;
		}
	}
	return a->spec.run_dir && a->spec.shared_dir ? 0 : -EINVAL;
}

/* Prints events until the VM has ended or the deadline has passed. */
static void watch(struct vmm *vm, const struct args *a, int64_t t0)
{
	static const char *const names[] = {"none",  "vmm exited",     "helper exited", "guest panic",
					    "reset", "guest shutdown", "device removed"};
	sigset_t set;
	int64_t until = now_monotonic_ns() + a->seconds * NS_PER_SEC;
	int sfd;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sfd = signalfd(-1, &set, SFD_CLOEXEC);
	for (;;) {
		struct pollfd p[] = {{.fd = vmm_fd(vm), .events = POLLIN}, {.fd = sfd, .events = POLLIN}};
		int64_t left = (until - now_monotonic_ns()) / NS_PER_MS;
		struct vmm_event e;

		if (!a->forever && left <= 0)
			break;
		if (poll(p, 2, a->forever ? -1 : (int)left + 1) < 0 || p[1].revents)
			break;
		while (vmm_dispatch(vm, &e) > 0) {
			printf("%9.1f ms  event: %s, status %d, %s: %s\n", ms_since(t0), names[e.type], e.status, e.what,
			       e.detail);
			if (e.type == VMM_EVENT_VMM_EXITED)
				goto out;
		}
	}
out:
	close_fd(sfd);
}

static int boot(const struct args *a)
{
	struct err err = ERR_INIT;
	struct vmm_choice choice;
	struct vmm *vm = NULL;
	int64_t t0 = now_monotonic_ns();
	int fd, r = 0;

	if (vmm_choose(&a->config, &choice, &err) < 0)
		return fail(&err);
	printf("%9.1f ms  %s (%s), %s: %s\n", ms_since(t0), choice.driver, choice.accel, choice.version, choice.reason);
	t0 = now_monotonic_ns();
	if (vmm_start(&a->config, &choice, &a->spec, 0, &vm, &err) < 0)
		return fail(&err);
	printf("%9.1f ms  the VMM answers\n", ms_since(t0));
	fflush(stdout);
	fd = vmm_connect(vm, PORT, 0, &err);
	if (fd < 0) {
		r = fail(&err);
	} else {
		printf("%9.1f ms  port %d answers\n", ms_since(t0), PORT);
		fflush(stdout);
		close_fd(fd);
	}
	watch(vm, a, t0);
	t0 = now_monotonic_ns();
	if (vmm_stop(vm, 0, &err) < 0)
		r = fail(&err);
	printf("%9.1f ms  stopped\n", ms_since(t0));
	vmm_free(vm);
	return r;
}

int main(int argc, char **argv)
{
	struct args a;

	if (argc < 2 || !str_eq(argv[1], "boot") || parse_args(argc - 1, argv + 1, &a) < 0) {
		fprintf(stderr, "usage: vmmctl boot --kernel K --image I --run-dir D --shared S [options]\n");
		return 2;
	}
	return boot(&a);
}

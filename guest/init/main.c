/*
 * crivisor-agent: PID 1 of a pod's VM.
 *
 * Order: /proc → configuration → tracing → log → early init (environment, mounts, cgroups, sysctls) → share →
 *        debug console →
 * late init (DNS) → serving, and what can wait for it (ginit_settle). The log needs no mount of ours: the
 * kernel has mounted /dev (CONFIG_DEVTMPFS_MOUNT). Whatever fails is said on the console and ends the VM. The
 * listening socket is made early, so that the host's first connection waits in the kernel; it is served after
 * everything else.
 */
#include "api/agent/guest_abi.h"
#include "base/log.h"
#include "base/util.h"
#include "base/version.h"
#include "guest/init/console.h"
#include "guest/rpc/events.h"
#include "guest/init/init.h"
#include "guest/rpc/server.h"
#include "guest/core/agent.h"
#include "guest/core/reap.h"
#include "guest/pod/services.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

#define SETTLE_NS (500 * NS_PER_MS) /* when nobody has asked by then */
#define LOGS_MAX  (16u << 20)	    /* output of all processes that the host has not acknowledged */

static void toggle_tracing(struct guest *g)
{
	g->config.tracing = !g->config.tracing;
	ginit_log();
	log_set_level(g->config.tracing ? LOG_LEVEL_TRACE : g->config.log_level);
	log_info("tracing is %s", g->config.tracing ? "on" : "off");
}

static void on_signal(void *arg, int fd, uint32_t events)
{
	struct guest *g = arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	switch (info.ssi_signo) {
	case SIGCHLD:
		reap_collect();
		gshutdown_poll(g);
		break;
	case SIGTERM:
	case SIGINT:
		gshutdown_begin(g, info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
		break;
	case SIGUSR1:
		toggle_tracing(g);
		break;
	default:
		break;
	}
}

static int setup_signals(struct guest *g, struct err *err)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR1);
	signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return err_set_errno(err, -errno, "block signals");
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0 || !eloop_add(g->loop, fd, EPOLLIN, on_signal, g))
		return err_set_errno(err, -errno, "watch signals");
	return 0;
}

static int setup_loop(struct guest *g, struct err *err)
{
	g->loop = eloop_new();
	g->events = gevents_new();
	if (!g->loop || !g->events)
		return err_set(err, -ENOMEM, "out of memory");
	g->logs.max = LOGS_MAX;
	return setup_signals(g, err);
}

static int step_config(struct guest *g, struct err *err)
{
	int r = ginit_proc(err);

	if (r == 0)
		r = gconfig_load(&g->config, err);
	if (r == 0)
		log_set_level(g->config.tracing ? LOG_LEVEL_TRACE : g->config.log_level);
	return r;
}

static int step_log(struct guest *g, struct err *err)
{
	(void)g;
	(void)err;
	ginit_log();
	return 0;
}

static int step_share(struct guest *g, struct err *err)
{
	return ginit_share(g, err);
}

static int step_console(struct guest *g, struct err *err)
{
	return g->config.debug ? gconsole_setup(g, GUEST_PORT_CONSOLE, err) : 0;
}

/*
 * From here on the host's connection is taken by the kernel, and answered as soon as the agent serves: no
 * dialling again.
 */
static int step_listen(struct guest *g, struct err *err)
{
	g->server = gserver_new(g, services_table(g));
	return g->server ? gserver_serve(g->server, GUEST_PORT_AGENT, err)
			 : err_set(err, -ENOMEM, "out of memory");
}

static const struct {
	const char *name;
	int (*run)(struct guest *g, struct err *err);
} steps[] = {
	{"configuration", step_config},	 {"loop", setup_loop},
	{"listen", step_listen},	 {"log", step_log},
	{"early init", ginit_early},	 {"share", step_share},
	{"debug console", step_console}, {"late init", ginit_late},
};

/* One line for all steps: under emulation a line on the console costs more than a step. */
static void run_steps(struct guest *g)
{
	char times[512] = "";
	struct rusage usage;
	int64_t begin = g->init_ns;

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		struct err err = ERR_INIT;
		size_t len = strlen(times);
		int64_t now;

		if (steps[i].run(g, &err) < 0) {
			err_wrap(&err, "%s", steps[i].name);
			ginit_fatal(&err);
		}
		now = guest_boottime_ns();
		snprintf(times + len, sizeof(times) - len, "%s%s %lld us", i ? ", " : "", steps[i].name,
			 (long long)(now - begin) / 1000);
		begin = now;
	}
	log_info("crivisor-agent %s ready in %lld ms", crv_version,
		 (long long)((begin - g->init_ns) / NS_PER_MS));
	getrusage(RUSAGE_SELF, &usage);
	log_debug("%s; %ld page faults", times, usage.ru_minflt + usage.ru_majflt);
}

static void on_settle(void *arg)
{
	ginit_settle(arg);
}

int main(int argc, char **argv)
{
	static struct eloop_timer settle;
	static struct guest g;
	struct err err = ERR_INIT;

	if (getpid() != 1) {
		printf("crivisor-agent %s\n", crv_version);
		if (argc == 2 && str_eq(argv[1], "--version"))
			return 0;
		fprintf(stderr, "crivisor-agent is the first process of a pod's virtual machine and of "
				"nothing else\n");
		return 2;
	}
	g.init_ns = guest_boottime_ns();
	run_steps(&g);
	eloop_timer_set(g.loop, &settle, now_monotonic_ns() + SETTLE_NS, on_settle, &g);
	err_set_errno(&err, eloop_run(g.loop), "event loop");
	ginit_fatal(&err);
}

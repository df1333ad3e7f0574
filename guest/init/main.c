/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crivisor-agent: PID 1 of a pod's VM.
 *
 * Order: /proc → configuration → tracing → log → early init (environment, mounts, cgroups, sysctls) → share →
 *        debug console →
 * late init (DNS) → serving, and what can wait for it (init_settle). The log needs no mount of ours: the
 * kernel has mounted /dev (CONFIG_DEVTMPFS_MOUNT). Whatever fails is said on the console and ends the VM. The
 * listening socket is made early, so that the host's first connection waits in the kernel; it is served after
 * everything else.
 */
#include "api/agent/guest_abi.h"
#include "base/log.h"
#include "base/util.h"
#include "base/version.h"
#include "guest/init/console_internal.h"
#include "guest/rpc/events.h"
#include "guest/init/init_internal.h"
#include "guest/rpc/server.h"
#include "guest/core/agent.h"
#include "guest/core/reap.h"
#include "guest/pod/methods_internal.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

#define SETTLE_NS (500 * NS_PER_MS) /* when nobody has asked by then */
#define LOGS_MAX  (16u << 20)	    /* output of all processes that the host has not acknowledged */

static void toggle_tracing(struct agent *agent)
{
	agent->config.tracing = !agent->config.tracing;
	init_log();
	log_set_level(agent->config.tracing ? LOG_LEVEL_TRACE : agent->config.log_level);
	log_info("tracing is %s", agent->config.tracing ? "on" : "off");
}

static void on_signal(void *arg, int fd, uint32_t events)
{
	struct agent *agent = arg;
	struct signalfd_siginfo info;

	(void)events;
	if (read(fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	switch (info.ssi_signo) {
	case SIGCHLD:
		reap_collect();
		shutdown_poll(agent);
		break;
	case SIGTERM:
	case SIGINT:
		shutdown_begin(agent, info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
		break;
	case SIGUSR1:
		toggle_tracing(agent);
		break;
	default:
		break;
	}
}

static int setup_signals(struct agent *agent, struct err *err)
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
	if (fd < 0 || !loop_add(agent->loop, fd, EPOLLIN, on_signal, agent))
		return err_set_errno(err, -errno, "watch signals");
	return 0;
}

static int setup_loop(struct agent *agent, struct err *err)
{
	agent->loop = loop_new();
	agent->events = events_new();
	if (!agent->loop || !agent->events)
		return err_set(err, -ENOMEM, "out of memory");
	agent->logs.max = LOGS_MAX;
	return setup_signals(agent, err);
}

static int step_config(struct agent *agent, struct err *err)
{
	int r = init_proc(err);

	if (r == 0)
		r = config_load(&agent->config, err);
	if (r == 0)
		log_set_level(agent->config.tracing ? LOG_LEVEL_TRACE : agent->config.log_level);
	return r;
}

static int step_log(struct agent *agent, struct err *err)
{
	(void)agent;
	(void)err;
	init_log();
	return 0;
}

static int step_share(struct agent *agent, struct err *err)
{
	return init_share(agent, err);
}

static int step_console(struct agent *agent, struct err *err)
{
	return agent->config.debug ? console_setup(agent, GUEST_PORT_CONSOLE, err) : 0;
}

/*
 * From here on the host's connection is taken by the kernel, and answered as soon as the agent serves: no
 * dialling again.
 */
static int step_listen(struct agent *agent, struct err *err)
{
	agent->server = server_new(agent, services_table(agent));
	return agent->server ? server_serve(agent->server, GUEST_PORT_AGENT, err)
			     : err_set(err, -ENOMEM, "out of memory");
}

static const struct {
	const char *name;
	int (*run)(struct agent *agent, struct err *err);
} steps[] = {
	{"configuration", step_config},	 {"loop", setup_loop},
	{"listen", step_listen},	 {"log", step_log},
	{"early init", init_early},	 {"share", step_share},
	{"debug console", step_console}, {"late init", init_late},
};

/* One line for all steps: under emulation a line on the console costs more than a step. */
static void run_steps(struct agent *agent)
{
	char times[512] = "";
	struct rusage usage;
	int64_t begin = agent->init_ns;

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		struct err err = ERR_INIT;
		size_t len = strlen(times);
		int64_t now;

		if (steps[i].run(agent, &err) < 0) {
			err_wrap(&err, "%s", steps[i].name);
			init_fatal(&err);
		}
		now = agent_boottime_ns();
		snprintf(times + len, sizeof(times) - len, "%s%s %lld us", i ? ", " : "", steps[i].name,
			 (long long)(now - begin) / 1000);
		begin = now;
	}
	log_info("crivisor-agent %s ready in %lld ms", crv_version,
		 (long long)((begin - agent->init_ns) / NS_PER_MS));
	getrusage(RUSAGE_SELF, &usage);
	log_debug("%s; %ld page faults", times, usage.ru_minflt + usage.ru_majflt);
}

static void on_settle(void *arg)
{
	init_settle(arg);
}

int main(int argc, char **argv)
{
	static struct loop_timer settle;
	static struct agent agent;
	struct err err = ERR_INIT;

	if (getpid() != 1) {
		printf("crivisor-agent %s\n", crv_version);
		if (argc == 2 && str_eq(argv[1], "--version"))
			return 0;
		fprintf(stderr, "crivisor-agent is the first process of a pod's virtual machine and of "
				"nothing else\n");
		return 2;
	}
	agent.init_ns = agent_boottime_ns();
	run_steps(&agent);
	loop_timer_set(agent.loop, &settle, now_monotonic_ns() + SETTLE_NS, on_settle, &agent);
	err_set_errno(&err, loop_run(agent.loop), "event loop");
	init_fatal(&err);
}

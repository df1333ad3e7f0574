/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crivisor-agent: PID 1 of a pod's VM.
 *
 * Order: /proc and configuration → loop → listen → log → early init (environment, mounts, cgroups, sysctls) →
 * share → debug console → late init (DNS) → serving, then what can wait (init_settle). The log needs no mount
 * of ours: the kernel has mounted /dev (CONFIG_DEVTMPFS_MOUNT). A failure is reported on the console and ends
 * the VM. The listening socket is made early, so that the host's first connection waits in the kernel; it is
 * served last.
 */
#include "api/agent/guest_abi.h"
#include "base/log.h"
#include "base/util.h"
#include "base/version.h"
#include "guest/container/container.h"
#include "guest/core/agent.h"
#include "guest/core/loop.h"
#include "guest/core/signals.h"
#include "guest/init/config_internal.h"
#include "guest/init/console_internal.h"
#include "guest/init/init_internal.h"
#include "guest/init/vsock_internal.h"
#include "guest/pod/pod.h"
#include "guest/rpc/events.h"
#include "guest/rpc/server.h"

#include <sys/resource.h>

#define SETTLE_NS (500 * NS_PER_MS) /* when nobody has asked by then */

static struct config config;

static void toggle_tracing(struct agent *agent)
{
	(void)agent;
	config.tracing = !config.tracing;
	init_log();
	log_set_level(config.tracing ? LOG_LEVEL_TRACE : config.log_level);
	log_info("tracing is %s", config.tracing ? "on" : "off");
}

static void settle(struct agent *agent)
{
	init_settle(agent, &config);
}

static void end(struct agent *agent)
{
	(void)agent;
	log_info("power off");
	init_power_off();
}

static const struct agent_ops ops = {
	.settle = settle,
	.shutdown = pod_shutdown,
	.release = init_release,
	.end = end,
	.on_usr1 = toggle_tracing,
};

static const struct agent_paths paths = {
	.share = GUEST_SHARE_DIR,
	.tmp = GUEST_RUN_DIR "/tmp",
	.crun = "/usr/bin/crun",
	.crun_root = GUEST_RUN_DIR "/crun",
	.cgroup_parent = GUEST_CGROUP_PARENT,
	.shm = GUEST_SHM_DIR,
	.pidns = GUEST_PIDNS,
};

static int setup_loop(struct agent *agent, struct err *err)
{
	agent->loop = loop_new();
	agent->events = events_new();
	agent->containers = containers_new(agent);
	if (!agent->loop || !agent->events || !agent->containers)
		return err_oom(err);
	return signals_watch(agent, err);
}

static int step_config(struct agent *agent, struct err *err)
{
	int r = init_proc(err);

	if (r == 0)
		r = config_load(&config, err);
	if (r == 0)
		log_set_level(config.tracing ? LOG_LEVEL_TRACE : config.log_level);
	agent->debug = config.debug;
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
	(void)agent;
	return init_share(&config, err);
}

static int step_console(struct agent *agent, struct err *err)
{
	return config.debug ? console_setup(agent, config.debug_shell, GUEST_PORT_CONSOLE, err) : 0;
}

/*
 * From here on the kernel takes the host's connection, so the host need not dial again; it is answered later.
 */
static int step_listen(struct agent *agent, struct err *err)
{
	int fd = vsock_listen(GUEST_PORT_AGENT, err);

	if (fd < 0)
		return fd;
	agent->server = server_new(agent, pod_services(agent));
	return agent->server ? server_serve(agent->server, fd, vsock_accept, err) : err_oom(err);
}

static int step_late(struct agent *agent, struct err *err)
{
	(void)agent;
	return pod_dns(err);
}

static const struct {
	const char *name;
	int (*run)(struct agent *agent, struct err *err);
} steps[] = {
	{"configuration", step_config},	 {"loop", setup_loop},
	{"listen", step_listen},	 {"log", step_log},
	{"early init", init_early},	 {"share", step_share},
	{"debug console", step_console}, {"late init", step_late},
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
	agent_settle(arg);
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
		fprintf(stderr, "crivisor-agent runs only as the first process of a pod's virtual "
				"machine\n");
		return 2;
	}
	agent = (struct agent){.ops = &ops, .paths = paths, .in_vm = true, .init_ns = agent_boottime_ns()};
	run_steps(&agent);
	loop_timer_set(agent.loop, &settle, now_monotonic_ns() + SETTLE_NS, on_settle, &agent);
	err_set_errno(&err, loop_run(agent.loop), "event loop");
	init_fatal(&err);
}

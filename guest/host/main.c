/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crivisor-agent-host: the agent beside the VMs, for a pod that has none. The same services as in a VM, on a
 *                      UNIX socket.
 *
 * The machine is the host's: hostname, clock, interfaces, devices and file systems are left alone. It
 * inherits the orphans of what it starts (PR_SET_CHILD_SUBREAPER), as PID 1 does. Agent.Shutdown and SIGTERM
 * end its containers and then itself.
 */
#include "base/log.h"
#include "base/util.h"
#include "base/version.h"
#include "guest/container/cgroup.h"
#include "guest/container/container.h"
#include "guest/core/agent.h"
#include "guest/core/loop.h"
#include "guest/core/signals.h"
#include "guest/host/options_internal.h"
#include "guest/host/socket_internal.h"
#include "guest/pod/pod.h"
#include "guest/rpc/events.h"
#include "guest/rpc/server.h"

#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>

/* Paths below the run directory. */
struct places {
	char *tmp, *crun_root, *shm, *pidns;
};

static void settle(struct agent *agent)
{
	struct err err = ERR_INIT;

	if (containers_settle(agent, &err) < 0)
		log_warn("OOM kills are not watched: %s", err.msg);
}

/* What this agent has made; the host's file systems are the host's. */
static int release(struct agent *agent)
{
	containers_remove_left(agent);
	umount2(agent->paths.shm, MNT_DETACH);
	umount2(agent->paths.pidns, MNT_DETACH);
	return 0;
}

static void end(struct agent *agent)
{
	/* Once more: for a container whose creation was under way. */
	containers_kill(agent);
	loop_stop(agent->loop);
}

static const struct agent_ops ops = {
	.settle = settle,
	.shutdown = pod_shutdown,
	.release = release,
	.end = end,
};

static int make_places(const struct options *o, struct places *places, struct err *err)
{
	int r = mkdir_p(o->run_dir, 0700);

	places->tmp = xasprintf("%s/tmp", o->run_dir);
	places->crun_root = xasprintf("%s/crun", o->run_dir);
	places->shm = xasprintf("%s/shm", o->run_dir);
	places->pidns = xasprintf("%s/pidns", o->run_dir);
	if (!places->tmp || !places->crun_root || !places->shm || !places->pidns)
		return err_oom(err);
	if (r == 0)
		r = mkdir_p(places->tmp, 0700);
	if (r == 0)
		r = mkdir_p(places->crun_root, 0700);
	return r < 0 ? err_set_errno(err, r, "make directories in %s", o->run_dir) : 0;
}

static void places_done(struct places *places)
{
	free(places->tmp);
	free(places->crun_root);
	free(places->shm);
	free(places->pidns);
}

/* What crun and containers must not inherit: crun would tell the host's service manager that it is ready. */
static int setup_process(struct err *err)
{
	unsetenv("NOTIFY_SOCKET");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_PID");
	umask(022);
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		return err_set_errno(err, -errno, "become the reaper of orphans");
	return 0;
}

static int setup_agent(struct agent *agent, const struct options *o, struct err *err)
{
	int fd;

	agent->loop = loop_new();
	agent->events = events_new();
	agent->containers = containers_new(agent);
	agent->server = server_new(agent, pod_services(agent));
	if (!agent->loop || !agent->events || !agent->containers || !agent->server)
		return err_oom(err);
	if (signals_watch(agent, err) < 0)
		return err->code;
	fd = socket_listen(o->socket, err);
	if (fd < 0)
		return fd;
	if (server_serve(agent->server, fd, socket_accept, err) < 0) {
		close_fd(fd);
		unlink(o->socket);
		return err->code;
	}
	return 0;
}

static void agent_done(struct agent *agent)
{
	/* Connections first: they end the calls that wait for the rest. */
	agent->server = server_free(agent->server);
	agent->containers = containers_free(agent->containers);
	agent->events = events_free(agent->events);
	if (agent->loop)
		signals_unwatch();
	agent->loop = loop_free(agent->loop);
	pod_end();
}

static int serve(const struct options *o, struct err *err)
{
	struct places places = {.tmp = NULL};
	struct agent agent = {.ops = &ops, .init_ns = agent_boottime_ns(), .cgroup2 = cgroup_is_v2()};
	int r = setup_process(err);

	if (r == 0)
		r = make_places(o, &places, err);
	agent.paths = (struct agent_paths){.share = o->bundles,
					   .tmp = places.tmp,
					   .crun = o->runtime,
					   .crun_root = places.crun_root,
					   .cgroup_parent = o->cgroup_parent,
					   .shm = places.shm,
					   .pidns = places.pidns};
	if (r == 0)
		r = setup_agent(&agent, o, err);
	if (r == 0) {
		agent_settle(&agent);
		log_info("crivisor-agent-host %s serves %s", crv_version, o->socket);
		r = loop_run(agent.loop);
		if (r < 0)
			err_set_errno(err, r, "event loop");
		unlink(o->socket);
	}
	agent_done(&agent);
	places_done(&places);
	return r;
}

int main(int argc, char **argv)
{
	struct options options;
	struct err err = ERR_INIT;

	if (options_parse(argc, argv, &options, &err) < 0) {
		fprintf(stderr, "crivisor-agent-host: %s\nTry --help.\n", err.msg);
		return 2;
	}
	if (options.help || options.version) {
		if (options.help)
			fputs(options_help, stdout);
		else
			printf("crivisor-agent-host %s\n", crv_version);
		return 0;
	}
	log_set_level(options.log_level);
	if (serve(&options, &err) < 0) {
		log_error("%s", err.msg);
		return 1;
	}
	return 0;
}

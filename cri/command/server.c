/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/command/server.h"

#include "base/log.h"
#include "base/util.h"
#include "base/version.h"
#include "cri/sandbox/clock.h"
#include "cri/pods/container.h"
#include "cri/pods/pod.h"
#include "cri/health/readiness.h"
#include "cri/rpc/rpc.h"
#include "cri/service/service.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <systemd/sd-daemon.h>

#define RPC_STOP_NS	(20 * NS_PER_SEC)
#define WORKERS_STOP_NS (30 * NS_PER_SEC)

/* What server_run puts together and takes apart. */
struct running {
	struct server server;
	struct rpc_server *rpc;
	int lock_fd;
	pthread_t stopper; /* if server.stopping */
	bool stopper_runs;
	struct err err; /* why the start failed */
	int code;
};

/* One server for a state directory: two would each undo what the other has half done. */
static int lock_state(const char *state_dir, int *ret_fd, struct err *err)
{
	char *path CLEANUP_FREE = xasprintf("%s/lock", state_dir);
	int fd;

	if (!path)
		return err_oom(err);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set_errno(err, -errno, "opening %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		close_fd(fd);
		return err_set(err, -EBUSY, "state_dir %s is in use by another instance", state_dir);
	}
	*ret_fd = fd;
	return 0;
}

static int make_dirs(const struct config *config, struct err *err)
{
	const struct {
		const char *base, *sub;
		mode_t mode;
	} dirs[] = {
		{config->server.state_dir, "", 0711},	  {config->server.state_dir, "/logs", 0700},
		{config->server.state_dir, "/cni", 0700}, {config->server.run_dir, "", 0711},
		{config->server.run_dir, "/pods", 0711},  {config->server.run_dir, "/netns", 0755},
	};

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		char *path CLEANUP_FREE = xasprintf("%s%s", dirs[i].base, dirs[i].sub);
		int r = path ? mkdir_p(path, dirs[i].mode) : -ENOMEM;

		if (r < 0)
			return err_set_errno(err, r, "making %s%s", dirs[i].base, dirs[i].sub);
	}
	return 0;
}

/* On the loop's thread. */
static void serve(void *arg)
{
	struct running *run = arg;
	struct server *server = &run->server;
	int fd = sd_listen_fds(1) > 0 ? SD_LISTEN_FDS_START : -1;

	if (server->stopping)
		return;
	if (run->code == 0)
		run->code = rpc_server_start(server->config->server.socket, fd, service_methods, server,
					     server->loop, server->workers, &run->rpc, &run->err);
	if (run->code < 0) {
		loop_stop(server->loop);
		return;
	}
	log_line(LOG_LEVEL_INFO, LOG_FIELDS("socket", server->config->server.socket, "version", crv_version),
		 "serving");
	sd_notify(0, "READY=1");
}

/* On a worker thread, since it blocks: what was left is dealt with before anybody may ask. */
static void start_job(void *arg)
{
	struct running *run = arg;
	struct server *server = &run->server;
	struct vmm_choice choice;
	const char *reason;
	struct err err = ERR_INIT;

	if (health_ready(server->health, atomic_load(&server->pod_memory_bytes), &choice, &reason, &err) < 0)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("reason", reason), "not ready for pods yet: %s", err.msg);
	if (cni_status(server->cni, &err) < 0)
		log_warn("no pod network yet: %s", err.msg);
	run->code = pod_recover_all(server, &run->err);
	if (run->code == 0)
		run->code = container_recover_all(server, &run->err);
	if (run->code == 0)
		state_sweep(server);
	if (loop_post(server->loop, serve, run) < 0) {
		run->code = err_oom(&run->err);
		loop_stop(server->loop);
	}
}

/* Pods that are being created are undone now rather than at the next start. */
static void cancel_creations(struct server *server)
{
	struct pod **list;

	if (pod_list(server, &list, NULL) < 0)
		return;
	for (size_t i = 0; list[i]; i++)
		pod_cancel(list[i]);
	pod_list_free(list);
}

/* A thread of its own: calls and jobs in progress still need the loop to come to their end. */
static void *stop_all(void *arg)
{
	struct running *run = arg;

	cancel_creations(&run->server);
	run->rpc = rpc_server_stop(run->rpc, now_monotonic_ns() + RPC_STOP_NS);
	if (!workers_stop(run->server.workers, WORKERS_STOP_NS))
		log_warn("work in progress did not end within %d s", (int)(WORKERS_STOP_NS / NS_PER_SEC));
	loop_stop(run->server.loop);
	return NULL;
}

static void on_signal(void *arg, int signo)
{
	struct running *run = arg;

	if (run->server.stopping)
		return;
	log_info("%s: stopping; VMs keep running", strsignal(signo));
	run->server.stopping = true;
	sd_notify(0, "STOPPING=1");
	run->stopper_runs = pthread_create(&run->stopper, NULL, stop_all, run) == 0;
	if (!run->stopper_runs)
		loop_stop(run->server.loop);
}

static void reload_job(void *arg)
{
	struct running *run = arg;
	struct server *server = &run->server;
	struct config_live live;
	struct err err = ERR_INIT;

	if (config_reload(server->config, &live, &err) < 0) {
		log_error("configuration not read again: %s", err.msg);
		return;
	}
	log_set_level(live.log_level);
	atomic_store(&server->pod_vcpus, live.vcpus);
	atomic_store(&server->pod_memory_bytes, live.memory_bytes);
	log_info("configuration read again: log level, vcpus and memory_in_mb; other changes need a restart");
}

/* Files are read on a worker thread. */
static void on_hangup(void *arg, int signo)
{
	struct running *run = arg;

	(void)signo;
	if (workers_submit(run->server.workers, LANE_QUICK, reload_job, run) < 0)
		log_error("configuration not read again: the server is busy");
}

static void on_watchdog(void *arg)
{
	struct loop_source **timer = arg;
	uint64_t usec = 0;

	sd_notify(0, "WATCHDOG=1");
	if (sd_watchdog_enabled(0, &usec) > 0)
		loop_timer_set(*timer, now_monotonic_ns() + (int64_t)(usec / 2) * 1000);
}

static int build(struct running *run, struct err *err)
{
	struct server *server = &run->server;
	const struct config *config = server->config;
	char *cni_cache CLEANUP_FREE = xasprintf("%s/cni", config->server.state_dir);
	struct image_store_options images = {.state_dir = config->server.state_dir,
					     .registry_config_dir = config->image.registry_config_dir};
	int r = make_dirs(config, err);

	if (r == 0)
		r = lock_state(config->server.state_dir, &run->lock_fd, err);
	if (r == 0)
		r = loop_new(&server->loop, err);
	if (r == 0)
		r = workers_new(&server->workers, err);
	if (r == 0)
		r = store_open(config->server.state_dir, &server->store, err);
	if (r == 0)
		r = health_new(config, &server->health, err);
	if (r < 0)
		return r;
	images.store = server->store;
	images.workers = server->workers;
	r = image_store_open(&images, &server->images, err);
	if (r == 0)
		r = rootfs_open(server->images, config->server.state_dir, &server->rootfs, err);
	if (r == 0)
		r = cni_new(config->cni.bin_dirs, config->cni.conf_dir, cni_cache, &server->cni, err);
	return r;
}

static void on_clock_set(void *arg)
{
	struct pod **list;

	if (pod_list(arg, &list, NULL) < 0)
		return;
	for (size_t i = 0; list[i]; i++) {
		struct agent *agent;

		if (pod_agent(list[i], &agent, NULL) == 0)
			clock_sync(agent, list[i]->id, NULL, NULL);
	}
	pod_list_free(list);
}

static int run_loop(struct running *run, struct err *err)
{
	static const int signals[] = {SIGTERM, SIGINT};
	struct loop_source *source[ARRAY_SIZE(signals)] = {NULL};
	struct loop_source *watchdog = NULL, *hangup = NULL;
	struct clock_watch *clock; /* for the life of the process */
	uint64_t usec = 0;
	int r = loop_add_signal(run->server.loop, SIGHUP, on_hangup, run, &hangup, err);

	for (size_t i = 0; i < ARRAY_SIZE(signals) && r == 0; i++)
		r = loop_add_signal(run->server.loop, signals[i], on_signal, run, &source[i], err);
	if (r == 0 && sd_watchdog_enabled(0, &usec) > 0)
		r = loop_add_timer(run->server.loop, now_monotonic_ns(), on_watchdog, &watchdog, &watchdog,
				   err);
	if (r == 0 && clock_watch(run->server.loop, on_clock_set, &run->server, &clock, err) < 0)
		log_warn("the wall clock is not watched: %s", err->msg);
	if (r == 0)
		r = workers_submit(run->server.workers, LANE_SLOW, start_job, run);
	if (r == 0)
		r = loop_run(run->server.loop, err);
	if (run->stopper_runs)
		pthread_join(run->stopper, NULL);
	return r;
}

int server_run(const struct config *config, struct err *err)
{
	/* Static: threads that hang in a call outside outlive this function, until exit(). */
	static struct running run;
	struct server *server = &run.server;
	int r;

	run = (struct running){.server = {.config = config, .started_ns = now_realtime_ns()},
			       .lock_fd = -1,
			       .err = ERR_INIT};
	pthread_mutex_init(&server->tables, NULL);
	gate_init(&server->boots, 2 * (unsigned int)get_nprocs());
	atomic_init(&server->pod_vcpus, config->hypervisor.vcpus);
	atomic_init(&server->pod_memory_bytes, config->hypervisor.memory_bytes);
	r = build(&run, err);
	if (r == 0)
		r = run_loop(&run, err);
	if (r == 0 && run.code < 0)
		r = err_copy(err, &run.err);
	/*
	 * Jobs that write come to their end; the rest ends with the process, which may be killed at any
	 * moment anyway.
	 */
	server->workers = workers_free(server->workers, run.stopper_runs ? 0 : WORKERS_STOP_NS);
	run.lock_fd = close_fd(run.lock_fd);
	return r;
}

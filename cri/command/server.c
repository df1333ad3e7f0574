/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the server, put together and taken apart. */
#include "cri/command/server.h"

#include "base/log.h"
#include "base/util.h"
#include "base/version.h"
#include "cri/config/uid_range.h"
#include "cri/health/readiness.h"
#include "cri/image/image.h"
#include "cri/network/cni.h"
#include "cri/pods/pods.h"
#include "cri/rootfs/rootfs.h"
#include "cri/rpc/rpc.h"
#include "cri/sandbox/sandbox.h"
#include "cri/service/service.h"
#include "cri/stream/stream.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <systemd/sd-daemon.h>

#define RPC_STOP_NS	(20 * NS_PER_SEC)
#define WORKERS_STOP_NS (30 * NS_PER_SEC)
#define UNCLAIMED_MAX_S 86400
#define EXTEND_NS	(40 * NS_PER_SEC)

struct server {
	const struct config *config;
	struct loop *loop;
	struct workers *workers;
	struct store *store;
	struct image_store *images;
	struct rootfs *rootfs;
	struct cni *cni;
	struct health *health;
	struct sandboxes *sandboxes;
	struct stream_server *streams;
	struct pods *pods;
	struct service_events *events;
	struct service service;
	struct rpc_server *rpc;
	int lock_fd;
	bool stopping;
	struct loop_source *starting; /* loop: until it serves */
	pthread_t stopper;	      /* if it runs */
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
	struct server *server = arg;
	int fd = sd_listen_fds(1) > 0 ? SD_LISTEN_FDS_START : -1;

	if (server->stopping)
		return;
	if (server->code == 0)
		server->code =
			rpc_server_start(server->config->server.socket, fd, service_methods, &server->service,
					 server->loop, server->workers, &server->rpc, &server->err);
	if (server->code < 0) {
		loop_stop(server->loop);
		return;
	}
	log_line(LOG_LEVEL_INFO, LOG_FIELDS("socket", server->config->server.socket, "version", crv_version),
		 "serving");
	sd_notify(0, "READY=1\nSTATUS=serving");
}

/* On a worker thread, since it blocks: what was left is dealt with before anybody may ask. */
static void start_job(void *arg)
{
	struct server *server = arg;
	struct vmm_choice choice;
	const char *reason;
	struct err err = ERR_INIT;

	if (health_ready(server->health, server->config->hypervisor.memory_bytes, &choice, &reason, &err) < 0)
		log_line(LOG_LEVEL_WARN, LOG_FIELDS("reason", reason), "not ready for pods yet: %s", err.msg);
	if (cni_status(server->cni, &err) < 0)
		log_warn("no pod network yet: %s", err.msg);
	server->code = pods_recover(server->pods, &server->err);
	if (loop_post(server->loop, serve, server) < 0) {
		server->code = err_oom(&server->err);
		loop_stop(server->loop);
	}
}

/* A thread of its own: calls and jobs in progress still need the loop to come to their end. */
static void *stop_all(void *arg)
{
	struct server *server = arg;

	pods_close(server->pods);
	service_events_close(server->events); /* else they would be waited for */
	server->rpc = rpc_server_stop(server->rpc, now_monotonic_ns() + RPC_STOP_NS);
	if (!workers_stop(server->workers, WORKERS_STOP_NS))
		log_warn("work in progress did not end within %d s", (int)(WORKERS_STOP_NS / NS_PER_SEC));
	loop_stop(server->loop);
	return NULL;
}

/* Loop. Systemd's time for a start begins anew, as long as the loop runs and the server is not ready. */
static void on_starting(void *arg)
{
	struct server *server = arg;

	if (server->rpc || server->stopping) {
		server->starting = loop_source_free(server->starting);
		return;
	}
	sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%lld\nSTATUS=taking over what the previous server left",
		   (long long)(EXTEND_NS / 1000));
	loop_timer_set(server->starting, now_monotonic_ns() + EXTEND_NS / 4);
}

static void on_signal(void *arg, int signo)
{
	struct server *server = arg;

	if (server->stopping)
		return;
	log_info("%s: stopping; VMs keep running", strsignal(signo));
	server->stopping = true;
	sd_notify(0, "STOPPING=1");
	server->stopper_runs = pthread_create(&server->stopper, NULL, stop_all, server) == 0;
	if (!server->stopper_runs)
		loop_stop(server->loop);
}

static void reload_job(void *arg)
{
	struct server *server = arg;
	struct config_live live;
	struct err err = ERR_INIT;

	if (config_reload(server->config, &live, &err) < 0) {
		log_error("configuration not read again: %s", err.msg);
		return;
	}
	log_set_level(live.log_level);
	pods_set_size(server->pods, live.vcpus, live.memory_bytes);
	log_info("configuration read again: log level, vcpus and memory_in_mb; other changes need a restart");
}

/* Files are read on a worker thread. */
static void on_hangup(void *arg, int signo)
{
	struct server *server = arg;

	(void)signo;
	if (workers_submit(server->workers, LANE_QUICK, reload_job, server) < 0)
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

/* For tests, which cannot wait for ten minutes: in seconds. 0: as users have it. */
static int64_t unclaimed_ns(void)
{
	const char *text = getenv("CRV_UNCLAIMED_S");
	uint64_t seconds;

	if (str_empty(text))
		return 0;
	if (parse_u64(text, &seconds) < 0 || seconds == 0 || seconds > UNCLAIMED_MAX_S) {
		log_warn("CRV_UNCLAIMED_S \"%s\" is not a number of seconds from 1 to %d", text,
			 UNCLAIMED_MAX_S);
		return 0;
	}
	return (int64_t)seconds * NS_PER_SEC;
}

/* The rooms that touch no host beyond their own files. */
static int build_lower(struct server *server, struct err *err)
{
	const struct config *config = server->config;
	char *cni_cache CLEANUP_FREE = xasprintf("%s/cni", config->server.state_dir);
	struct image_store_options images = {.state_dir = config->server.state_dir,
					     .registry_config_dir = config->image.registry_config_dir};
	const struct rootfs_limit layer = {.bytes = config->sandbox.layer_bytes,
					   .inodes = config->sandbox.layer_files};
	int r = store_open(config->server.state_dir, &server->store, err);

	if (r == 0)
		r = health_new(config, &server->health, err);
	if (r < 0)
		return r;
	images.store = server->store;
	images.workers = server->workers;
	r = image_store_open(&images, &server->images, err);
	if (r == 0)
		r = rootfs_open(server->images, config->server.state_dir, &layer, &server->rootfs, err);
	if (r == 0)
		r = cni_new(config->cni.bin_dirs, config->cni.conf_dir, cni_cache, &server->cni, err);
	return r;
}

static int build_upper(struct server *server, struct err *err)
{
	struct uid_range uids = {0};
	struct sandboxes_options sandboxes = {
		.hypervisor = &server->config->hypervisor,
		.run_dir = server->config->server.run_dir,
		.loop = server->loop,
		.workers = server->workers,
		.store = server->store,
		.boots = 2 * (unsigned int)get_nprocs(),
	};
	struct pods_parts pods = {
		.config = server->config,
		.loop = server->loop,
		.workers = server->workers,
		.store = server->store,
		.images = server->images,
		.rootfs = server->rootfs,
		.cni = server->cni,
		.health = server->health,
		.unclaimed_ns = unclaimed_ns(),
	};
	const struct stream_server_options streams = {
		.loop = server->loop,
		.address = server->config->stream.address,
		.tls_cert_file = server->config->stream.tls_cert_file,
		.tls_key_file = server->config->stream.tls_key_file,
	};
	struct pods_hooks hooks;
	int r;

	uid_range_parse(server->config->sandbox.uid_range, &uids); /* checked when it was read */
	sandboxes.uid_first = uids.first;
	sandboxes.uid_count = uids.count;
	r = sandboxes_new(&sandboxes, &server->sandboxes, err);
	if (r == 0)
		r = stream_server_new(&streams, &server->streams, err);
	if (r == 0)
		r = service_events_new(&server->events, err);
	if (r < 0)
		return r;
	pods.sandboxes = server->sandboxes;
	pods.streams = server->streams;
	service_events_hooks(server->events, &hooks);
	r = pods_new(&pods, &hooks, &server->pods, err);
	service_events_begin(server->events, server->pods);
	server->service = (struct service){
		.config = server->config,
		.workers = server->workers,
		.images = server->images,
		.cni = server->cni,
		.health = server->health,
		.pods = server->pods,
		.sandboxes = server->sandboxes,
		.events = server->events,
	};
	return r;
}

static int build(struct server *server, struct err *err)
{
	int r = make_dirs(server->config, err);

	if (r == 0)
		r = lock_state(server->config->server.state_dir, &server->lock_fd, err);
	if (r == 0)
		r = loop_new(&server->loop, err);
	if (r == 0)
		r = workers_new(&server->workers, err);
	if (r == 0)
		r = build_lower(server, err);
	return r == 0 ? build_upper(server, err) : r;
}

static int run_loop(struct server *server, struct err *err)
{
	static const int signals[] = {SIGTERM, SIGINT};
	struct loop_source *source[ARRAY_SIZE(signals)] = {NULL};
	struct loop_source *watchdog = NULL, *hangup = NULL;
	uint64_t usec = 0;
	int r = loop_add_signal(server->loop, SIGHUP, on_hangup, server, &hangup, err);

	for (size_t i = 0; i < ARRAY_SIZE(signals) && r == 0; i++)
		r = loop_add_signal(server->loop, signals[i], on_signal, server, &source[i], err);
	if (r == 0 && sd_watchdog_enabled(0, &usec) > 0)
		r = loop_add_timer(server->loop, now_monotonic_ns(), on_watchdog, &watchdog, &watchdog, err);
	if (r == 0)
		r = loop_add_timer(server->loop, now_monotonic_ns(), on_starting, server, &server->starting,
				   err);
	if (r == 0 && sandboxes_watch_clock(server->sandboxes, err) < 0)
		log_warn("the wall clock is not watched: %s", err->msg);
	if (r == 0)
		r = workers_submit(server->workers, LANE_BOOT, start_job, server);
	if (r == 0)
		r = loop_run(server->loop, err);
	if (server->stopper_runs)
		pthread_join(server->stopper, NULL);
	return r;
}

int server_run(const struct config *config, struct err *err)
{
	/* Static: threads that hang in a call outside outlive this function, until exit(). */
	static struct server server;
	int r;

	server = (struct server){.config = config, .lock_fd = -1, .err = ERR_INIT};
	r = build(&server, err);
	if (r == 0)
		r = run_loop(&server, err);
	if (r == 0 && server.code < 0)
		r = err_copy(err, &server.err);
	/*
	 * Jobs that write come to their end; the rest ends with the process, which may be killed at any
	 * moment anyway.
	 */
	server.workers = workers_free(server.workers, server.stopper_runs ? 0 : WORKERS_STOP_NS);
	server.lock_fd = close_fd(server.lock_fd);
	return r;
}

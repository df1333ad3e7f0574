/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pod_streams_fixture.h: one pod with one running container, over the fake sandbox and its fake agent; the
 * streaming server, agent connections and logs are the real ones. The client is stream_fixture.h's.
 */
#ifndef TEST_UNIT_POD_STREAMS_FIXTURE_H
#define TEST_UNIT_POD_STREAMS_FIXTURE_H

#include "stream_fixture.h"

#include "api/agent/guest_abi.h"
#include "api/pb.h"
#include "cri/logs/logs.h"
#include "cri/pods/pods_internal.h"
#include "cri/sandbox/sandbox.h"
#include "fake_sandbox.h"

#include <sys/stat.h>

#define POD_ID	     "0a0a0a0a0a0a0a0a"
#define CONTAINER_ID "0b0b0b0b0b0b0b0b"

struct house {
	struct fixture base; /* first; its `server` is the pod's */
	struct config config;
	struct vmm_config hypervisor;
	struct store *store;
	struct sandboxes *sandboxes;
	struct pods *pods;
	struct pod *pod;	     /* a reference, as is the next one */
	struct container *container; /* running */
	struct fake_agent *guest;
	char dir[64], run_dir[80], log[128];
};

static const char *const house_features[] = {DIAL_WINDOW_FEATURE, NULL};

static inline void *house_loop(void *arg)
{
	struct house *x = arg;

	loop_run(x->base.l.loop, NULL);
	x->pods = pods_free(x->pods);
	loop_free(x->base.l.loop);
	return NULL;
}

/* With stdin and a terminal as the container was made with them. */
struct house_options {
	bool in, in_once, tty;
	const char *const *features;
};

static inline void house_rooms(struct house *x)
{
	struct stream_server_options streams = {.address = "127.0.0.1:0", .loop = x->base.l.loop};
	struct sandboxes_options sandboxes = {.hypervisor = &x->hypervisor,
					      .run_dir = x->run_dir,
					      .loop = x->base.l.loop,
					      .workers = x->base.l.workers,
					      .boots = 2,
					      .driver = &fake_sandbox_driver};
	struct pods_parts parts = {
		.config = &x->config, .loop = x->base.l.loop, .workers = x->base.l.workers};

	must(store_open(x->dir, &x->store, NULL) == 0);
	sandboxes.store = parts.store = x->store;
	must(sandboxes_new(&sandboxes, &x->sandboxes, NULL) == 0);
	must(stream_server_new(&streams, &x->base.server, NULL) == 0);
	parts.sandboxes = x->sandboxes;
	parts.streams = x->base.server;
	must(pods_new(&parts, NULL, &x->pods, NULL) == 0);
}

static inline void house_pod(struct house *x)
{
	static const struct vmm_choice choice = {.driver = "fake", .accel = "kvm"};
	const struct sandbox_spec spec = {
		.choice = &choice, .vcpus = 1, .memory_bytes = 64 << 20, .cgroup_parent = "/test"};
	struct sandbox_hooks hooks;
	PodState *state = pb_new(&crivisor__state__v1__pod__descriptor);

	must(state);
	state->id = strdup(POD_ID);
	state->config = pb_new(&runtime__v1__pod_sandbox_config__descriptor);
	state->phase = POD_READY;
	x->pod = pod_new(x->pods, POD_ID, state);
	must(x->pod);
	pod_sandbox_hooks(x->pod, &hooks);
	must(sandbox_new(x->sandboxes, &hooks, &x->pod->sandbox, NULL) == 0);
	must(sandbox_boot(x->pod->sandbox, NULL, &spec, NULL) == 0);
	must(table_add(&x->pods->pods, &x->pod->object, "pod", NULL, NULL) == 0);
	object_show(&x->pod->object);
	x->guest = fake_sandbox_agent(x->pod->sandbox);
	must(x->guest);
}

static inline void house_container(struct house *x, const struct house_options *options)
{
	static const char spec[] = "{\"process\":{\"cwd\":\"/\",\"args\":[\"sh\"],\"env\":[]}}";
	ContainerState *state = pb_new(&crivisor__state__v1__container__descriptor);
	struct sandbox *sandbox = x->pod->sandbox;
	struct agent *agent;

	must(state);
	state->id = strdup(CONTAINER_ID);
	state->pod_id = strdup(POD_ID);
	state->log_path = strdup(x->log);
	state->state = CRIVISOR__STATE__V1__CONTAINER_STATE__CONTAINER_STATE_RUNNING;
	state->config = pb_new(&runtime__v1__container_config__descriptor);
	state->config->stdin = options->in;
	state->config->stdin_once = options->in_once;
	state->config->tty = options->tty;
	x->container = container_new(x->pod, CONTAINER_ID, state);
	must(x->container);
	must(sandbox_place_make(sandbox, CONTAINER_ID, NULL) == 0);
	must(sandbox_place_write(sandbox, CONTAINER_ID, "config.json", spec, NULL) == 0);
	must(table_add(&x->pods->containers, &x->container->object, "container", NULL, NULL) == 0);
	object_show(&x->container->object);
	fake_agent_put(x->guest, CONTAINER_ID, true);
	must(sandbox_agent(sandbox, &agent, NULL) == 0);
	must(container_log_start(x->container, agent, false, NULL, NULL) == 0);
	must(container_watch(x->container, NULL) == 0);
}

static inline struct house *house_new(const struct house_options *options)
{
	struct house *x = calloc(1, sizeof(*x));
	static const char *const subs[] = {"run/pods", "run/netns", "logs"};

	must(x);
	snprintf(x->dir, sizeof(x->dir), "/tmp/crv-streams-XXXXXX");
	must(mkdtemp(x->dir));
	for (size_t i = 0; i < ARRAY_SIZE(subs); i++) {
		char path[160];

		snprintf(path, sizeof(path), "%s/%s", x->dir, subs[i]);
		must(mkdir_p(path, 0755) == 0);
	}
	snprintf(x->run_dir, sizeof(x->run_dir), "%s/run", x->dir);
	snprintf(x->log, sizeof(x->log), "%s/container.log", x->dir);
	x->config.server.state_dir = x->dir;
	must(loop_new(&x->base.l.loop, NULL) == 0);
	must(workers_new(&x->base.l.workers, NULL) == 0);
	fake_sandbox_features(options->features);
	house_rooms(x);
	must(pthread_create(&x->base.l.thread, NULL, house_loop, x) == 0);
	while (loop_on_thread(x->base.l.loop)) /* until the thread has taken the loop over */
		sched_yield();
	house_pod(x);
	house_container(x, options);
	return x;
}

static inline bool house_works(struct house *x)
{
	unsigned int running, queued;

	workers_load(x->base.l.workers, LANE_SLOW, &running, &queued);
	return running + queued > 0;
}

/* No command, stream or connection of a client is left, on either side, but for `left` connections. */
static inline void house_is_quiet_but(struct house *x, unsigned int left)
{
	unsigned int tokens, sessions;

	do {
		stream_server_load(x->base.server, &tokens, &sessions);
		usleep(200);
	} while (sessions > left);
	AWAIT(!house_works(x));
	looping_turn(&x->base.l);
	AWAIT(fake_agent_streams(x->guest) == 0);
	AWAIT(fake_agent_processes(x->guest) <= 1); /* the container */
	AWAIT(fake_agent_conns(x->guest) <= 2);	    /* control, and the container's log */
}

static inline void house_is_quiet(struct house *x)
{
	house_is_quiet_but(x, 0);
}

static inline void house_free(struct house *x)
{
	must(loop_post(x->base.l.loop, free_job, &x->base) == 0);
	looping_turn(&x->base.l);
	log_pump_free(move_ptr(x->container->pump));
	looping_turn(&x->base.l);
	pod_unhook(x->pod);
	must(sandbox_kill(x->pod->sandbox, "the test is over", now_monotonic_ns() + NS_PER_SEC, NULL) == 0);
	workers_stop(x->base.l.workers, 20 * NS_PER_SEC);
	for (int i = 0; i < 5; i++)
		looping_turn(&x->base.l);
	must(sandboxes_undo(x->sandboxes, sandbox_id(x->pod->sandbox), NULL) == 0);
	object_unref(&x->container->object);
	object_unref(&x->pod->object);
	looping_stop(&x->base.l);
	sandboxes_free(x->sandboxes);
	fake_sandbox_reset();
	store_close(x->store);
	remove_tree(x->dir);
	free(x);
}

static inline int house_set_up(void **state)
{
	*state = house_new(&(struct house_options){.in = true, .features = house_features});
	return 0;
}

static inline int house_tear_down(void **state)
{
	house_free(*state);
	return 0;
}

/* ---- clients ------------------------------------------------------------------------------------------- */

static const struct container_io io_all = {.in = true, .out = true, .err = true};
static const struct container_io io_tty = {.in = true, .out = true, .tty = true};
static const struct container_io io_out = {.out = true, .err = true};

static inline char *offer_exec(struct house *x, const struct container_io *io)
{
	char *const args[] = {(char *)(uintptr_t) "cat", NULL};
	struct err err = ERR_INIT;
	char *url = NULL;

	if (containers_offer_exec(x->pods, CONTAINER_ID, args, io, &url, &err) < 0)
		fail_msg("%s", err.msg);
	return url;
}

/* The request and the streams: 1 error, 3 stdin, 5 stdout, 7 stderr or resize. */
static inline void client_command(struct client *c, const char *url, const struct container_io *io)
{
	client_init(c);
	put_request(&c->out, "POST", path_of(url), UPGRADE_SPDY);
	client_open(c, 1, "error");
	if (io->in)
		client_open(c, 3, "stdin");
	client_open(c, 5, "stdout");
	if (io->tty)
		client_open(c, 7, "resize");
	else if (io->err)
		client_open(c, 7, "stderr");
}

/* What was said on all streams, once the server has closed. */
struct heard {
	char *all;
	size_t len;
};
static inline struct heard hear(int fd)
{
	struct heard h = {0};

	h.all = read_to_end(fd, &h.len);
	close(fd);
	return h;
}
static inline bool heard_is(const struct heard *h, uint32_t id, const char *text)
{
	char *said CLEANUP_FREE = stream_text(h->all, h->len, id);

	return str_eq(said, text);
}
static inline bool heard_has(const struct heard *h, uint32_t id, const char *words)
{
	char *said CLEANUP_FREE = stream_text(h->all, h->len, id);

	return strstr(said, words);
}

/*
 * Connections that are cut after the first, second, … byte of what a client sends, CUTS at once: half of them
 * as soon as it is sent, half when what it has begun stands. Then nothing is left. `write_fn` writes what a
 * client with that URL sends, at least up to `end`.
 */
#define CUTS 8
static inline void cut_everywhere(struct house *x, char *(*offer_fn)(struct house *x),
				  void (*write_fn)(struct client *c, const char *url), size_t end)
{
	for (size_t at = 1; at <= end;) {
		int fds[CUTS];
		size_t n = 0;

		while (n < CUTS && at <= end) {
			char *url CLEANUP_FREE = offer_fn(x);
			struct client c;

			write_fn(&c, url);
			must(c.out.len >= end);
			fds[n] = dial(&x->base);
			send_all(fds[n++], buf_data(&c.out), at++);
			client_done(&c);
		}
		if (at / CUTS % 2 == 0) {
			usleep(2000);
			AWAIT(!house_works(x));
		}
		while (n > 0)
			close(fds[--n]);
		house_is_quiet(x);
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, house_set_up, house_tear_down)

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"
#include "base/util.h"
#include "cri/command/command.h"
#include "cri/config/config.h"
#include "cri/command/logsink.h"
#include "cri/rpc/rpc.h"
#include "cri/command/server.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* Worker threads come and go. With an arena for each, malloc would keep the peak use of every one of them. */
static void limit_heap(void)
{
	mallopt(M_ARENA_MAX, 2);
	mallopt(M_MMAP_THRESHOLD, 128 * 1024);
	mallopt(M_TRIM_THRESHOLD, 128 * 1024);
}

/* A closed standard fd would be given to the first socket, and then be written to. */
static void fill_standard_fds(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	while (fd >= 0 && fd <= STDERR_FILENO);
	close_fd(fd);
}

/* Signals become events of the loop; threads inherit the mask. */
static void block_signals(void)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaddset(&set, signals[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static void raise_fd_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static void prepare_process(void)
{
	fill_standard_fds();
	umask(022);
	limit_heap();
	block_signals();
	raise_fd_limit();
	rpc_global_init();
	logsink_init();
}

static int run(int argc, char **argv)
{
	const char *path = NULL, *level = NULL;
	const struct cmd_option options[] = {
		CMD_CONFIG_OPTION(&path),
		{"log-level", &level, NULL, "LEVEL", "error, warn, info, debug or trace"},
		{0}};
	/* Static: a thread that hangs in a call outside may look at it until exit(). */
	static struct config config;
	struct err err = ERR_INIT;
	int status = 0, n = cmd_options(&cmd_serve, argc, argv, options, &status), r;

	if (n < 0)
		return status;
	if (n > 0)
		return cmd_usage(&cmd_serve, "unexpected operand \"%s\"", argv[1]);
	prepare_process();
	r = config_load(path, &config, &err);
	if (r == 0) {
		if (level && log_level_parse(level, &config.server.log_level) < 0) {
			config_done(&config);
			return cmd_usage(&cmd_serve,
					 "--log-level must be error, warn, info, debug or trace, not \"%s\"",
					 level);
		}
		log_set_level(config.server.log_level);
		r = server_run(&config, &err);
	}
	if (r < 0)
		log_error("%s", err.msg);
	return r < 0;
}

const struct cmd cmd_serve = {"serve", "", "Answer CRI calls until SIGTERM", run};

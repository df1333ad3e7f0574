/* SPDX-License-Identifier: Apache-2.0 */
/* log_pump_fixture.h: a log pump over a fake agent, and what its log must hold. */
#ifndef TEST_UNIT_LOG_PUMP_FIXTURE_H
#define TEST_UNIT_LOG_PUMP_FIXTURE_H

#include "api/agent/agent.pb-c.h"
#include "api/agent/guest_abi.h"
#include "base/util.h"
#include "cri/logs/logs.h"
#include "fake_agent.h"
#include "loop_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define ID "c1"

struct fixture {
	struct looping l;
	struct fake_agent *fake;
	struct agent *agent;
	struct log_pump *pump;
	char dir[64], log[128], pos[128];
	char want[1 << 20]; /* the log, without time stamps */
	size_t want_len;
	unsigned int line;
};

static inline void connect_agent(struct fixture *x, int64_t lost_ns)
{
	const struct agent_options options = {.loop = x->l.loop,
					      .workers = x->l.workers,
					      .dial = fake_agent_dial,
					      .arg = x->fake,
					      .lost_ns = lost_ns};

	x->agent = agent_free(x->agent);
	assert_int_equal(agent_new(&options, &x->agent, NULL), 0);
	assert_int_equal(agent_connect(x->agent, NULL, now_monotonic_ns() + 10 * NS_PER_SEC, NULL), 0);
}

static inline int set_up(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	assert_non_null(x);
	snprintf(x->dir, sizeof(x->dir), "/tmp/crv-pump-XXXXXX");
	assert_non_null(mkdtemp(x->dir));
	snprintf(x->log, sizeof(x->log), "%s/pod/ctr/0.log", x->dir);
	snprintf(x->pos, sizeof(x->pos), "%s/0.pos", x->dir);
	looping_start(&x->l);
	x->fake = fake_agent_new();
	fake_agent_put(x->fake, ID, true);
	connect_agent(x, 0);
	*state = x;
	return 0;
}

static inline int tear_down(void **state)
{
	struct fixture *x = *state;

	log_pump_free(x->pump);
	looping_turn(&x->l);
	agent_free(x->agent);
	looping_turn(&x->l);
	looping_stop(&x->l);
	fake_agent_free(x->fake);
	remove_tree(x->dir);
	free(x);
	return 0;
}

static inline int start(struct fixture *x, struct call *call, bool resume, struct err *err)
{
	const struct log_pump_options options = {.loop = x->l.loop,
						 .workers = x->l.workers,
						 .agent = x->agent,
						 .container_id = ID,
						 .log_path = x->log,
						 .pos_path = x->pos,
						 .resume = resume};

	return log_pump_start(&options, call, &x->pump, err);
}

/* The guest prints a line. */
static inline void print(struct fixture *x, bool is_stderr)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "line %04u %s\n", x->line++, is_stderr ? "stderr" : "stdout");

	fake_agent_print(x->fake, ID, is_stderr, text, (size_t)n);
	x->want_len += (size_t)snprintf(x->want + x->want_len, sizeof(x->want) - x->want_len, "%s F %s",
					is_stderr ? "stderr" : "stdout", text);
	assert_true(x->want_len < sizeof(x->want));
}

static inline char *without_stamps(const char *path)
{
	char *data = NULL, *out, *w;
	size_t len;

	assert_int_equal(read_file(path, 64 << 20, &data, &len), 0);
	out = w = calloc(1, len + 1);
	assert_non_null(out);
	for (char *p = data; *p;) {
		char *nl = strchr(p, '\n'), *space = strchr(p, ' ');

		assert_non_null(nl);
		assert_non_null(space);
		memcpy(w, space + 1, (size_t)(nl - space));
		w += nl - space;
		p = nl + 1;
	}
	free(data);
	return out;
}

static inline void assert_log(struct fixture *x)
{
	char *have = without_stamps(x->log);

	assert_string_equal(have, x->want);
	free(have);
	assert_false(fake_agent_asked_for_lost(x->fake));
}

static inline int64_t in_s(int s)
{
	return now_monotonic_ns() + s * NS_PER_SEC;
}

static inline void finish(struct fixture *x)
{
	fake_agent_exit(x->fake, ID, 0);
	assert_int_equal(log_pump_wait_eof(x->pump, NULL, in_s(20)), 0);
	assert_log(x);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_fixture.h: a host that lacks something, for test_check*.c: a directory that stands before /proc, /sys
 * and /dev, and programs that are scripts.
 */
#ifndef TEST_UNIT_CHECK_FIXTURE_H
#define TEST_UNIT_CHECK_FIXTURE_H

#include "base/util.h"
#include "cri/health/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <cmocka.h>

struct fixture {
	char dir[64], *path_env;
	struct config config;
	struct check check;
};

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/crv-check-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(config_init(&f->config), 0);
	f->check.config = &f->config;
	f->check.root = f->dir;
	f->path_env = strdup(getenv("PATH"));
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	check_done(&f->check);
	config_done(&f->config);
	setenv("PATH", f->path_env, 1);
	free(f->path_env);
	assert_int_equal(remove_tree(f->dir), 0);
	free(f);
	return 0;
}

/* A file below the fixture's directory; mode 0755 makes a program of it. */
static inline char *put(struct fixture *f, const char *name, const char *text, mode_t mode)
{
	static char path[256];
	char *slash;

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	slash = strrchr(path, '/');
	*slash = 0;
	assert_int_equal(mkdir_p(path, 0755), 0);
	*slash = '/';
	assert_int_equal(write_file(path, text, strlen(text), mode), 0);
	return path;
}

static inline const struct check_finding *finding(const struct fixture *f, const char *id)
{
	for (size_t i = 0; i < f->check.n; i++)
		if (str_eq(f->check.findings[i].id, id))
			return &f->check.findings[i];
	return NULL;
}

/* The finding is there, and its words hold `message`, and its fix `fix` (NULL: it has none). */
static inline void assert_found(const struct fixture *f, const char *id, enum check_status status,
				const char *message, const char *fix)
{
	const struct check_finding *found = finding(f, id);

	if (!found)
		fail_msg("no finding %s", id);
	if (found->status != status || !strstr(found->message, message))
		fail_msg("%s: status %d, \"%s\" is not %d, \"%s\"", id, found->status, found->message, status,
			 message);
	if (!fix && found->fix)
		fail_msg("%s: fix \"%s\" of a thing that is well", id, found->fix);
	if (fix && (!found->fix || !strstr(found->fix, fix)))
		fail_msg("%s: fix \"%s\" does not hold \"%s\"", id, found->fix ? found->fix : "", fix);
}

static inline void forget(struct fixture *f)
{
	check_done(&f->check);
	f->check.driver = NULL;
	f->check.kvm = false;
}

/* PATH is the fixture's bin/ alone; a program there answers --version with that line. */
static inline void program(struct fixture *f, const char *name, const char *version)
{
	char file[64], script[256];

	snprintf(file, sizeof(file), "bin/%s", name);
	snprintf(script, sizeof(script), "#!/bin/sh\necho '%s'\n", version);
	put(f, file, script, 0755);
}

static inline void only_bin(struct fixture *f)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/bin", f->dir);
	assert_int_equal(mkdir_p(path, 0755), 0);
	setenv("PATH", path, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif

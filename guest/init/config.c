/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/init/config_internal.h"

#include "base/util.h"

#include <stdio.h>

#define CMDLINE_MAX 65536
#define WORD_MAX_   256

struct parse {
	struct config config;
	bool level_given;
};

static int parse_bool(const char *key, const char *value, bool *ret, struct err *err)
{
	static const char *const yes[] = {"true", "1", "yes", "on"};
	static const char *const no[] = {"false", "0", "no", "off"};

	if (!value) {
		*ret = true;
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		if (str_eq(value, yes[i]) || str_eq(value, no[i])) {
			*ret = str_eq(value, yes[i]);
			return 0;
		}
	}
	return err_set(err, -EINVAL, "kernel command line: %s=%s: want true or false", key, value);
}

static int parse_shell(const char *value, struct config *c, struct err *err)
{
	if (!value || str_eq(value, "true"))
		return 0;
	if (*value != '/' || strlen(value) >= sizeof(c->debug_shell))
		return err_set(err, -EINVAL,
			       "kernel command line: task.debug_shell=%s: want an absolute path", value);
	memcpy(c->debug_shell, value, strlen(value) + 1);
	return 0;
}

static int parse_key(struct parse *p, const char *key, const char *value, struct err *err)
{
	struct config *c = &p->config;

	if (str_eq(key, "task.sharefs_type")) {
		if (str_eq(value, "virtiofs"))
			c->share = CONFIG_SHARE_VIRTIOFS;
		else if (str_eq(value, "9p"))
			c->share = CONFIG_SHARE_9P;
		else
			return err_set(err, -EINVAL,
				       "kernel command line: task.sharefs_type=%s: want virtiofs or 9p",
				       value ? value : "");
		return 0;
	}
	if (str_eq(key, "task.log_level")) {
		if (log_level_parse(value, &c->log_level) < 0)
			return err_set(err, -EINVAL,
				       "kernel command line: task.log_level=%s: want trace, debug, info, "
				       "warn or error",
				       value ? value : "");
		p->level_given = true;
		return 0;
	}
	if (str_eq(key, "task.debug"))
		return parse_bool(key, value, &c->debug, err);
	if (str_eq(key, "task.enable_tracing"))
		return parse_bool(key, value, &c->tracing, err);
	if (str_eq(key, "task.debug_shell"))
		return parse_shell(value, c, err);
	return err_set(err, -EINVAL, "kernel command line: unknown key %s", key);
}

/*
 * The next word of *p into word (quotes taken off); false at the end. A word that is too long is cut: it
 * is none of ours.
 */
static bool next_word(const char **p, char *word)
{
	const char *s = *p;
	size_t n = 0;
	bool quoted = false;

	while (*s == ' ' || *s == '\t' || *s == '\n')
		s++;
	if (!*s)
		return false;
	for (; *s && (quoted || (*s != ' ' && *s != '\t' && *s != '\n')); s++) {
		if (*s == '"')
			quoted = !quoted;
		else if (n < WORD_MAX_ - 1)
			word[n++] = *s;
	}
	word[n] = 0;
	*p = s;
	return true;
}

int config_parse(const char *cmdline, struct config *ret_config, struct err *err)
{
	struct parse p = {.config = {.share = CONFIG_SHARE_VIRTIOFS, .debug_shell = "/bin/sh"}};
	char word[WORD_MAX_];

	while (next_word(&cmdline, word)) {
		char *eq = strchr(word, '=');
		int r;

		if (!str_starts(word, "task."))
			continue;
		if (eq)
			*eq = 0;
		r = parse_key(&p, word, eq ? eq + 1 : NULL, err);
		if (r < 0)
			return r;
	}
	if (!p.level_given)
		p.config.log_level = p.config.tracing ? LOG_LEVEL_TRACE
				     : p.config.debug ? LOG_LEVEL_DEBUG
						      : LOG_LEVEL_INFO;
	*ret_config = p.config;
	return 0;
}

int config_load(struct config *ret_config, struct err *err)
{
	char *cmdline CLEANUP_FREE = NULL;
	int r = read_file("/proc/cmdline", CMDLINE_MAX, &cmdline, NULL);

	if (r < 0)
		return err_set_errno(err, r, "read /proc/cmdline");
	return config_parse(cmdline, ret_config, err);
}

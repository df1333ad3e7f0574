/* SPDX-License-Identifier: Apache-2.0 */
/*
 * toml_internal.h: TOML text as a walk over its keys. The C face of the one file of the configuration that is
 * C++.
 *
 * Threads:   no shared state.
 * Ownership: what the callback is given lives until it returns.
 * Errors:    "<name>:<line>: …"; -EINVAL for text that is not TOML. What the callback returns, if negative,
 *            ends the walk.
 * Source:    https://toml.io/en/v1.0.0
 */
#ifndef CRI_CONFIG_TOML_INTERNAL_H
#define CRI_CONFIG_TOML_INTERNAL_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum config_toml_type {
	CONFIG_TOML_STRING,
	CONFIG_TOML_INTEGER,
	CONFIG_TOML_BOOLEAN,
	CONFIG_TOML_STRINGS, /* an array of strings, also an empty one */
	CONFIG_TOML_TABLE,   /* its keys follow */
	CONFIG_TOML_OTHER,
};

struct config_toml_value {
	enum config_toml_type type;
	const char *type_name; /* "string", "floating-point", … for messages */
	const char *string;    /* without NULs, but for the last; never NULL */
	int64_t integer;
	bool boolean;
	const char *const *strings; /* NULL-terminated */
};

/* key: "hypervisor.virtiofsd.cache". */
typedef int config_toml_fn(void *arg, const char *key, unsigned int line,
			   const struct config_toml_value *value, struct err *err);
/* `name` is the file's, for messages. */
int config_toml_walk(const char *name, const char *text, size_t len, config_toml_fn *fn, void *arg,
		     struct err *err);

#endif

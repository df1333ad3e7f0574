/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conf_internal.h: a network configuration as read from a file, checked.
 *
 * Threads:   none of its own. A struct cni_conf belongs to one call on one thread: json-c counts references
 *            without atomics, so configurations are kept as text and parsed anew for each use.
 * Limits:    CNI_CONF_MAX bytes, CNI_CONF_PLUGINS plugins, CNI_JSON_DEPTH levels.
 * Errors:    name the file and the field.
 * Source:    CNI spec 1.0.0 and 1.1.0, section 1 "Network configuration format", section 4 "Deriving
 *            execution configuration".
 */
#ifndef CRI_NETWORK_CONF_INTERNAL_H
#define CRI_NETWORK_CONF_INTERNAL_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct json_object;

#define CNI_CONF_MAX	 (256 * 1024)
#define CNI_CONF_PLUGINS 32
#define CNI_JSON_DEPTH	 32

struct cni_plugin {
	const char *type;	  /* of conf */
	const char *ipam;	  /* ipam.type, NULL none */
	struct json_object *conf; /* borrowed from the configuration's tree */
};

struct cni_conf {
	struct json_object *tree; /* a list, also where the file held a single plugin */
	const char *name;	  /* of tree */
	char version[16];	  /* the one spoken with the plugins */
	int version_num;	  /* 1.0.0 is 10000, 0.4.0 is 400 */
	bool disable_check;
	bool disable_gc;
	struct cni_plugin plugins[CNI_CONF_PLUGINS];
	size_t n_plugins;
};

/* Parses `len` bytes; `file` serves the error messages only. A single plugin's configuration becomes a list
 * of one. */
int cni_conf_parse(const char *text, size_t len, const char *file, struct cni_conf **ret_conf,
		   struct err *err);
struct cni_conf *cni_conf_free(struct cni_conf *conf);
/* "0.3.0" … "1.1.0" to a number as in version_num; negative if it is none that is spoken here. */
int cni_version_num(const char *version);

/*
 * The first *.conflist, *.conf or *.json of dir, by name, hidden files apart: its path (malloc'ed). -ENOENT
 * with words if there is none.
 */
int cni_conf_find(const char *dir, char **ret_path, struct err *err);

/* Strict, bounded JSON: one value, nothing behind it. `what` begins the error message. */
int cni_json_parse(const char *text, size_t len, const char *what, struct json_object **ret_json,
		   struct err *err);
/* Adds value, which it takes over. 0 or -ENOMEM, also for a value NULL. */
int cni_json_put(struct json_object *object, const char *key, struct json_object *value);
/* A name as the spec allows it for networks and containers: [A-Za-z0-9][A-Za-z0-9_.-]*, at most 128 bytes. */
bool cni_name_valid(const char *name);

#endif

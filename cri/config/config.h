/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.h: /etc/crivisor/config.toml and its drop-ins.
 *
 * Ownership: struct config owns its strings; config_done frees them. Every key has a default (config_init).
 * Errors:    an unknown key, a wrong type or a value out of range names file, line and key.
 * Threads:   read once at start; immutable afterwards. What SIGHUP reads again goes to struct config_live.
 */
#ifndef CRI_CONFIG_CONFIG_H
#define CRI_CONFIG_CONFIG_H

#include "base/err.h"
#include "base/log.h"
#include "vmm/config.h"

#include <stdio.h>

#define CONFIG_PATH	  "/etc/crivisor/config.toml"
#define CONFIG_DROPIN_DIR "/etc/crivisor/config.d"

struct config {
	char *file; /* what was asked for; NULL: CONFIG_PATH */
	struct {
		char *socket;	 /* /run/crivisor/crivisor.sock */
		char *state_dir; /* /var/lib/crivisor */
		char *run_dir;	 /* /run/crivisor */
		enum log_level log_level;
	} server;
	struct {
		char **bin_dirs; /* /opt/cni/bin, /usr/lib/cni */
		char *conf_dir;	 /* /etc/cni/net.d */
	} cni;
	struct {
		char *registry_config_dir; /* /etc/crivisor/certs.d */
	} image;
	struct {
		char *cgroup_parent;	/* "/crivisor"; a pod's own wins */
		char **default_ulimits; /* words of ulimit.h; NULL: none beside spec/'s own */
		bool enable_tracing;
		bool allow_netns_rules;
		bool spoof_check;     /* true */
		char *uid_range;      /* words of uid_range.h */
		uint64_t layer_bytes; /* of a container's writable layer; 0: no limit, as with layer_files */
		uint32_t layer_files;
	} sandbox;
	struct {
		char *address;	     /* "127.0.0.1:0" */
		char *tls_cert_file; /* NULL: plain HTTP */
		char *tls_key_file;
	} stream;
	struct vmm_config hypervisor;
};

/* The defaults. 0 or -ENOMEM. */
int config_init(struct config *config);
/* Leaves a config that may be done again. */
void config_done(struct config *config);
/*
 * Reads `path` (NULL: CONFIG_PATH, which may be missing; a path given must exist), then each "*.toml" of
 * `<dir of path>/config.d` in the order of their names; later files override single keys. Checks values. A
 * default kernel_path or image_path that does not exist gives way to guest/ beside the running binary, if
 * that does. *ret_config needs no initialising; it is untouched on failure.
 */
int config_load(const char *path, struct config *ret_config, struct err *err);
/* What can change under a running server. */
struct config_live {
	enum log_level log_level;
	uint32_t vcpus; /* of a pod without limits, as is memory_bytes */
	uint64_t memory_bytes;
};
/*
 * Reads the files of `config` again, all or nothing: a mistake anywhere in them leaves *ret_live alone. Any
 * thread.
 */
int config_reload(const struct config *config, struct config_live *ret_live, struct err *err);
/* Writes a whole configuration, commented, as TOML that config_load accepts. 0 or -EIO. */
int config_write(const struct config *config, FILE *out);
int config_write_default(FILE *out);

#endif

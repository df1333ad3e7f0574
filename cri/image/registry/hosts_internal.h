/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hosts_internal.h: which hosts serve a registry: hosts.toml in containerd's layout.
 *
 * Purpose:   for a reference's registry, the hosts to ask in order: the [host."URL"] entries of
 *            <dir>/<host>_<port>_/hosts.toml, <dir>/<host:port>/hosts.toml or <dir>/_default/hosts.toml, as
 *            they stand in the file, then `server` (without it: the registry itself). A directory without
 *            hosts.toml gives *.crt, *.cert and *.key as Docker has them.
 * Source:    https://github.com/containerd/containerd/blob/main/docs/hosts.md and
 *            core/remotes/docker/config/hosts.go.
 * Differs:   a file that cannot be parsed is an error that names its line, not a silent fall-back; http:// is
 *            taken at its word.
 * Limits:    64 KiB a file, 32 hosts, 32 headers a host; paths must be absolute or lie beneath the directory.
 * Threads:   no shared state; the file is read each time, so that edits need no restart.
 */
#ifndef CRI_IMAGE_REGISTRY_HOSTS_INTERNAL_H
#define CRI_IMAGE_REGISTRY_HOSTS_INTERNAL_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define REGISTRY_HOSTS_MAX 32

struct registry_host {
	char *base;	    /* "https://mirror:5000/v2", no slash at the end */
	char *host;	    /* "mirror:5000" */
	bool pull, resolve; /* capabilities */
	bool skip_verify;
	bool http_fallback; /* loopback without configuration: TLS is tried first, then plain HTTP */
	bool is_registry;   /* the registry itself or its `server`: gets the credentials */
	char **ca;	    /* PEM files */
	char *client_cert, *client_key;
	char **headers; /* "Name: value" */
	long connect_timeout_ms;
};

struct registry_hosts {
	struct registry_host *items;
	size_t n_items;
};

/* `dir` may be NULL or missing. -EINVAL with status FailedPrecondition names file, line and fault. */
int registry_hosts_load(const char *dir, const char *domain, struct registry_hosts *ret_hosts,
			struct err *err);
/* The parser alone, for tests: `file` is for messages, `base_dir` for relative paths. */
int registry_hosts_parse(const char *text, size_t len, const char *file, const char *base_dir,
			 const char *domain, struct registry_hosts *ret_hosts, struct err *err);
void registry_hosts_done(struct registry_hosts *hosts);

#ifdef __cplusplus
}
#endif

#endif

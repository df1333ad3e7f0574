/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain_internal.h: one pod's attachment to a network, and the plugins' chain over it.
 *
 * Purpose:   an attachment keeps all that ADD was told (configuration, arguments, capabilities) and what it
 *            answered, so that CHECK and DEL tell the plugins the same, even after a restart of the server or
 *            a change of the configuration.
 * Threads:   one attachment, one thread.
 * Source:    CNI spec 1.0.0 and 1.1.0, sections 2 "Execution protocol" and 3 "Execution of network
 *            configurations".
 */
#ifndef CRI_NETWORK_CHAIN_INTERNAL_H
#define CRI_NETWORK_CHAIN_INTERNAL_H

#include "base/err.h"
#include "cri/network/cni.h"
#include "cri/network/conf_internal.h"

struct cni_attachment {
	char *id, *ifname, *netns;
	char *args;		  /* CNI_ARGS */
	char *file;		  /* the configuration came from here: for messages */
	char *config;		  /* its text */
	char *result;		  /* the chain's, NULL before it has answered */
	struct json_object *caps; /* what there is for runtimeConfig, by capability */
	struct cni_conf *conf;	  /* config, parsed */
};

/* `pod_cidrs` (may be NULL) is a comma-separated list of prefixes, for the capability ipRanges. */
int cni_attachment_new(const struct cni_pod *pod, const char *file, const char *config, const char *pod_cidrs,
		       struct cni_attachment **ret_att, struct err *err);
struct cni_attachment *cni_attachment_free(struct cni_attachment *att);
int cni_attachment_save(const struct cni_attachment *att, const char *path, struct err *err);
/* -ENOENT if there is no such file; -EBADMSG if it cannot be read as an attachment. */
int cni_attachment_load(const char *path, struct cni_attachment **ret_att, struct err *err);

/*
 * Runs the chain. ADD stops at the first failure (undoing is the caller's) and sets att->result at its end.
 * cancel_fd: as cni_run has it.
 */
int cni_chain_add(struct cni_attachment *att, char *const *bin_dirs, int64_t deadline_ns, int cancel_fd,
		  struct err *err);
int cni_chain_check(struct cni_attachment *att, char *const *bin_dirs, int64_t deadline_ns, struct err *err);
/* In reverse; goes on behind a plugin that fails, each having its share of the time; the first error is
 * returned. */
int cni_chain_del(struct cni_attachment *att, char *const *bin_dirs, int64_t deadline_ns, struct err *err);
/* The STATUS command (1.1.0; nothing for older configurations): is each plugin ready for an ADD? */
int cni_chain_status(const char *file, const char *config, char *const *bin_dirs, int64_t deadline_ns,
		     struct err *err);
/* The GC command (1.1.0) with the attachments that are alive: {containerID, ifname} objects; takes `valid`
 * over. */
int cni_chain_gc(const char *file, const char *config, char *const *bin_dirs, struct json_object *valid,
		 int64_t deadline_ns, struct err *err);

#endif

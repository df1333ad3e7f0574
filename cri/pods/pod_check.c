/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a RunPodSandbox asks for, before anything is begun: whether this server does it, and whether it makes
 * sense.
 */
#include "cri/pods/pods_internal.h"

#include "base/util.h"

#include <string.h>

/* A word of a line of resolv.conf, hostname or the like: no white space, no control characters. */
static int check_word(const char *what, const char *word, struct err *err)
{
	for (const char *p = word; *p; p++) {
		if ((unsigned char)*p <= ' ' || *p == 0x7f)
			return err_set(err, -EINVAL, "%s has white space or a control character in it", what);
	}
	return 0;
}

static int check_words(const char *what, char *const *words, size_t n, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = str_empty(words[i]) ? err_set(err, -EINVAL, "%s has an empty entry", what)
					: check_word(what, words[i], err);
	return r;
}

/* What ends up as a line of a file or as a path must not become two of them. */
static int check_lines(const Runtime__V1__PodSandboxConfig *config, struct err *err)
{
	const Runtime__V1__DNSConfig *dns = config->dns_config;
	int r = check_word("config.hostname", config->hostname, err);

	if (r == 0 && config->linux)
		r = check_word("config.linux.cgroup_parent", config->linux->cgroup_parent, err);
	if (r == 0 && strchr(config->metadata->name, '\n'))
		r = err_set(err, -EINVAL, "config.metadata.name has a line end in it");
	if (r == 0 && strchr(config->log_directory, '\n'))
		r = err_set(err, -EINVAL, "config.log_directory has a line end in it");
	if (r < 0 || !dns)
		return r;
	r = check_words("config.dns_config.servers", dns->servers, dns->n_servers, err);
	if (r == 0)
		r = check_words("config.dns_config.searches", dns->searches, dns->n_searches, err);
	return r < 0 ? r : check_words("config.dns_config.options", dns->options, dns->n_options, err);
}

int pod_check(const Runtime__V1__PodSandboxConfig *config, const char *handler, struct err *err)
{
	const Runtime__V1__NamespaceOption *ns = NULL;

	if (!config)
		return err_set(err, -EINVAL, "config is missing");
	if (!config->metadata || str_empty(config->metadata->name))
		return err_set(err, -EINVAL, "config.metadata.name is missing");
	if (!str_empty(handler) && !str_eq(handler, "crivisor"))
		return err_set(err, -EINVAL,
			       "no runtime handler \"%s\": this server has \"\" and \"crivisor\"", handler);
	if (config->windows)
		return err_set(err, -EINVAL, "config.windows: this server runs Linux pods only");
	if (config->linux && config->linux->security_context)
		ns = config->linux->security_context->namespace_options;
	if (ns && ns->network == RUNTIME__V1__NAMESPACE_MODE__NODE)
		return err_set_status(err, -EOPNOTSUPP, ERR_INVALID_ARGUMENT,
				      "host network: a pod in a VM has a network of its own, hostNetwork "
				      "pods cannot run here yet");
	if (ns && ns->ipc == RUNTIME__V1__NAMESPACE_MODE__NODE)
		return err_set_status(err, -EOPNOTSUPP, ERR_INVALID_ARGUMENT,
				      "host IPC: a pod in a VM cannot share the host's IPC namespace");
	if (ns && ns->userns_options && ns->userns_options->mode == RUNTIME__V1__NAMESPACE_MODE__POD)
		return err_set_status(err, -EOPNOTSUPP, ERR_INVALID_ARGUMENT,
				      "user namespaces are not supported by this version");
	if (strlen(config->hostname) > 64)
		return err_set(err, -EINVAL, "config.hostname is longer than 64 bytes");
	if (!str_empty(config->log_directory) && config->log_directory[0] != '/')
		return err_set(err, -EINVAL, "config.log_directory \"%s\" is not absolute",
			       config->log_directory);
	return check_lines(config, err);
}

/* What CNI would refuse is refused before anything is begun. */
int pod_check_network(const char *id, const Runtime__V1__PodSandboxConfig *config, struct err *err)
{
	struct cni_port ports[POD_PORTS_MAX];
	struct cni_pod view;
	int r = pod_cni_view(id, NULL, config, ports, POD_PORTS_MAX, &view, err);

	return r < 0 ? r : cni_pod_check(&view, err);
}

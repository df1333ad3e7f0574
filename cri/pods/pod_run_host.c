/* SPDX-License-Identifier: Apache-2.0 */
/* The host's part of a pod: its directories and files, namespaces, and cgroup. */
#include "cri/pods/pod_run_internal.h"

#include "base/util.h"
#include "cri/sandbox/share.h"
#include "vmm/cgroup.h"
#include "vmm/network.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RESOLV_MAX  (64 * 1024)
#define VMM_OWN_KVM (160 * MIB) /* VMM, virtiofsd and vsock daemon beside guest memory */
#define VMM_OWN_TCG (768 * MIB) /* and the translation cache */

/* resolv.conf as the pod's DNS config wants it, or the host's own where it has none. */
static int write_resolv(struct pod_run *run, struct err *err)
{
	const Runtime__V1__DNSConfig *dns = run->config->dns_config;
	char *text CLEANUP_FREE = NULL;
	size_t len = 0;
	FILE *f;

	if (!dns || (dns->n_servers == 0 && dns->n_searches == 0 && dns->n_options == 0)) {
		if (read_file("/etc/resolv.conf", RESOLV_MAX, &text, NULL) < 0)
			text = strdup("");
		return text ? share_write(run->pod->dir, "resolv.conf", text, err) : err_oom(err);
	}
	f = open_memstream(&text, &len);
	if (!f)
		return err_oom(err);
	if (dns->n_searches > 0) {
		fputs("search", f);
		for (size_t i = 0; i < dns->n_searches; i++)
			fprintf(f, " %s", dns->searches[i]);
		fputc('\n', f);
	}
	for (size_t i = 0; i < dns->n_servers; i++)
		fprintf(f, "nameserver %s\n", dns->servers[i]);
	if (dns->n_options > 0) {
		fputs("options", f);
		for (size_t i = 0; i < dns->n_options; i++)
			fprintf(f, " %s", dns->options[i]);
		fputc('\n', f);
	}
	if (fclose(f) != 0)
		return err_oom(err);
	return share_write(run->pod->dir, "resolv.conf", text, err);
}

const char *pod_run_hostname(const struct pod_run *run)
{
	return str_empty(run->config->hostname) ? run->config->metadata->name : run->config->hostname;
}

static int write_files(struct pod_run *run, struct err *err)
{
	char *hostname CLEANUP_FREE = xasprintf("%.64s\n", pod_run_hostname(run));
	int r;

	if (!hostname)
		return err_oom(err);
	r = write_resolv(run, err);
	if (r == 0)
		r = share_write(run->pod->dir, "hostname", hostname, err);
	if (r == 0)
		r = share_write(run->pod->dir, "hosts",
				"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n", err);
	return r;
}

/* Directories, files and namespaces on the host, in the order whose reverse is the right order of undoing. */
int pod_run_prepare(struct pod_run *run, struct err *err)
{
	struct pod *pod = run->pod;
	struct vmm_resources res = {0};
	const Runtime__V1__LinuxContainerResources *limits =
		run->config->linux ? run->config->linux->resources : NULL;
	uint64_t own = str_eq(run->choice.accel, "kvm") ? VMM_OWN_KVM : VMM_OWN_TCG;
	int r = pod_run_journal(run, "rundir", pod->dir, err);

	if (r < 0)
		return r;
	r = mkdir_p(pod->dir, 0711);
	if (r < 0)
		return err_set_errno(err, r, "making %s", pod->dir);
	r = pod_run_journal(run, "share", pod->dir, err);
	if (r == 0)
		r = share_create(pod->dir, err);
	if (r == 0)
		r = write_files(run, err);
	pod_run_trace(run, "share");
	if (r == 0)
		r = pod_run_journal(run, "netns", run->netns, err);
	if (r == 0)
		r = vmm_netns_create(run->netns, err);
	pod_run_trace(run, "network namespace");
	if (r == 0)
		r = vmm_tap_create(run->netns, TAP, run->choice.mtu_max ? run->choice.mtu_max : 1500, err);
	pod_run_trace(run, "tap");
	if (r == 0)
		r = pod_run_journal(run, "cni", run->netns, err);
	if (r == 0)
		r = pod_run_journal(run, "cgroup", run->cgroup, err);
	if (r < 0)
		return r;
	res.memory_limit_bytes = run->memory_bytes + own;
	if (limits) {
		res.cpu_shares = limits->cpu_shares > 0 ? (uint64_t)limits->cpu_shares : 0;
		res.cpu_quota_us = limits->cpu_quota;
		res.cpu_period_us = limits->cpu_period > 0 ? (uint64_t)limits->cpu_period : 0;
		res.cpuset_cpus = str_empty(limits->cpuset_cpus) ? NULL : limits->cpuset_cpus;
		res.cpuset_mems = str_empty(limits->cpuset_mems) ? NULL : limits->cpuset_mems;
	}
	return vmm_cgroup_create(run->cgroup, &res, err);
}

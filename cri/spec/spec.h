/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec.h: the OCI runtime spec (config.json) of a container in the guest, from CRI's words and the image's.
 *
 * Source:    https://github.com/opencontainers/runtime-spec (1.0.2); CRI's meaning of each field as
 *            containerd and CRI-O have it.
 * Threads:   no shared state.
 * Limits:    65536 environment variables, supplementary groups and mounts each; a seccomp profile of 1 MiB.
 * Errors:    a field that cannot be honoured is an error that names it (InvalidArgument where a VM cannot
 *            mean it, Unimplemented where it is yet to come), never left out in silence. One exception, as
 *            with containerd on a host without SELinux: selinux_options and selinux_relabel label nothing
 *            where nothing has labels. Limits of processes: nofile 1024:524288, no nproc, sigpending 65536,
 *            whatever the memory of the VM: the kernel derives the last two from it.
 * Masking:   masked_paths and readonly_paths are what CRI says (kubelet always does); none are made up.
 * Privileged: means the VM: all capabilities, no seccomp filter, writable /sys and own cgroup, the devices of
 *            OCI_GUEST_DEVICES. Not the VM's own disk (pmem), nor /dev/vsock: the agent stays out of reach.
 */
#ifndef CRI_SPEC_SPEC_H
#define CRI_SPEC_SPEC_H

#include "api/cri/runtime.pb-c.h"
#include "base/err.h"
#include "cri/image/image.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A mount of the CRI request, made ready on the host. */
struct oci_mount {
	const char *guest_source; /* path in the guest: below GUEST_SHARE_DIR */
	const char *destination;
	bool read_only;
	bool recursive_read_only;
	bool of_image; /* a volume of the image: gives way to a mount of the request at or above its place */
};

/* Who a container's process is. The groups are malloc'ed. */
struct spec_user {
	uint32_t uid, gid;
	uint32_t *groups; /* supplementary */
	size_t n_groups;
	bool no_entry; /* /etc/passwd does not name it */
};
/*
 * Looks a user up in /etc/passwd and /etc/group below a root file system; no symlink leaves it. user: "name",
 * "uid", "name:group", "uid:gid"; NULL or "": uid 0. A number without an entry stands for itself, with gid 0.
 * Supplementary groups are those of /etc/group that list the user's name. At most 4 MiB a file and 65536
 * groups.
 */
int spec_user_lookup(const char *rootfs, const char *user, struct spec_user *ret_user, struct err *err);

struct oci_spec_input {
	const Runtime__V1__PodSandboxConfig *pod;
	const Runtime__V1__ContainerConfig *container;
	const struct image_config *image;
	/*
	 * The image's or the request's user, looked up in the rootfs; NULL: root. run_as_user and
	 * run_as_group win over its uid and gid; run_as_username must have been looked up.
	 */
	const struct spec_user *user;
	const char *container_id;
	const char *sandbox_id;		/* for the annotations; NULL: left out */
	const struct oci_mount *mounts; /* volumes, in order */
	size_t n_mounts;
	const char *hostname_path, *hosts_path, *resolv_path; /* guest paths bound into the container unless a
								 mount covers them; NULL: none */
	const char *target_pid_path;	  /* namespace mode TARGET: "/proc/<guest pid>/ns/pid"; NULL else */
	const char *guest_cpus;		  /* the guest's CPUs, for the request's cpuset_cpus; NULL: all */
	const char *seccomp_profile_json; /* localhost profile read from the host; NULL none */
	const char *hostname;
	char *const *ulimits; /* words of ulimit.h, before the room's own for the same limit; NULL: none */
};
/* config.json, malloc'ed. */
int oci_spec_build(const struct oci_spec_input *input, char **ret_json, struct err *err);
/*
 * What of the request can be refused before anything is prepared (namespaces, devices, propagation, profiles,
 * ranges): as oci_spec_build refuses it. `user`, mounts and paths of the input may be unset.
 */
int oci_spec_check(const struct oci_spec_input *input, struct err *err);
/* The `process` object for an exec: the container's own process with other args, tty and no init-only
 * settings. */
int oci_spec_exec_process(const char *config_json, char *const *args, bool tty, char **ret_json,
			  struct err *err);
/*
 * The `linux.resources` object for Task.Update. guest_cpus as in the input. cpuset_cpus and cpuset_mems count
 * the host's CPUs and nodes and are only checked here: the guest has numbers of its own, and one node.
 */
int oci_spec_resources(const Runtime__V1__LinuxContainerResources *resources, const char *guest_cpus,
		       char **ret_json, struct err *err);
/*
 * The path of the localhost seccomp profile that the request names, without the "localhost/" prefix of old
 * clients: a pointer into it, or NULL where none is wanted (privileged included).
 */
const char *oci_spec_seccomp_path(const Runtime__V1__ContainerConfig *container);

#endif

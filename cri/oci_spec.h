/*
 * oci_spec.h: the OCI runtime spec (config.json) of a container in the guest, from CRI's words and the image's.
 *
 * Source:    https://github.com/opencontainers/runtime-spec (1.0.2); CRI's meaning of each field as containerd and CRI-O have it.
 * Threads:   pure functions.
 * Errors:    a field that cannot be honoured is an error that names it (InvalidArgument), never left out in silence.
 */
#ifndef CRI_OCI_SPEC_H
#define CRI_OCI_SPEC_H

#include "api/cri/runtime.pb-c.h"
#include "base/err.h"
#include "cri/image.h"

/* A mount of the CRI request, made ready on the host. */
struct oci_mount {
	const char *guest_source; /* path in the guest: GUEST_SHARE_DIR "/<container>/mounts/<n>" */
	const char *destination;
	bool read_only;
	bool recursive_read_only;
};

struct oci_spec_input {
	const Runtime__V1__PodSandboxConfig *pod;
	const Runtime__V1__ContainerConfig *container;
	const struct image_config *image;
	const struct image_user *user;    /* resolved (uid, gid, groups of the image) */
	const char *container_id;
	const struct oci_mount *mounts;   /* volumes, in order */
	size_t n_mounts;
	const char *hostname_path, *hosts_path, *resolv_path; /* guest paths bound into the container unless a mount covers them; NULL: none */
	const char *target_pid_path;      /* namespace mode TARGET: "/proc/<guest pid>/ns/pid"; NULL else */
	const char *seccomp_profile_json; /* localhost profile read from the host; NULL none */
	const char *hostname;
};
/* config.json, malloc'ed. */
int oci_spec_build(const struct oci_spec_input *input, char **ret_json, struct err *err);
/* The `process` object for an exec: the container's own process with other args, tty and no init-only settings. */
int oci_spec_exec_process(const char *config_json, char *const *args, bool tty, char **ret_json, struct err *err);
/* The `linux.resources` object for Task.Update. */
int oci_spec_resources(const Runtime__V1__LinuxContainerResources *resources, char **ret_json, struct err *err);

#endif

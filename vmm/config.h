/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.h: how VMs are run on this host: one per server, from [hypervisor] of its configuration.
 *
 * Threads:   the calls of vmm/ only read it; it may be shared by all of them.
 * Ownership: the strings belong to whoever filled it in, and outlive every call that is given it.
 * Units:     bytes.
 */
#ifndef VMM_CONFIG_H
#define VMM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Helpers (crivisor-spawn, virtiofsd, vhost-device-vsock) are looked for beside the running binary and in the
 * directory above it, in libexec/crivisor beside the binary's directory, in PATH, and in helper_dir, in this
 * order.
 */
#define VMM_HELPER_DIR "/usr/local/libexec/crivisor"

struct vmm_config {
	char *driver; /* "auto", "cloud-hypervisor", "qemu" */
	char *path;   /* the VMM's binary; NULL: search the default path and PATH */
	uint32_t vcpus;
	uint64_t memory_bytes;
	char *kernel_path;
	char *image_path;
	char *kernel_params; /* appended to the kernel command line; NULL: none */
	bool hugepages;
	char *entropy_source;
	bool debug;	      /* the VMM's own log level */
	char *virtiofsd_path; /* NULL: the Rust one if found, else Debian's C one */
	char *virtiofsd_log_level;
	char *virtiofsd_cache;
	uint32_t virtiofsd_thread_pool_size;
	uint32_t virtiofsd_max_files; /* descriptors of a virtiofsd; 0: what the server itself may have */
	bool task_debug;	      /* task.debug on the kernel command line */
	bool task_enable_tracing;
	char *spawn_helper;	 /* NULL: looked for as a helper */
	char *vsock_daemon_path; /* NULL: vhost-device-vsock, as a helper, else /dev/vhost-vsock */
	char *helper_dir;	 /* where deploy/setup installs helpers; NULL: VMM_HELPER_DIR */
};

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest_abi.h: the paths, ports and names on which host and guest agree outside any protocol message.
 *
 * Sources: ports and the share's tag and mount point as the described system has them; the rest is ours.
 */
#ifndef API_AGENT_GUEST_ABI_H
#define API_AGENT_GUEST_ABI_H

#define GUEST_PORT_AGENT   1024 /* ttrpc: Task, SandboxService, Streaming, Agent */
#define GUEST_PORT_CONSOLE 1025 /* debug shell, only with task.debug */

#define GUEST_SHARE_TAG "kuasar"
#define GUEST_SHARE_DIR "/run/kuasar/state"
#define GUEST_RESOLV	GUEST_SHARE_DIR "/resolv.conf" /* bound over /etc/resolv.conf if it exists */
#define GUEST_RUN_DIR	"/run/crivisor"
#define GUEST_SHM_DIR	GUEST_RUN_DIR "/shm" /* tmpfs: the pod's shared /dev/shm */
/*
 * Writable copies of the share's resolv.conf, hostname and hosts, for all containers of the pod; an agent
 * with the feature GUEST_FILES_FEATURE has them.
 */
#define GUEST_FILES_DIR	    GUEST_RUN_DIR "/files"
#define GUEST_FILES_FEATURE "pod-files"
#define GUEST_PIDNS	    GUEST_RUN_DIR "/pidns" /* bind mount of the pod's shared PID namespace */

/*
 * Agent.Dial: bytes that the host may send before the agent's first `window`, and that it never has more than
 * on the way; with the feature DIAL_WINDOW_FEATURE.
 */
#define DIAL_WINDOW	    (128 * 1024)
#define DIAL_WINDOW_FEATURE "dial-window"

/*
 * The share, as the guest sees it (read-only at the top; each mount below has its own mode):
 *   resolv.conf, hostname, hosts       the pod's files
 *   <container id>/config.json         OCI spec; <container id> is the bundle directory
 *   <container id>/rootfs              the container's root
 *   <container id>/volumes             what the agent mounts first: paths below the share, one a line
 *   <container id>/mounts/<n>          volumes of containers that earlier versions made
 *   volumes/<name>                     a volume, for all containers of the pod that mount its source
 * Pids and cgroups: containers live in the cgroup /crivisor/<container id> of the guest's cgroup v2 tree.
 */
#define GUEST_CGROUP_PARENT "/crivisor"

#define GUEST_SANDBOX_TYPE_URL "type.googleapis.com/crivisor.agent.v1.Sandbox"
#define GUEST_PROCESS_TYPE_URL "types.containerd.io/opencontainers/runtime-spec/1/Process"

#define GUEST_LOG_BUFFER_BYTES (128 * 1024) /* unacknowledged output that the agent keeps for one process */
#define GUEST_READLOG_MAX      (64 * 1024)

#endif

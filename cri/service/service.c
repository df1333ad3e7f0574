/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/service/service.h"

#include "api/cri/runtime.pb-c.h"

/* clang-format off */
#define METHOD(service, method, request, response, lane, handler)                        \
	{"/runtime.v1." service "/" #method, &runtime__v1__##request##__descriptor,       \
	 &runtime__v1__##response##__descriptor, lane, .unary = handler}
#define RUNTIME(method, message, lane, handler) \
	METHOD("RuntimeService", method, message##_request, message##_response, lane, handler)
#define IMAGE(method, message, lane, handler) \
	METHOD("ImageService", method, message##_request, message##_response, lane, handler)

/*
 * In the order of the .proto. Lanes: what only reads is quick; what ends something overtakes what makes
 * something. A row without handler is answered Unimplemented.
 */
const struct rpc_method service_methods[] = {
	/* RuntimeService */
	RUNTIME(Version, version, LANE_QUICK, service_version),
	RUNTIME(RunPodSandbox, run_pod_sandbox, LANE_SLOW, service_run_pod_sandbox),
	RUNTIME(StopPodSandbox, stop_pod_sandbox, LANE_STOP, service_stop_pod_sandbox),
	RUNTIME(RemovePodSandbox, remove_pod_sandbox, LANE_STOP, service_remove_pod_sandbox),
	RUNTIME(PodSandboxStatus, pod_sandbox_status, LANE_QUICK, service_pod_sandbox_status),
	RUNTIME(ListPodSandbox, list_pod_sandbox, LANE_QUICK, service_list_pod_sandbox),
	RUNTIME(StreamPodSandboxes, stream_pod_sandboxes, LANE_QUICK, NULL),
	RUNTIME(CreateContainer, create_container, LANE_SLOW, service_create_container),
	RUNTIME(StartContainer, start_container, LANE_SLOW, service_start_container),
	RUNTIME(StopContainer, stop_container, LANE_STOP, service_stop_container),
	RUNTIME(RemoveContainer, remove_container, LANE_STOP, service_remove_container),
	RUNTIME(ListContainers, list_containers, LANE_QUICK, service_list_containers),
	RUNTIME(StreamContainers, stream_containers, LANE_QUICK, NULL),
	RUNTIME(ContainerStatus, container_status, LANE_QUICK, service_container_status),
	RUNTIME(UpdateContainerResources, update_container_resources, LANE_QUICK, NULL),
	RUNTIME(ReopenContainerLog, reopen_container_log, LANE_SLOW, service_reopen_container_log),
	RUNTIME(ExecSync, exec_sync, LANE_EXEC, service_exec_sync),
	RUNTIME(Exec, exec, LANE_QUICK, NULL),
	RUNTIME(Attach, attach, LANE_QUICK, NULL),
	RUNTIME(PortForward, port_forward, LANE_QUICK, NULL),
	RUNTIME(ContainerStats, container_stats, LANE_QUICK, NULL),
	RUNTIME(ListContainerStats, list_container_stats, LANE_QUICK, NULL),
	RUNTIME(StreamContainerStats, stream_container_stats, LANE_QUICK, NULL),
	RUNTIME(PodSandboxStats, pod_sandbox_stats, LANE_QUICK, NULL),
	RUNTIME(ListPodSandboxStats, list_pod_sandbox_stats, LANE_QUICK, NULL),
	RUNTIME(StreamPodSandboxStats, stream_pod_sandbox_stats, LANE_QUICK, NULL),
	RUNTIME(UpdateRuntimeConfig, update_runtime_config, LANE_QUICK, service_update_runtime_config),
	RUNTIME(Status, status, LANE_QUICK, service_status),
	RUNTIME(CheckpointContainer, checkpoint_container, LANE_QUICK, NULL),
	METHOD("RuntimeService", GetContainerEvents, get_events_request, container_event_response, LANE_QUICK, NULL),
	RUNTIME(ListMetricDescriptors, list_metric_descriptors, LANE_QUICK, NULL),
	RUNTIME(ListPodSandboxMetrics, list_pod_sandbox_metrics, LANE_QUICK, NULL),
	RUNTIME(StreamPodSandboxMetrics, stream_pod_sandbox_metrics, LANE_QUICK, NULL),
	RUNTIME(RuntimeConfig, runtime_config, LANE_QUICK, service_runtime_config),
	RUNTIME(UpdatePodSandboxResources, update_pod_sandbox_resources, LANE_QUICK, NULL),

	/* ImageService */
	IMAGE(ListImages, list_images, LANE_QUICK, service_list_images),
	IMAGE(StreamImages, stream_images, LANE_QUICK, NULL),
	IMAGE(ImageStatus, image_status, LANE_QUICK, service_image_status),
	IMAGE(PullImage, pull_image, LANE_IMAGE, service_pull_image),
	IMAGE(RemoveImage, remove_image, LANE_STOP, service_remove_image),
	IMAGE(ImageFsInfo, image_fs_info, LANE_QUICK, service_image_fs_info),
	{0},
};
/* clang-format on */

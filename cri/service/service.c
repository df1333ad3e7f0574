/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/service/service.h"

#include "api/cri/runtime.pb-c.h"

/* clang-format off */
#define METHOD(service, method, request, response, lane, ...)                            \
	{"/runtime.v1." service "/" #method, &runtime__v1__##request##__descriptor,       \
	 &runtime__v1__##response##__descriptor, lane, __VA_ARGS__}
#define NONE .unary = NULL
#define RUNTIME(method, message, lane, ...) \
	METHOD("RuntimeService", method, message##_request, message##_response, lane, __VA_ARGS__)
#define IMAGE(method, message, lane, ...) \
	METHOD("ImageService", method, message##_request, message##_response, lane, __VA_ARGS__)

/*
 * In the order of the .proto. Lanes: what reads is quick, and so is what only begins work; the rest has lanes
 * of its own, so that it cannot hold up a read or a stop. A row without handler is answered Unimplemented.
 */
const struct rpc_method service_methods[] = {
	/* RuntimeService */
	RUNTIME(Version, version, LANE_QUICK, .unary = service_version),
	RUNTIME(RunPodSandbox, run_pod_sandbox, LANE_QUICK, .async = service_run_pod_sandbox),
	RUNTIME(StopPodSandbox, stop_pod_sandbox, LANE_QUICK, .async = service_stop_pod_sandbox),
	RUNTIME(RemovePodSandbox, remove_pod_sandbox, LANE_QUICK, .async = service_remove_pod_sandbox),
	RUNTIME(PodSandboxStatus, pod_sandbox_status, LANE_QUICK, .async = service_pod_sandbox_status),
	RUNTIME(ListPodSandbox, list_pod_sandbox, LANE_QUICK, .unary = service_list_pod_sandbox),
	RUNTIME(StreamPodSandboxes, stream_pod_sandboxes, LANE_QUICK, .stream = service_stream_pod_sandboxes),
	RUNTIME(CreateContainer, create_container, LANE_QUICK, .async = service_create_container),
	RUNTIME(StartContainer, start_container, LANE_QUICK, .async = service_start_container),
	RUNTIME(StopContainer, stop_container, LANE_QUICK, .async = service_stop_container),
	RUNTIME(RemoveContainer, remove_container, LANE_QUICK, .async = service_remove_container),
	RUNTIME(ListContainers, list_containers, LANE_QUICK, .unary = service_list_containers),
	RUNTIME(StreamContainers, stream_containers, LANE_QUICK, .stream = service_stream_containers),
	RUNTIME(ContainerStatus, container_status, LANE_QUICK, .unary = service_container_status),
	RUNTIME(UpdateContainerResources, update_container_resources, LANE_QUICK,
		.async = service_update_container_resources),
	RUNTIME(ReopenContainerLog, reopen_container_log, LANE_SLOW, .unary = service_reopen_container_log),
	RUNTIME(ExecSync, exec_sync, LANE_EXEC, .unary = service_exec_sync),
	RUNTIME(Exec, exec, LANE_QUICK, .unary = service_exec),
	RUNTIME(Attach, attach, LANE_QUICK, .unary = service_attach),
	RUNTIME(PortForward, port_forward, LANE_QUICK, .unary = service_port_forward),
	RUNTIME(ContainerStats, container_stats, LANE_QUICK, .async = service_container_stats),
	RUNTIME(ListContainerStats, list_container_stats, LANE_QUICK, .async = service_list_container_stats),
	RUNTIME(StreamContainerStats, stream_container_stats, LANE_QUICK,
		.stream = service_stream_container_stats),
	RUNTIME(PodSandboxStats, pod_sandbox_stats, LANE_QUICK, .async = service_pod_sandbox_stats),
	RUNTIME(ListPodSandboxStats, list_pod_sandbox_stats, LANE_QUICK,
		.async = service_list_pod_sandbox_stats),
	RUNTIME(StreamPodSandboxStats, stream_pod_sandbox_stats, LANE_QUICK,
		.stream = service_stream_pod_sandbox_stats),
	RUNTIME(UpdateRuntimeConfig, update_runtime_config, LANE_QUICK,
		.unary = service_update_runtime_config),
	RUNTIME(Status, status, LANE_QUICK, .unary = service_status),
	RUNTIME(CheckpointContainer, checkpoint_container, LANE_QUICK, NONE),
	METHOD("RuntimeService", GetContainerEvents, get_events_request, container_event_response, LANE_QUICK,
	       .stream = service_get_container_events),
	RUNTIME(ListMetricDescriptors, list_metric_descriptors, LANE_QUICK,
		.unary = service_list_metric_descriptors),
	RUNTIME(ListPodSandboxMetrics, list_pod_sandbox_metrics, LANE_QUICK,
		.async = service_list_pod_sandbox_metrics),
	RUNTIME(StreamPodSandboxMetrics, stream_pod_sandbox_metrics, LANE_QUICK,
		.stream = service_stream_pod_sandbox_metrics),
	RUNTIME(RuntimeConfig, runtime_config, LANE_QUICK, .unary = service_runtime_config),
	RUNTIME(UpdatePodSandboxResources, update_pod_sandbox_resources, LANE_QUICK,
		.async = service_update_pod_sandbox_resources),

	/* ImageService */
	IMAGE(ListImages, list_images, LANE_QUICK, .unary = service_list_images),
	IMAGE(StreamImages, stream_images, LANE_QUICK, .stream = service_stream_images),
	IMAGE(ImageStatus, image_status, LANE_QUICK, .unary = service_image_status),
	IMAGE(PullImage, pull_image, LANE_IMAGE, .unary = service_pull_image),
	IMAGE(RemoveImage, remove_image, LANE_STOP, .unary = service_remove_image),
	IMAGE(ImageFsInfo, image_fs_info, LANE_QUICK, .unary = service_image_fs_info),
	{0},
};
/* clang-format on */

/* SPDX-License-Identifier: Apache-2.0 */
/* What can be called in the guest. */
#include "cri/agent/agent.h"

#include "api/agent/agent.pb-c.h"
#include "api/agent/sandbox.pb-c.h"
#include "api/agent/streaming.pb-c.h"
#include "api/agent/task.pb-c.h"

/* `again`: repeatable. Delete is: a second one finds nothing, which its callers take as success. */
#define SANDBOX(method, req, resp, again)                                                                    \
	{                                                                                                    \
		.service = "grpc.SandboxService", .name = method, .request = &grpc__##req##__descriptor,     \
		.response = &resp##__descriptor, .repeatable = again                                         \
	}
#define AGENT(method, req, resp, again)                                                                      \
	{                                                                                                    \
		.service = "crivisor.agent.v1.Agent", .name = method,                                        \
		.request = &crivisor__agent__v1__##req##__descriptor, .response = &resp##__descriptor,       \
		.repeatable = again                                                                          \
	}
#define TASK(method, req, resp, again)                                                                       \
	{                                                                                                    \
		.service = "containerd.task.v2.Task", .name = method,                                        \
		.request = &containerd__task__v2__##req##__descriptor, .response = &resp##__descriptor,      \
		.repeatable = again                                                                          \
	}

const struct agent_method AGENT_CHECK = SANDBOX("Check", check_request, google__protobuf__empty, true);
const struct agent_method AGENT_SETUP_SANDBOX =
	SANDBOX("SetupSandbox", setup_sandbox_request, google__protobuf__empty, false);
const struct agent_method AGENT_UPDATE_INTERFACES =
	SANDBOX("UpdateInterfaces", update_interfaces_request, google__protobuf__empty, false);
const struct agent_method AGENT_UPDATE_ROUTES =
	SANDBOX("UpdateRoutes", update_routes_request, google__protobuf__empty, false);
const struct agent_method AGENT_EXEC_VM_PROCESS =
	SANDBOX("ExecVMProcess", exec_vmprocess_request, grpc__exec_vmprocess_response, false);
const struct agent_method AGENT_SYNC_CLOCK =
	SANDBOX("SyncClock", sync_clock_packet, grpc__sync_clock_packet, false);
const struct agent_method AGENT_GET_EVENTS = {
	.service = "grpc.SandboxService",
	.name = "GetEvents",
	.request = &google__protobuf__empty__descriptor,
	.response = &containerd__services__events__ttrpc__v1__envelope__descriptor,
};

const struct agent_method AGENT_INFO = AGENT("Info", info_request, crivisor__agent__v1__info_response, true);
const struct agent_method AGENT_READ_LOG =
	AGENT("ReadLog", read_log_request, crivisor__agent__v1__read_log_response, true);
const struct agent_method AGENT_ACK = AGENT("Ack", ack_request, google__protobuf__empty, true);
const struct agent_method AGENT_STATS =
	AGENT("Stats", stats_request, crivisor__agent__v1__stats_response, true);
const struct agent_method AGENT_ATTACH_DEVICE =
	AGENT("AttachDevice", attach_device_request, crivisor__agent__v1__attach_device_response, false);
const struct agent_method AGENT_ONLINE_RESOURCES = AGENT(
	"OnlineResources", online_resources_request, crivisor__agent__v1__online_resources_response, true);
/* A second call joins the first. */
const struct agent_method AGENT_SHUTDOWN =
	AGENT("Shutdown", shutdown_request, crivisor__agent__v1__shutdown_response, true);
const struct agent_method AGENT_UPDATE_NETWORK =
	AGENT("UpdateNetwork", update_network_request, google__protobuf__empty, true);
const struct agent_method AGENT_DIAL = AGENT("Dial", dial_data, crivisor__agent__v1__dial_data, false);

const struct agent_method AGENT_TASK_STATE =
	TASK("State", state_request, containerd__task__v2__state_response, true);
const struct agent_method AGENT_TASK_CREATE =
	TASK("Create", create_task_request, containerd__task__v2__create_task_response, false);
const struct agent_method AGENT_TASK_START =
	TASK("Start", start_request, containerd__task__v2__start_response, false);
const struct agent_method AGENT_TASK_DELETE =
	TASK("Delete", delete_request, containerd__task__v2__delete_response, true);
const struct agent_method AGENT_TASK_PIDS =
	TASK("Pids", pids_request, containerd__task__v2__pids_response, true);
const struct agent_method AGENT_TASK_PAUSE = TASK("Pause", pause_request, google__protobuf__empty, false);
const struct agent_method AGENT_TASK_RESUME = TASK("Resume", resume_request, google__protobuf__empty, false);
const struct agent_method AGENT_TASK_CHECKPOINT =
	TASK("Checkpoint", checkpoint_task_request, google__protobuf__empty, false);
const struct agent_method AGENT_TASK_KILL = TASK("Kill", kill_request, google__protobuf__empty, false);
const struct agent_method AGENT_TASK_EXEC =
	TASK("Exec", exec_process_request, google__protobuf__empty, false);
const struct agent_method AGENT_TASK_RESIZE_PTY =
	TASK("ResizePty", resize_pty_request, google__protobuf__empty, false);
const struct agent_method AGENT_TASK_CLOSE_IO =
	TASK("CloseIO", close_iorequest, google__protobuf__empty, false);
const struct agent_method AGENT_TASK_UPDATE =
	TASK("Update", update_task_request, google__protobuf__empty, false);
const struct agent_method AGENT_TASK_WAIT =
	TASK("Wait", wait_request, containerd__task__v2__wait_response, true);
const struct agent_method AGENT_TASK_STATS =
	TASK("Stats", stats_request, containerd__task__v2__stats_response, true);
const struct agent_method AGENT_TASK_CONNECT =
	TASK("Connect", connect_request, containerd__task__v2__connect_response, false);
const struct agent_method AGENT_TASK_SHUTDOWN =
	TASK("Shutdown", shutdown_request, google__protobuf__empty, false);

const struct agent_method AGENT_STREAM = {
	.service = "containerd.services.streaming.v1.Streaming",
	.name = "Stream",
	.request = &google__protobuf__any__descriptor,
	.response = &google__protobuf__any__descriptor,
};

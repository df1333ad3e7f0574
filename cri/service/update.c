/* SPDX-License-Identifier: Apache-2.0 */
/* RuntimeService: other limits for what runs. */
#include "cri/service/service.h"

#include "cri/pods/containers.h"
#include "cri/service/util_internal.h"

SERVICE_ASYNC(update_container_resources)
{
	const struct service *service = ctx;
	const Runtime__V1__UpdateContainerResourcesRequest *req = (const void *)request;

	containers_update(service->pods, req->container_id, req->linux, call, service_done, reply);
}

/* The overhead is the VM's, which was sized with it. */
SERVICE_ASYNC(update_pod_sandbox_resources)
{
	const struct service *service = ctx;
	const Runtime__V1__UpdatePodSandboxResourcesRequest *req = (const void *)request;

	pods_update(service->pods, req->pod_sandbox_id, req->resources, call, service_done, reply);
}

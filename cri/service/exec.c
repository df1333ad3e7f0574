/* SPDX-License-Identifier: Apache-2.0 */
/* RuntimeService: commands in containers, and streams to clients. */
#include "cri/pods/containers.h"
#include "cri/service/service.h"

#include "base/util.h"

static int copy_args(char ***args, char *const *from, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = strv_add(args, from[i]);
	return r;
}

SERVICE_HANDLER(exec_sync)
{
	const struct service *service = ctx;
	const Runtime__V1__ExecSyncRequest *req = (const void *)request;
	Runtime__V1__ExecSyncResponse *resp = (void *)response;
	struct exec_result result = {0};
	char **args CLEANUP_STRV = NULL;
	int r;

	if (copy_args(&args, req->cmd, req->n_cmd) < 0)
		return err_oom(err);
	r = containers_exec(service->pods, req->container_id, args, req->timeout, call, &result, err);
	if (r < 0)
		return r;
	resp->stdout.data = result.out;
	resp->stdout.len = result.out_len;
	resp->stderr.data = result.err_out;
	resp->stderr.len = result.err_len;
	resp->exit_code = result.exit_code;
	return 0;
}

SERVICE_HANDLER(exec)
{
	const struct service *service = ctx;
	const Runtime__V1__ExecRequest *req = (const void *)request;
	Runtime__V1__ExecResponse *resp = (void *)response;
	const struct container_io io = {req->stdin, req->stdout, req->stderr, req->tty};
	char **args CLEANUP_STRV = NULL;

	if (copy_args(&args, req->cmd, req->n_cmd) < 0)
		return err_oom(err);
	return containers_offer_exec(service->pods, req->container_id, args, &io, &resp->url, err);
}

SERVICE_HANDLER(attach)
{
	const struct service *service = ctx;
	const Runtime__V1__AttachRequest *req = (const void *)request;
	Runtime__V1__AttachResponse *resp = (void *)response;
	const struct container_io io = {req->stdin, req->stdout, req->stderr, req->tty};

	return containers_offer_attach(service->pods, req->container_id, &io, &resp->url, err);
}

/* The client names its ports again on the stream, for each connection: those of the request bind nobody. */
SERVICE_HANDLER(port_forward)
{
	const struct service *service = ctx;
	const Runtime__V1__PortForwardRequest *req = (const void *)request;
	Runtime__V1__PortForwardResponse *resp = (void *)response;

	for (size_t i = 0; i < req->n_port; i++) {
		if (req->port[i] <= 0 || req->port[i] > UINT16_MAX)
			return err_set(err, -EINVAL, "port %d is not valid", req->port[i]);
	}
	return pods_offer_forward(service->pods, req->pod_sandbox_id, &resp->url, err);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The size of a sandbox's guest. The machine plugs, then the guest's agent brings online; what the guest says
 * of its size is only believed where it says that something is missing.
 */
#include "cri/sandbox/sandbox_internal.h"

#include "api/agent/agent.pb-c.h"
#include "base/log.h"

#define RESIZE_NS    (30 * NS_PER_SEC)
#define TAKE_BACK_NS (20 * NS_PER_SEC)

struct resize {
	struct sandbox *sandbox;
	struct agent *agent;
	struct call *call;
	int64_t until_ns;
	struct vm_size before;
	uint64_t guest_bytes; /* MemTotal before; 0: memory does not grow */
};

/*
 * vcpus, total_bytes (of MemTotal): waited for, as long as the agent does; 0: not. *ret_total is what there
 * is.
 */
static int online(struct resize *z, uint32_t vcpus, uint64_t total_bytes, uint64_t *ret_total,
		  struct err *err)
{
	Crivisor__Agent__V1__OnlineResourcesRequest req = CRIVISOR__AGENT__V1__ONLINE_RESOURCES_REQUEST__INIT;
	Crivisor__Agent__V1__OnlineResourcesResponse *resp = NULL;
	int64_t left = z->until_ns - now_monotonic_ns();
	int r;

	req.vcpus = vcpus;
	/* The agent is content with fifteen sixteenths of what it is told. */
	req.memory = total_bytes + total_bytes / 15;
	r = agent_call_by(z->agent, z->call, &AGENT_ONLINE_RESOURCES, &req.base, left > 0 ? left : 1,
			  (ProtobufCMessage **)&resp, err);
	if (r < 0)
		return r;
	*ret_total = resp->memory;
	if (resp->vcpus < vcpus)
		r = err_set(err, -ETIMEDOUT, "the guest has %u of %u vCPUs online", resp->vcpus, vcpus);
	else if (resp->memory < total_bytes)
		r = err_set(err, -ETIMEDOUT,
			    "the guest has %llu bytes of memory at its disposal, %llu are wanted",
			    (unsigned long long)resp->memory, (unsigned long long)total_bytes);
	crivisor__agent__v1__online_resources_response__free_unpacked(resp, NULL);
	return r;
}

static int begin(struct resize *z, uint32_t vcpus, uint64_t memory_bytes, struct err *err)
{
	int r = sandbox_agent(z->sandbox, &z->agent, err);

	if (r == 0)
		r = sandbox_size(z->sandbox, &z->before, err);
	if (r < 0 || (vcpus <= z->before.vcpus && memory_bytes <= z->before.memory_bytes))
		return r;
	if (!agent_has(z->agent, "online-resources"))
		return err_set_status(err, -EOPNOTSUPP, ERR_FAILED_PRECONDITION,
				      "the guest's agent cannot bring vCPUs and memory online");
	return memory_bytes > z->before.memory_bytes ? online(z, 0, 0, &z->guest_bytes, err) : 0;
}

/* What was plugged is of use only once the guest has it online. */
static int finish(struct resize *z, uint32_t vcpus, uint64_t memory_bytes, struct err *err)
{
	uint64_t total = 0, more = memory_bytes - z->before.memory_bytes;

	if (vcpus < z->before.vcpus)
		vcpus = 0;
	if (memory_bytes > z->before.memory_bytes)
		total = z->guest_bytes + more - more / 16;
	return vcpus || total ? online(z, vcpus, total, &total, err) : 0;
}

/* The guest may have let go of a part that it has again now. */
static void take_back(struct resize *z, const struct vmm_resources *limits, bool plugged)
{
	struct err err = ERR_INIT;
	uint64_t total;
	int r = 0;

	z->call = NULL; /* it may have ended */
	z->until_ns = now_monotonic_ns() + TAKE_BACK_NS;
	if (plugged)
		r = z->sandbox->driver->resize(z->sandbox, z->before.vcpus, z->before.memory_bytes, limits,
					       z->until_ns, &err);
	if (r == 0 && agent_has(z->agent, "online-resources"))
		r = online(z, z->before.vcpus, 0, &total, &err);
	if (r < 0)
		log_line(LOG_LEVEL_ERROR, LOG_FIELDS("sandbox", z->sandbox->id),
			 "giving the guest its former size: %s", err.msg);
}

int sandbox_resize(struct sandbox *sandbox, struct call *call, uint32_t vcpus, uint64_t memory_bytes,
		   const struct vmm_resources *limits, struct err *err)
{
	struct resize z = {.sandbox = sandbox, .call = call, .until_ns = call_until(call, RESIZE_NS)};
	bool plugged;
	int r = begin(&z, vcpus, memory_bytes, err);

	if (r < 0)
		return r;
	r = sandbox->driver->resize(sandbox, vcpus, memory_bytes, limits, z.until_ns, err);
	plugged = r == 0;
	if (r == 0)
		r = finish(&z, vcpus, memory_bytes, err);
	if (r < 0 && (vcpus || memory_bytes))
		take_back(&z, limits, plugged);
	return r;
}

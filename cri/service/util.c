/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/service/util_internal.h"

#include "base/util.h"
#include "api/pb.h"

#include <signal.h>

/* Any entry of a map<string, string>. */
typedef Runtime__V1__PodSandboxConfig__LabelsEntry Entry;

int service_copy_map(void *to_vector, size_t *n_to, const void *from_vector, size_t n_from)
{
	Entry *const *from = from_vector;
	Entry **copy;

	if (n_from == 0)
		return 0;
	copy = calloc(n_from, sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	for (size_t i = 0; i < n_from; i++) {
		copy[i] = PB_CLONE(from[i]);
		if (!copy[i]) {
			while (i > 0)
				pb_free(copy[--i]);
			free(copy);
			return -ENOMEM;
		}
	}
	memcpy(to_vector, &copy, sizeof(copy));
	*n_to = n_from;
	return 0;
}

bool service_labels_match(const void *selector, size_t n_selector, const void *labels, size_t n_labels)
{
	Entry *const *want = selector;
	Entry *const *have = labels;

	for (size_t i = 0; i < n_selector; i++) {
		const char *value = NULL;

		for (size_t k = 0; k < n_labels; k++) {
			if (str_eq(have[k]->key, want[i]->key))
				value = have[k]->value; /* of duplicates the last counts */
		}
		if (!value || !str_eq(value, want[i]->value))
			return false;
	}
	return true;
}

Runtime__V1__ContainerState service_container_state(const struct container_view *view)
{
	switch (view->state) {
	case CONTAINER_CREATED:
		return RUNTIME__V1__CONTAINER_STATE__CONTAINER_CREATED;
	case CONTAINER_RUNNING:
		return RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING;
	case CONTAINER_EXITED:
		return RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED;
	case CONTAINER_CREATING:
		break;
	}
	return RUNTIME__V1__CONTAINER_STATE__CONTAINER_UNKNOWN;
}

void service_done(void *arg, const char *id, const struct err *err)
{
	(void)id;
	rpc_reply_end(arg, NULL, err);
}

static int fill_user(Runtime__V1__ContainerStatus *s, const struct container_view *view)
{
	Runtime__V1__LinuxContainerUser *user;

	s->user = pb_new(&runtime__v1__container_user__descriptor);
	if (!s->user)
		return -ENOMEM;
	user = s->user->linux = pb_new(&runtime__v1__linux_container_user__descriptor);
	if (!user)
		return -ENOMEM;
	user->uid = view->uid;
	user->gid = view->gid;
	if (view->n_groups > 0) {
		user->supplemental_groups = calloc(view->n_groups, sizeof(int64_t));
		if (!user->supplemental_groups)
			return -ENOMEM;
		memcpy(user->supplemental_groups, view->groups, view->n_groups * sizeof(int64_t));
		user->n_supplemental_groups = view->n_groups;
	}
	return 0;
}

/* SIGTERM → CRI's SIGTERM, 34+n → SIGRTMINPLUSn, …: the enum's names are signal names without punctuation. */
static Runtime__V1__Signal cri_signal(uint32_t number)
{
	const ProtobufCEnumValue *v = NULL;
	char name[32];

	if (number < 32 && sigabbrev_np((int)number))
		snprintf(name, sizeof(name), "SIG%s", sigabbrev_np((int)number));
	else if (number == 34)
		snprintf(name, sizeof(name), "SIGRTMIN");
	else if (number == 64)
		snprintf(name, sizeof(name), "SIGRTMAX");
	else if (number > 34 && number <= 49)
		snprintf(name, sizeof(name), "SIGRTMINPLUS%u", number - 34);
	else
		snprintf(name, sizeof(name), "SIGRTMAXMINUS%u", 64 - number);
	v = protobuf_c_enum_descriptor_get_value_by_name(&runtime__v1__signal__descriptor, name);
	return v ? (Runtime__V1__Signal)v->value : RUNTIME__V1__SIGNAL__RUNTIME_DEFAULT;
}

static int fill_mounts(Runtime__V1__ContainerStatus *s, const Runtime__V1__ContainerConfig *config)
{
	if (config->n_mounts == 0)
		return 0;
	s->mounts = calloc(config->n_mounts, sizeof(*s->mounts));
	if (!s->mounts)
		return -ENOMEM;
	for (size_t i = 0; i < config->n_mounts; i++) {
		s->mounts[i] = PB_CLONE(config->mounts[i]);
		if (!s->mounts[i])
			return -ENOMEM;
		s->n_mounts = i + 1;
	}
	return 0;
}

int service_container_status_of(Runtime__V1__ContainerStatus *s, const struct container_view *view)
{
	const Runtime__V1__ContainerConfig *config = view->config;

	s->state = service_container_state(view);
	s->created_at = view->created_at_ns;
	s->started_at = view->started_at_ns;
	s->finished_at = view->finished_at_ns;
	s->exit_code = view->exit_code;
	s->stop_signal = cri_signal(view->stop_signal);
	s->metadata = PB_CLONE(config->metadata);
	s->image = PB_CLONE(config->image);
	if (!s->metadata || !s->image || pb_set_str(&s->id, view->id) < 0 ||
	    pb_set_str(&s->image_ref, view->image_ref) < 0 || pb_set_str(&s->image_id, view->image_id) < 0 ||
	    pb_set_str(&s->reason, view->reason) < 0 || pb_set_str(&s->message, view->message) < 0 ||
	    pb_set_str(&s->log_path, view->log_path) < 0 ||
	    (!str_empty(view->image_name) && pb_set_str(&s->image->image, view->image_name) < 0))
		return -ENOMEM;
	if (view->resources) {
		s->resources = pb_new(&runtime__v1__container_resources__descriptor);
		if (!s->resources)
			return -ENOMEM;
		s->resources->linux = PB_CLONE(view->resources);
	}
	if (fill_user(s, view) < 0 || fill_mounts(s, config) < 0 ||
	    service_copy_map(&s->labels, &s->n_labels, config->labels, config->n_labels) < 0)
		return -ENOMEM;
	return service_copy_map(&s->annotations, &s->n_annotations, config->annotations,
				config->n_annotations);
}

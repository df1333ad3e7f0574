/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pods_internal.h: what the files of this room share: the room, a pod, a container, and the work on them.
 *
 * Locks:     in the order in which they may nest:
 *            - pod.telling: held while a hook of the room is told of the pod or one of its containers, so
 *              that the events of a pod come in their order. Taken with no other lock held.
 *            - pod.rows: the rows of one pod and of its containers in the store. Held while a state is read
 *              and written, so that an older state never overwrites a newer one and no row comes back after
 *              its removal.
 *            - pod.lock: one pod's fields and those of its containers. Held for an access, never across a
 *              call to a sandbox's agent, a CNI plugin, a registry or the store.
 *            - table.lock: innermost (object_internal.h). Turns: long work is marked, not locked: pod.op and
 *              container.op say who is changing the object. Jobs wait for their turn on pod.changed, at most
 *              until their call's deadline. Reads take pod.lock alone, so they never wait for work.
 * Ownership: strings and messages of a state are written before the object is shown, or once at its end: a
 *            view may keep pointers to them while it holds a reference.
 */
#ifndef CRI_PODS_PODS_INTERNAL_H
#define CRI_PODS_PODS_INTERNAL_H

#include "api/cri/state.pb-c.h"
#include "base/util.h"
#include "cri/agent/agent.h"
#include "cri/pods/containers.h"
#include "cri/pods/object_internal.h"
#include "cri/pods/pods.h"
#include "cri/spec/spec.h"
#include "cri/stream/stream.h"
#include "base/buf.h"

struct log_pump;
struct container_usage;
struct pod_usage;

typedef Crivisor__State__V1__Pod PodState;
typedef Crivisor__State__V1__Container ContainerState;

#define POD_READY  CRIVISOR__STATE__V1__PHASE__PHASE_READY
#define POD_EXITED CRIVISOR__STATE__V1__PHASE__PHASE_EXITED

#define TURN_NS	    (300 * NS_PER_SEC) /* for a stop or a removal, its wait for others' work included */
#define CREATION_NS (600 * NS_PER_SEC) /* for a creation; nearly all of it is its wait for other boots */
#define CALL_NS	    (20 * NS_PER_SEC)  /* for the guest to answer a short call */

struct pods {
	struct pods_parts parts; /* immutable */
	struct pods_hooks hooks; /* immutable */
	struct table pods, containers;
	_Atomic uint32_t vcpus;
	_Atomic uint64_t memory_bytes;
	atomic_bool closed;
	struct loop_source *unclaimed; /* loop thread: the next look at what nobody has claimed */
	int64_t unclaimed_ns;	       /* immutable */
	atomic_uint execs;	       /* of all pods, as is exec_bytes */
	atomic_size_t exec_bytes;
	struct container *timed; /* loop thread: the containers whose stop has a timer */
	struct {
		struct loop_source *timer;
		bool busy;   /* a look is under way, or the timer is set */
		bool wanted; /* a container has begun to run since the look began */
		unsigned int
			/* what the last look saw, and how long it took: its job's, then the loop's */
			running;
		int64_t took_ns;
	} layers; /* loop thread */
};

/* ---- pods: pod.c --------------------------------------------------------------------------------------- */

enum work {
	WORK_NONE,
	WORK_CREATE,
	WORK_START,
	WORK_STOP,
	WORK_REMOVE,
	WORK_ADOPT,
	WORK_UPDATE,
};

struct pod {
	struct object object;	 /* first */
	struct pods *pods;	 /* immutable */
	struct sandbox *sandbox; /* a reference; set before the pod is shown, then immutable */
	/*
	 * Of its adoption, always good: how it came out, the phase says. Immutable; NULL: this server made
	 * it.
	 */
	struct outcome *adopted;

	pthread_mutex_t telling;
	pthread_mutex_t rows;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* of op, phase, gone, and of its containers */
	enum work op;
	bool gone;		  /* its row is deleted */
	atomic_uint execs;	  /* commands of ExecSync under way */
	atomic_size_t exec_bytes; /* their output, as exec_hold counts it */
	uint64_t cpus_epoch;	  /* grows with each change of state->vcpu_cpus */
	PodState *state;	  /* as stored */
	bool sizing;		  /* somebody changes the VM's size: pod_fit */
	bool shrinking;		  /* a job of pod_shrink has not begun */
	/* What it had before the update in progress, else NULL; what the update lends. */
	const Runtime__V1__LinuxContainerResources *updated_from;
	struct outcome *stopping; /* of the stop in progress, else NULL */
	struct outcome *removing;
	struct pod_stats {
		struct outcome *sampling; /* of the sample under way, which holds it; else NULL */
		int64_t begun_ns;	  /* of the last sample; 0: none yet */
		int64_t layers_at_ns;	  /* when writable layers were measured */
		struct pod_usage *usage;  /* NULL before the first sample */
	} stats;
};

/* Takes over `state`. NULL: out of memory, and the state is the caller's still. */
struct pod *pod_new(struct pods *pods, const char *id, PodState *state);
static inline void pod_cleanup(struct pod **pod)
{
	if (*pod)
		object_unref(&(*pod)->object);
}
#define CLEANUP_POD CLEANUP(pod_cleanup)
void pod_free(struct object *object);
int pod_find(struct pods *pods, const char *id, struct pod **ret_pod, struct err *err);
/* "<name>_<namespace>_<uid>_<attempt>", malloc'ed. */
char *pod_name(const Runtime__V1__PodSandboxConfig *config);
/* Writes the row of the state as it is now; -ENOENT once the pod is gone. */
int pod_store(struct pod *pod, struct err *err);
int pod_store_object(struct object *object, struct err *err);
/* Deletes the row, for good. */
int pod_forget(struct pod *pod, struct err *err);
/* Waits for the turn and takes it. -ENOENT if the pod is gone by then; or what ended the call. */
int pod_turn_take(struct pod *pod, enum work op, struct call *call, struct err *err);
void pod_turn_give(struct pod *pod);
/* Whether this server is still taking it over from the one before. */
bool pod_is_adopted_now(struct pod *pod);
/* Waits for the end of that, whichever. */
int pod_wait_adoption(struct pod *pod, struct call *call, struct err *err);
/* The agent of a ready pod, valid as long as the caller's reference to the pod; or why there is none. */
int pod_agent(struct pod *pod, struct agent **ret_agent, struct err *err);
bool pod_is_ready(struct pod *pod);
/* Turns a ready pod not ready: true if it was ready. */
bool pod_end(struct pod *pod, const char *why);
void pod_tell(struct pod *pod, enum pods_event event);
/*
 * A call on a pod that is being adopted, to be made again, with what it was given, when that has ended.
 * timeout_s and config where the call has one.
 */
struct pod_later {
	void (*again)(struct pods *pods, const struct pod_later *later);
	char id[65];
	int64_t timeout_s;
	const Runtime__V1__ContainerConfig *config; /* copied */
	struct call *call;
	pods_done_fn *done;
	void *arg;
};
/* False: it is not being adopted. True: the call will be made again, or it has ended and is answered. */
bool pod_later(struct pod *pod, const struct pod_later *later);
/* Waits until it is adopted, as long as the call lasts. Blocks. */
int pod_wait_adopted(struct pod *pod, struct call *call, struct err *err);
/* The sandbox's hooks. */
void pod_sandbox_hooks(struct pod *pod, struct sandbox_hooks *ret);
/*
 * No hook runs any more when this returns. Before the last reference goes, and with no lock held: a hook
 * takes one.
 */
void pod_unhook(struct pod *pod);
/* What CNI is told: its pointers live as long as config; ports is the caller's array of n. */
int pod_cni_view(const char *id, const char *netns, const Runtime__V1__PodSandboxConfig *config,
		 struct cni_port *ports, size_t n_ports, struct cni_pod *ret, struct err *err);
#define POD_PORTS_MAX 64
#define POD_IFNAME    "eth0" /* of the interface that CNI makes */

/* pod_check.c: refuses what cannot be run before anything is begun. The errors name the field. */
int pod_check(const Runtime__V1__PodSandboxConfig *config, const char *handler, struct err *err);
int pod_check_network(const char *id, const Runtime__V1__PodSandboxConfig *config, struct err *err);

/* pod_undo.c: undoes a journalled step of a pod or container; ctx is the room. */
int pod_undo(void *ctx, const char *owner, const char *kind, const char *arg, struct err *err);
/* All of a pod: its own steps, then its sandbox's. */
int pod_undo_all(struct pods *pods, const char *id, const char *sandbox_id, struct err *err);

/* ---- containers: container.c --------------------------------------------------------------------------- */

struct container {
	struct object object; /* first */
	struct pods *pods;    /* immutable */
	struct pod *pod;      /* immutable, a reference. What follows is under pod.lock, but for `stop` */

	enum work op;
	bool gone;
	enum pods_event told; /* pod.telling: the last one, 0: none */
	ContainerState *state;
	struct log_pump *pump; /* set at start, freed with the container */
	bool wait_pending;     /* the agent has been asked to tell its exit */
	bool ending;	       /* the guest has told its exit; it shows once the log is complete */
	bool exit_unknown;     /* the guest does not know it */
	int32_t exit_code;     /* with `ending` */
	int64_t exit_at_ns;
	char full[160];			     /* why it is killed: its writable layer exceeds the limit */
	struct outcome *starting, *removing; /* of the work in progress, else NULL */
	struct container_usage *usage;	     /* NULL before the first sample */
	Runtime__V1__LinuxContainerResources **kept; /* former state->resources, which views may point to */
	size_t n_kept;
	const Runtime__V1__LinuxContainerResources *updated_from; /* as the pod's */

	struct outcome *stopping; /* of the stop in progress, else NULL */
	int64_t kill_at_ns;	  /* when it sends SIGKILL */
	struct {
		enum stop_stage {
			STOP_BEGINS,
			STOP_SIGNALLED, /* until kill_at_ns */
			STOP_KILLED,
			STOP_DRAINS, /* it has ended, its log is not complete */
			STOP_CONDEMNED,
		} stage;
		struct loop_source *timer;     /* holds a reference */
		struct container *next, *prev; /* in pods->timed, while it has a timer */
	} stop;				       /* loop thread */
};

/* Takes over `state`. NULL: out of memory, and the state is the caller's still. */
struct container *container_new(struct pod *pod, const char *id, ContainerState *state);
static inline void container_cleanup(struct container **container)
{
	if (*container)
		object_unref(&(*container)->object);
}
#define CLEANUP_CONTAINER CLEANUP(container_cleanup)
void container_free(struct object *object);
int container_find(struct pods *pods, const char *id, struct container **ret_container, struct err *err);
/* References to those of a pod (NULL: all), as table_list. */
int container_list(struct pods *pods, const struct pod *pod, bool hidden_too, struct object ***ret_list,
		   struct err *err);
static inline struct container *container_of(struct object *object)
{
	return (struct container *)(void *)object;
}
/* pod_later of its pod, for a call on this container: sets the id. */
bool container_later(struct container *container, const struct pod_later *later);
/* "<name>_<attempt> in pod <pod id>", malloc'ed. */
char *container_name(const Runtime__V1__ContainerConfig *config, const char *pod_id);
int container_store(struct container *container, struct err *err);
int container_store_object(struct object *object, struct err *err);
int container_forget(struct container *container, struct err *err);
int container_turn_take(struct container *container, enum work op, struct call *call, struct err *err);
void container_turn_give(struct container *container);
/* Its limits as they are now, NULL: none. Valid as long as the container. */
const Runtime__V1__LinuxContainerResources *container_resources(struct container *container);
/* Its state at this moment; -1 once it is gone. */
int container_state(struct container *container);
void container_tell(struct container *container, enum pods_event event);
void container_tell_stats(struct container *container, const ProtobufCMessage *stats);
/* Its OCI runtime spec, malloc'ed. */
int container_spec(struct container *container, char **ret_json, struct err *err);
/* "<state_dir>/logs/<id>.pos", malloc'ed. */
char *container_pos_path(const struct pods *pods, const char *id);
/* Ends the creations of containers in the pod, and waits until they have ended. */
int container_wait_creations(struct pod *pod, struct call *call, struct err *err);

/* container_exit.c */
/* Asks the agent to tell the exit; on the loop, soon. Waits for a second at most, if memory is short. */
int container_watch(struct container *container, struct err *err);
/*
 * The agent's connection stands again: asks for all of the pod's whose question was lost with it. Loop
 * thread.
 */
void container_watch_again(struct pod *pod);
/*
 * Marks it as exited and stores that; the first one counts. reason NULL: derived from code. Takes the place
 * of a start's or stop's end.
 */
void container_exited(struct container *container, int32_t code, int64_t at_ns, const char *reason,
		      const char *message);
/* The pod's sandbox is dead: every container of it that had not exited has now, with 137. */
void container_sandbox_died(struct pod *pod, const char *why);

/* layers.c */
/* A container runs: its writable layer is looked at from now on, where there is a limit. Loop thread. */
void layers_watch(struct pods *pods);

/* container_start.c */
int container_log_start(struct container *container, struct agent *agent, bool resume, struct call *call,
			struct err *err);

/* container_stop.c */
/*
 * The outcome of a stop that sends SIGKILL at kill_at_ns at the latest (0: at once): a reference; NULL with
 * 0: it does not run.
 */
int container_stop_begin(struct container *container, int64_t kill_at_ns, struct outcome **ret_outcome,
			 struct err *err);
/*
 * Goes on with a stop that the previous server had begun: with its signal again, and the rest of its grace
 * period.
 */
void container_stop_resume(struct container *container);
/* The server ends: a stop in progress is the next one's. On the loop's thread, or when the loop has ended. */
void container_stop_forget(struct container *container);
/* The same for containers that were removed while their timer could not be taken away. */
void container_stops_forget(struct pods *pods);
/* It has exited: whoever waits for a stop is answered. */
void container_stop_over(struct container *container);
/*
 * Kills all containers of a pod and waits, at most until the deadline, for their exits and the rest of their
 * logs. It fails only if there is no memory to list them.
 */
int container_kill_all(struct pod *pod, int64_t deadline_ns, struct err *err);

/* container_prepare.c: what CreateContainer makes on the host and in the guest. */
struct creation {
	struct container *container; /* a reference */
	struct pods *pods;
	struct pod *pod;
	const Runtime__V1__ContainerConfig *config; /* the container's */
	struct agent *agent;
	struct image *image;
	struct spec_user user;
	struct sandbox_place place;
	struct oci_mount *mounts;
	size_t n_mounts;
	char *target_pid_path;
	char *guest_cpus;
	bool task_tried; /* the guest may have it */
};
/* InvalidArgument, naming the field. */
int creation_check(const Runtime__V1__ContainerConfig *config, struct err *err);
/* Refuses what has no meaning in a VM, the image's configuration included. */
int creation_check_spec(struct creation *c, struct err *err);
uint32_t creation_stop_signal(const Runtime__V1__ContainerConfig *config, const struct image *image);
/* Root, mounts, spec, then the guest's part. A failure leaves what it has begun in the journal. */
int creation_steps(struct creation *c, struct err *err);
/* Frees what it holds, but for the container's reference. */
void creation_done(struct creation *c);

/* exec_share.c: what the commands of ExecSync may hold of the server. */
/* ResourceExhausted where the pod has its share already. */
int exec_enter(struct pod *pod, struct err *err);
/* The command holds `held` bytes of output, and may it hold `more`? ResourceExhausted. */
int exec_hold(struct pod *pod, size_t held, size_t more, struct err *err);
/* With the bytes that exec_hold has granted in all. */
void exec_leave(struct pod *pod, size_t held);

/* container_exec.c: the steps of a command, of ExecSync's and of a stream's. */
/* Registers it with the guest. Blocks. */
int exec_add(struct container *container, struct agent *agent, const char *exec_id, char *const *args,
	     const struct container_io *io, struct err *err);
int exec_start(struct container *container, struct agent *agent, const char *exec_id, struct err *err);
/*
 * A further connection to the agent. While the control connection is dialled anew, it waits until that
 * stands. Blocks, CALL_NS at most.
 */
int guest_open(struct agent *agent, struct call *call, struct agent_conn **ret_conn, struct err *err);

/* exec_stream.c: refuses channels that make no sense, and streams where the server has none. */
int stream_check_io(const struct pods *pods, const struct container_io *io, struct err *err);

/* guest_input.c: a client's input on its way to a process in the guest. Loop. */
struct guest_input {
	struct stream_pipe *pipe; /* NULL: the client has left */
	struct agent_conn *conn;  /* NULL: not open yet, or closed */
	bool close_at_end;	  /* the client's end of input is the process's */
	bool over;		  /* the client sends no more */
	bool closed;		  /* the process takes no more, or the end was passed on */
	int64_t window;		  /* what the guest takes now */
	struct buf waiting;
};
/* Takes over conn. exec_id "": the container's own process. */
int guest_input_open(struct guest_input *in, struct agent_conn *conn, const char *container_id,
		     const char *exec_id, struct err *err);
void guest_input_take(struct guest_input *in, const void *data, size_t len);
void guest_input_end(struct guest_input *in);
/* The process keeps its stdin, unless its end has been passed on. */
void guest_input_done(struct guest_input *in);
/* pod_size.c: how large the pod's VM is. */
void pod_size_at_boot(struct pods *pods, const Runtime__V1__PodSandboxConfig *config, uint32_t *ret_vcpus,
		      uint64_t *ret_memory_bytes);
/* Whether `wanted` allows more memory or CPU time than `old` (NULL: none) does. No limit is less than any. */
bool resources_grow(const Runtime__V1__LinuxContainerResources *old,
		    const Runtime__V1__LinuxContainerResources *wanted);
enum fit {
	FIT_GROW,   /* -ENOSPC, FailedPrecondition, where the VM cannot be as large, with what it can have */
	FIT_SHRINK, /* not below its boot size, and no vCPU where containers have sets of CPUs */
};
/*
 * Makes the VM as large as the limits in the state want it, by the state of now. Before containers grow, and
 * after they have shrunk. One at a time in a pod; waits for the others, with no turn of its own: callers may
 * have the pod's or a container's. Stored when it returns. All or nothing, but for a VM that cannot be given
 * its former size: that is logged, and the row says so until a change succeeds (`resizing`). A VM whose size
 * is in doubt is set to what it needs, either way.
 */
int pod_fit(struct pod *pod, enum fit how, struct call *call, struct err *err);
/* Sets the limits of the pod's cgroup anew, and no size. */
int pod_apply_limits(struct pod *pod, struct call *call, struct err *err);
/*
 * FIT_SHRINK as far as it goes, in a job that waits for 60 s at most, so that a guest that gives nothing back
 * holds nobody up: a failure is logged. Nothing where the VM has its boot size.
 */
void pod_shrink(struct pod *pod);

/* cpus.c */
/* Pins the VM's threads again, as the sets of its containers want it. */
int pod_place_vcpus(struct pod *pod, struct call *call, struct err *err);
/*
 * Gives the container the vCPUs for its cpuset_cpus, and pins the VM's threads: *ret_guest, malloc'ed, is the
 * set in the guest's numbers. Untouched where it asks for none. A set of more CPUs than the VM has vCPUs is
 * logged.
 */
int container_place_cpus(struct container *container, struct call *call, char **ret_guest, struct err *err);

/* container_update.c */
/* `old` (NULL: none) with all that `wanted` sets, but for oom_score_adj: malloc'ed, or NULL. */
Runtime__V1__LinuxContainerResources *resources_merge(const Runtime__V1__LinuxContainerResources *old,
						      const Runtime__V1__LinuxContainerResources *wanted);
/* container_remove.c */
int container_remove_now(struct container *container, struct call *call, struct err *err);

/* ---- guest.c: what the agent is asked about containers ------------------------------------------------- */

int guest_create(struct agent *agent, const char *id, const char *bundle, bool terminal, bool stdin_open,
		 struct err *err);
int guest_start(struct agent *agent, const char *id, struct err *err);
/* resources: the OCI object, as JSON. */
int guest_update(struct agent *agent, const char *id, const char *resources, struct err *err);
int guest_kill(struct agent *agent, const char *id, uint32_t signo, bool all, int64_t timeout_ns,
	       struct err *err);
/* exec_id "": the container itself. reply as of agent_call_async: only if this returns 0. */
int guest_kill_async(struct agent *agent, const char *id, const char *exec_id, uint32_t signo, bool all,
		     agent_reply_fn *reply, void *arg);
/* Whether it is created and was never started; false where the guest does not tell. */
bool guest_is_created(struct agent *agent, const char *id);
/* As guest_is_created, within the call, and with the error of a guest that does not answer. */
int guest_ask_created(struct agent *agent, struct call *call, const char *id, bool *ret_created,
		      struct err *err);
/* The pid of its first process, in the guest. */
int guest_pid(struct agent *agent, const char *id, uint32_t *ret_pid, struct err *err);
/*
 * Removes a container from the guest, whatever its state there: its processes are killed (at once with
 * `kill_first`), what it mounted is unmounted. 0 also if the guest does not know it.
 */
int guest_end(struct agent *agent, const char *id, bool kill_first, struct err *err);

/* ---- work.c: jobs with an outcome ---------------------------------------------------------------------- */

/*
 * done(arg, …) runs once: at the outcome, or when the call ends first. `claims`: a good end claims the
 * object. Takes over the reference to the object. Below 0: out of memory, and done has run with that error.
 * Before the work is begun, so that none goes on whose caller has been told that it failed.
 */
int work_answer(struct object *object, struct outcome *outcome, bool claims, struct call *call,
		pods_done_fn *done, void *arg);
/* Answers at once. err NULL: well. */
void work_done(pods_done_fn *done, void *arg, const char *id, const struct err *err);
/*
 * With the lock held: a reference to the outcome of the work in progress in *slot, or to a new one: *ret_new,
 * and the caller starts the work.
 */
int work_join(struct outcome **slot, struct outcome **ret_outcome, bool *ret_new, struct err *err);
/*
 * Answers a call that has joined the work of *slot, and begins that work if it is new: job(object), which
 * carries a reference, on the lane. Below 0: done has run, or will, with the error.
 */
struct work_slot {
	struct object *object; /* lent */
	struct outcome *outcome;
	bool is_new;
	pthread_mutex_t *lock;
	struct outcome **slot;
	struct workers *workers;
	enum workers_lane lane;
	void (*job)(void *arg);
	const char *verb; /* "too many pods are being <verb>" */
};
int work_begin(struct work_slot *work, struct call *call, pods_done_fn *done, void *arg);
/* The work in *slot (under lock) has ended. */
void work_end(pthread_mutex_t *lock, struct outcome **slot, const struct err *why);
/* Somebody has got the object's id, or uses it. */
void object_claim(struct object *object);
/*
 * The creation has ended, well with why NULL: answers all who wait, and lets the time begin in which it must
 * be claimed.
 */
void work_made(struct pods *pods, struct object *object, const struct err *why);
/* Of an object that a previous server made and nobody claimed. */
void work_unclaimed(struct pods *pods, struct object *object);
/*
 * Answers a creation whose name is `other`'s (a reference, taken over): with its outcome, or a refusal.
 * difference: the path of the field that differs, "" if none does. usable: it is being created, or has not
 * ended.
 */
void work_repeat(struct object *other, const char *difference, bool usable, struct call *call,
		 pods_done_fn *done, void *arg);

/*
 * diff.c: the path of the first field in which two messages of one type differ, "" if none. root goes in
 * front.
 */
void message_difference(const ProtobufCMessage *a, const ProtobufCMessage *b, const char *root,
			char *ret_path, size_t size);

/* recover.c, recover_container.c */
/* Undoes what a row or its journal tells of, and deletes the row. Logs what fails. */
int recover_undo(struct pods *pods, const char *kind, const char *id, const char *sandbox_id);
struct state_row {
	char *id;
	void *data;
	size_t len;
};
/* The message of a row, NULL if the row is none. -ENOMEM. */
int state_unpack(const ProtobufCMessageDescriptor *descriptor, const struct state_row *row, void **ret_state);
/* Makes the object of a row; undoes what has no pod. -ENOMEM, and nothing is undone. */
int container_recover(struct pods *pods, const struct state_row *row, struct err *err);
/*
 * Goes on with those of an adopted pod; ends those of a dead one, and what is half made. A guest that lets a
 * question pass without an answer is condemned at the first.
 */
void container_adopt_all(struct pod *pod, struct call *call);

/* sweep.c */
/*
 * Once rows have been read: removes what a killed server was writing into state_dir; at the first start after
 * a boot of the host also what lies there and no row knows. A power cut may have taken the last commits, but
 * not what they were about. What fails is logged. Blocks.
 */
void state_sweep(struct pods *pods);

#endif

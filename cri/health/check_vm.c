/* SPDX-License-Identifier: Apache-2.0 */
/* check_vm.c: what runs a pod's VM: KVM, the VMM and its helpers, the guest's kernel and image. */
#include "cri/health/check.h"

#include "base/util.h"
#include "vmm/choose.h"

#include <inttypes.h>
#include <sys/stat.h>

#define CH   "cloud-hypervisor"
#define QEMU "qemu"

/* The releases that the tests run with (test/node, vmm/README.md); older ones may well do. */
#define CH_TESTED   "53"
#define QEMU_TESTED "7.2"

static bool wants(const struct check *check, const char *driver)
{
	return str_eq(check->config->hypervisor.driver, driver);
}

/* ---- virtualization ------------------------------------------------------------------------------------ */

/* Why the CPU flags show nothing differs with where this runs: firmware, or the VM's own host. */
static char *fix_flags(const struct vmm_kvm *kvm)
{
	const char *maker = kvm->intel ? "VT-x" : kvm->amd ? "AMD-V (SVM)" : "VT-x or AMD-V";
	const char *module = kvm->intel ? "kvm_intel" : kvm->amd ? "kvm_amd" : "kvm_intel or kvm_amd";

	if (kvm->guest)
		return xasprintf(
			"this host is a VM: have its own host pass virtualization on (module %s with "
			"nested=1 there, and a CPU model that shows it, as \"host\" does), or take an "
			"instance type with nested virtualization or bare metal",
			module);
	return xasprintf("switch %s on in the firmware's settings", maker);
}

static char *fix_kvm(const struct check *check, const struct vmm_kvm *kvm)
{
	const char *module = kvm->vmx ? "kvm_intel" : "kvm_amd";
	char *path CLEANUP_FREE = xasprintf("%s/sys/module/%s", check->root, module);

	switch (kvm->open_errno) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		if (path && access(path, F_OK) == 0)
			return xasprintf(
				"%s is loaded: mknod /dev/kvm c 10 232; in a container, pass the device in",
				module);
		return xasprintf(
			"modprobe %s; if it refuses, the kernel's log says why (often: disabled by the "
			"firmware)",
			module);
	case EACCES:
	case EPERM:
		return strdup(geteuid() == 0 ? "pass /dev/kvm into the container, and allow it there"
					     : "run it as root, or as a member of the group kvm");
	default:
		return xasprintf("modprobe -r %s && modprobe %s, or another kernel", module, module);
	}
}

static const char *without_kvm(const struct check *check)
{
	return wants(check, CH) ? "; Cloud Hypervisor needs it"
				: "; pods run under QEMU's emulation, several times slower";
}

void check_kvm(struct check *check, const struct vmm_kvm *kvm, bool known)
{
	/* QEMU does without. */
	enum check_status status = wants(check, CH) ? CHECK_MISSING : CHECK_NOTE;
	const char *flag = kvm->vmx ? "vmx" : "svm", *without = without_kvm(check);
	char *fix CLEANUP_FREE = NULL;

	if (!known) {
		check_add(check, "virtualization", status, "mount -t proc proc /proc",
			  "unknown: /proc/cpuinfo cannot be read");
		return;
	}
	if ((kvm->vmx || kvm->svm) && !kvm->open_errno) {
		check_ok(check, "virtualization", "%s in the CPU flags, and /dev/kvm opens%s", flag,
			 kvm->guest ? " (nested: this host is a VM itself)" : "");
		return;
	}
	fix = kvm->vmx || kvm->svm ? fix_kvm(check, kvm) : fix_flags(kvm);
	if (!fix)
		check->oom = true;
	else if (kvm->vmx || kvm->svm)
		check_add(check, "virtualization", status, fix,
			  "%s in the CPU flags, but opening /dev/kvm: %s%s", flag,
			  strerrordesc_np(kvm->open_errno), without);
	else if (!kvm->open_errno)
		/* Such a KVM is made of software and runs guests that know of it; no VMM boots an ordinary
		 * one there. */
		check_add(check, "virtualization", status, fix,
			  "/dev/kvm opens, but the CPU flags show neither vmx nor svm: it does not "
			  "virtualize%s",
			  without);
	else
		check_add(check, "virtualization", status, fix, "the CPU flags show neither vmx nor svm%s",
			  without);
}

/* ---- programs ------------------------------------------------------------------------------------------ */

/* True if `list`, as PATH is one, names the directory that the program lies in. */
static bool lists_dir_of(const char *list, const char *program)
{
	size_t len = (size_t)(strrchr(program, '/') - program);

	for (const char *p = list; p && *p;) {
		size_t n = strcspn(p, ":");

		if (n == len && memcmp(p, program, n) == 0)
			return true;
		p += n + (p[n] == ':');
	}
	return false;
}

/*
 * A program that is found, and runs. systemd gives its units a PATH of their own (systemd.exec(5)), so what
 * lies elsewhere is found here, but not by crivisor.service; what the configuration names is found by both.
 */
static void add_program(struct check *check, const char *id, const char *configured, const char *fix,
			const char *path, const char *what)
{
	if (!str_eq(path, configured) && lists_dir_of(getenv("PATH"), path) &&
	    !lists_dir_of("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", path))
		check_add(check, id, CHECK_NOTE, fix,
			  "%s: %s; in PATH here, but not in the PATH of a systemd unit", path, what);
	else
		check_ok(check, id, "%s: %s", path, what);
}

/* Compares dotted numbers of what begins with a digit in `version`; -1, 0, 1, or 0 if there is none. */
static int compare_versions(const char *version, const char *tested)
{
	const char *p = version + strcspn(version, "0123456789");

	for (; *p && *tested; p += *p == '.', tested += *tested == '.') {
		char *end, *tested_end;
		unsigned long a = strtoul(p, &end, 10), b = strtoul(tested, &tested_end, 10);

		if (end == p || tested_end == tested)
			return 0;
		if (a != b)
			return a < b ? -1 : 1;
		p = end;
		tested = tested_end;
	}
	return 0;
}

static void check_vmm(struct check *check)
{
	struct vmm_choice choice;
	struct err err = ERR_INIT;

	if (vmm_choose_driver(&check->config->hypervisor, &choice, &err) < 0) {
		check_add(check, "vmm", CHECK_MISSING,
			  wants(check, CH)
				  ? "install Cloud Hypervisor v" CH_TESTED
				    " and have KVM; or [hypervisor] driver = \"auto\", which can do with QEMU"
				  : "apt install qemu-system-x86; or correct [hypervisor] driver and path",
			  "%s", err.msg);
		return;
	}
	check->driver = choice.driver;
	check->kvm = str_eq(choice.accel, "kvm");
	check_ok(check, "vmm", "%s %s (%s): %s", choice.driver, choice.path, choice.accel, choice.reason);
}

/* One of the two VMMs, whether it is the chosen one or not. */
static void check_program(struct check *check, enum vmm_program program, const char *id, const char *tested,
			  const char *fix)
{
	bool chosen = str_eq(check->driver, id), wanted = wants(check, id);
	struct vmm_program_info info;
	struct err err = ERR_INIT;

	if (vmm_program_find(&check->config->hypervisor, program, &info, &err) < 0) {
		if (wanted)
			check_add(check, id, CHECK_MISSING, fix, "%s", err.msg);
		else if (program == VMM_PROGRAM_CLOUD_HYPERVISOR && check->kvm && wants(check, "auto"))
			check_add(check, id, CHECK_NOTE, fix, "not installed: QEMU takes its place");
		else
			check_ok(check, id, "not installed, and not needed here");
	} else if (!info.version[0]) {
		check_add(check, id, chosen ? CHECK_MISSING : CHECK_NOTE, fix,
			  "%s does not answer --version: it cannot run here", info.path);
	} else if (compare_versions(info.version, tested) < 0) {
		check_add(check, id, CHECK_NOTE, fix, "%s: %s, older than the one tested (%s)", info.path,
			  info.version, tested);
	} else {
		add_program(check, id, check->config->hypervisor.path,
			    "install it in /usr/local/bin, or name it in [hypervisor] path", info.path,
			    info.version);
	}
}

static void check_spawn_helper(struct check *check)
{
	struct vmm_program_info info;
	struct err err = ERR_INIT;

	if (vmm_program_find(&check->config->hypervisor, VMM_PROGRAM_SPAWN_HELPER, &info, &err) < 0)
		check_add(check, "spawn-helper", CHECK_MISSING,
			  "it is built and packaged with crivisor: install it beside crivisor or in "
			  "../libexec/crivisor",
			  "%s", err.msg);
	else
		check_ok(check, "spawn-helper", "%s", info.path);
}

/* What virtiofsd cannot do, whichever it is. */
static void check_volumes(struct check *check)
{
	check_add(
		check, "volumes", CHECK_NOTE,
		"keep what takes locks against other pods or the host on a network service or a block device",
		"virtiofsd has no lock operations: flock and fcntl locks work between the containers of a "
		"pod, and exclude no other pod and not the host; O_TMPFILE fails");
}

static void check_virtiofsd(struct check *check)
{
	static const char fix[] =
		"cargo install virtiofsd (the Rust one), or apt install qemu-system-common (the C "
		"one); or correct [hypervisor.virtiofsd] path";
	struct vmm_program_info info;
	struct err err = ERR_INIT;
	char what[160];

	if (vmm_program_find(&check->config->hypervisor, VMM_PROGRAM_VIRTIOFSD, &info, &err) < 0) {
		check_add(check, "virtiofsd", CHECK_MISSING, fix, "%s", err.msg);
	} else if (!info.version[0]) {
		check_add(check, "virtiofsd", CHECK_MISSING, fix,
			  "%s does not answer --version: it cannot run here", info.path);
	} else if (info.legacy) {
		check_add(check, "virtiofsd", CHECK_NOTE, "cargo install virtiofsd (the Rust one)",
			  "%s: the C one, %s, which QEMU gave up and nobody maintains", info.path,
			  info.version);
	} else {
		snprintf(what, sizeof(what), "the Rust one, %s", info.version);
		add_program(check, "virtiofsd", check->config->hypervisor.virtiofsd_path,
			    "install it in /usr/local/bin, or name it in [hypervisor.virtiofsd] path",
			    info.path, what);
	}
}

/* How QEMU's guests are reached; Cloud Hypervisor serves its own. */
void check_vsock(struct check *check)
{
	struct vmm_program_info info;
	struct err err = ERR_INIT;
	int r;

	if (!check->driver)
		return;
	if (str_eq(check->driver, CH)) {
		check_ok(check, "vsock", "served by " CH " itself");
		return;
	}
	r = check_open(check, "/dev/vhost-vsock");
	if (vmm_program_find(&check->config->hypervisor, VMM_PROGRAM_VSOCK_DAEMON, &info, &err) == 0)
		add_program(check, "vsock", check->config->hypervisor.vsock_daemon_path,
			    "install it in /usr/local/bin", info.path,
			    info.version[0] ? info.version : "version unknown");
	else if (r == 0)
		check_add(check, "vsock", CHECK_NOTE, "cargo install vhost-device-vsock",
			  "/dev/vhost-vsock: a guest can connect to every program that listens on AF_VSOCK "
			  "on this "
			  "host");
	else
		check_add(check, "vsock", CHECK_MISSING,
			  "cargo install vhost-device-vsock; or modprobe vhost_vsock, and a line in "
			  "/etc/modules-load.d",
			  "QEMU's guests cannot be reached: %s; /dev/vhost-vsock: %s", err.msg,
			  strerrordesc_np(-r));
}

/* ---- the guest ----------------------------------------------------------------------------------------- */

static void check_guest(struct check *check, const char *id, const char *path,
			int (*valid)(const struct vmm_config *, struct err *))
{
	struct err err = ERR_INIT;
	struct stat st;

	if (valid(&check->config->hypervisor, &err) < 0)
		check_add(check, id, CHECK_MISSING,
			  "install the package crivisor, or build it (cmake --build build --target guest); "
			  "or correct [hypervisor] kernel_path and image_path",
			  "%s", err.msg);
	else if (stat(path, &st) == 0)
		check_ok(check, id, "%s, %" PRIu64 " KiB", path, (uint64_t)st.st_size / 1024);
}

static void check_entropy(struct check *check)
{
	const char *path = check->config->hypervisor.entropy_source;

	if (access(path, R_OK) == 0)
		check_ok(check, "entropy", "%s", path);
	else
		check_add(check, "entropy", CHECK_MISSING, "[hypervisor] entropy_source = \"/dev/urandom\"",
			  "%s, which feeds the guests' random numbers: %s", path, strerrordesc_np(errno));
}

void check_vm(struct check *check)
{
	const struct vmm_config *hv = &check->config->hypervisor;
	struct vmm_kvm kvm;
	bool known = vmm_kvm_look(&kvm) == 0;

	check_kvm(check, &kvm, known);
	check_vmm(check);
	check_program(check, VMM_PROGRAM_CLOUD_HYPERVISOR, CH, CH_TESTED,
		      "Cloud Hypervisor v" CH_TESTED " as /usr/local/bin/cloud-hypervisor "
		      "(github.com/cloud-hypervisor/cloud-hypervisor/releases), or [hypervisor] path");
	check_program(check, VMM_PROGRAM_QEMU, QEMU, QEMU_TESTED,
		      "apt install qemu-system-x86 (" QEMU_TESTED " or newer), or [hypervisor] path");
	check_spawn_helper(check);
	check_virtiofsd(check);
	check_volumes(check);
	check_vsock(check);
	check_guest(check, "guest-kernel", hv->kernel_path, vmm_check_kernel);
	check_guest(check, "guest-image", hv->image_path, vmm_check_image);
	check_entropy(check);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* `crivisor check`: KVM, VMMs and their helpers, the guest. */
#include "check_fixture.h"
#include "vmm/choose.h"
#include "vmm/host.h"

/* ---- virtualization and programs ----------------------------------------------------------------------- */

static void kvm_has_a_cause_and_a_mend_for_each_state(void **state)
{
	static const struct {
		struct vmm_kvm kvm;
		const char *message, *fix;
	} bad[] = {
		{{.intel = true, .open_errno = ENOENT}, "neither vmx nor svm", "VT-x on in the firmware"},
		{{.amd = true, .open_errno = ENOENT},
		 "neither vmx nor svm",
		 "AMD-V (SVM) on in the firmware"},
		{{.amd = true, .guest = true, .open_errno = ENOENT},
		 "neither vmx nor svm",
		 "kvm_amd with nested=1"},
		{{.guest = true}, "opens, but the CPU flags", "nested virtualization"},
		{{.vmx = true, .intel = true, .open_errno = ENOENT}, "No such file", "modprobe kvm_intel"},
		{{.svm = true, .amd = true, .open_errno = ENODEV}, "No such device", "modprobe kvm_amd"},
		{{.svm = true, .open_errno = EPERM}, "not permitted", "allow it there"},
		{{.vmx = true, .open_errno = EBUSY}, "busy", "another kernel"},
	};
	struct fixture *f = *state;
	const struct vmm_kvm good = {.svm = true, .guest = true};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		forget(f);
		assert_int_equal(str_set(&f->config.hypervisor.driver, "auto"), 0);
		check_kvm(&f->check, &bad[i].kvm, true);
		assert_found(f, "virtualization", CHECK_NOTE, bad[i].message, bad[i].fix);
		assert_found(f, "virtualization", CHECK_NOTE, "emulation", bad[i].fix);
		forget(f);
		assert_int_equal(str_set(&f->config.hypervisor.driver, "cloud-hypervisor"), 0);
		check_kvm(&f->check, &bad[i].kvm, true);
		assert_found(f, "virtualization", CHECK_MISSING, bad[i].message, bad[i].fix);
	}
	forget(f);
	check_kvm(&f->check, &good, true);
	assert_found(f, "virtualization", CHECK_OK, "svm in the CPU flags, and /dev/kvm opens (nested", NULL);
	forget(f);
	put(f, "sys/module/kvm_intel/refcnt", "", 0644);
	check_kvm(&f->check, &(struct vmm_kvm){.vmx = true, .open_errno = ENOENT}, true);
	assert_found(f, "virtualization", CHECK_MISSING, "/dev/kvm", "kvm_intel is loaded: mknod");
	forget(f);
	check_kvm(&f->check, &(struct vmm_kvm){0}, false);
	assert_found(f, "virtualization", CHECK_MISSING, "unknown", "mount");
}

static void programs_that_are_nowhere_are_missing(void **state)
{
	struct fixture *f = *state;

	only_bin(f);
	assert_int_equal(str_set(&f->config.hypervisor.virtiofsd_path, "/nonexistent/virtiofsd"), 0);
	assert_int_equal(str_set(&f->config.hypervisor.spawn_helper, "/nonexistent/crivisor-spawn"), 0);
	assert_int_equal(str_set(&f->config.hypervisor.kernel_path, "/nonexistent/vmlinux"), 0);
	assert_int_equal(str_set(&f->config.hypervisor.image_path, f->dir), 0);
	assert_int_equal(str_set(&f->config.hypervisor.entropy_source, "/nonexistent/random"), 0);
	check_vm(&f->check);
	assert_null(f->check.driver);
	assert_found(f, "vmm", CHECK_MISSING, "neither VMM can run here", "apt install");
	assert_found(f, "virtiofsd", CHECK_MISSING, "/nonexistent/virtiofsd", "cargo install virtiofsd");
	assert_found(f, "spawn-helper", CHECK_MISSING, "/nonexistent/crivisor-spawn", "beside crivisor");
	assert_found(f, "guest-kernel", CHECK_MISSING, "/nonexistent/vmlinux", "kernel_path");
	assert_found(f, "guest-image", CHECK_MISSING, f->dir, "image_path");
	assert_found(f, "entropy", CHECK_MISSING, "/nonexistent/random", "/dev/urandom");
	/* Under "auto" it is the choice that is missing, not one of the two. */
	assert_found(f, "cloud-hypervisor", CHECK_OK, "not installed", NULL);
	assert_found(f, "qemu", CHECK_OK, "not installed", NULL);
	assert_null(finding(f, "vsock"));
}

static void old_or_broken_vmms_are_told_apart(void **state)
{
	struct fixture *f = *state;

	only_bin(f);
	program(f, "cloud-hypervisor", "cloud-hypervisor v52.1.0");
	program(f, "qemu-system-x86_64", "QEMU emulator version 7.2.22 (Debian 1:7.2)");
	assert_int_equal(str_set(&f->config.hypervisor.helper_dir, f->dir), 0);
	assert_int_equal(str_set(&f->config.hypervisor.driver, "qemu"), 0);
	check_vm(&f->check);
	assert_string_equal(f->check.driver, "qemu");
	assert_found(f, "cloud-hypervisor", CHECK_NOTE, "v52.1.0, older than the one tested (53)", "v53");
	/* Found by PATH, in a directory that is in no unit's. */
	assert_found(f, "qemu", CHECK_NOTE, "7.2.22 (Debian 1:7.2); in PATH here, but not", "/usr/local/bin");
	assert_found(f, "vsock", CHECK_MISSING, "/dev/vhost-vsock", "modprobe vhost_vsock");
	forget(f);
	program(f, "cloud-hypervisor", "cloud-hypervisor v100.0-3-gabc");
	program(f, "qemu-system-x86_64", "QEMU emulator version 7.1.0");
	program(f, "vhost-device-vsock", "vhost-device-vsock 0.3.0");
	check_vm(&f->check);
	assert_found(f, "cloud-hypervisor", CHECK_NOTE, "v100.0-3-gabc; in PATH here", "/usr/local/bin");
	assert_found(f, "qemu", CHECK_NOTE, "7.1.0, older", "7.2");
	assert_found(f, "vsock", CHECK_NOTE, "vhost-device-vsock 0.3.0; in PATH here", "/usr/local/bin");
	forget(f);
	put(f, "bin/cloud-hypervisor", "#!/nonexistent/interpreter\n", 0755);
	put(f, "bin/qemu-system-x86_64", "#!/bin/sh\nexit 1\n", 0755);
	check_vm(&f->check);
	/* What is not chosen may be broken. */
	assert_found(f, "cloud-hypervisor", CHECK_NOTE, "does not answer --version", "v53");
	assert_found(f, "qemu", CHECK_MISSING, "does not answer --version", "apt install");
}

/*
 * Fault T: by the kernel's vsock a guest reaches the host's listeners, so the daemon is taken where there is
 * one.
 */
static void vsock_of_the_kernel_is_second_and_noted(void **state)
{
	struct fixture *f = *state;

	only_bin(f);
	program(f, "qemu-system-x86_64", "QEMU emulator version 7.2.22 (Debian 1:7.2)");
	assert_int_equal(str_set(&f->config.hypervisor.helper_dir, f->dir), 0);
	assert_int_equal(str_set(&f->config.hypervisor.driver, "qemu"), 0);
	put(f, "dev/vhost-vsock", "", 0600);
	check_vm(&f->check);
	assert_found(f, "vsock", CHECK_NOTE, "can connect to every program",
		     "cargo install vhost-device-vsock");
	forget(f);
	program(f, "vhost-device-vsock", "vhost-device-vsock 0.3.0");
	check_vm(&f->check);
	assert_found(f, "vsock", CHECK_NOTE, "vhost-device-vsock 0.3.0; in PATH here", "/usr/local/bin");
}

static void cloud_hypervisor_alone_wants_nothing_of_qemu(void **state)
{
	struct fixture *f = *state;
	char *path;

	only_bin(f);
	path = put(f, "own/cloud-hypervisor", "#!/bin/sh\necho cloud-hypervisor v53.0.0\n", 0755);
	assert_int_equal(str_set(&f->config.hypervisor.path, path), 0);
	assert_int_equal(str_set(&f->config.hypervisor.driver, "cloud-hypervisor"), 0);
	check_vm(&f->check);
	assert_found(f, "cloud-hypervisor", CHECK_OK, "own/cloud-hypervisor: cloud-hypervisor v53.0.0", NULL);
	/* The configured path is not QEMU's. */
	assert_found(f, "qemu", CHECK_OK, "not installed, and not needed here", NULL);
	f->check.driver = "cloud-hypervisor";
	check_vsock(&f->check);
	for (size_t i = 0; i < f->check.n; i++)
		assert_false(str_eq(f->check.findings[i].id, "vsock") &&
			     f->check.findings[i].status != CHECK_OK);
}

/* Fault X: the C virtiofsd works, and a note says that nobody maintains it. */
static void virtiofsd_is_told_by_its_kind(void **state)
{
	struct fixture *f = *state;

	only_bin(f);
	assert_int_equal(
		str_set(&f->config.hypervisor.virtiofsd_path,
			put(f, "own/virtiofsd", "#!/bin/sh\necho virtiofsd 1.14.0 --shared-dir\n", 0755)),
		0);
	check_vm(&f->check);
	assert_found(f, "virtiofsd", CHECK_OK, "the Rust one, virtiofsd 1.14.0", NULL);
	/* Faults V3 and V5: what it cannot do is said. */
	assert_found(f, "volumes", CHECK_NOTE, "exclude no other pod", "network service");
	assert_found(f, "volumes", CHECK_NOTE, "O_TMPFILE fails", "network service");
	forget(f);
	put(f, "own/virtiofsd", "#!/bin/sh\necho virtiofsd version 7.2.22\n", 0755);
	check_vm(&f->check);
	assert_found(f, "virtiofsd", CHECK_NOTE, "the C one, virtiofsd version 7.2.22, which QEMU gave up",
		     "cargo install virtiofsd");
}

/* The probe and the choice look at the same things; here they are this machine's own. */
static void kvm_look_agrees_with_the_choice(void **state)
{
	struct fixture *f = *state;
	struct vmm_choice choice;
	struct vmm_kvm kvm;
	struct err err = ERR_INIT;

	only_bin(f);
	program(f, "qemu-system-x86_64", "QEMU emulator version 7.2.22");
	assert_int_equal(str_set(&f->config.hypervisor.driver, "qemu"), 0);
	assert_int_equal(vmm_kvm_look(&kvm), 0);
	if (vmm_choose_driver(&f->config.hypervisor, &choice, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(choice.accel, (kvm.vmx || kvm.svm) && !kvm.open_errno ? "kvm" : "tcg");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(kvm_has_a_cause_and_a_mend_for_each_state),
		TEST(programs_that_are_nowhere_are_missing),
		TEST(old_or_broken_vmms_are_told_apart),
		TEST(cloud_hypervisor_alone_wants_nothing_of_qemu),
		TEST(vsock_of_the_kernel_is_second_and_noted),
		TEST(virtiofsd_is_told_by_its_kind),
		TEST(kvm_look_agrees_with_the_choice),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

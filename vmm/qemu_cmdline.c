/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu_cmdline.c: QEMU's command line. Pure: what it needs is opened before.
 *
 * Facts: qemu(1) of 7.2; docs/interop/vhost-user; the order of devices is the described system's: pmem, rng,
 *        vsock, console, fs.
 */
#include "vmm/qemu_internal.h"

#include "base/util.h"

#include <sys/sysinfo.h>

#define PMEM_ROOM     (16ULL << 30) /* address space kept for pmem devices plugged later */
#define DIMM_SLOTS    16
#define TCG_CACHE_MIB "128" /* translated code; QEMU's own default would let it grow to a gigabyte */

static uint64_t align_up(uint64_t v, uint64_t to)
{
	return (v + to - 1) / to * to;
}

static int add2(char ***v, const char *a, const char *b)
{
	int r = strv_add(v, a);

	return r < 0 ? r : strv_add(v, b);
}

#define ADD(option, ...)                                                                                     \
	do {                                                                                                 \
		if (r == 0)                                                                                  \
			r = strv_add(v, option);                                                             \
		if (r == 0)                                                                                  \
			r = strv_addf(v, __VA_ARGS__);                                                       \
	} while (0)

static int add_machine(const struct vm *vm, const struct vm_launch *l, char ***v)
{
	bool kvm = str_eq(vm->accel, "kvm");
	uint64_t hot = vm->memory_max > vm->memory_boot ? vm->memory_max - vm->memory_boot : 0;
	int r = 0;

	ADD("-machine",
	    "q35,memory-backend=mem,hpet=off,vmport=off,smbus=off,sata=off,usb=off,dump-guest-core=off%s",
	    kvm ? ",kernel-irqchip=split" : "");
	if (kvm)
		r = r < 0 ? r : add2(v, "-accel", "kvm");
	else
		r = r < 0 ? r : add2(v, "-accel", "tcg,thread=multi,tb-size=" TCG_CACHE_MIB);
	r = r < 0 ? r : add2(v, "-cpu", kvm ? "host" : "max");
	ADD("-smp", "cpus=%u,sockets=1,cores=%u,threads=1,maxcpus=%u", vm->vcpus_boot, vm->vcpus_max,
	    vm->vcpus_max);
	ADD("-m", "size=%lluk,slots=%d,maxmem=%lluk", (unsigned long long)(vm->memory_boot >> 10), DIMM_SLOTS,
	    (unsigned long long)((vm->memory_boot + align_up(l->image_bytes, 1ULL << 30) + hot + PMEM_ROOM) >>
				 10));
	ADD("-object", "memory-backend-memfd,id=mem,size=%llu,share=on%s",
	    (unsigned long long)vm->memory_boot, l->config->hugepages ? ",hugetlb=on" : "");
	if (hot > 0) {
		ADD("-object", "memory-backend-memfd,id=hotmem,size=%llu,share=on,reserve=off%s",
		    (unsigned long long)hot, l->config->hugepages ? ",hugetlb=on" : "");
		ADD("-device", "virtio-mem-pci,id=vmem0,memdev=hotmem,requested-size=0");
	}
	return r;
}

static int add_boot_devices(const struct vm *vm, const struct vm_launch *l, char ***v)
{
	const char *entropy =
		str_empty(l->config->entropy_source) ? "/dev/urandom" : l->config->entropy_source;
	int r = 0;

	ADD("-object", "memory-backend-file,id=rootfs-mem,mem-path=%s,size=%llu,share=on,readonly=on",
	    l->config->image_path, (unsigned long long)l->image_bytes);
	ADD("-device", "virtio-pmem-pci,id=rootfs,memdev=rootfs-mem");
	ADD("-object", "rng-random,id=rng0-src,filename=%s", entropy);
	ADD("-device", "virtio-rng-pci,id=rng0,rng=rng0-src");
	if (vm->cid) {
		ADD("-device", "vhost-vsock-pci,id=vsock0,guest-cid=%u,vhostfd=%d", vm->cid,
		    launch_fd(l, l->vsock));
	} else {
		ADD("-chardev", "socket,id=vsock0-sock,fd=%d", launch_fd(l, l->vsock));
		ADD("-device", "vhost-user-vsock-pci,id=vsock0,chardev=vsock0-sock");
	}
	ADD("-chardev", "file,id=console0-file,path=%s/" VM_FILE_CONSOLE, vm->run_dir);
	ADD("-device", "virtio-serial-pci,id=serial0,max_ports=1");
	ADD("-device", "virtconsole,bus=serial0.0,chardev=console0-file");
	ADD("-chardev", "socket,id=fs0-sock,fd=%d", launch_fd(l, l->fs));
	ADD("-device", "vhost-user-fs-pci,id=fs0,chardev=fs0-sock,tag=kuasar,queue-size=1024");
	return r;
}

static int add_net(const struct vm_launch *l, char ***v)
{
	char mac[18];
	int r = 0;

	if (l->tap < 0)
		return 0;
	vmm_mac_words(l->mac, mac);
	ADD("-netdev", "tap,id=net0-tap,fd=%d,vhost=off", launch_fd(l, l->tap));
	ADD("-device", "virtio-net-pci,id=net0,netdev=net0-tap,mac=%s,host_mtu=%u,romfile=", mac,
	    l->spec->mtu ? l->spec->mtu : 1500);
	return r;
}

static int add_rest(const struct vm *vm, const struct vm_launch *l, char ***v)
{
	int r = 0;

	ADD("-device", "pvpanic-pci,id=panic0");
	for (int i = 0; i < QEMU_ROOT_PORTS; i++)
		ADD("-device",
		    "pcie-root-port,id=rp%d,chassis=%d,slot=%d,bus=pcie.0,addr=0x%x.%d%s,io-reserve=0", i,
		    i + 1, i + 1, 0x10 + i / 8, i % 8, i % 8 == 0 ? ",multifunction=on" : "");
	ADD("-chardev", "socket,id=qmp0-sock,fd=%d,server=on,wait=off", launch_fd(l, l->monitor));
	r = r < 0 ? r : add2(v, "-mon", "chardev=qmp0-sock,mode=control");
	if (vm->debug) {
		ADD("-serial", "file:%s/" VM_FILE_SERIAL, vm->run_dir);
		/* To QMP a guest's triple fault and a reset by its kernel are one; this tells them apart. */
		r = r < 0 ? r : add2(v, "-d", "cpu_reset");
		ADD("-D", "%s/" VM_FILE_CPU, vm->run_dir);
	}
	return r;
}

/*
 * What the kernel needs without KVM.
 *
 * no_timer_check: the kernel tests at boot that timer interrupts arrive in time. On a busy host they are
 * delayed, and it panics before it has a console (arch/x86/kernel/apic/io_apic.c, check_timer). Under KVM it
 * skips the test by itself.
 *
 * init_on_alloc=1: TCG keeps translated code per physical page and drops it when a CPU writes to the page,
 * but virtiofsd, a process of its own, writes into guest memory unseen. A page that held code and then gets
 * another file's code from virtiofsd would run as what it was: programs crash at random. With this the
 * guest's CPU clears each page that it allocates, before virtiofsd fills it.
 */
#define TCG_PARAMS " no_timer_check init_on_alloc=1"

static int add_kernel(const struct vm *vm, const struct vm_launch *l, char ***v, struct err *err)
{
	char *cmdline CLEANUP_FREE = vmm_kernel_cmdline(l->config, l->spec);
	int r = 0;

	if (!cmdline)
		return err_oom(err);
	ADD("-kernel", "%s", l->config->kernel_path);
	ADD("-append", "%s%s%s", cmdline, str_eq(vm->accel, "tcg") ? TCG_PARAMS : "",
	    vm->debug ? " earlyprintk=ttyS0" : "");
	return r;
}

int qemu_command(const struct vm *vm, const struct vm_launch *l, char ***ret_argv, struct err *err)
{
	char **argv CLEANUP_STRV = NULL;
	char ***v = &argv;
	int r = vmm_option_check("image path", l->config->image_path, err);

	if (r == 0)
		r = vmm_option_check("entropy source", l->config->entropy_source, err);
	if (r == 0)
		r = vmm_option_check("run directory", vm->run_dir, err);
	if (r == 0)
		r = vmm_option_check("VM id", vm->id, err);
	if (r < 0)
		return r;
	r = strv_add(v, l->choice->path);
	ADD("-name", "crivisor-%s", vm->id);
	r = r < 0 ? r : add2(v, "-nodefaults", "-no-user-config");
	r = r < 0 ? r : add2(v, "-no-reboot", "-display");
	r = r < 0 ? r : add2(v, "none", "-msg");
	r = r < 0 ? r : strv_add(v, "timestamp=on");
	/* A running QEMU needs no new programs, no other user and no resource limits. */
	r = r < 0 ? r
		  : add2(v, "-sandbox",
			 "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
	r = r < 0 ? r : add_machine(vm, l, v);
	r = r < 0 ? r : add_kernel(vm, l, v, err);
	r = r < 0 ? r : add_boot_devices(vm, l, v);
	r = r < 0 ? r : add_net(l, v);
	r = r < 0 ? r : add_rest(vm, l, v);
	if (r < 0)
		return err_set_errno(err, r, "QEMU's command line");
	*ret_argv = move_ptr(argv);
	return 0;
}

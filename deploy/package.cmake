# SPDX-License-Identifier: Apache-2.0
# The Debian package: target `deb` makes crivisor_<version>_amd64.deb in the build directory. Included last by the top CMakeLists.txt.
include(GNUInstallDirs)
set(DEPLOY ${CMAKE_SOURCE_DIR}/deploy)
set(PACKAGING ${DEPLOY}/package)

install(TARGETS crivisor RUNTIME DESTINATION bin COMPONENT deb)
install(TARGETS crivisor-spawn RUNTIME DESTINATION libexec/crivisor COMPONENT deb)
install(FILES ${CMAKE_BINARY_DIR}/guest/vmlinux ${CMAKE_BINARY_DIR}/guest/guest.img ${CMAKE_BINARY_DIR}/guest/SHA256SUMS
	DESTINATION share/crivisor COMPONENT deb)
install(FILES ${DEPLOY}/crivisor.service DESTINATION lib/systemd/system COMPONENT deb)
install(FILES ${PACKAGING}/crivisor.bash DESTINATION share/bash-completion/completions RENAME crivisor COMPONENT deb)
install(FILES ${DEPLOY}/cni/10-crivisor.conflist ${DEPLOY}/runtimeclass.yaml ${PACKAGING}/crictl.yaml
	DESTINATION share/doc/crivisor/examples COMPONENT deb)
# What the licences of the kernel and of crun ask for: which sources, and the scripts and the configuration of the build.
install(FILES ${CMAKE_BINARY_DIR}/guest/SOURCES DESTINATION share/doc/crivisor/guest COMPONENT deb)
install(PROGRAMS ${DEPLOY}/guest/build-kernel ${DEPLOY}/guest/check-config ${DEPLOY}/guest/build-image
	DESTINATION share/doc/crivisor/guest COMPONENT deb)
install(FILES ${DEPLOY}/guest/kernel.config DESTINATION share/doc/crivisor/guest COMPONENT deb)
install(FILES ${PACKAGING}/copyright DESTINATION share/doc/crivisor COMPONENT deb)
install(FILES ${PACKAGING}/lintian-overrides DESTINATION share/lintian/overrides RENAME crivisor COMPONENT deb)
install(FILES ${DEPLOY}/config.toml DESTINATION /etc/crivisor COMPONENT deb)
install(DIRECTORY DESTINATION /etc/crivisor/config.d COMPONENT deb)
install(DIRECTORY DESTINATION /etc/crivisor/certs.d COMPONENT deb)

# Compressed as Debian has them; -n leaves out name and time, so that the same sources make the same bytes.
set(GZIPPED)
function(crv_gzip from to)
	add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/package/${to}
		COMMAND sh -c "mkdir -p package && gzip -9nc '${from}' >package/${to}"
		DEPENDS ${from} WORKING_DIRECTORY ${CMAKE_BINARY_DIR} VERBATIM)
	set(GZIPPED ${GZIPPED} ${CMAKE_BINARY_DIR}/package/${to} PARENT_SCOPE)
endfunction()
crv_gzip(${PACKAGING}/crivisor.8 crivisor.8.gz)
crv_gzip(${PACKAGING}/crivisor.toml.5 crivisor.toml.5.gz)
crv_gzip(${PACKAGING}/changelog changelog.gz)
install(FILES ${CMAKE_BINARY_DIR}/package/crivisor.8.gz DESTINATION share/man/man8 COMPONENT deb)
install(FILES ${CMAKE_BINARY_DIR}/package/crivisor.toml.5.gz DESTINATION share/man/man5 COMPONENT deb)
install(FILES ${CMAKE_BINARY_DIR}/package/changelog.gz DESTINATION share/doc/crivisor COMPONENT deb)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME crivisor)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL deb)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
	OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
# zstd would be quicker, but Debian's archive and older dpkgs do not take it.
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_THREADS 0)
set(CPACK_DEBIAN_PACKAGE_MAINTAINER "crivisor maintainers <maintainers@users.noreply.invalid>")
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE amd64)
# The first line is the synopsis.
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Kubernetes CRI server that gives every pod its own virtual machine")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
	"kubelet and crictl speak the CRI to it; for each pod it boots a virtual machine\nwith Cloud Hypervisor or QEMU, and runs the pod's containers in that. Kernel\nand root image of those virtual machines are part of this package.")
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# crun is in the guest's image. iptables: the portmap and bridge plugins call it. kmod: the unit loads tun and vhost_vsock.
set(CPACK_DEBIAN_PACKAGE_DEPENDS
	"qemu-system-x86 | cloud-hypervisor, containernetworking-plugins, iptables, kmod, init-system-helpers (>= 1.52)")
# Debian 12 has a virtiofsd in qemu-system-common, Debian 13 a package of that name.
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "virtiofsd | qemu-system-common (<< 1:8)")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
	${PACKAGING}/postinst ${PACKAGING}/prerm ${PACKAGING}/postrm ${PACKAGING}/conffiles)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)

add_custom_target(deb
	COMMAND ${CMAKE_CPACK_COMMAND} -G DEB --config ${CMAKE_BINARY_DIR}/CPackConfig.cmake -B ${CMAKE_BINARY_DIR}
	DEPENDS crivisor crivisor-spawn guest ${GZIPPED}
	WORKING_DIRECTORY ${CMAKE_BINARY_DIR}
	COMMENT "Debian package"
	VERBATIM)

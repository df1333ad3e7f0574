/* SPDX-License-Identifier: Apache-2.0 */
/* Index, manifest and config: the first byte picks the content type that a registry would claim. */
#include "base/util.h"
#include "cri/image/oci/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_config(const char *text, size_t len)
{
	struct image_config config = {0};
	char **diff_ids = NULL, **chains;
	struct err err = ERR_INIT;

	if (oci_config_parse(text, len, &config, &diff_ids, &err) < 0) {
		if (!err.msg[0])
			__builtin_trap();
		return;
	}
	chains = oci_chain_ids(diff_ids);
	if (chains && strv_len(chains) != strv_len(diff_ids))
		__builtin_trap();
	strv_free(chains);
	strv_free(diff_ids);
	image_config_done(&config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const types[] = {
		NULL, OCI_TYPE_INDEX, OCI_TYPE_MANIFEST, DOCKER_TYPE_LIST, DOCKER_TYPE_MANIFEST, "x"};
	const struct oci_descriptor *entry;
	struct oci_manifest m = {0};
	struct err err = ERR_INIT;

	if (size == 0)
		return 0;
	if (oci_manifest_parse((const char *)data + 1, size - 1, types[data[0] % ARRAY_SIZE(types)], &m,
			       &err) == 0) {
		if (m.kind == OCI_KIND_INDEX)
			(void)oci_index_select(&m, &entry, &err);
		else
			(void)oci_manifest_check_types(&m, &err);
		for (size_t i = 0; i < m.n_items; i++) {
			if (!image_digest_valid(m.items[i].digest))
				__builtin_trap();
		}
		oci_manifest_done(&m);
	} else if (!err.msg[0]) {
		__builtin_trap();
	}
	try_config((const char *)data + 1, size - 1);
	return 0;
}

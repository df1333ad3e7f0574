/* SPDX-License-Identifier: Apache-2.0 */
#include "cri/image/oci/digest.h"

#include "base/util.h"

#include <assert.h>
#include <openssl/evp.h>
#include <openssl/sha.h>

struct image_digest {
	EVP_MD_CTX *ctx;
};

struct image_digest *image_digest_new(void)
{
	struct image_digest *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->ctx = EVP_MD_CTX_new();
	if (!d->ctx || EVP_DigestInit_ex(d->ctx, EVP_sha256(), NULL) != 1)
		return image_digest_free(d);
	return d;
}

struct image_digest *image_digest_free(struct image_digest *d)
{
	if (d) {
		EVP_MD_CTX_free(d->ctx);
		free(d);
	}
	return NULL;
}

void image_digest_reset(struct image_digest *d)
{
	int ok = EVP_DigestInit_ex(d->ctx, EVP_sha256(), NULL);

	assert(ok == 1);
	(void)ok;
}

void image_digest_update(struct image_digest *d, const void *data, size_t len)
{
	int ok = EVP_DigestUpdate(d->ctx, data, len);

	assert(ok == 1);
	(void)ok;
}

static void print(const unsigned char *md, char *out)
{
	memcpy(out, "sha256:", 7);
	hex_encode(md, SHA256_DIGEST_LENGTH, out + 7);
}

void image_digest_final(struct image_digest *d, char out[IMAGE_DIGEST_LEN + 1])
{
	unsigned char md[EVP_MAX_MD_SIZE] = {0};
	unsigned int len = 0;
	int ok = EVP_DigestFinal_ex(d->ctx, md, &len);

	assert(ok == 1 && len == SHA256_DIGEST_LENGTH);
	(void)ok;
	print(md, out);
}

void image_digest_of(const void *data, size_t len, char out[IMAGE_DIGEST_LEN + 1])
{
	unsigned char md[SHA256_DIGEST_LENGTH] = {0};

	SHA256(data, len, md);
	print(md, out);
}

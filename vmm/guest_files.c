/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/guest_files_internal.h"

#include "base/util.h"

#include <elf.h>
#include <endian.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#define SUMS_MAX      (64 * 1024)
#define SUM_HEX	      64
#define CHUNK	      (64 * 1024)
#define PHDRS_MAX     64
#define NOTES_MAX     (64 * 1024)
#define PVH_NOTE_TYPE 18 /* XEN_ELFNOTE_PHYS32_ENTRY, xen/include/public/elfnote.h */
#define SECTOR	      512
#define EXT4_BLOCK    4096

/* ---- what is the same file ----------------------------------------------------------------------------- */

static struct vmm_file_id id_of(const struct stat *st)
{
	return (struct vmm_file_id){
		.dev = st->st_dev,
		.ino = st->st_ino,
		.size = st->st_size,
		.mtime_ns = st->st_mtim.tv_sec * NS_PER_SEC + st->st_mtim.tv_nsec,
		.ctime_ns = st->st_ctim.tv_sec * NS_PER_SEC + st->st_ctim.tv_nsec,
	};
}

bool guest_same_file(const struct vmm_file_id *a, const struct vmm_file_id *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->mtime_ns == b->mtime_ns &&
	       a->ctime_ns == b->ctime_ns;
}

void guest_file_id(const char *path, struct vmm_file_id *ret_id)
{
	struct stat st;

	if (stat(path, &st) == 0)
		*ret_id = id_of(&st);
}

/* ---- the kernel ---------------------------------------------------------------------------------------- */

static int no_kernel(struct err *err, const char *path, const char *why)
{
	return err_set_status(err, -ENOEXEC, ERR_FAILED_PRECONDITION, "guest kernel %s: %s", path, why);
}

/* True if the notes of a PT_NOTE segment hold the PVH entry. Sizes in the file are not trusted. */
static bool has_pvh_note(const unsigned char *data, size_t len)
{
	size_t at = 0;

	while (len - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		size_t name, desc;

		memcpy(&note, data + at, sizeof(note));
		at += sizeof(note);
		name = ((size_t)note.n_namesz + 3) & ~(size_t)3;
		desc = ((size_t)note.n_descsz + 3) & ~(size_t)3;
		if (name > len - at || desc > len - at - name)
			return false;
		if (note.n_type == PVH_NOTE_TYPE && note.n_namesz == 4 && memcmp(data + at, "Xen", 4) == 0)
			return true;
		at += name + desc;
	}
	return false;
}

static int note_segment(int fd, const Elf64_Phdr *ph, bool *ret_pvh)
{
	unsigned char *data CLEANUP_FREE = NULL;
	size_t len = ph->p_filesz < NOTES_MAX ? (size_t)ph->p_filesz : NOTES_MAX;

	data = malloc(len + 1);
	if (!data)
		return -ENOMEM;
	if (pread(fd, data, len, (off_t)ph->p_offset) != (ssize_t)len)
		return -EIO;
	*ret_pvh = *ret_pvh || has_pvh_note(data, len);
	return 0;
}

static int check_elf(int fd, uint64_t size, const char *path, const Elf64_Ehdr *eh, struct err *err)
{
	Elf64_Phdr ph[PHDRS_MAX];
	size_t n = eh->e_phnum;
	bool pvh = false;

	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh->e_machine != EM_X86_64)
		return no_kernel(err, path, "an ELF file, but not for x86-64");
	if (n == 0 || n > PHDRS_MAX || eh->e_phentsize != sizeof(ph[0]) ||
	    pread(fd, ph, n * sizeof(ph[0]), (off_t)eh->e_phoff) != (ssize_t)(n * sizeof(ph[0])))
		return no_kernel(err, path, "its program headers cannot be read: damaged, or not a kernel");
	for (size_t i = 0; i < n; i++) {
		if (ph[i].p_offset > size || ph[i].p_filesz > size - ph[i].p_offset)
			return no_kernel(err, path, "it is cut short: a segment lies beyond its end");
		if (ph[i].p_type == PT_NOTE && note_segment(fd, &ph[i], &pvh) < 0)
			return no_kernel(err, path, "its notes cannot be read");
	}
	if (!pvh)
		return no_kernel(err, path,
				 "an ELF file without a PVH entry (CONFIG_PVH): no VMM can start it");
	return 0;
}

/* Documentation/arch/x86/boot.rst of Linux: boot_flag at 0x1fe, "HdrS" at 0x202. */
static bool is_bzimage(const unsigned char *head, size_t len)
{
	return len >= 0x206 && head[0x1fe] == 0x55 && head[0x1ff] == 0xaa &&
	       memcmp(head + 0x202, "HdrS", 4) == 0;
}

static int check_kernel(int fd, const struct stat *st, const char *path, struct err *err)
{
	unsigned char head[1024];
	ssize_t n = pread(fd, head, sizeof(head), 0);
	Elf64_Ehdr eh;

	if (n < 0)
		return err_set_errno(err, -errno, "reading guest kernel %s", path);
	if ((size_t)n >= sizeof(eh) && memcmp(head, ELFMAG, SELFMAG) == 0) {
		memcpy(&eh, head, sizeof(eh));
		return check_elf(fd, (uint64_t)st->st_size, path, &eh, err);
	}
	if (is_bzimage(head, (size_t)n))
		return 0;
	return no_kernel(err, path, "it is neither an ELF file nor a bzImage");
}

/* ---- the image ----------------------------------------------------------------------------------------- */

static int bad_image(struct err *err, const char *path, const char *why)
{
	return err_set_status(err, -EUCLEAN, ERR_FAILED_PRECONDITION, "guest image %s: %s", path, why);
}

static uint32_t le32_at(const unsigned char *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

/* Offsets: the partition entry of an MBR; fs/ext4/ext4.h, struct ext4_super_block. */
static int check_image(int fd, const struct stat *st, const char *path, struct err *err)
{
	unsigned char mbr[SECTOR], sb[1024];
	uint64_t size = (uint64_t)st->st_size, start, bytes;

	if (pread(fd, mbr, sizeof(mbr), 0) != (ssize_t)sizeof(mbr) || mbr[510] != 0x55 || mbr[511] != 0xaa)
		return bad_image(err, path, "it has no partition table");
	start = (uint64_t)le32_at(mbr + 446 + 8) * SECTOR;
	bytes = (uint64_t)le32_at(mbr + 446 + 12) * SECTOR;
	if (start == 0 || bytes == 0)
		return bad_image(err, path, "its first partition is empty");
	if (start > size || bytes > size - start)
		return bad_image(err, path, "it is cut short: its first partition lies beyond its end");
	if (pread(fd, sb, sizeof(sb), (off_t)start + 1024) != (ssize_t)sizeof(sb) || sb[0x38] != 0x53 ||
	    sb[0x39] != 0xef)
		return bad_image(err, path, "there is no ext4 in its first partition");
	if (le32_at(sb + 0x18) != 2 || (uint64_t)le32_at(sb + 0x4) * EXT4_BLOCK > bytes)
		return bad_image(err, path, "its ext4 is damaged, or has no blocks of 4 KiB");
	if (!(le32_at(sb + 0x5c) & 0x4))
		return bad_image(
			err, path,
			"its ext4 has no journal, without which the guest cannot mount it (data=ordered)");
	return 0;
}

/* ---- the sums ------------------------------------------------------------------------------------------ */

static int digest(int fd, char out[SUM_HEX + 1])
{
	unsigned char *buf CLEANUP_FREE = malloc(CHUNK);
	unsigned char sum[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	unsigned int len = 0;
	off_t at = 0;
	ssize_t n = 0;
	bool ok = buf && ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;

	while (ok && (n = pread(fd, buf, CHUNK, at)) > 0) {
		ok = EVP_DigestUpdate(ctx, buf, (size_t)n) == 1;
		at += n;
	}
	ok = ok && n == 0 && EVP_DigestFinal_ex(ctx, sum, &len) == 1;
	EVP_MD_CTX_free(ctx);
	if (!ok)
		return n < 0 ? -errno : -ENOMEM;
	hex_encode(sum, len, out);
	return 0;
}

/* The sum that a line "<64 hex digits>  NAME" (or " *NAME") gives for this name; NULL if none does. */
static const char *find_sum(char *text, const char *name)
{
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (strspn(line, "0123456789abcdef") != SUM_HEX || line[SUM_HEX] != ' ' ||
		    (line[SUM_HEX + 1] != ' ' && line[SUM_HEX + 1] != '*') ||
		    !str_eq(line + SUM_HEX + 2, name))
			continue;
		line[SUM_HEX] = 0;
		return line;
	}
	return NULL;
}

static int check_sum(int fd, const char *what, const char *path, const char *sums, struct err *err)
{
	char *text CLEANUP_FREE = NULL;
	char have[SUM_HEX + 1];
	const char *want;
	int r = read_file(sums, SUMS_MAX, &text, NULL);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return err_set_errno(err, r, "reading %s", sums);
	want = find_sum(text, strrchr(path, '/') + 1);
	if (!want)
		return 0;
	r = digest(fd, have);
	if (r < 0)
		return err_set_errno(err, r, "reading %s %s", what, path);
	if (!str_eq(have, want))
		return err_set_status(err, -EUCLEAN, ERR_FAILED_PRECONDITION,
				      "%s %s is damaged: its SHA-256 is %.12s…, %s says %.12s… (install it "
				      "again; or leave it out of "
				      "%s, if it is meant to differ)",
				      what, path, have, sums, want, sums);
	return 0;
}

/* ---- both ---------------------------------------------------------------------------------------------- */

typedef int check_fn(int fd, const struct stat *st, const char *path, struct err *err);

static int look(const char *what, const char *key, const char *path, check_fn *check,
		struct vmm_file_facts *facts, struct err *err)
{
	char *sums CLEANUP_FREE = NULL;
	struct vmm_file_facts now = {.known = true};
	struct err found = ERR_INIT;
	struct stat st, sums_st;
	int fd CLEANUP_CLOSE = -1;

	if (str_empty(path))
		return err_set_status(err, -ENOENT, ERR_FAILED_PRECONDITION,
				      "no %s is configured ([hypervisor] %s)", what, key);
	if (path[0] != '/')
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION, "%s %s is not an absolute path",
				      what, path);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set_status(err, -errno, ERR_FAILED_PRECONDITION, "%s %s: %s ([hypervisor] %s)",
				      what, path, strerrordesc_np(errno), key);
	if (!S_ISREG(st.st_mode))
		return err_set_status(err, -EINVAL, ERR_FAILED_PRECONDITION, "%s %s is not a regular file",
				      what, path);
	sums = xasprintf("%.*s/" GUEST_SUMS, (int)(strrchr(path, '/') - path), path);
	if (!sums)
		return err_oom(err);
	now.file = id_of(&st);
	if (stat(sums, &sums_st) == 0)
		now.sums = id_of(&sums_st);
	if (!facts->known || !guest_same_file(&facts->file, &now.file) ||
	    !guest_same_file(&facts->sums, &now.sums)) {
		now.code = check(fd, &st, path, &found);
		if (now.code == 0)
			now.code = check_sum(fd, what, path, sums, &found);
		snprintf(now.words, sizeof(now.words), "%s", found.msg);
		*facts = now;
	}
	return facts->code < 0 ? err_set_status(err, facts->code, ERR_FAILED_PRECONDITION, "%s", facts->words)
			       : 0;
}

int guest_kernel_check(const char *path, struct vmm_file_facts *facts, struct err *err)
{
	return look("guest kernel", "kernel_path", path, check_kernel, facts, err);
}

int guest_image_check(const char *path, struct vmm_file_facts *facts, struct err *err)
{
	return look("guest image", "image_path", path, check_image, facts, err);
}

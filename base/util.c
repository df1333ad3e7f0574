/* SPDX-License-Identifier: Apache-2.0 */
#include "base/util.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

int close_fd(int fd)
{
	if (fd >= 0) {
		int saved = errno;

		close(fd);
		errno = saved;
	}
	return -1;
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : s;
}

bool str_starts(const char *s, const char *prefix)
{
	return s && strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
	size_t a = s ? strlen(s) : 0, b = strlen(suffix);

	return s && a >= b && memcmp(s + a - b, suffix, b) == 0;
}

int str_set(char **dst, const char *src)
{
	char *copy = NULL;

	if (src) {
		copy = strdup(src);
		if (!copy)
			return -ENOMEM;
	}
	free(*dst);
	*dst = copy;
	return 0;
}

int parse_u64(const char *s, uint64_t *ret_value)
{
	uint64_t v = 0;

	if (str_empty(s))
		return -EINVAL;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return -ERANGE;
	}
	*ret_value = v;
	return 0;
}

size_t strv_len(char *const *v)
{
	size_t n = 0;

	while (v && v[n])
		n++;
	return n;
}

static int strv_take(char ***v, char *s)
{
	size_t n = strv_len(*v);
	char **grown;

	if (!s)
		return -ENOMEM;
	grown = reallocarray(*v, n + 2, sizeof(char *));
	if (!grown) {
		free(s);
		return -ENOMEM;
	}
	grown[n] = s;
	grown[n + 1] = NULL;
	*v = grown;
	return 0;
}

int strv_add(char ***v, const char *s)
{
	return strv_take(v, strdup(s));
}

int strv_addf(char ***v, const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return strv_take(v, n < 0 ? NULL : s);
}

char **strv_free(char **v)
{
	for (size_t i = 0; v && v[i]; i++)
		free(v[i]);
	free(v);
	return NULL;
}

/* RFC 3629, section 4. */
size_t utf8_char(const void *data, size_t len)
{
	const unsigned char *s = data;
	unsigned char lo = 0x80, hi = 0xbf;
	size_t need;

	if (len == 0 || s[0] == 0)
		return 0;
	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		need = 2;
	else if (s[0] >= 0xe0 && s[0] <= 0xef)
		need = 3;
	else if (s[0] >= 0xf0 && s[0] <= 0xf4)
		need = 4;
	else
		return 0;
	if (s[0] == 0xe0)
		lo = 0xa0;
	else if (s[0] == 0xed)
		hi = 0x9f;
	else if (s[0] == 0xf0)
		lo = 0x90;
	else if (s[0] == 0xf4)
		hi = 0x8f;
	if (len < need || s[1] < lo || s[1] > hi)
		return 0;
	for (size_t i = 2; i < need; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	return need;
}

bool utf8_valid(const void *s, size_t len)
{
	const unsigned char *p = s;

	while (len > 0) {
		size_t n = utf8_char(p, len);

		if (n == 0)
			return false;
		p += n;
		len -= n;
	}
	return true;
}

void hex_encode(const void *data, size_t len, char *out)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *p = data;

	for (size_t i = 0; i < len; i++) {
		out[2 * i] = digits[p[i] >> 4];
		out[2 * i + 1] = digits[p[i] & 15];
	}
	out[2 * len] = 0;
}

int random_hex(size_t n, char *out)
{
	unsigned char buf[64];

	if (n > sizeof(buf))
		return -EINVAL;
	if (getrandom(buf, n, 0) != (ssize_t)n)
		return errno ? -errno : -EIO;
	hex_encode(buf, n, out);
	return 0;
}

static int64_t now_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return timespec_to_ns(&ts);
}

int64_t now_monotonic_ns(void)
{
	return now_ns(CLOCK_MONOTONIC);
}

int64_t now_realtime_ns(void)
{
	return now_ns(CLOCK_REALTIME);
}

ssize_t read_full(int fd, void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = read(fd, (char *)buf + done, len - done);

		if (n == 0)
			break;
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int write_full(int fd, const void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = write(fd, (const char *)buf + done, len - done);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		done += (size_t)n;
	}
	return 0;
}

int read_file_at(int dirfd, const char *path, size_t max, char **ret_data, size_t *ret_len)
{
	int fd CLEANUP_CLOSE = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	char *data CLEANUP_FREE = NULL;
	size_t len = 0, room = 0;

	if (fd < 0)
		return -errno;
	for (;;) {
		ssize_t n;

		if (room - len < 2) {
			char *grown;

			room = room ? room * 2 : 4096;
			if (room > max + 2)
				room = max + 2;
			grown = realloc(data, room);
			if (!grown)
				return -ENOMEM;
			data = grown;
		}
		n = read_full(fd, data + len, room - len - 1);
		if (n < 0)
			return (int)n;
		if (n == 0)
			break;
		len += (size_t)n;
		if (len > max)
			return -EFBIG;
	}
	data[len] = 0;
	if (ret_len)
		*ret_len = len;
	*ret_data = move_ptr(data);
	return 0;
}

int write_file(const char *path, const void *data, size_t len, mode_t mode)
{
	int flags = O_WRONLY | O_CLOEXEC | (mode ? O_CREAT | O_TRUNC : 0);
	int fd CLEANUP_CLOSE = open(path, flags, mode);

	if (fd < 0)
		return -errno;
	return write_full(fd, data, len);
}

#define UNFINISHED   ".tmp."
#define RANDOM_BYTES 8

int write_file_atomic(const char *path, const void *data, size_t len, mode_t mode, bool sync)
{
	char suffix[2 * RANDOM_BYTES + 1];
	char *tmp CLEANUP_FREE = NULL;
	int fd CLEANUP_CLOSE = -1;
	int r = random_hex(RANDOM_BYTES, suffix);

	if (r < 0)
		return r;
	tmp = xasprintf("%s" UNFINISHED "%s", path, suffix);
	if (!tmp)
		return -ENOMEM;
	fd = open(tmp, O_WRONLY | O_CLOEXEC | O_CREAT | O_EXCL, mode);
	if (fd < 0)
		return -errno;
	r = write_full(fd, data, len);
	if (r == 0 && sync && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && rename(tmp, path) < 0)
		r = -errno;
	if (r < 0)
		unlink(tmp);
	return r;
}

static bool is_unfinished(const char *name)
{
	size_t len = strlen(name), tail = strlen(UNFINISHED) + 2 * RANDOM_BYTES;
	const char *end = len > tail ? name + len - tail : "";

	return str_starts(end, UNFINISHED) &&
	       strspn(end + strlen(UNFINISHED), "0123456789abcdef") == 2 * RANDOM_BYTES;
}

int remove_unfinished(const char *dir)
{
	DIR *d = opendir(dir);
	const struct dirent *de;
	int r = 0;

	if (!d)
		return errno == ENOENT ? 0 : -errno;
	while ((de = readdir(d))) {
		if (is_unfinished(de->d_name) && unlinkat(dirfd(d), de->d_name, 0) < 0 && errno != ENOENT &&
		    r == 0)
			r = -errno;
	}
	closedir(d);
	return r;
}

int mkdir_p(const char *path, mode_t mode)
{
	char *copy CLEANUP_FREE = strdup(path);
	struct stat st;

	if (!copy)
		return -ENOMEM;
	for (char *p = copy + 1; *copy && *p; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		if (mkdir(copy, mode) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	if (mkdir(copy, mode) == 0)
		return 0;
	if (errno != EEXIST)
		return -errno;
	if (stat(copy, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int set_nonblock(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

bool is_program(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

int find_program(const char *name, char *out, size_t size)
{
	const char *path = getenv("PATH");

	if (strchr(name, '/')) {
		if ((size_t)snprintf(out, size, "%s", name) >= size)
			return -ENAMETOOLONG;
		return is_program(out) ? 0 : -ENOENT;
	}
	if (str_empty(path))
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	for (const char *end; path; path = *end ? end + 1 : NULL) {
		end = strchrnul(path, ':');
		if (end > path &&
		    (size_t)snprintf(out, size, "%.*s/%s", (int)(end - path), path, name) < size &&
		    is_program(out))
			return 0;
	}
	return -ENOENT;
}

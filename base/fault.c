/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fault.h"

#ifdef CRV_FAULTS

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char wanted[64]; /* written before any thread looks, or by a test that has no other thread */
static unsigned long wanted_hit;
static atomic_ulong hits;
static atomic_bool armed;
static _Thread_local bool spared;

static void parse(const char *spec)
{
	const char *colon = spec ? strchr(spec, ':') : NULL;

	snprintf(wanted, sizeof(wanted), "%.*s", spec ? (int)strcspn(spec, ":") : 0, spec ? spec : "");
	wanted_hit = colon ? strtoul(colon + 1, NULL, 10) : 1;
	atomic_store(&hits, 0);
	atomic_store(&armed, wanted[0] != 0);
}

static void read_environment(void)
{
	parse(getenv("CRV_FAULT"));
}

void fault_set(const char *spec)
{
	pthread_once(&once, read_environment);
	parse(spec);
}

unsigned long fault_hits(void)
{
	return atomic_load(&hits);
}

bool fault_spare(bool on)
{
	bool before = spared;

	spared = on;
	return before;
}

bool fault_fails(const char *name)
{
	pthread_once(&once, read_environment);
	if (spared || !atomic_load(&armed) || strcmp(name, wanted) != 0)
		return false;
	return atomic_fetch_add(&hits, 1) + 1 == wanted_hit;
}

void fault_kill(const char *name)
{
	if (fault_fails(name)) {
		dprintf(STDERR_FILENO, "fault point %s: killed\n", name);
		raise(SIGKILL);
	}
}

void fault_kill_in(const char *group, const char *name)
{
	char full[64];

	snprintf(full, sizeof(full), "%s.%s", group, name);
	fault_kill(full);
}

/* ---- allocations --------------------------------------------------------------------------------------- */

/*
 * The linker puts these in place of the C library's functions in what we link (-Wl,--wrap=…). Libraries that
 * are linked dynamically keep the C library's own: gRPC core and C++ abort when an allocation fails.
 */
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_reallocarray(void *old, size_t n, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t max);
int __real_vasprintf(char **ret, const char *fmt, va_list ap);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_reallocarray(void *old, size_t n, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t max);
int __wrap_vasprintf(char **ret, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
int __wrap_asprintf(char **ret, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static bool no_memory(void)
{
	if (!fault_fails("alloc"))
		return false;
	errno = ENOMEM;
	return true;
}

void *__wrap_malloc(size_t size)
{
	return no_memory() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return no_memory() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
	return no_memory() ? NULL : __real_realloc(old, size);
}

void *__wrap_reallocarray(void *old, size_t n, size_t size)
{
	return no_memory() ? NULL : __real_reallocarray(old, n, size);
}

char *__wrap_strdup(const char *text)
{
	return no_memory() ? NULL : __real_strdup(text);
}

char *__wrap_strndup(const char *text, size_t max)
{
	return no_memory() ? NULL : __real_strndup(text, max);
}

int __wrap_vasprintf(char **ret, const char *fmt, va_list ap)
{
	return no_memory() ? -1 : __real_vasprintf(ret, fmt, ap);
}

int __wrap_asprintf(char **ret, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = __wrap_vasprintf(ret, fmt, ap);
	va_end(ap);
	return n;
}

#endif

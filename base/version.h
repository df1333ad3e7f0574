/* SPDX-License-Identifier: Apache-2.0 */
/*
 * version.h: which crivisor this is. One file alone knows, so a build of another version compiles one file
 * anew.
 *
 * Threads:   any; it never changes.
 */
#ifndef BASE_VERSION_H
#define BASE_VERSION_H

/* "MAJOR.MINOR.PATCH" */
extern const char crv_version[];

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/version.h"

const char crv_version[] = CRV_VERSION;

#include "base/version.h"

const char crv_version[] = CRV_VERSION;

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
# Shared by the scripts of deploy/ and by the test scripts: . deploy/lib.sh
#
# Sets CRV_CACHE (built once, kept outside the build tree) and CRV_BIN (what was built there), and puts CRV_BIN first
# in PATH. Functions: step, say, warn, die, elapsed. POSIX sh; changes no other state of the caller.

CRV_CACHE="${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/crivisor"
CRV_BIN="$CRV_CACHE/bin"
CRV_QUIET="${CRV_QUIET:-0}"
case ":$PATH:" in
*":$CRV_BIN:"*) ;;
*) PATH="$CRV_BIN:$PATH" ;;
esac
export PATH

crv_begin=$(date +%s)

# step TEXT: a new stage of the work.
step() { [ "$CRV_QUIET" = 1 ] || printf '==> %s\n' "$*"; }

# say TEXT: one more fact about the stage.
say() { [ "$CRV_QUIET" = 1 ] || printf '    %s\n' "$*"; }

# warn TEXT: something that a person should know even in a quiet run.
warn() { printf 'warning: %s\n' "$*" >&2; }

# die TEXT: say why, and end.
die() {
	printf '%s: error: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# elapsed: time since this file was read, as m:ss.
elapsed() {
	crv_secs=$(($(date +%s) - crv_begin))
	printf '%d:%02d' $((crv_secs / 60)) $((crv_secs % 60))
}

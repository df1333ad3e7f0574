/* SPDX-License-Identifier: Apache-2.0 */
/* Who listens in on a container's output. */
#include "cri/logs/pump_internal.h"

bool log_pump_tap(struct log_pump *pump, struct log_tap *tap)
{
	if (pump->state == ENDED)
		return false;
	tap->full_since_ns = 0;
	tap->next = pump->taps;
	pump->taps = tap;
	return true;
}

void log_pump_untap(struct log_pump *pump, const struct log_tap *tap)
{
	struct log_tap **at = &pump->taps;

	while (*at && *at != tap)
		at = &(*at)->next;
	if (!*at)
		return;
	*at = tap->next;
	log_pump_tap_ready(pump); /* the others may have waited for this one */
}

static void take_off(struct log_pump *pump, const struct log_tap *tap)
{
	struct log_tap **at = &pump->taps;

	while (*at != tap)
		at = &(*at)->next;
	*at = tap->next;
}

void log_pump_tap_ready(struct log_pump *pump)
{
	log_pump_read_on(pump);
}

void log_pump_tell_taps(struct log_pump *pump, const Crivisor__Agent__V1__ReadLogResponse *batch)
{
	for (const struct log_tap *tap = pump->taps; tap; tap = tap->next) {
		for (size_t i = 0; i < batch->n_records; i++) {
			const Crivisor__Agent__V1__LogRecord *rec = batch->records[i];

			if (rec->data.len > 0)
				tap->data(tap->arg, rec->stream == CRIVISOR__AGENT__V1__STREAM__STREAM_STDERR,
					  rec->data.data, rec->data.len);
		}
	}
}

bool log_pump_taps_full(struct log_pump *pump)
{
	int64_t now = now_monotonic_ns();
	struct log_tap *tap = pump->taps;
	bool full = false;

	while (tap) {
		struct log_tap *next = tap->next;

		if (!tap->full(tap->arg)) {
			tap->full_since_ns = 0;
		} else if (tap->full_since_ns == 0) {
			tap->full_since_ns = now;
			full = true;
		} else if (now - tap->full_since_ns < LOG_TAP_NS) {
			full = true;
		} else {
			take_off(pump, tap);
			tap->end(tap->arg, true);
		}
		tap = next;
	}
	return full;
}

void log_pump_end_taps(struct log_pump *pump)
{
	while (pump->taps) {
		struct log_tap *tap = pump->taps;

		pump->taps = tap->next;
		tap->end(tap->arg, false);
	}
}

# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Counting for test/run: record, check, ctest_in, unittest_in, summary. Uses step and say of deploy/lib.sh, and $work.

total_passed=0 total_failed=0 total_skipped=0 report=()

# record NAME PASSED FAILED SKIPPED [SECONDS]
record() {
	total_passed=$((total_passed + $2)) total_failed=$((total_failed + $3)) total_skipped=$((total_skipped + $4))
	report+=("$(printf '%-40s %5d passed %4d failed %4d skipped%s' "$1" "$2" "$3" "$4" "${5:+ $(printf '%5d s' "$5")}")")
}

# check NAME COMMAND...: one test that is one command. Its output is shown if it fails; status 77 means that it was skipped.
check() {
	local name=$1 begin=$SECONDS status=0
	shift
	"$@" >"$work/check.log" 2>&1 || status=$?
	if [ $status = 0 ]; then
		say "ok      $name: $(tail -n 1 "$work/check.log")"
		record "$name" 1 0 0 $((SECONDS - begin))
	elif [ $status = 77 ]; then
		say "skip    $name: $(tail -n 1 "$work/check.log")"
		record "$name" 0 0 1 $((SECONDS - begin))
	else
		say "FAILED  $name"
		tail -n 40 "$work/check.log"
		record "$name" 0 1 0 $((SECONDS - begin))
	fi
}

# ctest_in DIR NAME CTEST-OPTION...: each test program counts as one.
ctest_in() {
	local dir=$1 name=$2 begin=$SECONDS passed failed skipped
	shift 2
	own_net ctest --test-dir "$dir" --output-on-failure --no-tests=error -j "$jobs" --output-junit "$work/junit.xml" "$@" \
		>"$work/ctest.log" 2>&1
	local status=$?
	read -r passed failed skipped < <(python3 - "$work/junit.xml" <<-'PYTHON'
		import sys
		import xml.etree.ElementTree as tree
		try:
		    cases = tree.parse(sys.argv[1]).getroot().findall("testcase")
		except OSError:
		    cases = []
		bad = sum(c.get("status") == "fail" for c in cases)
		skipped = sum(c.get("status") in ("notrun", "disabled") for c in cases)
		print(len(cases) - bad - skipped, bad, skipped)
	PYTHON
	)
	if [ "$status" != 0 ]; then
		[ "$failed" -gt 0 ] || failed=1
		grep -E '^ *[0-9]+/[0-9]+ .*(Failed|Timeout|Exception)|\[  FAILED|ERROR:|runtime error|WARNING: ThreadSanitizer|    #[0-9] ' \
			"$work/ctest.log" | head -n 60
		mkdir -p "$CRV_KEEP" && cp "$work/ctest.log" "$CRV_KEEP/${name//[^a-zA-Z]/_}.log"
		say "the whole output: $CRV_KEEP/${name//[^a-zA-Z]/_}.log"
	fi
	rm -f "$work/junit.xml"
	say "$name: $passed passed, $failed failed, $skipped skipped"
	record "$name" "$passed" "$failed" "$skipped" $((SECONDS - begin))
}

# unittest_in DIR NAME: Python's unittest; the tests make their own network namespaces.
unittest_in() {
	local begin=$SECONDS ran failed skipped status
	python3 -m unittest discover "$1" >"$work/unittest.log" 2>&1
	status=$?
	ran=$(sed -n 's/^Ran \([0-9]*\) tests\{0,1\} in.*/\1/p' "$work/unittest.log" | tail -n 1)
	ran=${ran:-0}
	failed=$(grep -cE '^(FAIL|ERROR): ' "$work/unittest.log")
	skipped=$(sed -n 's/.*skipped=\([0-9]*\).*/\1/p' "$work/unittest.log" | tail -n 1)
	skipped=${skipped:-0}
	if [ $status != 0 ]; then
		[ "$failed" -gt 0 ] || failed=1
		tail -n 60 "$work/unittest.log"
	fi
	[ "$ran" -ge $((failed + skipped)) ] || ran=$((failed + skipped))
	say "$2: $((ran - failed - skipped)) passed, $failed failed, $skipped skipped"
	record "$2" $((ran - failed - skipped)) "$failed" "$skipped" $((SECONDS - begin))
}

# summary: what was recorded, then the closing line; ends the script.
summary() {
	step "summary (after $(elapsed))"
	local line
	for line in "${report[@]}"; do
		printf '    %s\n' "$line"
	done
	printf '%d passed, %d failed, %d skipped\n' "$total_passed" "$total_failed" "$total_skipped"
	[ "$total_failed" = 0 ] && [ "$total_passed" -gt 0 ]
	exit
}

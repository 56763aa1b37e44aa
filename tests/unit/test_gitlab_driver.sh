#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# usage: test_gitlab_driver.sh DRIVER. nido-gitlab against a nido that is none: told to end when the program that it waited for
# is gone already, it signals nobody, as the number may be another process's.
set -euo pipefail

driver=$1
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
mkdir -m 700 "$here/job"
echo gitlab-1-0123456789abcdef >"$here/job/nido.machine"
echo true >"$here/script"
printf 'nido=%q\n' "$here/nido" >"$here/conf"
# Its machine ends under a stage, and never gives up its name.
cat >"$here/nido" <<'END'
#!/bin/bash
case $1 in
exec) printf '{\n  "reason": "machine-ended",\n}\n' >"$3" && exit 123 ;;
status) touch "${0%/*}/asked" ;;
esac
END
chmod 755 "$here/nido"

TMPDIR=$here/job bash "$driver" --config "$here/conf" run "$here/script" build_script 2>"$here/err" &
pid=$!
until [[ -e $here/asked ]]; do sleep 0.1; done
kill -TERM $pid
status=0
wait $pid || status=$?
[[ $status == 1 && $(<"$here/err") == 'nido-gitlab: told to end' ]] || {
    echo "status $status: $(<"$here/err")"
    exit 1
}

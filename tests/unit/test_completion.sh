#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tests/unit/test_completion.sh NIDO COMPLETION-DIRECTORY: what the shells offer is what nido knows. Speaks TAP.
set -uo pipefail

nido=$1 completion=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cases=0 failures=0

# check NAME COMMAND...: what a failing command prints says why.
check() {
    local name=$1 output
    shift
    cases=$((cases + 1))
    if output=$("$@" 2>&1); then
        echo "ok $cases - $name"
    else
        failures=$((failures + 1))
        echo "not ok $cases - $name"
        printf '%s\n' "$output" | sed 's/^/# /'
    fi
}

# "--disk FILE[,ro]" of --help all: the flag, and its value where it takes one.
flags() { "$nido" help run all | sed -nE 's/^  (--[a-z-]+) ?([A-Za-z]?.*)$/\1 \2/p'; }

each_flag_is_offered() {
    local file=$completion/$1 flag missing=0
    while read -r flag _; do
        grep -qE -- "(^|[^a-z-])$flag([^a-z-]|$)" "$file" || { echo "$flag is not in $file" && missing=1; }
    done < <(flags)
    return $missing
}

no_other_flag_is_offered() {
    local flag known stray=0
    known=$(flags)
    while read -r flag; do
        case $flag in --help | --json | --force | --modules | --setuid) continue ;; esac
        [[ $'\n'$known == *$'\n'"$flag "* ]] || { echo "$flag is in $1, and nido has no such flag" && stray=1; }
    done < <(grep -oE -- '--[a-z][a-z-]+' "$completion/$1" | sort -u)
    return $stray
}

# The words between the commas of --disk and --net.
each_option_is_offered() {
    local word missing=0
    for word in $(flags | sed -nE 's/^--(disk|net) //p' | tr -s '|,[]' '\n' | grep -oE '^[a-z]+(=|$)' | sort -u); do
        grep -qE -- "[\"' (]$word" "$completion/$1" || { echo "$word is not in $1" && missing=1; }
    done
    return $missing
}

each_command_is_offered() {
    local command missing=0
    for command in $("$nido" help | sed -nE 's/^  nido ([a-z|]+)( \| ([a-z]+))?.*/\1 \3/p' | tr '|' ' '); do
        grep -qE -- "[' (]${command}[ :)]" "$completion/$1" || { echo "$command is not in $1" && missing=1; }
    done
    return $missing
}

# offers LINE WORD...: what bash offers at the end of LINE; no more and no less.
offers() {
    local line=$1 got expected
    shift
    expected=$(printf '%s\n' "$@" | sort)
    got=$(bash_offers "$line" | sort)
    [[ $got == "$expected" ]] || { printf "'%s' offers\n%s\ninstead of\n%s\n" "$line" "$got" "$expected" && return 1; }
}

# The line as readline takes it apart: at blanks, = and :, which stand alone.
bash_offers() {
    local line=$1
    (
        cd "$work" || exit
        # shellcheck source=/dev/null
        . "$completion/nido.bash"
        COMP_WORDS=()
        read -ra COMP_WORDS <<<"$(sed -E 's/([=:]+)/ \1 /g' <<<"$line")"
        [[ $line != *' ' && $line != *[=:] ]] || COMP_WORDS+=('')
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _nido
        [[ ${#COMPREPLY[@]} -eq 0 ]] || printf '%s\n' "${COMPREPLY[@]}"
    )
}

zsh_offers_flags_words_and_commands() {
    local shown
    zsh -n "$completion/_nido" || return
    shown=$(zsh -f "$(dirname "$0")/completion.zsh" "$completion" 'nido run --on-reboot ' 'nido run --ker' \
        'nido run --disk a.img,q' 'nido sta')
    echo "$shown"
    [[ $shown == *restart*kernel-cache*queues=*stats* ]]
}

touch "$work/vmlinuz" "$work/root.img"
mkdir "$work/cache"

for file in nido.bash _nido; do
    check "each_flag_is_offered_by_$file" each_flag_is_offered $file
    check "no_other_flag_is_offered_by_$file" no_other_flag_is_offered $file
    check "each_option_is_offered_by_$file" each_option_is_offered $file
    check "each_command_is_offered_by_$file" each_command_is_offered $file
done
check bash_offers_commands offers 'nido st' status stats stop
check bash_offers_the_balloon offers 'nido ba' balloon
check bash_offers_flags offers 'nido run --ker' --kernel --kernel-cache
check bash_offers_flags_after_a_switch offers 'nido run --hugepages --cp' --cpus
check bash_offers_files offers 'nido run --kernel vm' vmlinuz
check bash_offers_files_after_an_equals_sign offers 'nido run --kernel=vm' vmlinuz
check bash_offers_directories offers 'nido run --kernel-cache ' none cache
check bash_offers_a_disks_file offers 'nido run --disk ro' root.img
check bash_offers_a_disks_words offers 'nido run --disk root.img,' root.img,{ro,id=,format=raw,format=qcow2,overlay,overlay=,cache=writeback,cache=unsafe,direct,queues=}
check bash_offers_no_word_twice offers 'nido run --disk root.img,ro,d' root.img,ro,direct
check bash_offers_words_after_values offers 'nido run --disk root.img,id=x,r' x,ro
check bash_offers_networks offers 'nido run --net ' user tap= fd= none mac= publish= host-loopback
check bash_offers_networks_after_an_equals_sign offers 'nido run --net=us' user
check bash_offers_words_after_colons offers 'nido run --net user,publish=80:80,pub' 80,publish=
check bash_offers_a_shares_directory offers 'nido run --share ca' cache
check bash_offers_a_shares_words offers 'nido run --share .:/mnt,c' /mnt,cache={auto,always,none}
check bash_offers_consoles offers 'nido run --console ' stdio file= none virtio
check bash_offers_a_consoles_file offers 'nido run --console file=root' root.img
check bash_offers_values offers 'nido run --on-reboot re' restart
check bash_offers_what_a_panic_does offers 'nido run --on-panic=' exit restart continue
check bash_offers_nothing_where_nothing_is_known offers 'nido run --cpus ' ''
check bash_offers_help_for_run offers 'nido help ' run
if command -v zsh >/dev/null; then
    check zsh_offers_flags_words_and_commands zsh_offers_flags_words_and_commands
else
    cases=$((cases + 1))
    echo "ok $cases - zsh_offers_flags_words_and_commands # SKIP zsh is not installed"
fi
echo "1..$cases"
[[ $failures -eq 0 ]]

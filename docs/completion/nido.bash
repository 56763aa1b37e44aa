# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Completion of nido's commands and flags for bash. A test keeps it in step with `nido help run all`.

_nido_commands=(run ps status stats console pause resume balloon stop exec cp kernel doctor version help)
_nido_run_flags=(
    --kernel
    --initrd
    --cmdline
    --cpus
    --mem
    --hugepages
    --mem-merge
    --disk
    --overlay
    --net
    --console
    --port
    --balloon
    --vsock
    --kernel-cache
    --dump-acpi
    --config
    --dump-config
    --name
    --detach
    --on-reboot
    --timeout
    --grace
    --root
    --env
    --workdir
    --user
    --write
    --scratch
    --tty
    --result
    --timeline
    --trace
    --dump-dtb
    --on-panic
    --share
    --pidfile
    --log
    --help
)
_nido_overlay_words=(keep= id= format=raw format=qcow2 cache=writeback cache=unsafe queues=)
_nido_disk_words=(ro id= format=raw format=qcow2 overlay overlay= cache=writeback cache=unsafe direct queues=)
_nido_share_words=(ro tag= cache=auto cache=always cache=none)
_nido_port_words=(file= pipe= socket= stdio console)
_nido_balloon_words=(on target= no-reporting stats=)
_nido_vsock_words=(cid= path=)
_nido_net_words=(user tap= fd= none mac= publish= host-loopback)

# bash takes a word apart at = and :; this puts together what belongs to one argument, up to the cursor.
_nido_split_line() {
    local i word
    words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if ((i > 1)) && [[ $word == [=:]* || ${words[-1]} == *[=:] ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
    done
}

_nido_taps() {
    local flags
    for flags in /sys/class/net/*/tun_flags; do
        [[ -e $flags ]] && basename "$(dirname "$flags")"
    done
}

# _nido_offer PREFIX PART WORD...: the words that begin with PART, each behind PREFIX.
_nido_offer() {
    local prefix=$1 part=$2 word
    shift 2
    for word; do
        [[ $word == "$part"* ]] && COMPREPLY+=("$prefix$word")
        [[ $word == "$part"* && $word == *= ]] && compopt -o nospace 2>/dev/null
    done
    return 0
}

# _nido_machine PART WORD...: the words, and the machines that run.
_nido_machine() {
    local part=$1 machines
    shift
    mapfile -t machines < <(nido ps 2>/dev/null | awk 'NR > 1 { print $1 }')
    _nido_offer '' "$part" "$@" "${machines[@]}"
}

# _nido_files PREFIX PART [-d]: files, or directories only.
_nido_files() {
    local prefix=$1 part=$2 file
    compopt -o filenames 2>/dev/null
    while IFS= read -r file; do
        COMPREPLY+=("$prefix$file")
    done < <(compgen "${3:--f}" -- "$part")
}

# _nido_words PREFIX VALUE WORD...: words between commas, those that are there already left out.
_nido_words() {
    local prefix=$1 value=$2 head='' part word rest=()
    shift 2
    [[ $value != *,* ]] || head=${value%,*},
    part=${value##*,}
    if [[ $part == tap=* ]]; then
        mapfile -t rest < <(_nido_taps)
        _nido_offer "$prefix${head}tap=" "${part#tap=}" "${rest[@]}"
        return
    fi
    for word; do
        [[ $word != publish= && ,$head == *",${word%%=*}"[=,]* ]] || rest+=("$word")
    done
    _nido_offer "$prefix$head" "$part" "${rest[@]}"
    compopt -o nospace 2>/dev/null
    return 0
}

# _nido_value FLAG PREFIX VALUE
_nido_value() {
    local prefix=$2 value=$3
    case $1 in
    --root | --kernel | --initrd | --dump-dtb | --config | --result | --trace | --pidfile) _nido_files "$prefix" "$value" ;;
    --dump-acpi) _nido_files "$prefix" "$value" -d ;;
    --kernel-cache)
        _nido_offer "$prefix" "$value" none
        _nido_files "$prefix" "$value" -d
        ;;
    --disk)
        if [[ $value == *,* ]]; then
            _nido_words "$prefix" "$value" "${_nido_disk_words[@]}"
        else
            _nido_files "$prefix" "$value"
        fi
        ;;
    --overlay)
        if [[ $value == *,* ]]; then
            _nido_words "$prefix" "$value" "${_nido_overlay_words[@]}"
        else
            _nido_files "$prefix" "$value"
        fi
        ;;
    --share)
        if [[ $value == *,* ]]; then
            _nido_words "$prefix" "$value" "${_nido_share_words[@]}"
        elif [[ $value != *:* ]]; then
            _nido_files "$prefix" "$value"
        fi
        ;;
    --port) [[ $value != *,* ]] || _nido_words "$prefix" "$value" "${_nido_port_words[@]}" ;;
    --balloon) _nido_words "$prefix" "$value" "${_nido_balloon_words[@]}" ;;
    --vsock) _nido_words "$prefix" "$value" "${_nido_vsock_words[@]}" ;;
    --net) _nido_words "$prefix" "$value" "${_nido_net_words[@]}" ;;
    --console)
        if [[ $value == file=* ]]; then
            _nido_files "${prefix}file=" "${value#file=}"
        else
            _nido_offer "$prefix" "$value" stdio file= none virtio
        fi
        ;;
    --on-reboot) _nido_offer "$prefix" "$value" exit restart ;;
    --on-panic) _nido_offer "$prefix" "$value" exit restart continue ;;
    --log)
        if [[ $value == *,* ]]; then
            _nido_files "$prefix${value%%,*}," "${value#*,}"
        else
            _nido_offer "$prefix" "$value" error warn info debug
        fi
        ;;
    --mem | --scratch) _nido_offer "$prefix" "$value" 256M 512M 1G 2G 4G ;;
    esac
}

_nido_run() {
    local cur=${words[-1]} previous=${words[-2]}
    case $previous in
    --hugepages | --mem-merge | --dump-config | --detach | --timeline | --write | --tty) ;;
    --help | -h) _nido_offer '' "$cur" all ;;
    --*=*) ;;
    --*)
        _nido_value "$previous" '' "$cur"
        return
        ;;
    esac
    case $cur in
    --*=*) _nido_value "${cur%%=*}" "${cur%%=*}=" "${cur#*=}" ;;
    *) _nido_offer '' "$cur" "${_nido_run_flags[@]}" ;;
    esac
}

_nido_help() {
    if [[ ${#words[@]} -eq 3 ]]; then
        _nido_offer '' "$1" run
    elif [[ ${#words[@]} -eq 4 && ${words[2]} == run ]]; then
        _nido_offer '' "$1" all
    fi
}

_nido() {
    local words cut
    COMPREPLY=()
    _nido_split_line
    local cur=${words[-1]}
    if ((${#words[@]} == 2)); then
        _nido_offer '' "$cur" "${_nido_commands[@]}"
    else
        case ${words[1]} in
        run) _nido_run ;;
        ps) _nido_offer '' "$cur" --json ;;
        help) _nido_help "$cur" ;;
        status | stats | balloon) _nido_machine "$cur" --json ;;
        console | pause | resume) _nido_machine "$cur" ;;
        cp)
            _nido_machine "$cur" --user --setuid
            _nido_files '' "$cur"
            ;;
        exec) _nido_machine "$cur" --env --workdir --user --tty --result -- ;;
        kernel) ((${#words[@]} > 3)) || _nido_offer '' "$cur" add ls default rm ;;
        stop) _nido_machine "$cur" --force --grace ;;
        esac
    fi
    # What stands before the last = or : is not bash's to replace.
    cut=${cur%"${cur##*[=:]}"}
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
}

complete -F _nido nido

# SPDX-License-Identifier: MIT
#
# bash completion for sherd: commands and options as the commands' own --help lists them, instances
# that run, methods of the instance in the line, files.

# The option names in a command's help.
_sherd_options() {
    "$1" "$2" --help 2>/dev/null | sed -nE 's/^  (-., )?(--[a-z0-9-]+).*/\2/p'
}

_sherd_commands() {
    "$1" --help 2>/dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p'
}

# Folders of instances; one that crashed has left its folder, which does no harm here.
_sherd_instances() {
    local folder=${SHERD_RUNTIME_DIR:-}
    if [[ -z $folder ]]; then
        if [[ -n ${XDG_RUNTIME_DIR:-} ]]; then
            folder=$XDG_RUNTIME_DIR/sherd
        elif ((EUID == 0)); then
            folder=/run/sherd
        else
            folder=/tmp/sherd-$EUID
        fi
    fi
    local path
    for path in "$folder"/*/segment; do
        [[ -e $path ]] || continue
        path=${path%/segment}
        printf '%s\n' "${path##*/}"
    done
}

# The methods of the instance that the line names, if it answers at once.
_sherd_methods() {
    local i instance=default
    for ((i = 2; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == --instance ]] && instance=${COMP_WORDS[i + 1]}
    done
    "$1" submit --instance "$instance" --wait 0 --timeout 1 sys.methods 2>/dev/null |
        sed -n '1!s/ .*//p'
}

# Whether the line has its SERVICE.METHOD already.
_sherd_has_method() {
    local i
    for ((i = 2; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == *.* && ${COMP_WORDS[i - 1]} != --* ]] && return 0
    done
    return 1
}

_sherd() {
    local sherd=${COMP_WORDS[0]} current=${COMP_WORDS[COMP_CWORD]} words=
    local command=${COMP_WORDS[1]:-} previous=${COMP_WORDS[COMP_CWORD - 1]}
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        words="$(_sherd_commands "$sherd") --help --version"
    elif [[ $previous == --instance ]]; then
        words=$(_sherd_instances)
    elif [[ $previous == --engine ]]; then
        words='io_uring linux-aio threads'
    elif [[ $current == -* ]]; then
        words=$(_sherd_options "$sherd" "$command")
    elif [[ $command == submit ]] && ! _sherd_has_method; then
        words=$(_sherd_methods "$sherd")
    fi
    if [[ -n $words ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    else
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    fi
}

complete -F _sherd sherd

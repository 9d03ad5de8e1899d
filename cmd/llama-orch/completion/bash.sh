# Completion of llama-orch for bash. Put this into ~/.bashrc:  source <(llama-orch completion bash)
_llama_orch() {
    local line IFS=$'\n'
    COMPREPLY=()
    while read -r line; do
        if [[ $line == :files ]]; then
            compopt -o filenames 2>/dev/null
            COMPREPLY+=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
        else
            COMPREPLY+=("$(printf '%q' "$line")")
        fi
    done < <("${COMP_WORDS[0]}" complete --line -- "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
}
complete -F _llama_orch llama-orch

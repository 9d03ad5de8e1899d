#compdef llama-orch
# Completion of llama-orch for zsh. Put this into ~/.zshrc, behind compinit:  source <(llama-orch completion zsh)
_llama_orch() {
    local line value
    local -a found
    for line in ${(f)"$("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"}; do
        if [[ $line == :files ]]; then
            _files
            continue
        fi
        value=${line%%$'\t'*}
        if [[ $line == *$'\t'* ]]; then
            found+=("${value//:/\\:}:${line#*$'\t'}")
        else
            found+=("${value//:/\\:}")
        fi
    done
    (( $#found )) && _describe -V llama-orch found
}
compdef _llama_orch llama-orch

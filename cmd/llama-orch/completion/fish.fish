# Completion of llama-orch for fish. Put this into ~/.config/fish/config.fish:  llama-orch completion fish | source
function __llama_orch
    set -l before (commandline -opc)
    for line in ($before[1] complete -- $before[2..] (commandline -ct) 2>/dev/null)
        if test "$line" = :files
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c llama-orch -f -a '(__llama_orch)'

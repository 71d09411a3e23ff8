# Completion for fish: what session-file-server --help lists.

set -l commands serve init-db check-config keys health status import files
set -l none "not __fish_seen_subcommand_from $commands"
set -l kinds directory pools database
set -l actions show delete block unblock blocked

complete -c session-file-server -f
complete -c session-file-server -l config -r -F -d 'Read the configuration from this file'
complete -c session-file-server -s h -l help -d 'Print commands and options'
complete -c session-file-server -s V -l version -d 'Print the version'

complete -c session-file-server -n $none -a serve -d 'Run the server'
complete -c session-file-server -n $none -a init-db -d 'Create or upgrade the tables'
complete -c session-file-server -n $none -a check-config -d 'Report mistakes in the configuration'
complete -c session-file-server -n $none -a keys -d 'Print the public keys'
complete -c session-file-server -n $none -a health -d 'Ask a running server how it is'
complete -c session-file-server -n $none -a status -d 'Tell what is stored'
complete -c session-file-server -n $none -a import -d "Take over an older server's files"
complete -c session-file-server -n $none -a files -d 'Deal with reported files'

complete -c session-file-server -n "$none; or __fish_seen_subcommand_from serve" -l allow-root -d 'Serve also as root'
complete -c session-file-server -n '__fish_seen_subcommand_from init-db' -l rebuild-ids -d 'Sort the ids of files as bytes'
complete -c session-file-server -n '__fish_seen_subcommand_from check-config' -l system -d 'Also look at machine and database'
complete -c session-file-server -n '__fish_seen_subcommand_from status show blocked' -l json -d 'Print JSON'

complete -c session-file-server -n "__fish_seen_subcommand_from files; and not __fish_seen_subcommand_from $actions" -a "$actions"
complete -c session-file-server -n '__fish_seen_subcommand_from block' -l reason -x -d 'Why the files are blocked'

set -l import '__fish_seen_subcommand_from import'
complete -c session-file-server -n "$import; and not __fish_seen_subcommand_from $kinds" -a "$kinds"
complete -c session-file-server -n "$import; and __fish_seen_subcommand_from directory pools" -a '(__fish_complete_directories)'
complete -c session-file-server -n "$import; and __fish_seen_subcommand_from pools database" -l from -x -d "The older server's database"
complete -c session-file-server -n "$import; and __fish_seen_subcommand_from pools database" -l table -x -d "The older server's table"

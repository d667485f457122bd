#!/bin/sh
# runc, for a machine where not even root has CAP_SYS_RESOURCE.
# A privileged container asks for every capability and for resource limits, and runc fails where it cannot give them.
set -eu

bundle= process= previous=
for argument in "$@"; do
  case $previous in
    --bundle | -b) bundle=$argument ;;
    --process | -p) process=$argument ;;
  esac
  case $argument in
    --bundle=*) bundle=${argument#*=} ;;
    --process=*) process=${argument#*=} ;;
  esac
  previous=$argument
done

without_resource='
  del(.rlimits)
  | if .capabilities then .capabilities |= map_values(map(select(. != "CAP_SYS_RESOURCE"))) else . end
  | if (.oomScoreAdj // 0) < 0 then del(.oomScoreAdj) else . end'

edit() {
  jq "$2" "$1" > "$1.new"
  mv "$1.new" "$1"
}

if [ -n "$bundle" ] && [ -f "$bundle/config.json" ]; then
  edit "$bundle/config.json" ".process |= ($without_resource)"
fi
if [ -n "$process" ] && [ -f "$process" ]; then
  edit "$process" "$without_resource"
fi
exec "@RUNC@" "$@"

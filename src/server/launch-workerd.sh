#!/bin/sh
# Starts workerd in the place of Miniflare's own command, which cannot say the following:
# - With GRAFT_SOCKET set, the Worker listens on that Unix socket and on no port.
# - workerd holds a lock on the state folder, in a file descriptor that it inherits: the lock lives as long as the writer.
# - What workerd writes is readable by its user alone.
# - A backup finds workerd by its process id, in runtime.pid.
umask 077
if [ -n "$GRAFT_SOCKET" ]; then
  for argument in "$@"; do
    shift
    case "$argument" in
      --socket-addr=entry=*) argument="--socket-addr=entry=unix:$GRAFT_SOCKET" ;;
    esac
    set -- "$@" "$argument"
  done
fi
exec 9<"$GRAFT_STATE_DIR" || exit 73
if command -v flock >/dev/null; then
  flock --exclusive --wait 10 9 || { echo "The state is still written by another process." >&2; exit 75; }
fi
echo $$ >"$GRAFT_STATE_DIR/runtime.pid"
if [ -n "$GRAFT_SOCKET" ]; then rm -f "$GRAFT_SOCKET"; fi
exec "$GRAFT_WORKERD" "$@"

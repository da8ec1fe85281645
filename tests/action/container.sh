#!/usr/bin/env bash
# Runs a command in a container: a root of its own that holds this system's programs, to be read alone, the network, one
# folder that may be written to as /work, and nothing else of this machine: no home, no other process.
#     container.sh WORK PYTHON_PREFIX COMMAND...
set -euo pipefail
work=$(realpath "$1")
prefix=$(realpath "$2")
shift 2
export work prefix
exec unshare --user --map-root-user --mount --pid --ipc --uts --fork --kill-child bash -euo pipefail -c '
root=$(mktemp -d)
mount -t tmpfs tmpfs "$root"
inside() { # PATH: the same path in there, to be read alone
    test -e "$1" || return 0
    if test -L "$1"; then ln -s "$(readlink "$1")" "$root$1"; return; fi
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
    mount -o remount,bind,ro "$root$1" 2>/dev/null || true
}
for each in /usr /bin /sbin /lib /lib64 /sys; do inside "$each"; done
inside "$prefix"
mkdir -p "$root"/{etc,dev,proc,tmp,work}
for each in resolv.conf hosts nsswitch.conf passwd group ssl ld.so.cache; do
    if test -d "/etc/$each"; then mkdir "$root/etc/$each"; else test -e "/etc/$each" && touch "$root/etc/$each" || continue; fi
    mount --bind "/etc/$each" "$root/etc/$each"
done
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --bind "$work" "$root/work"
exec env -i PATH="$prefix/bin:/usr/bin:/bin" HOME=/tmp LANG=C.UTF-8 PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$(command -v chroot)" "$root" bash -c "cd /work && exec \"\$@\"" bash "$@"
' container "$@"

#!/bin/sh
# Runs a program in an unpacked image as a container's runtime would, as far as a file system goes. Run through `cargo xtask image --check`, in
# a mount namespace of its own: contain.sh ROOT MODELS USER PROGRAM [ARGUMENT...]. MODELS is a folder to see at /tmp/model, or nothing.
set -eu
root=$1 models=$2 user=$3
shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,bind,ro,nosuid "$root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
if [ -n "$models" ]; then
    mkdir "$root/tmp/model"
    mount --bind "$models" "$root/tmp/model"
fi
exec chroot --userspec="$user:$user" --groups= "$root" "$@"

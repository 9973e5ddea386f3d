#!/bin/sh
# base.sh ENGINE NAME: makes an image called NAME, for where the official one cannot be pulled: Debian by debootstrap,
# with Debian's own Python, of the same minor version. Needs root and debootstrap; DEBIAN_MIRROR names another mirror.
set -eu
engine=$1
name=$2
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
release=${name##*-}
wanted=$(printf '%s\n' "$name" | sed 's/^[^:]*:\([0-9]*\.[0-9]*\).*/\1/')

fail() { printf 'image: %s\n' "$*" >&2; exit 1; }
command -v debootstrap >/dev/null 2>&1 ||
    fail "$name cannot be pulled, and there is no debootstrap to make one like it (apt-get install debootstrap)"
[ "$(id -u)" = 0 ] || fail "$name cannot be pulled, and debootstrap, which would make one like it, needs root"

root=$(mktemp -d)
# debootstrap mounts /proc and /sys in there, and leaves them when it is interrupted.
trap 'rm -rf --one-file-system "$root" "$root.Dockerfile" "$root.log"' EXIT INT TERM
chmod 755 "$root"
debootstrap --variant=minbase --include=ca-certificates,netbase,tzdata,python3,python3-pip \
    "$release" "$root" "$mirror" >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; fail "debootstrap failed"; }
cat >"$root/etc/apt/sources.list" <<EOF
deb $mirror $release main
deb $mirror $release-updates main
deb $security $release-security main
EOF
have=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$have" = "$wanted" ] || fail "Debian $release has Python $have, and $name has $wanted"
# Device files and the like are this machine's; the engine fills /dev.
rm -rf "$root"/dev/* "$root/etc/resolv.conf" "$root/etc/hostname"

# The official image lets pip install beside the system's packages, and holds neither manuals nor package lists.
cat >"$root.Dockerfile" <<'EOF'
FROM scratch AS whole
COPY . /
RUN apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y upgrade && apt-get clean && \
    rm -rf /usr/lib/python3*/EXTERNALLY-MANAGED /usr/share/doc/* /usr/share/man/* /usr/share/locale/* \
        /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
FROM scratch
COPY --from=whole / /
LABEL steersman.base=debootstrap
CMD ["python3"]
EOF
case $engine in
docker) docker build -q -f "$root.Dockerfile" -t "$name" "$root" ;;
*) "$engine" build -q --format docker --isolation chroot -f "$root.Dockerfile" -t "docker.io/library/$name" "$root" ;;
esac

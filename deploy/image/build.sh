#!/bin/sh
# build.sh [TARGET [OPTION...]]: builds deploy/Dockerfile's target (cpu), with docker, podman or buildah, whichever is
# there first. Options are the engine's: --no-cache
#
#   ENGINE=buildah          rather that one
#   TAG=registry/name:tag   rather than steersman:VERSION-TARGET
#
# pip in the build uses the indexes that pip here uses, by secrets and folders that are mounted and stay outside the
# image. Where the base image cannot be pulled, one of the same name is made (base.sh), and that is said.
set -eu
cd "$(dirname "$0")/../.."
target=${1:-cpu}
[ $# = 0 ] || shift
here=deploy/image
python=${PYTHON:-python3}

say() { printf '== %s\n' "$*"; }
fail() { printf 'image: %s\n' "$*" >&2; exit 1; }

# A client without its daemon is not an engine.
works() {
    case $1 in
    docker) docker info >/dev/null 2>&1 ;;
    *) command -v "$1" >/dev/null 2>&1 && "$1" info >/dev/null 2>&1 ;;
    esac
}
engine=${ENGINE:-}
if [ -z "$engine" ]; then
    for candidate in docker podman buildah; do
        if works "$candidate"; then engine=$candidate; break; fi
    done
fi
[ -n "$engine" ] || fail "neither docker, podman nor buildah works here; install one (Debian: apt-get install buildah podman runc)"
works "$engine" || fail "'$engine info' fails; is it installed, and does its daemon run?"

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
tag=${TAG:-steersman:$version-$target}
base=$(sed -n 's/^FROM \(python:[^ ]*\) AS cpu$/\1/p' deploy/Dockerfile)

label() {
    case $engine in
    buildah) buildah inspect --type image --format '{{index .Docker.Config.Labels "steersman.base"}}' "$1" ;;
    *) "$engine" image inspect --format '{{index .Config.Labels "steersman.base"}}' "$1" ;;
    esac 2>/dev/null
}
present() {
    case $engine in
    buildah) buildah inspect --type image "$1" ;;
    *) "$engine" image inspect "$1" ;;
    esac >/dev/null 2>&1
}
if [ "$target" = cpu ]; then
    if ! present "$base"; then
        say "pulling $base"
        timeout 300 "$engine" pull "docker.io/library/$base" >/dev/null 2>&1 || {
            say "$base cannot be pulled: making one of that name by debootstrap, with Debian's Python"
            "$here/base.sh" "$engine" "$base"
        }
    fi
    if [ "$(label "$base")" = debootstrap ]; then
        say "the base is NOT the official $base, but one made here by debootstrap"
    fi
fi

secrets=$(mktemp -d)
# Not rm -rf: folders of this machine are mounted over some of it, in the build's own view of the files.
clean() {
    rm -f "$secrets/pip"
    find "$secrets" -xdev -depth -type d -exec rmdir {} \; 2>/dev/null || :
}
trap clean EXIT INT TERM
ca=$("$python" "$here/pip_settings.py" ca)
folders=$("$python" "$here/pip_settings.py" folders)

set -- "$@" -f deploy/Dockerfile --target "$target" -t "$tag" --secret "id=pip,src=$secrets/pip"
if [ -n "$ca" ]; then set -- "$@" --secret "id=ca,src=$ca"; fi
if [ -n "${TORCH_INDEX:-}" ]; then set -- "$@" --build-arg "TORCH_INDEX=$TORCH_INDEX"; fi
case $engine in
docker)
    # docker's build mounts no folders of the host.
    if [ -n "$folders" ]; then
        say "pip here also looks into folders, which a build by docker cannot: $(echo "$folders" | tr '\n' ' ')"
    fi
    "$python" "$here/pip_settings.py" conf >"$secrets/pip"
    ;;
*)
    # chroot: needs neither cgroups nor a runtime, and what is run comes from this repository and its pins.
    # docker's format, because OCI's has no HEALTHCHECK.
    set -- "$@" --format docker --isolation chroot
    # A volume leaves the folder that it was mounted on in the image. /mnt is in any; the others are made in $mounts.
    "$python" "$here/pip_settings.py" conf /mnt >"$secrets/pip"
    mounts=$secrets/mounts
    number=0
    for folder in $folders; do
        if [ $number = 0 ]; then set -- "$@" --volume "$mounts:/mnt"; fi
        mkdir -p "$mounts/$number"
        set -- "$@" --volume "$folder:/mnt/$number:ro"
        number=$((number + 1))
    done
    # With vfs each layer is a copy of all that is beneath it.
    if ! "$engine" info 2>/dev/null | grep -qiE 'graphdrivername"?: "?vfs'; then set -- "$@" --layers; fi
    ;;
esac
say "$engine builds $tag from $base"
DOCKER_BUILDKIT=1 "$engine" build "$@" .
say "built $tag"

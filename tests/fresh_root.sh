#!/usr/bin/env bash
# The README's two commands from nothing: in a Debian 12 root made with debootstrap, on a copy of the last commit.
#   tests/fresh_root.sh [--keep] [--test]     as root; needs debootstrap and Debian's packages; minutes
# First scripts/serve without a model, asked a greeting and a fact over HTTP; with --test also scripts/test --quick.
# apt in the root is set up as on this machine. Not part of scripts/test: it needs root and the network.
set -euo pipefail
cd "$(dirname "$0")/.."
keep=no quick=no
for arg in "$@"; do
    case "$arg" in
    --keep) keep=yes ;;
    --test) quick=yes ;;
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) echo "fresh_root: unknown option $arg" >&2 && exit 2 ;;
    esac
done
[ "$(id -u)" -eq 0 ] || { echo "fresh_root: debootstrap and chroot need root" >&2 && exit 77; }
command -v debootstrap >/dev/null || { echo "fresh_root: needs debootstrap" >&2 && exit 77; }

root=$(mktemp -d /var/tmp/kvasir-root-XXXXXX)
port=18473
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    for dir in dev/shm dev proc sys; do
        ! mountpoint -q "$root/$dir" || umount -l "$root/$dir"
    done
    [ "$keep" = yes ] && echo "fresh_root: kept $root" || rm -rf --one-file-system "$root"
}
trap finish EXIT

echo "fresh_root: debootstrap into $root"
debootstrap --variant=minbase bookworm "$root" >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2 && exit 1; }
rm -f "$root.log"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --make-rslave "$root/sys"
mount --bind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/dev/shm"
cp /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/src/kvasir"
git archive HEAD | tar -x -C "$root/src/kvasir"
inside() { chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"; }
# what this machine's apt needs to reach its packages, proxies included
for file in /etc/apt/apt.conf.d/99*; do
    [ ! -f "$file" ] || cp "$file" "$root/etc/apt/apt.conf.d/"
done

begin=$SECONDS
inside /src/kvasir/scripts/serve --port "$port" >"$root/serve.log" 2>&1 &
server=$!
until grep -q "ready: http" "$root/serve.log"; do
    kill -0 "$server" 2>/dev/null || { tail -n 30 "$root/serve.log" >&2 && exit 1; }
    sleep 0.5
done
echo "fresh_root: scripts/serve answers $((SECONDS - begin)) s after it was called"

ask() { # QUESTION, PATTERN
    local reply
    reply=$(inside curl -fsS "http://127.0.0.1:$port/v1/chat/completions" -H 'Content-Type: application/json' \
        -d "{\"messages\":[{\"role\":\"user\",\"content\":\"$1\"}],\"max_tokens\":64,\"temperature\":0}")
    echo "$1 -> $reply"
    grep -q "$2" <<<"$reply"
}
ask "Hello" '"content": *"Hello'
ask "What is the capital of France?" Paris
kill "$server"
wait "$server" || true
server=

if [ "$quick" = yes ]; then
    inside /src/kvasir/scripts/test --quick | tail -n 5 | tee "$root/test.log"
    grep -q " 0 failed" "$root/test.log"
fi
echo "fresh_root: passed"

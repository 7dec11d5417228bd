#!/usr/bin/env bash
# scripts/debian13.sh [--quick] [FOLDER]: the plugin with the feature v1_24 and GStreamer 1.26: lints
# it, builds it and runs all tests in a Debian 13 of its own, with the Rust of this machine; with
# --quick those of what differs there: streams with all that goes along, and the elements. FOLDER
# keeps that Debian and what is built in it for the next time; without a FOLDER all of it is made anew
# and removed again.
#
# It takes root, or sudo, and may mount things where only it sees them. DEBIAN_MIRROR: where to get
# Debian 13, if not where this machine gets its packages.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh
need_cargo
only=()
if [ "${1:-}" = --quick ]; then
    shift
    only=(--lib)
    for test in elements filter in_place inspect lifecycle peers policies sending stream; do only+=(--test "$test"); done
fi
# What cannot run must not look as if it had passed.
if ! why=$("${as_root[@]}" unshare --mount --pid --fork mount -t tmpfs tmpfs /mnt 2>&1); then
    echo "There can be no Debian 13 here, so the plugin is NOT TESTED with GStreamer 1.26: $why" >&2
    echo "(It takes root, or sudo, that may make namespaces and mount; in Docker: --cap-add SYS_ADMIN" \
        "--security-opt seccomp=unconfined.)" >&2
    exit 1
fi
install_missing debootstrap debian-archive-keyring util-linux

if [ $# -gt 0 ]; then
    mkdir -p "$1"
    folder=$(realpath "$1")
else
    folder=$(mktemp -d --tmpdir debian13.XXXXXXXXXX)
    trap '"${as_root[@]}" rm -rf --one-file-system "$folder"' EXIT
fi
mkdir -p "$folder/target" "$folder/crates"
root=$folder/root

# Set where this machine's packages come through a proxy.
eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
environment=(
    PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8
    CARGO_HOME=/opt/cargo CARGO_TARGET_DIR=/opt/target
    # Nobody runs a debugger in there, and it builds faster.
    CARGO_PROFILE_DEV_DEBUG=0
)
if [ -e /etc/ssl/certs/ca-certificates.crt ]; then environment+=(PIP_CERT=/opt/certificates.crt); fi
for name in http_proxy https_proxy no_proxy PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST; do
    if [ -n "${!name:-}" ]; then
        export "${name?}"
        environment+=("$name=${!name}")
    fi
done

# inside COMMAND…: runs it in the root, as root of it, with process ids, mounts, /tmp and /dev/shm
# of its own. The clone is in /opt/clone and cannot be written to.
inside() {
    # A mount point, since only below one can the tests change how mounts are shared. What the
    # machine needs to reach its package indexes is not in the root, nor in this script.
    # shellcheck disable=SC2016
    "${as_root[@]}" unshare --mount --pid --fork --kill-child bash -euc '
        root=$1 folder=$2 rust=$3; shift 3
        mount --bind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -o bind,ro /sys "$root/sys"
        mount -t tmpfs tmpfs "$root/dev/shm"
        mount -t tmpfs tmpfs "$root/tmp"
        mkdir -p "$root"/opt/{clone,rust,cargo,crates,target}
        mount -o bind,ro . "$root/opt/clone"
        mount -o bind,ro "$rust" "$root/opt/rust"
        mount -o bind,ro "$folder/crates" "$root/opt/crates"
        mount --bind "$folder/target" "$root/opt/target"
        for file in /etc/resolv.conf /etc/hosts /etc/pip.conf; do
            if [ ! -e "$file" ]; then continue; fi
            touch "$root$file"
            mount -o bind,ro "$file" "$root$file"
        done
        if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
            cp /etc/ssl/certs/ca-certificates.crt "$root/opt/certificates.crt"
        fi
        chroot "$root" "$@"
    ' inside "$root" "$folder" "$(rustc --print sysroot)" env -i "${environment[@]}" "$@"
}

# The tests need git, too.
wanted=(git "${packages[@]}")
if [ "$(cat "$folder/complete" 2>/dev/null)" != "${wanted[*]}" ]; then
    mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' \
        'Origin: Debian' 'Label: Debian' 'Created-By: Packages' | sed -n 1p)}
    "${as_root[@]}" rm -rf --one-file-system "$root"
    "${as_root[@]}" debootstrap --variant=minbase trixie "$root" \
        "${mirror:-http://deb.debian.org/debian}"
    inside bash -euc '
        # Nobody needs it after a crash; and no service starts.
        echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe
        printf "#!/bin/sh\nexit 101\n" >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q
        apt-get install -y -q --no-install-recommends "$@"
        apt-get clean
    ' inside "${wanted[@]}"
    echo "${wanted[*]}" >"$folder/complete"
fi

# Crates come from here: what cargo is set up with on this machine may not work in there.
cargo vendor --locked --quiet "$folder/crates" >/dev/null
"${as_root[@]}" tee "$root/opt/cargo/config.toml" >/dev/null <<'CONFIG'
[net]
offline = true
[source.crates-io]
replace-with = "here"
[source.here]
directory = "/opt/crates"
CONFIG

inside bash -euo pipefail -c '
    cd /opt/clone
    gst-inspect-1.0 --version
    # What the feature adds is in the library; scripts/test.sh looks at the rest.
    cargo clippy --locked --lib --features v1_24 -- -D warnings
    # `cargo test` alone does not build the plugin as the file that gst-launch-1.0 loads, and with
    # --test no examples.
    cargo build --locked --features v1_24,cli --lib --bins --examples
    cargo test --locked --features v1_24,cli --no-fail-fast "$@" 2>&1 | tee /opt/target/test.log
' inside "${only[@]}"
sum_of_tests "$folder/target/test.log"

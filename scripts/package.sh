#!/usr/bin/env bash
# scripts/package.sh [--check] [FOLDER]: builds a Debian package with plugin and command for the Debian
# of this machine, into FOLDER (target/package unless said otherwise). With --check it then makes a clean
# root of that Debian, installs the package there, sends frames from one process to another with
# it, and removes it again; that takes root, or sudo, and may mount things where only it sees them.
#
# DEBFULLNAME, DEBEMAIL: who the package says maintains it, if not who made the last commit.
# DEBIAN_MIRROR: where --check gets Debian, if not where this machine gets its packages.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
install_missing dpkg-dev binutils xz-utils
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
if ! command -v cargo-cinstall >/dev/null; then
    echo "cargo-c is missing: cargo install --locked cargo-c" >&2
    exit 1
fi

check=
if [ "${1:-}" = --check ]; then
    check=1
    shift
fi
mkdir -p "${1:-target/package}"
folder=$(realpath "${1:-target/package}")
work=$(mktemp -d --tmpdir zerobuffer-package.XXXXXXXXXX)
trap '"${as_root[@]}" rm -rf --one-file-system "$work"' EXIT

name=gstreamer1.0-zerobuffer
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | sed -n 1p)
architecture=$(dpkg-architecture -qDEB_HOST_ARCH)
multiarch=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
# The same package from the same commit.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
maintainer="${DEBFULLNAME:-$(git log -1 --format=%cn)} <${DEBEMAIL:-$(git log -1 --format=%ce)}>"

# What newer GStreamer can do besides.
features=()
if pkg-config --atleast-version=1.24 gstreamer-1.0; then features=(--features v1_24); fi
# Of what cargo-c installs, the plugin: nobody links with it, so its .pc and .a stay behind.
cargo cinstall --release --locked --destdir "$work/installed" --prefix /usr \
    --libdir "/usr/lib/$multiarch" --library-type cdylib "${features[@]}"
plugins=usr/lib/$multiarch/gstreamer-1.0
root=$work/package
install -D -m 644 "$work/installed/$plugins/libgstzerobuffer.so" "$root/$plugins/libgstzerobuffer.so"
strip --strip-unneeded "$root/$plugins/libgstzerobuffer.so"
# The command needs no GStreamer.
cargo install --locked --path . --root "$work/command" --bin zerobuffer --no-default-features --features cli
install -D -m 755 "$work/command/bin/zerobuffer" "$root/usr/bin/zerobuffer"
strip --strip-unneeded "$root/usr/bin/zerobuffer"
# Its pages and completions come from itself.
"$root/usr/bin/zerobuffer" generate "$work/generated"
for page in "$work"/generated/*.1; do
    install -D -m 644 "$page" "$root/usr/share/man/man1/$(basename "$page")"
    gzip -9n "$root/usr/share/man/man1/$(basename "$page")"
done
install -D -m 644 "$work/generated/zerobuffer.bash" "$root/usr/share/bash-completion/completions/zerobuffer"
install -D -m 644 "$work/generated/_zerobuffer" "$root/usr/share/zsh/vendor-completions/_zerobuffer"
install -D -m 644 "$work/generated/zerobuffer.fish" "$root/usr/share/fish/vendor_completions.d/zerobuffer.fish"

doc=$root/usr/share/doc/$name
mkdir -p "$doc"
install -m 644 README.md CHANGELOG.md "$doc"
printf '%s (%s) unstable; urgency=medium\n\n  * %s\n\n -- %s  %s\n' "$name" "$version" \
    "What has changed is told in CHANGELOG.md, in this folder." \
    "$maintainer" "$(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")" |
    gzip -9n >"$doc/changelog.gz"
install -d "$doc/docs"
install -m 644 docs/*.md "$doc/docs"
install -d "$doc/docs/numbers"
install -m 644 docs/numbers/* "$doc/docs/numbers"
# The pages show them.
install -d "$doc/examples/python"
install -m 644 examples/*.rs "$doc/examples"
install -m 644 examples/python/*.py "$doc/examples/python"
cargo tree --locked --features cli --edges normal --prefix none --format '{p}: {l}' |
    sed -e 's/ (\*)$//' -e 's/ (proc-macro)//' -e '/^gst-plugin-zerobuffer/d' | sort -u >"$work/packages"
{
    cat LICENSE
    echo
    echo "Plugin and command contain these Rust packages, under these licences:"
    echo
    cat "$work/packages"
    echo
    echo "On Debian the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0."
    # What most of these licences ask to be kept with every copy.
    cargo metadata --locked --format-version 1 --features cli | python3 -c '
import json, pathlib, sys
folders = {(it["name"], it["version"]): pathlib.Path(it["manifest_path"]).parent
           for it in json.load(sys.stdin)["packages"]}
texts = {}
for line in open(sys.argv[1]):
    name, version = line.split(":")[0].split(" v")
    files = [it for it in sorted(folders[name, version].iterdir()) if it.is_file()
             and it.name.upper().startswith(("LICENSE", "LICENCE", "COPYING", "COPYRIGHT"))]
    files = [it for it in files if "APACHE" not in it.name.upper()] or files
    for file in files:
        texts.setdefault(file.read_text().strip(), []).append(f"{name} {version}")
for text, names in texts.items():
    print("\n" + "-" * 72 + "\n" + ", ".join(names) + ":\n\n" + text)
' "$work/packages"
} >"$doc/copyright"
chmod 644 "$doc/copyright" "$doc/changelog.gz"

# Which packages of this Debian have the libraries that it needs.
mkdir -p "$work/debian" "$root/DEBIAN"
printf 'Source: %s\n\nPackage: %s\nArchitecture: any\n' "$name" "$name" >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O "package/$plugins/libgstzerobuffer.so" package/usr/bin/zerobuffer |
    sed -n 's/^shlibs:Depends=//p')

cat >"$root/DEBIAN/control" <<CONTROL
Package: $name
Version: $version
Architecture: $architecture
Section: libs
Priority: optional
Maintainer: $maintainer
Homepage: https://crates.io/crates/gst-plugin-zerobuffer
Installed-Size: $(du -sk --apparent-size "$root/usr" | cut -f1)
Depends: $depends
Recommends: gstreamer1.0-plugins-base
Suggests: gstreamer1.0-tools
Description: video between processes through shared memory (GStreamer plugin)
 GStreamer elements that carry video, sound and anything else from one
 process to another through a ring in shared memory, without a copy where
 that is possible.
 .
 The other end may be a program in C++, C#, Python or Rust that speaks
 ZeroBuffer.
CONTROL
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
package=$folder/${name}_${version}_${architecture}.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$package"
dpkg-deb --info "$package"
dpkg-deb --contents "$package"
if [ -z "$check" ]; then exit; fi

install_missing debootstrap debian-archive-keyring util-linux
# shellcheck disable=SC1091
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' \
    'Origin: Debian' 'Label: Debian' 'Created-By: Packages' | sed -n 1p)}
# Set where this machine's packages come through a proxy.
eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
if [ -n "${http_proxy:-}" ]; then export http_proxy; fi
clean=$work/clean
"${as_root[@]}" debootstrap --variant=minbase "$release" "$clean" \
    "${mirror:-http://deb.debian.org/debian}"
"${as_root[@]}" install -m 644 "$package" "$clean/package.deb"
# shellcheck disable=SC2016
"${as_root[@]}" unshare --mount --pid --fork --kill-child bash -euc '
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
    mount -t tmpfs tmpfs "$1/dev/shm"
    mount -t tmpfs tmpfs "$1/tmp"
    for file in /etc/resolv.conf /etc/hosts; do
        touch "$1$file"
        mount -o bind,ro "$file" "$1$file"
    done
    exec chroot "$1" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive http_proxy="${http_proxy:-}" bash -euxo pipefail -c "$2"
' inside "$clean" '
    apt-get update -q
    apt-get install -y -q --no-install-recommends /package.deb \
        gstreamer1.0-tools gstreamer1.0-plugins-base
    gst-inspect-1.0 zerobuffer
    # A container may be set up without manuals.
    dpkg --listfiles gstreamer1.0-zerobuffer | grep /man1/zerobuffer.1.gz
    gst-launch-1.0 zerobuffersrc buffer-name=installed ! fakesink &
    until zerobuffer list | grep "^installed"; do sleep 0.1; done
    gst-launch-1.0 videotestsrc num-buffers=100 ! zerobuffersink buffer-name=installed sync=false
    wait $!
    dpkg --verify gstreamer1.0-zerobuffer
    files=$(dpkg --listfiles gstreamer1.0-zerobuffer | grep zerobuffer)
    apt-get purge -y -q gstreamer1.0-zerobuffer
    for file in $files; do [ ! -e "$file" ]; done
    [ -z "$(ls /dev/shm)" ]
'
echo "$package installs, works and is removed again."

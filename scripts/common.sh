# What the scripts share. Sourced by them.

# What the plugin, its demo and its tests need from Debian 12 or newer.
packages=(
    gcc g++ pkg-config util-linux python3 python3-venv
    libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev gstreamer1.0-tools
    gstreamer1.0-plugins-base gstreamer1.0-plugins-base-apps
    gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
    gstreamer1.0-plugins-ugly gstreamer1.0-libav
    # textoverlay, and something to write with.
    gstreamer1.0-x fonts-dejavu-core
)

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi

# install_missing PACKAGE…: from Debian, those that are not installed.
install_missing() {
    local package missing=()
    for package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    if [ ${#missing[@]} -eq 0 ]; then return; fi
    echo "Installing from Debian: ${missing[*]}"
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}"
}

need_cargo() {
    if command -v cargo >/dev/null; then return; fi
    echo "cargo is missing: install Rust 1.92 or newer first (https://rustup.rs)" >&2
    exit 1
}

# sum_of_tests LOG: one line for all programs that `cargo test` ran.
sum_of_tests() {
    awk '/^test result:/ { passed += $4; failed += $6 } END { print passed " passed, " failed " failed" }' "$1"
}

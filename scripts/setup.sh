# Sets up a Debian 12 (or newer) machine that has Rust: what the plugin, its demo and its tests
# need from Debian. Sourced by demo.sh and test.sh; does nothing where all of it is there.

. scripts/common.sh
need_cargo
install_missing "${packages[@]}"

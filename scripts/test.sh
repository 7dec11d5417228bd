#!/usr/bin/env bash
# Sets the machine up and runs every check there is: format, lints, dependencies, tests,
# documentation. The tests make a Python environment of their own with zerobuffer-ipc from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

cargo fmt --check
cargo clippy --all-targets -- -D warnings
# The library alone, for programs without GStreamer.
cargo clippy --lib --no-default-features -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
cargo test

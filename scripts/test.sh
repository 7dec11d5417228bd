#!/usr/bin/env bash
# Sets the machine up and runs every check there is: format, lints, dependencies, installation,
# documentation, tests. It installs cargo-deny, cargo-c and cargo-fuzz where they are missing; the
# tests make a Python environment of their own with zerobuffer-ipc and rocket-welder-sdk from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

# cargo_command COMMAND CRATE: installs a cargo command where it is missing, the newest that this
# Rust can build: cargo names that one when there is one that is too new. Unoptimised, since
# building it is most of the work.
cargo_command() {
    if command -v "$1" >/dev/null; then return; fi
    echo "Installing $1 from crates.io"
    local log version
    log=$(cargo install --debug --locked "$2" 2>&1 | tee /dev/stderr) && return
    version=$(sed -n "s/.*\`$2 \([^\`]*\)\` supports rustc.*/\1/p" <<<"$log")
    cargo install --debug --locked "$2@${version:?no version of $2 can be built}"
}
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
cargo_command cargo-deny cargo-deny
cargo_command cargo-cinstall cargo-c
cargo_command cargo-fuzz cargo-fuzz

cargo fmt --check
cargo clippy --all-targets --features cli -- -D warnings
# The library alone, for programs without GStreamer, and the command, which needs none.
cargo clippy --lib --no-default-features -- -D warnings
cargo clippy --bins --no-default-features --features cli -- -D warnings
cargo deny --offline check licenses bans sources
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --no-default-features

# What `cargo cinstall` installs is a plugin that GStreamer finds.
installed=$PWD/target/cinstall
cargo cinstall --prefix "$installed" --libdir lib
GST_REGISTRY="$installed/registry.bin" GST_PLUGIN_PATH="$installed/lib/gstreamer-1.0" \
    gst-inspect-1.0 zerobuffer

# Short runs of the benchmarks, that they stay alive; nothing is timed.
cargo bench --bench transport -- --quick
cargo bench --bench duplex -- --quick

# What a peer may write, at random for a while (fuzz/README.md). Without a sanitizer the compiler need
# not be a nightly one.
for target in metadata records reader writer; do
    mkdir -p "target/fuzz/$target"
    RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none "$target" "target/fuzz/$target" \
        "fuzz/corpus/$target" -- -max_total_time=20 -timeout=10 -rss_limit_mb=2048 -verbosity=0
done

# Two minutes of what can run for hours (docs/robustness.md).
cargo run --release --example soak -- --minutes 2

# `cargo test` alone does not build the plugin as the file that gst-launch-1.0 loads.
cargo build --features cli
log=target/test.log
outcome=0
cargo test --features cli --no-fail-fast 2>&1 | tee "$log" || outcome=$?
sum_of_tests "$log"
exit "$outcome"

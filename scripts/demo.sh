#!/usr/bin/env bash
# Sets the machine up, builds the plugin, and shows the main job: two processes, a moving picture
# through the ring, what arrived as a video and a picture in target/demo/.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
cargo build --release --example two_processes
exec target/release/examples/two_processes target/demo

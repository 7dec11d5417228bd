#!/usr/bin/env bash
# Sets the machine up, builds the plugin, and shows the main job: two processes, a moving picture
# through the ring, what arrived as a video and a picture in target/demo/; and a clip with sound
# through two rings, with every time stamp that it had.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
cargo build --release --example two_processes --example clip_in_two_rings
target/release/examples/two_processes target/demo
target/release/examples/clip_in_two_rings target/demo

//! The application of `docs/tutorial.md`: a player whose decoder is a process of its own.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Running, example};
use support_gst::Pipeline;

const FRAMES: u64 = 60;

/// A film of two seconds, and its address.
fn film(folder: &Path) -> String {
    let path = folder.join("film.mkv");
    let film = Pipeline::play(&format!(
        "videotestsrc num-buffers={FRAMES} ! video/x-raw,width=64,height=48,framerate=30/1 \
         ! jpegenc ! matroskamux ! filesink location={}",
        path.display()
    ));
    film.end();
    format!("file://{}", path.display())
}

/// The player, showing nothing.
fn player(uri: &str) -> Running {
    Running::start(example("process_split").args([uri, "fakesink sync=true"]))
}

/// The pid of the decoder that it says it starts.
fn decoder(player: &mut Running) -> Pid {
    let line = player.line().expect("it starts a decoder");
    let pid = line
        .strip_prefix("decoder ")
        .and_then(|rest| rest.strip_suffix(" starts"));
    Pid::from_raw(pid.unwrap_or_else(|| panic!("{line}")).parse().unwrap())
}

#[test]
fn the_player_plays_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut player = player(&film(folder.path()));
    decoder(&mut player);
    assert_eq!(
        player.line().unwrap(),
        format!("the end, after {FRAMES} frames")
    );
    player.wait().expect_success();
}

#[test]
fn a_decoder_that_dies_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mut player = player(&film(folder.path()));
    let first = decoder(&mut player);
    // In the middle of the film: its buffer is there, and it has written a few frames.
    let name = format!("player-{}", player.pid());
    let raw = loop {
        match std::fs::metadata(format!("/dev/shm/{name}")) {
            Ok(meta) if meta.len() > 0 => break support::raw::Raw::open(&name),
            _ => std::thread::yield_now(),
        }
    };
    while raw.get(support::raw::READ_COUNT) < 3 {
        std::thread::yield_now();
    }
    kill(first, Signal::SIGKILL).unwrap();
    let line = player.line().unwrap();
    assert!(
        line.starts_with("the decoder died after ") && line.contains("signal: 9"),
        "{line}"
    );
    assert_ne!(decoder(&mut player), first);
    assert_eq!(
        player.line().unwrap(),
        format!("the end, after {FRAMES} frames")
    );
    player.wait().expect_success();
}

#[test]
fn a_decoder_that_cannot_start_is_tried_three_times() {
    let mut player = player("file:///there/is/no/such/film");
    for _ in 0..3 {
        decoder(&mut player);
        assert!(
            player
                .line()
                .unwrap()
                .starts_with("the decoder died after 0 frames")
        );
    }
    let ended = player.wait();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.err.contains("again and again"), "{ended:#?}");
}

#[test]
fn a_decoder_without_a_player_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut player = player(&film(folder.path()));
    let decoder = decoder(&mut player);
    let name = format!("player-{}", player.pid());
    player.kill();
    while kill(decoder, None).is_ok() && !is_zombie(decoder) {
        std::thread::yield_now();
    }
    for path in [
        format!("/dev/shm/{name}"),
        format!("/dev/shm/sem.sem-w-{name}"),
        format!("/dev/shm/sem.sem-r-{name}"),
        format!("/tmp/zerobuffer/{name}.lock"),
    ] {
        // What a killed reader leaves: the next one of that name would remove it.
        let _ = std::fs::remove_file(path);
    }
}

/// Nobody may be there to wait for it.
fn is_zombie(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| status.contains("State:\tZ"))
}

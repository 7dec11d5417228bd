//! Whatever stands in a segment, who looks at it survives and says so.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gstzerobuffer::inspect::{Inspection, State};
use gstzerobuffer::{BufferConfig, FrameTime, Reader, Records, Writer};

use super::{listed, output, zerobuffer};
use crate::support::raw;
use crate::support::{LONG, Name, pattern};

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // A linear congruential generator with Knuth's numbers; its upper bits are good.
        self.0 = (self.0.wrapping_mul(6_364_136_223_846_793_005))
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    /// A number of the kinds that break things.
    fn number(&mut self, around: u64) -> u64 {
        match self.roll(6) {
            0 => 0,
            1 => u64::MAX - self.roll(20),
            2 => 1 << self.roll(64),
            3 => around.wrapping_sub(self.roll(20)),
            4 => around.wrapping_add(self.roll(20)),
            _ => self.roll(around + 1),
        }
    }
}

#[test]
fn numbers_that_cannot_be_are_told_and_harm_nobody() {
    let name = Name::new("command-dice");
    let size = 8192;
    let reader = Reader::create(&name, &BufferConfig::new(512, size)).unwrap();
    let writer = Writer::attach(&name).unwrap();
    writer.set_metadata(b"about").unwrap();
    let time = FrameTime::default();
    for i in 0..4 {
        let records = Records::new().with_time(&time);
        writer
            .write_frame_with(&pattern(700, i), &records, LONG)
            .unwrap();
    }
    let raw = name.raw();
    let whole = raw.bytes(0, raw.len() as usize);
    let mut dice = Dice(4711);
    let mut with_problems = 0;
    for _ in 0..600 {
        for _ in 0..1 + dice.roll(4) {
            let at = match dice.roll(3) {
                0 => 8 * dice.roll(16),
                1 => 128 + 512 - 64 + 8 * dice.roll(8),
                // Headers of frames and of records.
                _ => 128 + 512 + 4 * dice.roll(size / 4 - 1),
            };
            raw.set(at, dice.number(size));
        }
        let seen = Inspection::with_frames(&name, 1 + dice.roll(50) as usize).unwrap();
        if let Ok(content) = &seen.content {
            with_problems += usize::from(!content.problems.is_empty());
            assert!(content.ring.frames.len() <= 50);
        }
        raw.write(0, &whole);
    }
    assert!(with_problems > 60, "{with_problems}");
    assert!(
        Inspection::of(&name)
            .unwrap()
            .content
            .unwrap()
            .problems
            .is_empty()
    );
    // And what the command says of one such.
    raw.set(raw::WRITE_POS, 99_999);
    let text = output(&mut zerobuffer(&["inspect", &name]), 0);
    assert!(
        text.contains("payload_write_pos 99999 is outside of the ring"),
        "{text}"
    );
    let text = output(&mut zerobuffer(&["doctor", &name]), 1);
    assert!(text.contains("payload_write_pos 99999"), "{text}");
    raw.write(0, &whole);
    drop((writer, reader));
}

/// A file in /dev/shm that goes with its test.
struct Placed(PathBuf);

impl Drop for Placed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0).or_else(|_| fs::remove_dir(&self.0));
    }
}

fn place(name: &str) -> Placed {
    Placed(Path::new("/dev/shm").join(name))
}

#[test]
fn what_is_no_buffer_is_not_listed_and_is_told_when_asked_for() {
    let name = Name::new("command-none");
    let short = place(&format!("{}-short", &*name));
    fs::write(&short.0, b"hello").unwrap();
    let other = place(&format!("{}-other", &*name));
    fs::write(&other.0, [7; 4096]).unwrap();
    let folder = place(&format!("{}-folder", &*name));
    fs::create_dir(&folder.0).unwrap();
    let pipe = place(&format!("{}-pipe", &*name));
    nix::unistd::mkfifo(&pipe.0, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let link = place(&format!("{}-link", &*name));
    std::os::unix::fs::symlink("/etc/passwd", &link.0).unwrap();
    let text = output(&mut zerobuffer(&["list"]), 0);
    assert!(!text.contains(&*name), "{text}");
    for placed in [&short, &other] {
        let file = placed.0.file_name().unwrap().to_str().unwrap();
        let text = output(&mut zerobuffer(&["inspect", file]), 0);
        assert!(text.contains("it is not a buffer"), "{text}");
        output(&mut zerobuffer(&["doctor", file]), 1);
        let text = output(&mut zerobuffer(&["clean", file]), 1);
        assert!(text.contains("it is not a buffer"), "{text}");
        assert!(placed.0.exists());
    }
    for placed in [&folder, &pipe, &link] {
        let file = placed.0.file_name().unwrap().to_str().unwrap();
        output(&mut zerobuffer(&["inspect", file]), 2);
    }
    output(&mut zerobuffer(&["inspect", "a/b"]), 2);
    drop((short, other, folder, pipe, link));
}

#[test]
fn a_segment_that_says_that_it_is_larger_than_it_is_is_no_buffer() {
    let name = Name::new("command-larger");
    let reader = Reader::create(&name, &BufferConfig::new(512, 8192)).unwrap();
    let raw = name.raw();
    let len = raw.len();
    // As somebody may do while another looks: no signal, no crash.
    raw.file().set_len(200).unwrap();
    assert_eq!(Inspection::of(&name).unwrap().state(), State::NotABuffer);
    raw.file().set_len(64).unwrap();
    assert_eq!(Inspection::of(&name).unwrap().state(), State::NotABuffer);
    raw.file().set_len(0).unwrap();
    assert_eq!(Inspection::of(&name).unwrap().state(), State::Unfinished);
    assert_eq!(listed(&name)["state"], "unfinished");
    raw.file().set_len(len).unwrap();
    drop(reader);
}

#[test]
fn names_and_texts_of_others_cannot_talk_to_the_terminal() {
    let name = Name::new("command-escape");
    let evil = format!("{}\x1b[31m\nred", &*name);
    let reader = Reader::create(&evil, &BufferConfig::new(512, 8192)).unwrap();
    let writer = Writer::attach(&evil).unwrap();
    writer
        .set_metadata(b"video/x-raw,format=\x1b]0;title\x07")
        .unwrap();
    for args in [
        &["list"][..],
        &["inspect", &evil],
        &["doctor", &evil],
        &["clean", "-n", &evil],
    ] {
        let output = zerobuffer(args).output().unwrap();
        assert!(!output.stdout.contains(&0x1b), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("\nred"), "{text}");
    }
    assert_eq!(listed(&evil)["name"], evil.as_str());
    drop((writer, reader));
}

#[test]
fn a_ring_of_very_many_frames_is_not_followed_for_ever() {
    let name = Name::new("command-many");
    let reader = Reader::create(&name, &BufferConfig::new(512, 4 << 20)).unwrap();
    // As many frames of one byte as a ring can hold.
    let mut bytes = Vec::new();
    for i in 0..(4_u64 << 20) / 17 {
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend((i + 1).to_le_bytes());
        bytes.push(0);
    }
    let raw = name.raw();
    raw.file()
        .write_all_at(&bytes, raw.payload_start())
        .unwrap();
    raw.set(raw::WRITE_POS, bytes.len() as u64);
    raw.set(raw::FREE, (4 << 20) - bytes.len() as u64);
    let text = output(&mut zerobuffer(&["inspect", &name]), 0);
    assert!(
        text.contains("more than 65536 frames are not looked at"),
        "{text}"
    );
    drop(reader);
    assert!(File::open(Path::new("/dev/shm").join(&*name)).is_err());
}

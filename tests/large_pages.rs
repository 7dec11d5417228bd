//! Rings of large pages: that they are, where the kernel can do it, and that nothing but speed
//! depends on it. Frames lie across the pages, are held, moved out and cut off.

mod support;

use std::env;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use gstzerobuffer::testing::unique_name;
use gstzerobuffer::{BufferConfig, Error, Reader, Wait, Writer};
use memmap2::MmapOptions;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};
use support::{LONG, Name, Running, again, listen, pattern, role, say};

/// Three to a ring, and each with a border of large pages in it.
const FRAME: usize = 3_110_400;
/// Large pages of today's machines; larger ones take a larger ring.
const LARGE: usize = 2 << 20;
/// What says how large they are.
const SIZE: &str = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
/// Set to `0`, nobody asks for them.
const SWITCH: &str = "ZEROBUFFER_HUGE_PAGES";

/// Of the three frames, each with its prefix.
const PAYLOAD: u64 = 3 * (FRAME as u64 + 64);

fn config() -> BufferConfig {
    BufferConfig::new(1024, PAYLOAD)
}

/// Bytes that this process has mapped by large pages, of files with this in their name.
fn mapped_large(name: &str) -> usize {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_it = false;
    let mut kib = 0;
    for line in maps.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if !first.ends_with(':') {
            is_it = rest.contains(name);
        } else if is_it && first == "ShmemPmdMapped:" {
            kib += rest
                .trim()
                .trim_end_matches(" kB")
                .parse::<usize>()
                .unwrap();
        }
    }
    kib << 10
}

/// Whether the kernel can do it, or does it without being asked, tried with memory of our own.
fn kernel_does(asked: bool) -> bool {
    // Nobody is asked where it is not known how large they are (a root without /sys).
    if asked && !Path::new(SIZE).exists() {
        return false;
    }
    let name = unique_name("large-try");
    let path = format!("/dev/shm/{name}");
    let mut options = fs::File::options();
    options.read(true).write(true).create_new(true);
    let file = options.open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    file.set_len(LARGE as u64).unwrap();
    // Where it lands nobody can say, so there is room for it at an address that is right.
    let room = MmapOptions::new().len(2 * LARGE).map_anon().unwrap();
    let right = (room.as_ptr() as usize).next_multiple_of(LARGE);
    // SAFETY: over our own room, which nobody looks at; it is unmapped with that.
    unsafe {
        let (shared, rights) = (libc::MAP_SHARED | libc::MAP_FIXED, libc::PROT_WRITE);
        let start = libc::mmap(right as *mut _, LARGE, rights, shared, file.as_raw_fd(), 0);
        assert_ne!(start, libc::MAP_FAILED);
        start.cast::<u8>().write(1);
        if asked {
            libc::madvise(start, LARGE, libc::MADV_COLLAPSE);
        }
    }
    mapped_large(&name) > 0
}

/// In a child: a reader of this name that holds three frames, and moves them out or not when there
/// are more. Says how much of it is large pages.
fn hold(name: &str, evacuates: bool) {
    let reader = Reader::create(name, &config()).unwrap();
    reader.set_evacuation(evacuates);
    say("made");
    let frames: Vec<_> = (0..3).map(|_| reader.read_frame(LONG).unwrap()).collect();
    for (frame, seed) in frames.iter().zip(0..) {
        assert!(frame[..] == pattern(FRAME, seed)[..], "{seed}");
    }
    say(&mapped_large(name).to_string());
    if evacuates {
        // For each of these one that is held has to go.
        for seed in 3..9 {
            let frame = reader.read_frame(LONG).unwrap();
            assert!(frame[..] == pattern(FRAME, seed)[..], "{seed}");
        }
        for (frame, seed) in frames.iter().zip(0..) {
            assert!(frame[..] == pattern(FRAME, seed)[..], "{seed}");
        }
        assert!(reader.frames_copied() >= 3);
        return;
    }
    let cut: usize = listen().parse().unwrap();
    for (at, (frame, seed)) in frames.iter().zip(0..).enumerate() {
        let was = pattern(FRAME, seed);
        let same = frame.iter().zip(&was).take_while(|(a, b)| a == b).count();
        assert!(frame[same..].iter().all(|byte| *byte == 0), "{at} {same}");
        assert_eq!(same == FRAME, at < cut / FRAME, "{at} {same}");
    }
    let gone = reader.read_frame(Wait::no());
    assert!(matches!(gone, Err(Error::Corrupt { .. })), "{gone:?}");
}

/// In a child that [`with_reader`] started: is that reader, and true.
fn is_holder() -> bool {
    let role = role();
    let parts = role.as_deref().and_then(|role| role.split_once(' '));
    parts
        .map(|(evacuates, name)| hold(name, evacuates == "true"))
        .is_some()
}

/// A reader as that, with its writer here.
fn with_reader(test: &str, evacuates: bool, off: bool) {
    let name = Name::new("large-pages");
    let mut command = again(test, &format!("{evacuates} {}", &*name));
    // It may be set for all tests.
    let off = off || env::var_os(SWITCH).is_some_and(|value| value == "0");
    if off {
        command.env(SWITCH, "0");
    }
    let mut child = Running::start(&mut command);
    assert_eq!(child.hear(), "made");
    let writer = Writer::attach(&name).unwrap();
    for seed in 0..3 {
        writer.write_frame(&pattern(FRAME, seed)).unwrap();
    }
    let (here, there) = (mapped_large(&name), child.hear().parse::<usize>().unwrap());
    if off {
        assert!((here, there) == (0, 0) || kernel_does(false));
    } else if kernel_does(true) {
        // More than the one that begins with the header, also through the mapping that the reader lends
        // from. Not all of them: the last is not filled by the ring, and when memory is short it is fewer.
        assert!(here > LARGE && there > LARGE, "{here} {there}");
    }
    if evacuates {
        for seed in 3..9 {
            writer
                .write_frame_wait(&pattern(FRAME, seed), LONG)
                .unwrap();
        }
    } else {
        // In the middle of the second frame, and of a large page.
        let cut = FRAME + FRAME / 2;
        name.raw().file().set_len(cut as u64).unwrap();
        child.tell(&cut.to_string());
    }
    child.wait().expect_success();
}

#[test]
fn what_is_held_in_large_pages_is_moved_out() {
    const TEST: &str = "what_is_held_in_large_pages_is_moved_out";
    if is_holder() {
        return;
    }
    with_reader(TEST, true, false);
}

#[test]
fn what_is_cut_off_of_large_pages_reads_as_zeros() {
    const TEST: &str = "what_is_cut_off_of_large_pages_reads_as_zeros";
    if is_holder() {
        return;
    }
    with_reader(TEST, false, false);
}

#[test]
fn without_them_it_is_all_the_same() {
    const TEST: &str = "without_them_it_is_all_the_same";
    if is_holder() {
        return;
    }
    for evacuates in [false, true] {
        with_reader(TEST, evacuates, true);
    }
}

/// Addresses that this process has mapped, in bytes.
fn addresses() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let page = sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap();
    pages * page.unsigned_abs()
}

#[test]
fn without_addresses_to_choose_from_a_ring_is_of_small_ones() {
    const TEST: &str = "without_addresses_to_choose_from_a_ring_is_of_small_ones";
    if let Some(name) = role() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
        // For the ring, and for less than a large page.
        let most = addresses() + PAYLOAD + 3 * LARGE as u64 / 4;
        setrlimit(Resource::RLIMIT_AS, most, hard).unwrap();
        let reader = Reader::create(&name, &config()).unwrap();
        setrlimit(Resource::RLIMIT_AS, soft, hard).unwrap();
        say("made");
        assert!(reader.read_frame(LONG).unwrap()[..] == pattern(FRAME, 0)[..]);
        return;
    }
    let name = Name::new("large-addresses");
    let mut child = Running::start(&mut again(TEST, &name));
    assert_eq!(child.hear(), "made");
    let writer = Writer::attach(&name).unwrap();
    writer.write_frame(&pattern(FRAME, 0)).unwrap();
    child.wait().expect_success();
}

//! Too little room: a `/dev/shm` of 64 MB, full or filling up, sizes that cannot be, thousands of
//! rings, as many open files as a process may have. Each is an error that says what to do and
//! leaves nothing, and what runs goes on.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Error, Item, Reader, Wait, Writer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::v1::V1Reader;
use support::{Ended, LONG, Name, Running, again, pattern, role, unshare, within};
use support_gst::Pipeline;

const MIB: u64 = 1 << 20;
const SHM: &str = "/dev/shm";

/// This command where /dev/shm has 64 MB, as in a container, and is empty.
fn in_a_container(command: &Command) -> Ended {
    with_dev_shm("-t tmpfs -o size=64m", command)
}

/// This command where /dev/shm is mounted like that.
fn with_dev_shm(options: &str, command: &Command) -> Ended {
    let script = format!("mount {options} none /dev/shm && exec \"$@\"");
    let mut wrapper = unshare(&["--mount"]);
    wrapper.extend(["sh", "-c", &script, "sh"].map(Into::into));
    Running::start(&mut within(&wrapper, command)).wait()
}

/// What is in the small /dev/shm.
fn objects() -> Vec<String> {
    let entries = fs::read_dir(SHM).unwrap();
    entries
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A file that takes all the room there is, until it is dropped.
struct Filler(&'static Path);

impl Filler {
    fn new() -> Self {
        let filler = Filler(Path::new("/dev/shm/filler"));
        let mut file = File::create_new(filler.0).unwrap();
        for len in [1 << 20, 4096] {
            loop {
                match file.write(&vec![1; len]) {
                    Ok(_) => {}
                    Err(err) if err.kind() == ErrorKind::StorageFull => break,
                    Err(err) => panic!("{err}"),
                }
            }
        }
        filler
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        fs::remove_file(self.0).unwrap();
    }
}

fn config(payload: u64) -> BufferConfig {
    BufferConfig::new(1024, payload)
}

/// Why there is no room for a buffer of this size.
#[track_caller]
fn no_space<T: std::fmt::Debug>(made: Result<T, Error>) -> u64 {
    let err = made.unwrap_err();
    let text = err.to_string();
    for part in ["bytes in /dev/shm", "--shm-size", "remount"] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    match err {
        Error::NoSpace { available, .. } => available.unwrap(),
        err => panic!("{err}"),
    }
}

#[test]
fn a_full_dev_shm_is_told_and_room_that_comes_back_is_used() {
    const TEST: &str = "a_full_dev_shm_is_told_and_room_that_comes_back_is_used";
    if let Some(name) = role() {
        assert_eq!(no_space(Reader::create(&name, &config(65 * MIB))), 64 * MIB);
        assert!(objects().is_empty(), "{:?}", objects());
        let filler = Filler::new();
        for payload in [64, MIB, 1 << 40] {
            assert_eq!(no_space(Reader::create(&name, &config(payload))), 0);
            assert_eq!(objects(), ["filler"]);
        }
        drop(filler);
        let reader = Reader::create(&name, &config(60 * MIB)).unwrap();
        let other = format!("{name}-other");
        no_space(Reader::create(&other, &config(60 * MIB)));
        assert_eq!(objects().len(), 3, "{:?}", objects());
        drop(reader);
        Reader::create(&other, &config(60 * MIB)).unwrap();
        assert!(objects().is_empty(), "{:?}", objects());
        return;
    }
    let name = Name::new("room-full");
    in_a_container(&again(TEST, &name)).expect_success();
}

#[test]
fn a_stream_goes_on_while_dev_shm_fills_up() {
    const TEST: &str = "a_stream_goes_on_while_dev_shm_fills_up";
    if let Some(name) = role() {
        let reader = Reader::create(&name, &config(4 * MIB).with_resizing()).unwrap();
        let filler = Filler::new();
        let writer = Writer::attach(&name).unwrap();
        writer.set_metadata(b"in a full /dev/shm").unwrap();
        let pass = |reader: &Reader, writer: &Writer, from: u64| {
            for seed in from..from + 20 {
                let frame = pattern(MIB as usize - 100, seed);
                writer.write_frame(&frame).unwrap();
                assert_eq!(*reader.read_frame(LONG).unwrap(), *frame);
            }
        };
        pass(&reader, &writer, 0);
        // A larger ring is refused, and the stream goes on in the one there is.
        assert!(writer.request_size(16 * MIB, Wait::no()).unwrap());
        let item = reader.read(LONG).unwrap();
        assert!(matches!(item, Item::Resize(size) if size == 16 * MIB));
        assert_eq!(no_space(reader.replace(&config(16 * MIB))), 0);
        pass(&reader, &writer, 20);
        // Until there is room.
        drop(filler);
        let next = reader.replace(&config(16 * MIB)).unwrap();
        let moved = writer.write_frame(b"late").unwrap_err();
        assert!(matches!(moved, Error::ReaderReplaced { .. }), "{moved}");
        drop((reader, writer));
        let writer = Writer::attach(&name).unwrap();
        pass(&next, &writer, 0);
        drop((next, writer));
        assert!(objects().is_empty(), "{:?}", objects());
        return;
    }
    let name = Name::new("room-fills");
    in_a_container(&again(TEST, &name)).expect_success();
}

#[test]
fn a_reader_that_reserves_no_room_makes_it_an_error_and_no_signal() {
    const TEST: &str = "a_reader_that_reserves_no_room_makes_it_an_error_and_no_signal";
    if role().is_some() {
        // As the published ones do: the file has its size, and no pages.
        let name = Name::new("room-sparse");
        let _reader = V1Reader::create(&name, 1024, 4 * MIB);
        let filler = Filler::new();
        let writer = Writer::attach(&name).unwrap();
        let mut place = writer.reserve(MIB, LONG).unwrap();
        place.fill(7);
        let text = place.commit().unwrap_err().to_string();
        assert!(text.contains("/dev/shm had no room for it"), "{text}");
        drop((writer, filler));
        // What is lost in one attachment is not in the next.
        let writer = Writer::attach(&name).unwrap();
        writer.write_frame(&pattern(MIB as usize, 1)).unwrap();
        return;
    }
    in_a_container(&again(TEST, "sparse")).expect_success();
}

#[test]
fn sizes_that_cannot_be_are_refused_at_once() {
    const TEST: &str = "sizes_that_cannot_be_are_refused_at_once";
    if let Some(name) = role() {
        let sizes = [
            u64::MAX,
            u64::MAX - 63,
            1 << 63,
            i64::MAX as u64,
            1 << 62,
            1 << 47,
            1 << 40,
        ];
        for size in sizes {
            for config in [
                config(size),
                BufferConfig::new(size, 1024),
                BufferConfig::new(size, size),
            ] {
                match Reader::create(&name, &config) {
                    Err(Error::NoSpace { .. } | Error::InvalidConfig { .. }) => {}
                    other => panic!("{size}: {other:?}"),
                }
                assert!(objects().is_empty(), "{:?}", objects());
            }
        }
        return;
    }
    let name = Name::new("room-huge");
    in_a_container(&again(TEST, &name)).expect_success();
}

#[test]
fn the_elements_say_what_is_missing_and_leave_nothing() {
    const TEST: &str = "the_elements_say_what_is_missing_and_leave_nothing";
    if let Some(name) = role() {
        let source = |name: &str, size: u64| {
            Pipeline::new(&format!(
                "zerobuffersrc buffer-name={name} payload-size={size} ! fakesink"
            ))
        };
        // The ring that it has by default, and one for which there is no room beside it.
        let first = source(&name, 0);
        first.set_state(gst::State::Playing);
        let second = source(&format!("{name}-2"), 40 << 20);
        assert!(second.pipeline.set_state(gst::State::Playing).is_err());
        let text = second.error();
        assert!(text.contains("bytes in /dev/shm, which has"), "{text}");
        assert!(text.contains("--shm-size"), "{text}");
        drop(first);
        // The same pipeline, as soon as there is.
        second.pipeline.set_state(gst::State::Null).unwrap();
        second.clear();
        second.set_state(gst::State::Playing);
        second.no_error();
        drop(second);
        assert!(objects().is_empty(), "{:?}", objects());
        return;
    }
    let name = Name::new("room-elements");
    in_a_container(&again(TEST, &name)).expect_success();
}

/// The number of the next file that is opened, above all others; the files close the gaps.
fn next_file() -> (u64, Vec<File>) {
    let mut files = Vec::new();
    let highest = || {
        let entries = fs::read_dir("/proc/self/fd").unwrap();
        let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
        let numbers: Vec<u64> = names.map(|it| it.parse().unwrap()).collect();
        // That of the folder itself is closed by now.
        let open = |it: &u64| Path::new(&format!("/proc/self/fd/{it}")).exists();
        numbers.into_iter().filter(open).max().unwrap()
    };
    loop {
        let file = File::open("/dev/null").unwrap();
        let number = file.as_raw_fd() as u64;
        if number >= highest() {
            return (number, files);
        }
        files.push(file);
    }
}

/// The soft limit alone: it can be raised again.
fn limit_files(most: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, hard).unwrap();
}

#[test]
fn as_many_open_files_as_may_be_are_an_error_that_leaves_nothing() {
    const TEST: &str = "as_many_open_files_as_may_be_are_an_error_that_leaves_nothing";
    if let Some(name) = role() {
        let (many, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let told = |err: Error| {
            let text = err.to_string();
            assert!(text.contains("ulimit -n"), "{text}");
        };
        // At each step of making a buffer, and of attaching to it.
        let (open, _files) = next_file();
        let (mut refused, mut more) = (0, 0);
        let reader = loop {
            limit_files(open + more);
            let made = Reader::create(&name, &config(4096));
            limit_files(many);
            match made {
                Ok(reader) => break reader,
                Err(err) => told(err),
            }
            assert!(objects().is_empty(), "{:?}", objects());
            (refused, more) = (refused + 1, more + 1);
        };
        assert!((1..=5).contains(&refused), "{refused}");
        let (open, _files) = next_file();
        let (mut refused, mut more) = (0, 0);
        let writer = loop {
            limit_files(open + more);
            let attached = Writer::attach(&name);
            limit_files(many);
            match attached {
                Ok(writer) => break writer,
                Err(err) => told(err),
            }
            assert!(!reader.is_writer_connected(), "a trace of it");
            (refused, more) = (refused + 1, more + 1);
        };
        assert!((1..=2).contains(&refused), "{refused}");
        // What runs needs no more files.
        let (open, _files) = next_file();
        limit_files(open);
        for seed in 0..20 {
            writer.write_frame(&pattern(1000, seed)).unwrap();
            assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(1000, seed));
        }
        drop((reader, writer));
        limit_files(many);
        assert!(objects().is_empty(), "{:?}", objects());
        return;
    }
    let name = Name::new("room-files");
    in_a_container(&again(TEST, &name)).expect_success();
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_signal() {
    const TEST: &str = "a_limit_on_the_size_of_files_is_an_error_and_no_signal";
    if let Some(name) = role() {
        setrlimit(Resource::RLIMIT_FSIZE, MIB, MIB).unwrap();
        let text = Reader::create(&name, &config(MIB)).unwrap_err().to_string();
        assert!(text.contains("ulimit -f"), "{text}");
        assert!(objects().is_empty(), "{:?}", objects());
        Reader::create(&name, &config(MIB / 2)).unwrap();
        return;
    }
    let name = Name::new("room-file-size");
    in_a_container(&again(TEST, &name)).expect_success();
}

#[test]
fn thousands_of_rings_work_and_one_too_many_is_told() {
    const TEST: &str = "thousands_of_rings_work_and_one_too_many_is_told";
    const RINGS: usize = 2000;
    if let Some(name) = role() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        limit_files(hard.min(8 * RINGS as u64));
        let mut rings = Vec::new();
        for i in 0..RINGS {
            let name = format!("{name}-{i}");
            let reader = Reader::create(&name, &config(4096)).unwrap();
            let writer = Writer::attach(&name).unwrap();
            rings.push((reader, writer));
        }
        // Each is its own.
        for (i, (_, writer)) in rings.iter().enumerate() {
            writer.write_frame(&pattern(100, i as u64)).unwrap();
        }
        for (i, (reader, _)) in rings.iter().enumerate().rev() {
            assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(100, i as u64));
        }
        // No more files, with as many rings.
        let (open, _files) = next_file();
        limit_files(open);
        let one_more = Reader::create(&format!("{name}-more"), &config(4096));
        let text = one_more.unwrap_err().to_string();
        assert!(text.contains("ulimit -n"), "{text}");
        limit_files(hard.min(8 * RINGS as u64));
        assert_eq!(objects().len(), 3 * RINGS);
        drop(rings);
        assert!(objects().is_empty(), "{:?}", objects());
        return;
    }
    let name = Name::new("room-many");
    in_a_container(&again(TEST, &name)).expect_success();
}

#[test]
fn a_dev_shm_without_a_limit_has_what_the_machine_has() {
    const TEST: &str = "a_dev_shm_without_a_limit_has_what_the_machine_has";
    if let Some(name) = role() {
        let available = no_space(Reader::create(&name, &config(1 << 50)));
        assert!(available > MIB && available < 1 << 50, "{available}");
        let reader = Reader::create(&name, &config(MIB)).unwrap();
        let writer = Writer::attach(&name).unwrap();
        for i in 0..20 {
            writer.write_frame(&pattern(300_000, i)).unwrap();
            assert_eq!(*reader.read_frame(LONG).unwrap(), pattern(300_000, i));
        }
        drop(reader);
        assert!(objects().is_empty(), "{:?}", objects());
        return;
    }
    // The second has no fallocate either.
    for options in ["-t tmpfs -o size=0,nr_inodes=0", "-t ramfs"] {
        let name = Name::new("room-unlimited");
        with_dev_shm(options, &again(TEST, &name)).expect_success();
    }
}

#[test]
fn as_many_files_as_dev_shm_may_have_are_an_error_that_says_so() {
    const TEST: &str = "as_many_files_as_dev_shm_may_have_are_an_error_that_says_so";
    if let Some(name) = role() {
        let refused = Reader::create(&name, &config(MIB)).unwrap_err().to_string();
        assert!(refused.contains("nr_inodes"), "{refused}");
        assert!(objects().is_empty(), "{:?}", objects());
        return;
    }
    // One is the folder.
    for files in 1..=3 {
        let name = Name::new("room-inodes");
        let options = format!("-t tmpfs -o size=64m,nr_inodes={files}");
        with_dev_shm(&options, &again(TEST, &name)).expect_success();
    }
}

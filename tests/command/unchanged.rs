//! Looking changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gstzerobuffer::{BufferConfig, Error, Reader, WriterState};

use super::zerobuffer;
use crate::support::raw::RawSem;
use crate::support::v1::V1Writer;
use crate::support::{LONG, Name};

/// All ways to look.
fn look(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("frame.png");
    for args in LOOKS {
        let args: Vec<&str> = (args.iter())
            .map(|arg| match *arg {
                "NAME" => name,
                "PICTURE" => picture.to_str().unwrap(),
                arg => arg,
            })
            .collect();
        // The doctor may find that this machine has its faults.
        let output = zerobuffer(&args).output().unwrap();
        let is_empty = args[0] == "peek" && output.stderr.starts_with(b"zerobuffer: buffer '");
        let done = output.status.code() < Some(2) && !output.stdout.is_empty();
        assert!(done || is_empty, "{args:?}: {output:?}");
    }
}

const LOOKS: &[&[&str]] = &[
    &["list"],
    &["list", "--json"],
    &["inspect", "NAME"],
    &["inspect", "NAME", "--json"],
    &["doctor", "NAME"],
    &["clean", "--dry-run"],
    &["clean", "--dry-run", "NAME"],
    &["top", "--once", "--interval", "0.1"],
    &["peek", "NAME", "--raw", "-o", "PICTURE", "--timeout", "0"],
];

/// Everything that a peer could see of the objects but for when they were read last. Nothing is opened
/// for it that was not open before: that would itself be to be seen.
fn state(name: &Name, sem_write: &RawSem, sem_read: &RawSem) -> Vec<String> {
    let raw = name.raw();
    let mut state = vec![
        format!("{:?}", raw.bytes(0, raw.len() as usize)),
        format!("{} {}", sem_write.count(), sem_read.count()),
    ];
    for path in name.objects() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let times = (
            meta.mtime_nsec(),
            meta.mtime(),
            meta.ctime_nsec(),
            meta.ctime(),
        );
        let what = (
            meta.ino(),
            meta.len(),
            meta.blocks(),
            meta.mode(),
            meta.uid(),
        );
        state.push(format!("{} {times:?} {what:?}", path.display()));
    }
    state
}

#[test]
fn looking_leaves_every_byte_and_the_readers_trust_as_they_were() {
    let name = Name::new("command-unchanged");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 1 << 16)).unwrap();
    let mut writer = V1Writer::attach(&name, std::process::id().into());
    let sem_read = RawSem::open('r', &name);
    writer.write(b"first");
    writer.write(b"second");
    let held = reader.read_frame(LONG).unwrap();
    let before = state(&name, &writer.sem_write, &sem_read);
    look(&name);
    assert_eq!(state(&name, &writer.sem_write, &sem_read), before);
    drop(held);
    assert_eq!(&reader.read_frame(LONG).unwrap()[..], b"second");
    // Who opens the writer's semaphore may be a new writer, who may start again at 1. Nobody did.
    writer.sequence = 1;
    writer.write(b"again");
    let refused = reader.read_frame(LONG);
    assert!(
        matches!(
            refused,
            Err(Error::Sequence {
                expected: 3,
                found: 1,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[test]
fn somebody_who_opens_the_semaphore_would_be_noticed() {
    let name = Name::new("command-noticed");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 1 << 16)).unwrap();
    let mut writer = V1Writer::attach(&name, std::process::id().into());
    writer.write(b"first");
    assert_eq!(&reader.read_frame(LONG).unwrap()[..], b"first");
    look(&name);
    // The kernel tells of opens that follow each other with no close between as one, and what another
    // test forks just now may have it open until it is another program.
    for _ in 0..100 {
        drop(RawSem::open('w', &name));
        std::thread::yield_now();
    }
    writer.sequence = 1;
    writer.write(b"again");
    assert_eq!(&reader.read_frame(LONG).unwrap()[..], b"again");
}

#[test]
fn looking_takes_no_memory_where_nobody_has_written() {
    let name = Name::new("command-sparse");
    let v1 = crate::support::v1::V1Reader::create(&name, 1024, 64 << 20);
    let blocks = || {
        fs::metadata(Path::new("/dev/shm").join(&*name))
            .unwrap()
            .blocks()
    };
    let before = blocks();
    assert!(before < 64, "a v1 reader reserves nothing: {before}");
    look(&name);
    assert_eq!(blocks(), before);
    drop(v1);
}

#[test]
fn a_reader_and_a_writer_come_and_go_while_somebody_looks() {
    let name = Name::new("command-while");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = gstzerobuffer::inspect::Inspection::with_frames(&name, 100);
                let _ = gstzerobuffer::inspect::clean(&name, true);
                gstzerobuffer::inspect::leftovers();
            }
        });
        for i in 0..200 {
            let reader = Reader::create(&name, &BufferConfig::new(1024, 4096)).unwrap();
            assert_eq!(reader.lock_problem().map(ToString::to_string), None);
            let writer = gstzerobuffer::Writer::attach(&name).unwrap();
            writer.write_frame(&[i]).unwrap();
            assert_eq!(&reader.read_frame(LONG).unwrap()[..], [i]);
            drop(writer);
            assert_eq!(reader.writer(), WriterState::Closed);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

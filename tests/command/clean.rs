//! `clean`: only what is nobody's goes.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use gstzerobuffer::inspect::{self, Cleaned};
use gstzerobuffer::{BufferConfig, Error, Reader, Writer};

use super::{ForAll, PROGRAM, listed, output, zerobuffer};
use crate::support::raw::{self, RawSem};
use crate::support::v1::{V1Reader, place_file};
use crate::support::{LONG, Name, Running, again, is_root, listen, role, say, unshare, within};

/// In a child: an end of the buffer, until it is killed.
fn as_child() -> bool {
    let Some(role) = role() else { return false };
    let (end, name) = role.split_once(' ').unwrap();
    match end {
        "reader" => {
            let _reader = Reader::create(name, &BufferConfig::new(1024, 4096)).unwrap();
            say("there");
            listen();
        }
        _ => {
            let _writer = Writer::attach(name).unwrap();
            say("there");
            listen();
        }
    }
    true
}

fn child(test: &str, role: String) -> Running {
    let mut child = Running::start(&mut again(test, &role));
    assert_eq!(child.hear(), "there");
    child
}

#[test]
fn what_a_dead_reader_left_is_removed_and_first_only_told() {
    const TEST: &str = "clean::what_a_dead_reader_left_is_removed_and_first_only_told";
    if as_child() {
        return;
    }
    let name = Name::new("command-dead");
    child(TEST, format!("reader {}", &*name)).kill();
    let left = name.objects();
    assert_eq!(left.len(), 4, "{left:?}");
    assert_eq!(listed(&name)["state"], "reader-dead");
    let text = output(&mut zerobuffer(&["clean", "--dry-run", &name]), 0);
    assert!(
        text.starts_with(&format!("would remove\t{}\t", &*name)),
        "{text}"
    );
    assert_eq!(name.objects(), left);
    let all = output(&mut zerobuffer(&["clean", "--dry-run"]), 0);
    assert!(all.contains(&text), "{all}");
    let doctor = zerobuffer(&["doctor", &name]).output().unwrap();
    assert_eq!(doctor.status.code(), Some(1));
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert!(said.contains("zerobuffer clean"), "{said}");
    let text = output(&mut zerobuffer(&["clean", &name]), 0);
    assert!(
        text.starts_with(&format!("removed\t{}\t", &*name)),
        "{text}"
    );
    name.assert_nothing_left();
    let text = output(&mut zerobuffer(&["clean", &name]), 1);
    assert!(text.contains("there is nothing of it"), "{text}");
}

#[test]
fn the_buffer_of_a_reader_that_lives_is_kept_whoever_writes() {
    const TEST: &str = "clean::the_buffer_of_a_reader_that_lives_is_kept_whoever_writes";
    if as_child() {
        return;
    }
    let name = Name::new("command-kept");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 4096)).unwrap();
    child(TEST, format!("writer {}", &*name)).kill();
    assert_eq!(listed(&name)["state"], "writer-dead");
    let text = output(&mut zerobuffer(&["clean", &name]), 1);
    assert!(text.contains("its reader is alive"), "{text}");
    Writer::attach(&name).unwrap().write_frame(b"on").unwrap();
    assert_eq!(&reader.read_frame(LONG).unwrap()[..], b"on");
}

#[test]
fn a_v1_reader_that_may_be_elsewhere_keeps_its_buffer() {
    let name = Name::new("command-elsewhere");
    let v1 = V1Reader::create(&name, 1024, 4096);
    // Nobody has such a pid here, and there is no lock file.
    v1.raw.set(raw::READER_PID, 1 << 40);
    let text = output(&mut zerobuffer(&["clean", &name]), 1);
    assert!(text.contains("may be in another pid namespace"), "{text}");
    let left = name.objects();
    // A lock file that somebody holds says that it lives; one that nobody holds, that it is dead.
    let lock = v1.lock();
    output(&mut zerobuffer(&["clean", &name]), 1);
    // Not only closed: what another test forks just now has it open, too, and so locked.
    lock.unlock().unwrap();
    drop(lock);
    assert!(name.objects().len() > left.len());
    let text = output(&mut zerobuffer(&["clean", &name]), 0);
    assert!(text.starts_with("removed"), "{text}");
    name.assert_nothing_left();
    drop(v1);
}

#[test]
fn semaphores_and_lock_files_without_a_segment_go_too() {
    let name = Name::new("command-orphans");
    RawSem::create('w', &name, 0);
    RawSem::create('x', &name, 0);
    fs::create_dir_all("/tmp/zerobuffer").unwrap();
    place_file(name.lock_file(), b"");
    let all = output(&mut zerobuffer(&["clean", "--dry-run"]), 0);
    assert!(
        all.contains(&format!("would remove\t{}\t0 B", &*name)),
        "{all}"
    );
    output(&mut zerobuffer(&["clean", &name]), 0);
    name.assert_nothing_left();
}

#[test]
fn without_names_all_of_a_machine_is_cleaned() {
    let name = Name::new("command-all");
    let shell = format!(
        "mkdir -p -m 1777 /tmp/zerobuffer && mount -t tmpfs -o mode=1777 tmpfs /dev/shm && \
         mount -t tmpfs tmpfs /tmp/zerobuffer && {PROGRAM} list && {PROGRAM} clean && \
         touch /dev/shm/sem.sem-w-{0} /dev/shm/sem.sem-n-{0}2 /tmp/zerobuffer/{0}3.lock /dev/shm/other && \
         {PROGRAM} clean && ls /dev/shm /tmp/zerobuffer",
        &*name
    );
    let mut command = Command::new("sh");
    command.args(["-c", &shell]);
    let text = output(&mut within(&unshare(&["--mount"]), &command), 0);
    let (nothing, rest) = text.split_once("There is nothing to remove.\n").unwrap();
    assert_eq!(
        nothing.lines().count(),
        1,
        "the names of the columns: {text}"
    );
    for number in ["", "2", "3"] {
        assert!(
            rest.contains(&format!("removed\t{}{number}\t0 B\n", &*name)),
            "{text}"
        );
    }
    assert!(
        rest.ends_with("/dev/shm:\nother\n\n/tmp/zerobuffer:\n"),
        "{text}"
    );
}

#[test]
fn what_another_user_left_stays_and_is_not_said_to_be_gone() {
    if !is_root() {
        // Nobody else can be had here; the folder of locks that is not ours stands for that.
        let name = Name::new("command-others");
        RawSem::create('w', &name, 0);
        let shell = format!(
            "mkdir -p /tmp/zerobuffer && mount -t tmpfs -o mode=1777 tmpfs /tmp/zerobuffer && \
             touch /tmp/zerobuffer/{0}.lock && mount -o remount,bind,ro /tmp/zerobuffer && \
             {PROGRAM} clean {0}",
            &*name
        );
        let mut command = Command::new("sh");
        command.args(["-c", &shell]);
        output(&mut within(&unshare(&["--mount"]), &command), 1);
        fs::remove_file(format!("/dev/shm/sem.sem-w-{}", &*name)).unwrap();
        return;
    }
    let name = Name::new("command-others");
    let all = ForAll::new();
    for mode in [0o600, 0o644] {
        fs::create_dir_all("/tmp/zerobuffer").unwrap();
        place_file(name.lock_file(), b"");
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(name.lock_file(), permissions).unwrap();
        let left = name.objects();
        let tried = all.as_nobody(&["clean", &name]).output().unwrap();
        assert_eq!(tried.status.code(), Some(1), "{tried:?}");
        assert!(tried.stdout.is_empty(), "{tried:?}");
        let said = String::from_utf8(tried.stderr).unwrap();
        let lock = name.lock_file();
        assert!(
            said.contains(&format!("no permission for {}", lock.display())),
            "{said}"
        );
        assert!(said.contains("owner uid 0"), "{said}");
        assert_eq!(name.objects(), left);
        output(&mut zerobuffer(&["clean", &name]), 0);
        name.assert_nothing_left();
    }
    // In folders that are for everybody, semaphores too.
    drop(RawSem::create('w', &name, 0));
    let tried = all.as_nobody(&["clean", &name]).output().unwrap();
    assert_eq!(tried.status.code(), Some(1), "{tried:?}");
    let said = String::from_utf8(tried.stderr).unwrap();
    assert!(said.contains("/dev/shm/sem.sem-w-"), "{said}");
    output(&mut zerobuffer(&["clean", &name]), 0);
    name.assert_nothing_left();
}

#[test]
fn a_reader_that_starts_while_somebody_cleans_has_its_buffer() {
    let name = Name::new("command-race");
    let done = AtomicBool::new(false);
    let mut cleaned = 0;
    thread::scope(|scope| {
        let cleaner = scope.spawn(|| {
            let mut cleaned = 0;
            while !done.load(Ordering::Relaxed) {
                match inspect::clean(&name, false) {
                    Ok(Cleaned::Removed(_)) => cleaned += 1,
                    Ok(Cleaned::Kept(_)) => {}
                    Err(err) => panic!("{err}"),
                }
            }
            cleaned
        });
        for i in 0..300_u32 {
            // What a reader left that died; the cleaner is about to take it.
            RawSem::create('w', &name, 0);
            RawSem::create('r', &name, 0);
            let start = std::time::Instant::now();
            let reader = loop {
                match Reader::create(&name, &BufferConfig::new(1024, 4096)) {
                    Ok(reader) => break reader,
                    // For the moment in which the cleaner has the name.
                    Err(Error::ReaderAlreadyConnected { .. }) if start.elapsed() < LONG => {}
                    Err(err) => panic!("{err}"),
                }
            };
            let writer = Writer::attach(&name).unwrap();
            writer.write_frame(&i.to_le_bytes()).unwrap();
            assert_eq!(&reader.read_frame(LONG).unwrap()[..], i.to_le_bytes());
            drop((writer, reader));
        }
        done.store(true, Ordering::Relaxed);
        cleaned = cleaner.join().unwrap();
    });
    assert!(cleaned > 0, "it never had anything to clean");
}

//! The other end truncates the shared memory under us: a SIGBUS that must not end the application,
//! but an error and a clean end; and every SIGBUS that is not of our memory goes where it went.

mod support;
#[path = "support/gst.rs"]
mod support_gst;

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use gstreamer as gst;
use gstzerobuffer::{BufferConfig, Error, Reader, Wait, Writer};
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::signal::{Signal, raise};
use nix::unistd::{SysconfVar, sysconf};
use support::raw::{Raw, RawSem};
use support::{LONG, Name, Running, again, listen, pattern, role, say};
use support_gst::Pipeline;

/// Bytes of a frame: some pages.
const FRAME: usize = 50_000;

#[track_caller]
fn is_gone<T: std::fmt::Debug>(result: Result<T, Error>) {
    let text = match result {
        Err(err @ Error::Corrupt { .. }) => err.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(text.contains("the other end truncated it"), "{text}");
}

fn config() -> BufferConfig {
    BufferConfig::new(1024, 4 * FRAME as u64)
}

/// Nothing is left; the OIEB, and with it all of its page; a page; half of the first frame.
fn cuts() -> [u64; 4] {
    [0, 128, 4096, 128 + 1024 + FRAME as u64 / 2]
}

#[test]
fn a_frame_that_is_held_reads_as_zeros_and_the_reader_says_why() {
    const TEST: &str = "a_frame_that_is_held_reads_as_zeros_and_the_reader_says_why";
    if let Some(role) = role() {
        let (name, evacuates) = role.split_once(' ').unwrap();
        let reader = Reader::create(name, &config()).unwrap();
        reader.set_evacuation(evacuates == "true");
        say("made");
        let frames: Vec<_> = (0..2).map(|_| reader.read_frame(LONG).unwrap()).collect();
        // Some of it was looked at before.
        assert_eq!(frames[1][..100], pattern(FRAME, 2)[..100]);
        say("held");
        let cut: usize = listen().parse().unwrap();
        // Many at once.
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for (frame, seed) in frames.iter().zip(1..) {
                        let was = pattern(FRAME, seed);
                        let same = frame.iter().zip(&was).take_while(|(a, b)| a == b).count();
                        assert!(frame[same..].iter().all(|byte| *byte == 0), "{cut} {same}");
                    }
                });
            }
        });
        is_gone(reader.read_frame(LONG));
        is_gone(reader.read_frame(Wait::no()));
        drop(frames);
        is_gone(reader.metadata());
        // The name can be used again at once.
        drop(reader);
        drop(Reader::create(name, &config()).unwrap());
        return;
    }
    for cut in cuts() {
        for evacuates in [false, true] {
            let name = Name::new("cut-held");
            let role = format!("{} {evacuates}", &*name);
            let mut child = Running::start(&mut again(TEST, &role));
            assert_eq!(child.hear(), "made");
            let writer = Writer::attach(&name).unwrap();
            for seed in 1..=3 {
                writer.write_frame(&pattern(FRAME, seed)).unwrap();
            }
            assert_eq!(child.hear(), "held");
            name.raw().file().set_len(cut).unwrap();
            child.tell(&cut.to_string());
            child.wait().expect_success();
            // We have it mapped, too.
            assert!(writer.write_frame(&pattern(FRAME, 4)).is_err());
        }
    }
}

#[test]
fn a_place_that_is_filled_takes_the_bytes_and_is_not_published() {
    const TEST: &str = "a_place_that_is_filled_takes_the_bytes_and_is_not_published";
    if let Some(name) = role() {
        let writer = Writer::attach(&name).unwrap();
        let mut ahead = writer.reserve_ahead(FRAME as u64).unwrap();
        let mut place = writer.reserve(FRAME as u64, LONG).unwrap();
        say("reserved");
        listen();
        for place in [&mut ahead, &mut place] {
            place.copy_from_slice(&pattern(FRAME, 1));
            // Whoever renders in several steps finds what he has drawn.
            assert_eq!(place[..], pattern(FRAME, 1)[..]);
        }
        is_gone(ahead.publish());
        is_gone(place.commit());
        is_gone(writer.write_frame(b"another"));
        is_gone(writer.set_metadata(b"about it"));
        assert!(!writer.is_reader_connected());
        assert!(writer.reserve_ahead(10).is_none());
        return;
    }
    for cut in cuts() {
        let name = Name::new("cut-place");
        let reader = Reader::create(&name, &config()).unwrap();
        let mut child = Running::start(&mut again(TEST, &name));
        assert_eq!(child.hear(), "reserved");
        name.raw().file().set_len(cut).unwrap();
        child.tell("go on");
        child.wait().expect_success();
        assert!(reader.read_frame(Wait::no()).is_err());
    }
}

#[test]
fn who_waits_learns_of_it() {
    const TEST: &str = "who_waits_learns_of_it";
    if let Some(role) = role() {
        let (what, name) = role.split_once(' ').unwrap();
        if what == "reader" {
            let reader = Reader::create(name, &config()).unwrap();
            say("made");
            is_gone(reader.read_frame(LONG));
        } else {
            let writer = Writer::attach(name).unwrap();
            for seed in 0..3 {
                writer.write_frame(&pattern(FRAME, seed)).unwrap();
            }
            say("full");
            is_gone(writer.write_frame_wait(&pattern(FRAME, 3), LONG));
        }
        return;
    }
    for cut in cuts().into_iter().filter(|cut| *cut < 128) {
        let name = Name::new("cut-reader");
        let mut child = Running::start(&mut again(TEST, &format!("reader {}", &*name)));
        assert_eq!(child.hear(), "made");
        name.raw().file().set_len(cut).unwrap();
        child.wait().expect_success();

        let name = Name::new("cut-writer");
        let _reader = Reader::create(&name, &config()).unwrap();
        let mut child = Running::start(&mut again(TEST, &format!("writer {}", &*name)));
        assert_eq!(child.hear(), "full");
        name.raw().file().set_len(cut).unwrap();
        child.wait().expect_success();
    }
}

#[test]
fn a_segment_that_shrinks_and_grows_all_the_while_ends_nobody() {
    const TEST: &str = "a_segment_that_shrinks_and_grows_all_the_while_ends_nobody";
    if let Some(name) = role() {
        // What comes out of it depends on the moment; that something does is what counts.
        let mut attached = 0;
        for _ in 0..2000 {
            let Ok(writer) = Writer::attach(&name) else {
                continue;
            };
            attached += 1;
            let _ = writer.set_metadata(b"x");
            let _ = writer.write_frame_wait(b"a frame", Duration::from_millis(1));
        }
        say(&attached.to_string());
        return;
    }
    let name = Name::new("cut-again");
    let reader = Reader::create(&name, &config()).unwrap();
    let raw = name.raw();
    let (front, len) = (raw.bytes(0, 128 + 1024), raw.len());
    let mut child = Running::start(&mut again(TEST, &name));
    let hearing = thread::spawn(move || {
        let attached = child.hear();
        child.wait().expect_success();
        attached
    });
    while !hearing.is_finished() {
        raw.file().set_len(0).unwrap();
        raw.file().set_len(len).unwrap();
        raw.write(0, &front);
        thread::yield_now();
    }
    let attached: u32 = hearing.join().unwrap().parse().unwrap();
    assert!(attached > 0, "it never came to attach");
    // This process is one of those that live on, whatever it finds.
    let _ = reader.read_frame(Wait::no());
}

#[test]
fn semaphores_that_are_truncated_end_nobody() {
    const TEST: &str = "semaphores_that_are_truncated_end_nobody";
    if let Some(role) = role() {
        let (what, name) = role.split_once(' ').unwrap();
        let end = if what == "reader" {
            let reader = Reader::create(name, &config()).unwrap();
            say("ready");
            reader.read_frame(LONG).map(drop)
        } else {
            let writer = Writer::attach(name).unwrap();
            for seed in 0..3 {
                writer.write_frame(&pattern(FRAME, seed)).unwrap();
            }
            say("ready");
            writer.write_frame_wait(&pattern(FRAME, 3), LONG).map(drop)
        };
        let text = end.unwrap_err().to_string();
        assert!(text.contains("somebody truncated it"), "{text}");
        return;
    }
    for (what, kind) in [("reader", 'w'), ("writer", 'r')] {
        let name = Name::new("cut-semaphore");
        let _reader = (what == "writer").then(|| Reader::create(&name, &config()).unwrap());
        let mut child = Running::start(&mut again(TEST, &format!("{what} {}", &*name)));
        assert_eq!(child.hear(), "ready");
        RawSem::open(kind, &name).file().set_len(0).unwrap();
        child.wait().expect_success();
    }
}

#[test]
fn elements_post_an_error_and_leave_nothing() {
    const TEST: &str = "elements_post_an_error_and_leave_nothing";
    const VIDEO: &str = "video/x-raw,format=RGB,width=640,height=480,framerate=30/1";
    if let Some(role) = role() {
        let (what, name) = role.split_once(' ').unwrap();
        let pipeline = Pipeline::play(&match what {
            "source" => {
                format!("zerobuffersrc name=it buffer-name={name} ! fakesink sync=false dump=false")
            }
            _ => format!(
                "videotestsrc is-live=true ! {VIDEO} ! zerobuffersink name=it buffer-name={name}"
            ),
        });
        say("plays");
        let text = pipeline.error();
        assert!(text.contains("the other end truncated it"), "{text}");
        drop(pipeline);
        return;
    }
    for what in ["source", "sink"] {
        let name = Name::new("cut-element");
        let reader = (what == "sink")
            .then(|| Reader::create(&name, &BufferConfig::new(4096, 4_000_000)).unwrap());
        let mut child = Running::start(&mut again(TEST, &format!("{what} {}", &*name)));
        assert_eq!(child.hear(), "plays");
        // It stays until the end, or the stream would just be over.
        let mut writer = None;
        match &reader {
            Some(reader) => {
                for _ in 0..3 {
                    reader.read_frame(LONG).unwrap();
                }
            }
            None => {
                let writer = writer.insert(Writer::attach_wait(&name, LONG).unwrap());
                let caps = "video/x-raw,format=RGB,width=640,height=480,framerate=30/1";
                writer.set_metadata(caps.as_bytes()).unwrap();
                for _ in 0..3 {
                    writer.write_frame(&vec![7; 640 * 480 * 3]).unwrap();
                }
                while !writer.is_all_read() {
                    thread::yield_now();
                }
            }
        }
        let Some(raw) = Raw::try_open(&name) else {
            panic!("{:?}", child.wait());
        };
        raw.file().set_len(0).unwrap();
        child.wait().expect_success();
        drop((reader, writer));
    }
    // The library of this process is not needed for that.
    let _ = gst::version();
}

/// A page of a file of its own that has been truncated.
fn missing_page() -> MmapRaw {
    let file: File = tempfile::tempfile().unwrap();
    file.set_len(page() as u64).unwrap();
    let map = MmapOptions::new().len(page()).map_raw(&file).unwrap();
    file.set_len(0).unwrap();
    map
}

fn page() -> usize {
    sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap() as usize
}

fn touch(map: &MmapRaw) -> u8 {
    // SAFETY: inside of the mapping; what it does to the process is what is tested.
    unsafe { map.as_ptr().read_volatile() }
}

/// Has our own fault once, and goes on.
fn cut_and_go_on(name: &str) {
    let reader = Reader::create(name, &config()).unwrap();
    Raw::open(name).file().set_len(0).unwrap();
    is_gone(reader.read_frame(Wait::no()));
}

fn set_handler(handler: usize, flags: libc::c_int) {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zeros is valid; the handlers of this test do only what a handler may do.
    let set = unsafe {
        let action = action.assume_init_mut();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        libc::sigaction(libc::SIGBUS, action, ptr::null_mut())
    };
    assert_eq!(set, 0);
}

/// Faults and signals that the application's own handler got.
static CALLS: AtomicU32 = AtomicU32::new(0);
static MISSING: AtomicUsize = AtomicUsize::new(0);

fn own_page() {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: over the test's own page.
    unsafe {
        libc::mmap(
            MISSING.load(Ordering::Relaxed) as *mut libc::c_void,
            page(),
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
}

extern "C" fn with_info(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    assert_eq!(signal, libc::SIGBUS);
    // SAFETY: what our own handler got from the kernel, which has an address.
    let address = unsafe { (*info).si_addr() };
    assert_eq!(address as usize, MISSING.load(Ordering::Relaxed));
    own_page();
}

extern "C" fn without_info(signal: libc::c_int) {
    assert_eq!(signal, libc::SIGBUS);
    own_page();
}

#[test]
fn an_applications_own_handler_gets_its_own_faults() {
    const TEST: &str = "an_applications_own_handler_gets_its_own_faults";
    if let Some(role) = role() {
        let (what, name) = role.split_once(' ').unwrap();
        match what {
            "info" => set_handler(with_info as *const () as usize, libc::SA_SIGINFO),
            "plain" => set_handler(without_info as *const () as usize, 0),
            _ => set_handler(libc::SIG_IGN, 0),
        }
        cut_and_go_on(name);
        assert_eq!(CALLS.load(Ordering::Relaxed), 0);
        if what == "ignored" {
            raise(Signal::SIGBUS).unwrap();
        } else {
            for calls in 1..=3 {
                let page = missing_page();
                MISSING.store(page.as_ptr() as usize, Ordering::Relaxed);
                assert_eq!(touch(&page), 0);
                assert_eq!(CALLS.load(Ordering::Relaxed), calls);
                cut_and_go_on(name);
            }
        }
        return;
    }
    for what in ["info", "plain", "ignored"] {
        let name = Name::new("cut-own");
        let child = Running::start(&mut again(TEST, &format!("{what} {}", &*name)));
        child.wait().expect_success();
    }
}

#[test]
fn a_fault_elsewhere_and_a_signal_end_the_process_as_before() {
    const TEST: &str = "a_fault_elsewhere_and_a_signal_end_the_process_as_before";
    if let Some(role) = role() {
        let [what, name] = role.split(' ').collect::<Vec<_>>()[..] else {
            panic!()
        };
        // What Rust's runtime installs for its stacks is what most programs do not have.
        if !what.starts_with("runtime") {
            set_handler(libc::SIG_DFL, 0);
        }
        if what == "off" {
            let reader = Reader::create(name, &config()).unwrap();
            Raw::open(name).file().set_len(0).unwrap();
            say("alive");
            let _ = reader.read_frame(Wait::no());
        } else {
            cut_and_go_on(name);
            say("alive");
            if what.ends_with("fault") {
                touch(&missing_page());
            } else {
                raise(Signal::SIGBUS).unwrap();
            }
        }
        say("still alive");
        return;
    }
    for what in ["fault", "signal", "runtime-fault", "off"] {
        let name = Name::new("cut-dies");
        let mut command = again(TEST, &format!("{what} {}", &*name));
        if what == "off" {
            command.env("ZEROBUFFER_SIGBUS_HANDLER", "0");
        }
        let mut child = Running::start(&mut command);
        assert_eq!(child.hear(), "alive");
        let ended = child.wait();
        assert_eq!(
            ended.status.signal(),
            Some(libc::SIGBUS),
            "{what} {ended:?}"
        );
        // Somebody has to take its leftovers away.
        drop(Reader::create(&name, &config()));
        for path in name.objects() {
            std::fs::remove_file(path).unwrap();
        }
    }
}

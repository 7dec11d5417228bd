//! A child process that is led through one operation step by step, with ptrace: it stands still
//! wherever something has changed that other processes see. So a test can end it, or do something
//! else, at every such point, and at the same ones each time.
//!
//! Seen by others are the names, sizes, modes, locks and bytes of a buffer's objects. Between two
//! system calls only bytes can change. Where they do, the child is once led instruction by instruction
//! to find those that change them; after that, by breakpoints at these.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, gettid};

use super::{Ended, Name, Running, listen, say};

/// The system call by which a child says that it has done what it was to do; nothing else makes it.
const END: u64 = libc::SYS_getpgrp as u64;

/// In a child: says that it is ready, and when it is told to go on, this thread is led up to
/// [`end`].
pub fn begin() {
    say(&gettid().to_string());
    listen();
    ptrace::traceme().unwrap();
    raise(Signal::SIGSTOP).unwrap();
}

/// In a child: it has done what it was to do.
pub fn end() {
    getpgrp();
}

/// Where a child stands: after so many system calls that changed what others see, and so many
/// changes of shared bytes after the last of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    calls: u32,
    stores: u32,
}

/// Where an instruction is: file, and offset in it.
type Place = (PathBuf, u64);

/// All points of an operation, the one before it included.
#[derive(Debug, Default)]
pub struct Points {
    /// Each with the offset in its object of what changed, where bytes did.
    pub points: Vec<(Point, Option<u64>)>,
    /// After how many system calls bytes change before the next.
    close: BTreeSet<u32>,
    /// The instructions that change them.
    stores: BTreeSet<Place>,
}

impl Points {
    /// Leads a child through its operation twice to find them.
    pub fn find(mut start: impl FnMut() -> Led) -> Self {
        let mut found = Points::default();
        let mut led = start();
        led.lead(|led, at| {
            if led.shared.change().is_some() {
                found.close.insert(at.calls);
            }
            Go::ToCall
        });
        led.kill();
        found.points.push((Point::default(), None));
        let mut led = start();
        let (mut calls, mut stores) = (0, 0);
        led.lead(|led, at| {
            let change = led.shared.change();
            if at.calls > calls {
                (calls, stores) = (at.calls, 0);
                found.points.push((at, change));
            } else if change.is_some() {
                stores += 1;
                found.points.push((Point { calls, stores }, change));
                let place = led.place(led.before);
                found
                    .stores
                    .insert(place.expect("an instruction of some file"));
            }
            if found.close.contains(&at.calls) {
                Go::Step
            } else {
                Go::ToCall
            }
        });
        led.kill();
        found
    }
}

/// How to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Go {
    /// To the next system call.
    ToCall,
    /// One instruction.
    Step,
    /// To the next of the instructions that are broken into, or to a system call.
    ToStore,
    /// Not at all.
    Halt,
}

/// A child that is led.
pub struct Led {
    /// `None` once nobody leads it any more.
    child: Option<Running>,
    /// Of the thread that is led.
    pid: Pid,
    shared: Shared,
    /// Which addresses hold a system call.
    calls: HashMap<u64, bool>,
    /// The instruction before the last step.
    before: u64,
    /// Words at which there are breakpoints.
    breaks: BTreeMap<u64, i64>,
}

impl Led {
    /// Takes a child that comes to [`begin`]; before it goes on there, `prepare` is done.
    pub fn new(mut child: Running, name: &Name, prepare: impl FnOnce()) -> Self {
        let pid = Pid::from_raw(child.hear().parse().unwrap());
        prepare();
        child.tell("go on");
        let mut led = Led {
            child: Some(child),
            pid,
            shared: Shared::default(),
            calls: HashMap::new(),
            before: 0,
            breaks: BTreeMap::new(),
        };
        // Not one that we may wait for before it is led.
        let stopped = loop {
            match waitpid(pid, Some(WaitPidFlag::__WALL)) {
                Err(Errno::ECHILD) if led.is_there() => thread::yield_now(),
                other => break other.unwrap(),
            }
        };
        assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(pid, options).unwrap();
        led.shared.look(name);
        led.shared.changed = None;
        led.shared.name = name.to_string();
        led
    }

    fn is_there(&self) -> bool {
        let thread = format!("/proc/{0}/task/{0}", self.pid);
        std::path::Path::new(&thread).exists()
    }

    /// The id of its process.
    pub fn process(&self) -> u64 {
        self.child.as_ref().unwrap().pid()
    }

    #[track_caller]
    fn expect(&mut self, expected: WaitStatus) {
        let status = waitpid(self.pid, Some(WaitPidFlag::__WALL)).unwrap();
        assert_eq!(status, expected);
    }

    fn next_call(&mut self) -> i64 {
        ptrace::syscall(self.pid, None).unwrap();
        self.expect(WaitStatus::PtraceSyscall(self.pid));
        self.registers().orig_rax as i64
    }

    fn registers(&self) -> libc::user_regs_struct {
        ptrace::getregs(self.pid).unwrap()
    }

    fn word(&self, at: u64) -> i64 {
        ptrace::read(self.pid, at as ptrace::AddressType).unwrap()
    }

    fn is_at_call(&mut self) -> bool {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        self.before = self.registers().rip;
        let known = self.calls.get(&self.before).copied();
        known.unwrap_or_else(|| {
            let is_call = self.word(self.before).to_le_bytes()[..2] == SYSCALL;
            self.calls.insert(self.before, is_call);
            is_call
        })
    }

    fn step(&mut self) {
        ptrace::step(self.pid, None).unwrap();
        self.expect(WaitStatus::Stopped(self.pid, Signal::SIGTRAP));
    }

    /// Which file an address is mapped from, and where in it that is.
    fn place(&self, address: u64) -> Option<Place> {
        let mut maps = self.maps().into_iter();
        maps.find_map(|(range, offset, path)| {
            (range.contains(&address)).then(|| (path, address - range.start + offset))
        })
    }

    fn address(&self, (file, at): &Place) -> Option<u64> {
        let mut maps = self.maps().into_iter();
        maps.find_map(|(range, offset, path)| {
            let len = range.end - range.start;
            (path == *file && (offset..offset + len).contains(at))
                .then(|| range.start + at - offset)
        })
    }

    /// Files mapped as code: addresses, offset, path (proc(5)).
    fn maps(&self) -> Vec<(Range<u64>, u64, PathBuf)> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap();
        let hex = |text| u64::from_str_radix(text, 16).unwrap();
        let lines = maps.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (from, to) = fields[0].split_once('-')?;
            let path = fields.get(5).filter(|_| fields[1].contains('x'))?;
            Some((hex(from)..hex(to), hex(fields[2]), path.into()))
        });
        lines.collect()
    }

    /// Leads it to its end, asking at every stop how to go on: behind each system call that changed
    /// what others see, and in between wherever it was told to stop, also before system calls.
    fn lead(&mut self, mut ask: impl FnMut(&mut Self, Point) -> Go) {
        let mut at = Point::default();
        let mut go = ask(self, at);
        loop {
            match go {
                Go::Halt => return,
                Go::Step if !self.is_at_call() => {
                    self.step();
                    go = ask(self, at);
                    continue;
                }
                Go::ToStore => {
                    ptrace::syscall(self.pid, None).unwrap();
                    let status = waitpid(self.pid, Some(WaitPidFlag::__WALL)).unwrap();
                    if status == WaitStatus::Stopped(self.pid, Signal::SIGTRAP) {
                        self.over_break();
                        go = ask(self, at);
                        continue;
                    }
                    assert_eq!(status, WaitStatus::PtraceSyscall(self.pid));
                }
                Go::Step | Go::ToCall => {
                    self.next_call();
                }
            }
            if ask(self, at) == Go::Halt {
                return;
            }
            if self.registers().orig_rax == END {
                return;
            }
            self.next_call();
            let name = std::mem::take(&mut self.shared.name);
            if self.shared.look(&name) {
                at.calls += 1;
            }
            self.shared.name = name;
            go = ask(self, at);
        }
    }

    /// Leads it to one of the points that were found.
    pub fn lead_to(&mut self, found: &Points, to: Point) {
        let mut seen = Point::default();
        self.lead(|led, at| {
            if led.shared.change().is_some() && at.calls == seen.calls {
                seen.stores += 1;
            } else if at.calls > seen.calls {
                seen = at;
            }
            if seen == to {
                led.mend();
                return Go::Halt;
            }
            assert!(seen < to, "not the same steps again: {seen:?}");
            if at.calls < to.calls {
                return Go::ToCall;
            }
            if led.breaks.is_empty() {
                led.break_into(&found.stores);
            }
            Go::ToStore
        });
        assert_eq!(seen, to, "it came to its end before");
    }

    /// Puts breakpoints at these instructions.
    fn break_into(&mut self, places: &BTreeSet<Place>) {
        const BREAK: i64 = 0xcc;
        for place in places {
            let address = self.address(place).unwrap();
            let word = self.word(address);
            self.breaks.insert(address, word);
            self.set_word(address, word & !0xff | BREAK);
        }
    }

    fn set_word(&self, at: u64, word: i64) {
        ptrace::write(self.pid, at as ptrace::AddressType, word).unwrap();
    }

    /// Does the instruction that was broken into.
    fn over_break(&mut self) {
        let mut registers = self.registers();
        registers.rip -= 1;
        let at = registers.rip;
        ptrace::setregs(self.pid, registers).unwrap();
        let broken = self.word(at);
        // Neighbours may be broken into as well.
        self.set_word(at, broken & !0xff | self.breaks[&at] & 0xff);
        self.step();
        self.set_word(at, broken);
    }

    /// Takes the breakpoints out again.
    fn mend(&mut self) {
        for (at, word) in std::mem::take(&mut self.breaks) {
            self.set_word(at, self.word(at) & !0xff | word & 0xff);
        }
    }

    /// SIGKILL, where it stands.
    pub fn kill(mut self) -> Ended {
        self.end();
        self.child.take().unwrap().kill()
    }

    fn end(&self) {
        if let Some(child) = &self.child {
            child.signal(Signal::SIGKILL);
            // The process is not gone before we have seen that the thread is.
            let mut seen = waitpid(self.pid, Some(WaitPidFlag::__WALL));
            while !matches!(seen, Ok(WaitStatus::Signaled(..)) | Err(_)) {
                seen = waitpid(self.pid, Some(WaitPidFlag::__WALL));
            }
        }
    }

    /// SIGSTOP, where it stands. Nobody leads it any more.
    pub fn stop(mut self) -> Running {
        let child = self.child.take().unwrap();
        child.signal(Signal::SIGSTOP);
        ptrace::detach(self.pid, None).unwrap();
        child.wait_until_stopped();
        child
    }

    /// It goes on by itself.
    pub fn go_on(mut self) -> Running {
        ptrace::detach(self.pid, None).unwrap();
        self.child.take().unwrap()
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        self.end();
    }
}

/// What others see of a buffer.
#[derive(Default)]
struct Shared {
    name: String,
    names: BTreeMap<PathBuf, u64>,
    /// Also those that have lost their name.
    objects: BTreeMap<u64, Object>,
    read: Vec<u8>,
    /// Where [`Shared::look`] has seen bytes change.
    changed: Option<u64>,
}

struct Object {
    file: File,
    bytes: Vec<u8>,
    state: State,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    len: u64,
    mode: u32,
    links: u64,
    /// The locks of reader and writer on bytes of a segment.
    bytes: [bool; 2],
    /// That of a lock file.
    whole: bool,
}

impl State {
    fn of(file: &File) -> Self {
        let meta = file.metadata().unwrap();
        let is_locked = |at| {
            let mut lock = libc::flock {
                l_type: libc::F_WRLCK as i16,
                l_whence: libc::SEEK_SET as i16,
                l_start: at,
                l_len: 1,
                l_pid: 0,
            };
            fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
            i32::from(lock.l_type) != libc::F_UNLCK
        };
        let whole = file.try_lock_shared().is_err();
        file.unlock().unwrap();
        State {
            len: meta.len(),
            mode: meta.mode(),
            links: meta.nlink(),
            bytes: [0, 1].map(is_locked),
            whole,
        }
    }
}

impl Shared {
    /// Looks at everything; whether something has changed.
    fn look(&mut self, name: &str) -> bool {
        let mut names = BTreeMap::new();
        for path in super::objects(name) {
            let Ok(inode) = fs::metadata(&path).map(|meta| meta.ino()) else {
                continue;
            };
            // Only once, since who counts the opens sees each; while it is open its number is its own.
            if let Entry::Vacant(new) = self.objects.entry(inode) {
                let Ok(file) = File::open(&path) else {
                    continue;
                };
                new.insert(Object {
                    file,
                    bytes: Vec::new(),
                    state: State::default(),
                });
            }
            names.insert(path, inode);
        }
        let mut changed = names != self.names;
        self.names = names;
        for object in self.objects.values_mut() {
            let state = State::of(&object.file);
            if state != object.state {
                object.bytes.resize(state.len as usize, 0);
                object.state = state;
                changed = true;
            }
        }
        let found = self.find_change();
        self.changed = found.or(self.changed);
        found.is_some() || changed
    }

    /// Where bytes have changed since this was last asked.
    fn change(&mut self) -> Option<u64> {
        let before = self.changed.take();
        self.find_change().or(before)
    }

    fn find_change(&mut self) -> Option<u64> {
        let mut changed = None;
        for object in self.objects.values_mut() {
            self.read.resize(object.bytes.len(), 0);
            object.file.read_exact_at(&mut self.read, 0).unwrap();
            if self.read != object.bytes {
                std::mem::swap(&mut self.read, &mut object.bytes);
                let differ = self
                    .read
                    .iter()
                    .zip(&object.bytes)
                    .position(|(a, b)| a != b);
                changed = changed.max(differ.map(|at| at as u64));
            }
        }
        changed
    }
}

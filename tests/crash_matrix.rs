//! Either end is killed, stopped, or has something happen to its buffer, at every point of what it
//! does that can be told apart from outside: between any two changes of shared bytes, names and
//! locks (`support/steps.rs` finds them). What the other end has then is what was promised, and
//! with the next peer all goes on.

// The points are found by the instruction for a system call.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs;
use std::thread;
use std::time::Duration;

use gstzerobuffer::{
    BufferConfig, Error, Frame, Item, Reader, Records, Reservation, Writer, WriterState,
};
use nix::sys::signal::Signal;
use support::raw::{self, RawSem};
use support::steps::{self, Led, Point, Points};
use support::v1::{V1Reader, V1Writer};
use support::{LONG, Name, Running, again, listen, pattern, say, without_lock_folder};

const RING: u64 = 1024;
/// The role of a test in which no lock files can be made.
const LOCKLESS: &str = "lockless";
/// The kind of the records that frames and messages have in these tests.
const NOTE: u16 = 64;
/// Some slices of a wait: so often the peer is looked at.
const LOOKS: Duration = Duration::from_millis(50);

fn config() -> BufferConfig {
    BufferConfig::new(1024, RING)
}

fn reader(name: &str) -> Reader {
    Reader::create(name, &config()).unwrap()
}

type Result<T> = std::result::Result<T, Error>;

/// A frame or message as it is sent and as it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    frame: Option<Vec<u8>>,
    note: Option<Vec<u8>>,
}

impl Said {
    fn frame(len: usize) -> Self {
        Said {
            frame: Some(pattern(len, 1)),
            note: None,
        }
    }

    fn with_note(len: usize) -> Self {
        Said {
            note: Some(pattern(len / 3, 2)),
            ..Said::frame(len)
        }
    }

    fn message(len: usize) -> Self {
        Said {
            frame: None,
            note: Some(pattern(len, 3)),
        }
    }

    fn records(&self) -> Records {
        let note = self.note.iter();
        note.fold(Records::new(), |records, note| records.with(NOTE, note))
    }

    fn send(&self, writer: &Writer) -> Result<()> {
        match &self.frame {
            Some(frame) => writer
                .write_frame_with(frame, &self.records(), LONG)
                .map(drop),
            None => writer.write_message(&self.records(), LONG).map(drop),
        }
    }

    fn of(frame: Option<&Frame>, records: &Records) -> Self {
        Said {
            frame: frame.map(|frame| frame.to_vec()),
            note: records.get(NOTE).map(Into::into),
        }
    }
}

impl From<Item> for Said {
    fn from(item: Item) -> Self {
        match item {
            Item::Frame(frame) => Said::of(Some(&frame), frame.records()),
            Item::Message(records) => Said::of(None, &records),
            other => panic!("{other:?}"),
        }
    }
}

/// All that there is, and why there is no more.
fn drain(reader: &Reader, wait: Duration) -> (Vec<Said>, Error) {
    let mut items = Vec::new();
    loop {
        match reader.read(wait) {
            Ok(item) => items.push(item.into()),
            Err(err) => return (items, err),
        }
    }
}

/// Frames of all sizes pass, and leave nothing in the ring.
#[track_caller]
fn flows(reader: &Reader, writer: &Writer) {
    let frame = |i: u64| pattern(1 + i as usize * 97 % 450, i);
    thread::scope(|scope| {
        scope.spawn(move || {
            for i in 0..40 {
                writer.write_frame_wait(&frame(i), LONG).unwrap();
            }
        });
        for i in 0..40 {
            assert_eq!(*reader.read_frame(LONG).unwrap(), frame(i));
        }
    });
}

/// The objects of a buffer are there, and no others.
#[track_caller]
fn expect_whole(reader: &Reader, name: &Name) {
    let lock_file = support::role().as_deref() != Some(LOCKLESS);
    assert_eq!(reader.lock_problem().is_none(), lock_file);
    let objects = name.objects();
    assert_eq!(objects.len(), 3 + usize::from(lock_file), "{objects:?}");
}

/// As [`flows`], with what a reader and a writer that come now make of the name.
#[track_caller]
fn begins_anew(name: &Name) {
    let reader = reader(name);
    expect_whole(&reader, name);
    let writer = Writer::attach(name).unwrap();
    flows(&reader, &writer);
    drop(reader);
    let gone = writer.write_frame(b"frame");
    assert!(matches!(gone, Err(Error::ReaderClosed { .. })), "{gone:?}");
    name.assert_nothing_left();
}

fn remove_all(name: &Name) {
    for path in name.objects() {
        let _ = fs::remove_file(path);
    }
}

/// Three posts too many, of both semaphores.
fn post_too_often(name: &Name) {
    for path in name.objects() {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        for kind in ['w', 'r'] {
            // While they are made they have other names, and nobody has them open.
            if file == format!("sem.sem-{kind}-{}", &**name) {
                let sem = RawSem::open(kind, name);
                sem.set(sem.count() + 3);
            }
        }
    }
}

/// As `RemoveIPC` of systemd or the resource tracker of Python does it: what is in /dev/shm.
fn unlink_underneath(name: &Name) {
    for path in name.objects() {
        if path.starts_with("/dev/shm") {
            fs::remove_file(path).unwrap();
        }
    }
}

/// What happens at each point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGKILL, and the next comes before the other end has looked.
    KillAndNext,
    /// SIGSTOP, then SIGCONT.
    Stop,
    /// The objects in /dev/shm lose their names.
    Unlink,
    /// Semaphores are posted more often than there are frames.
    Posts,
}

const BLOWS: [Blow; 5] = [
    Blow::Kill,
    Blow::KillAndNext,
    Blow::Stop,
    Blow::Unlink,
    Blow::Posts,
];

/// What ended a wait, in short, for the child to say.
fn in_short<T>(result: &Result<T>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(err) => {
            let text = format!("{err:?}");
            text.split(|c: char| !c.is_alphanumeric())
                .next()
                .unwrap()
                .into()
        }
    }
}

// The writer.

/// What a writer does when it is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Attach,
    /// In the place of one that was killed.
    Succeed,
    Metadata,
    Frame,
    /// With a marker.
    Wrap,
    /// Over a tail that has no room for one.
    Tail,
    Records,
    Message,
    /// The second of two places that are lent ahead, which skips the first.
    Skip,
    /// For room that does not come.
    Wait,
    Close,
    /// A writer of v1 writes a frame.
    V1,
}

impl Write {
    fn comes(self) -> bool {
        matches!(self, Write::Attach | Write::Succeed)
    }

    /// What the writer says before.
    fn before(self) -> Vec<Said> {
        match self {
            Write::Attach | Write::Succeed | Write::Metadata => vec![],
            Write::Wrap => vec![Said::frame(400), Said::frame(500)],
            Write::Tail => vec![Said::frame(400), Said::frame(580)],
            Write::Wait => vec![Said::frame(400), Said::frame(400)],
            Write::V1 => vec![Said::frame(30), Said::frame(41)],
            _ => vec![Said::with_note(30), Said::frame(41)],
        }
    }

    /// What it is saying.
    fn making(self) -> Option<Said> {
        match self {
            // Of a size that is always copied by the same instructions.
            Write::Frame | Write::Wrap | Write::Tail | Write::V1 => Some(Said::frame(100)),
            Write::Records | Write::Skip => Some(Said::with_note(100)),
            Write::Message => Some(Said::message(50)),
            _ => None,
        }
    }

    /// How much of `before` is read before it says that.
    fn read_before(self) -> usize {
        match self {
            Write::Wrap | Write::Tail => 1,
            _ => 0,
        }
    }
}

const METADATA: &[u8] = b"about the frames, more than a word";

fn last() -> Said {
    Said::frame(77)
}

fn be_writer(write: Write, name: &str) {
    if write == Write::V1 {
        return be_v1_writer(name);
    }
    let mut writer = (!write.comes()).then(|| Writer::attach(name).unwrap());
    for said in write.before() {
        said.send(writer.as_ref().unwrap()).unwrap();
    }
    let mut places: Vec<Reservation> = Vec::new();
    if write == Write::Skip {
        let ahead = |_| writer.as_ref().unwrap().reserve_ahead(100).unwrap();
        places = (0..2).map(ahead).collect();
        let content = write.making().unwrap().frame.unwrap();
        places[1].copy_from_slice(&content);
    }
    let making = write.making();
    let frame = making.as_ref().and_then(|said| said.frame.as_deref());
    let records = making.as_ref().map(Said::records).unwrap_or_default();
    steps::begin();
    let done = match (write, &writer) {
        (Write::Attach | Write::Succeed, _) => Writer::attach(name).map(|new| writer = Some(new)),
        (Write::Metadata, Some(writer)) => writer.set_metadata(METADATA),
        (Write::Skip, _) => places[1].publish_with(&records).map(drop),
        (Write::Wait, Some(writer)) => {
            (writer.write_frame_wait(&[1; 300], Duration::from_millis(10))).map(drop)
        }
        (Write::Close, _) => {
            drop(writer.take());
            Ok(())
        }
        (Write::Message, Some(writer)) => writer.write_message(&records, LONG).map(drop),
        (_, writer) => (writer.as_ref().unwrap())
            .write_frame_with(frame.unwrap(), &records, LONG)
            .map(drop),
    };
    steps::end();
    drop(places);
    say(&in_short(&done));
    listen();
    if let Some(writer) = writer {
        let done = last().send(&writer);
        drop(writer);
        say(&in_short(&done));
        listen();
    }
}

fn be_v1_writer(name: &str) {
    let mut writer = V1Writer::open(name, std::process::id().into());
    for said in Write::V1.before() {
        writer.write(&said.frame.unwrap());
    }
    let frame = Write::V1.making().unwrap().frame.unwrap();
    steps::begin();
    writer.write(&frame);
    steps::end();
    say("ok");
    listen();
    writer.write(&last().frame.unwrap());
    writer.close();
    say("ok");
    listen();
}

/// A writer that is about to do it, and what it needs for that.
struct Writing {
    name: Name,
    reader: Reader,
    write: Write,
    pid: u64,
    /// The writer before it.
    dead: u64,
    /// What is to be read of `before`.
    unread: Vec<Said>,
}

impl Writing {
    fn start(test: &str, write: Write) -> (Self, Led) {
        let name = Name::new(&format!("matrix-{write:?}"));
        // Places that are lent ahead take more room.
        let ring = if write == Write::Skip { 8 * RING } else { RING };
        let reader = Reader::create(&name, &BufferConfig::new(1024, ring)).unwrap();
        let role = format!("{write:?} {}", &*name);
        let mut dead = 0;
        if write == Write::Succeed {
            let mut child = Running::start(&mut again(test, &format!("Close {}", &*name)));
            // When it is there, it has written.
            child.hear();
            dead = child.pid();
            child.kill();
            let (before, end) = drain(&reader, LONG);
            assert_eq!(before, Write::Close.before());
            assert!(matches!(end, Error::WriterDead { .. }), "{end}");
        }
        let child = Running::start(&mut again(test, &role));
        let pid = child.pid();
        let mut unread = write.before();
        let led = Led::new(child, &name, || {
            for said in unread.drain(..write.read_before()) {
                assert_eq!(Said::from(reader.read(LONG).unwrap()), said);
            }
            if write == Write::V1 {
                // A v1 writer is known by its process, which has to be seen for that.
                assert_eq!(reader.writer(), WriterState::Connected { pid });
            }
        });
        let writing = Writing {
            name,
            reader,
            write,
            pid,
            dead,
            unread,
        };
        (writing, led)
    }

    fn writer_pid(&self) -> u64 {
        self.name.raw().get(raw::WRITER_PID)
    }

    /// Whether `items` begin what was to be read, where only the one that was being said may be
    /// missing. How many are there.
    #[track_caller]
    fn expect_all(&self, items: &[Said]) {
        let mut expected = self.unread.clone();
        if items.len() > expected.len() {
            expected.extend(self.write.making());
        }
        assert_eq!(items, expected);
    }

    #[track_caller]
    fn expect_metadata(&self) {
        let metadata = self.reader.metadata().unwrap();
        match self.write {
            Write::Metadata => assert!(metadata.is_none_or(|bytes| bytes == METADATA)),
            _ => assert_eq!(metadata, None),
        }
    }

    fn strike(self, led: Led, blow: Blow) {
        match blow {
            Blow::Kill => self.killed(led),
            Blow::KillAndNext => self.killed_and_next(led),
            Blow::Stop => self.stopped(led),
            Blow::Unlink => self.unlinked(led),
            Blow::Posts => self.posted(led),
        }
    }

    fn killed(self, led: Led) {
        led.kill();
        let pid = self.writer_pid();
        // No wait: it is known at once.
        let (items, end) = drain(&self.reader, Duration::ZERO);
        self.expect_all(&items);
        match end {
            Error::WriterDead { pid: dead, .. } => {
                assert_eq!(dead, pid);
                assert!(dead == self.pid || self.write == Write::Succeed && dead == self.dead);
            }
            Error::WriterClosed { .. } => assert_eq!((self.write, pid), (Write::Close, 0)),
            Error::Timeout { .. } => assert_eq!((self.write, pid), (Write::Attach, 0)),
            other => panic!("{other}"),
        }
        self.expect_metadata();
        assert_eq!(self.reader.used_bytes(), 0, "room is lost");
        if self.write == Write::V1 {
            // Its place can be had when it has been silent for 5 seconds (tests/claims.rs).
            drop(self.reader);
            return begins_anew(&self.name);
        }
        let next = Writer::attach(&self.name).unwrap();
        if self.write != Write::Metadata || self.reader.metadata().unwrap().is_none() {
            next.set_metadata(b"of the next").unwrap();
        }
        flows(&self.reader, &next);
        self.end(next);
    }

    fn killed_and_next(self, led: Led) {
        led.kill();
        let next = Writer::attach(&self.name).unwrap();
        let sent = [Said::frame(50), Said::with_note(60), Said::message(70)];
        let mut items: Vec<Said> = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| sent.iter().for_each(|said| said.send(&next).unwrap()));
            while !items.ends_with(&sent) {
                items.push(self.reader.read(LONG).unwrap().into());
            }
        });
        items.truncate(items.len() - sent.len());
        self.expect_all(&items);
        let end = self.reader.read(Duration::ZERO);
        assert!(matches!(end, Err(Error::Timeout { .. })), "{end:?}");
        self.expect_metadata();
        flows(&self.reader, &next);
        self.end(next);
    }

    fn end(self, next: Writer) {
        drop(next);
        let end = self.reader.read(LONG);
        assert!(matches!(end, Err(Error::WriterClosed { .. })), "{end:?}");
        assert_eq!(self.reader.used_bytes(), 0, "room is lost");
        drop(self.reader);
        self.name.assert_nothing_left();
    }

    fn stopped(self, led: Led) {
        let mut child = led.stop();
        let pid = self.writer_pid();
        let mut items = Vec::new();
        // Who waits for room is to have none.
        if self.write != Write::Wait {
            let end;
            (items, end) = drain(&self.reader, LOOKS);
            self.expect_all(&items);
            self.expect_alive(&end, pid);
        }
        let second = Writer::attach(&self.name);
        let came = match &second {
            Err(Error::WriterAlreadyConnected { .. }) => false,
            Ok(_) => {
                assert!(self.write.comes() || self.write == Write::Close && pid == 0);
                true
            }
            Err(err) => panic!("{err}"),
        };
        child.signal(Signal::SIGCONT);
        let said = child.hear();
        let expected = match self.write {
            Write::Attach | Write::Succeed if came => "WriterAlreadyConnected",
            Write::Wait => "BufferFull",
            _ => "ok",
        };
        assert_eq!(said, expected);
        drop(second);
        let goes_on = self.write != Write::Close && !(self.write.comes() && came);
        child.tell("go on");
        if goes_on {
            assert_eq!(child.hear(), "ok");
        }
        items.extend(drain(&self.reader, LONG).0);
        let mut expected = self.unread.clone();
        expected.extend(self.write.making());
        expected.extend(goes_on.then(last));
        assert_eq!(items, expected);
        child.wait().expect_success();
        drop(self.reader);
        self.name.assert_nothing_left();
    }

    /// One that is stopped is not taken for dead.
    #[track_caller]
    fn expect_alive(&self, end: &Error, pid: u64) {
        match end {
            Error::Timeout { .. } => {}
            Error::WriterClosed { .. } => assert_eq!((self.write, pid), (Write::Close, 0)),
            // Until it has taken the place.
            Error::WriterDead { pid: dead, .. } => assert_eq!((*dead, pid), (self.dead, self.dead)),
            other => panic!("{other}"),
        }
    }

    fn unlinked(self, led: Led) {
        unlink_underneath(&self.name);
        let mut child = led.go_on();
        let said = child.hear();
        let found = ["ok", "BufferNotFound", "ReaderClosed"];
        match self.write {
            Write::Wait => assert!(["BufferFull", "ReaderClosed"].contains(&&*said), "{said}"),
            write if write.comes() => assert!(found.contains(&&*said), "{said}"),
            _ => assert_eq!(said, "ok"),
        }
        let (items, _) = drain(&self.reader, Duration::ZERO);
        self.expect_all(&items);
        if said == "ok" && self.write.making().is_some() {
            assert_eq!(items.last(), self.write.making().as_ref());
        }
        child.tell("go on");
        if said != "BufferNotFound" && ![Write::Close, Write::V1].contains(&self.write) {
            // It looks at its reader every 50 ms.
            let said = child.hear();
            assert!(["ok", "ReaderClosed"].contains(&&*said), "{said}");
        }
        child.wait().expect_success();
        // The name is free, and stays that of whoever takes it.
        drop(self.reader);
        self.name.assert_nothing_left();
        begins_anew(&self.name);
    }

    fn posted(self, led: Led) {
        post_too_often(&self.name);
        let mut child = led.go_on();
        let said = child.hear();
        match self.write {
            Write::Wait => assert_eq!(said, "BufferFull"),
            _ => assert_eq!(said, "ok"),
        }
        child.tell("go on");
        let goes_on = self.write != Write::Close;
        if goes_on {
            assert_eq!(child.hear(), "ok");
        }
        let (items, end) = drain(&self.reader, LONG);
        let mut expected = self.unread.clone();
        expected.extend(self.write.making());
        expected.extend(goes_on.then(last));
        assert_eq!(items, expected);
        assert!(matches!(end, Error::WriterClosed { .. }), "{end}");
        let next = Writer::attach(&self.name).unwrap();
        flows(&self.reader, &next);
        child.wait().expect_success();
        self.end(next);
    }
}

/// Does it with a writer at every point.
fn strike_writer(test: &str, write: Write) {
    if let Some(role) = support::role() {
        let (what, name) = role.split_once(' ').unwrap();
        let writes = [write, Write::Close];
        let write = writes
            .into_iter()
            .find(|write| format!("{write:?}") == what);
        return be_writer(write.unwrap(), name);
    }
    let mut ends = Vec::new();
    let points = Points::find(|| {
        let (writing, led) = Writing::start(test, write);
        ends.push(writing);
        led
    });
    for end in ends {
        let Writing { name, reader, .. } = end;
        drop(reader);
        remove_all(&name);
    }
    let points = &points;
    for (blow, point) in blows(points) {
        if (write, blow) == (Write::V1, Blow::KillAndNext) {
            // See `killed`.
            continue;
        }
        println!("{write:?} {blow:?} {point:?}");
        let (writing, mut led) = Writing::start(test, write);
        led.lead_to(points, point);
        writing.strike(led, blow);
    }
}

/// Each blow with the points for it.
fn blows(points: &Points) -> Vec<(Blow, Point)> {
    let ring = 128 + config().metadata_size;
    let in_ring = |at: Option<&(Point, Option<u64>)>| {
        at.is_some_and(|(_, change)| change.is_some_and(|offset| offset >= ring))
    };
    let points = &points.points;
    println!("{} points", points.len());
    let mut all = Vec::new();
    for (i, (point, _)) in points.iter().enumerate() {
        for blow in BLOWS {
            // What is not announced yet is changed byte by byte: of that the end will do for all but
            // the first blow.
            if blow == Blow::Kill || !in_ring(points.get(i + 1)) {
                all.push((blow, *point));
            }
        }
    }
    all
}

// A v1 reader with our writer.

/// Whether frames that a v1 reader reads are those of `all`, all but the last at least. It has no
/// records and no messages.
#[track_caller]
fn expect_from_v1(v1: &mut V1Reader, all: &[Said], least: usize) {
    let read: Vec<Vec<u8>> = std::iter::from_fn(|| v1.read()).collect();
    let all: Vec<&Vec<u8>> = all.iter().filter_map(|said| said.frame.as_ref()).collect();
    assert!(read.len() >= least, "{} of {least}", read.len());
    assert!(read.iter().eq(all.into_iter().take(read.len())));
}

/// Kills and stops the writer of a v1 reader at every point.
fn strike_writer_of_v1(test: &str, write: Write) {
    if let Some(name) = support::role() {
        return be_writer(write, &name);
    }
    let start = |name: &Name, v1: &mut V1Reader| {
        let child = Running::start(&mut again(test, name));
        Led::new(child, name, || {
            for said in write.before().iter().take(write.read_before()) {
                assert_eq!(v1.read(), said.frame);
            }
        })
    };
    let mut all = write.before().split_off(write.read_before());
    let before = all.len();
    all.extend(write.making());
    let names = [Name::new("matrix-v1-find"), Name::new("matrix-v1-find")];
    let (mut next, mut kept) = (names.iter(), Vec::new());
    let points = &Points::find(|| {
        let name = next.next().unwrap();
        let mut v1 = V1Reader::create(name, 1024, RING);
        let led = start(name, &mut v1);
        kept.push(v1);
        led
    });
    drop(kept);
    for (blow, point) in blows(points) {
        if ![Blow::Kill, Blow::Stop].contains(&blow) {
            continue;
        }
        println!("{write:?} {blow:?} {point:?}");
        let name = Name::new(&format!("matrix-v1-{write:?}"));
        let mut v1 = V1Reader::create(&name, 1024, RING);
        let mut led = start(&name, &mut v1);
        let pid = led.process();
        led.lead_to(points, point);
        if blow == Blow::Kill {
            led.kill();
            expect_from_v1(&mut v1, &all, before);
            // By this it knows that the writer is dead, or that it closed or has not come.
            assert!([pid, 0].contains(&v1.raw.get(raw::WRITER_PID)));
            continue;
        }
        let mut child = led.stop();
        // What is announced may be read meanwhile.
        expect_from_v1(&mut v1, &all, before);
        let read = v1.next as usize - 1 - write.read_before();
        child.signal(Signal::SIGCONT);
        assert_eq!(child.hear(), "ok");
        child.tell("go on");
        let mut rest = all.split_at(read).1.to_vec();
        if write != Write::Close {
            assert_eq!(child.hear(), "ok");
            rest.push(last());
        }
        child.wait().expect_success();
        expect_from_v1(&mut v1, &rest, rest.len());
        assert_eq!(v1.raw.get(raw::WRITER_PID), 0);
        assert_eq!(v1.raw.get(raw::FREE), RING);
    }
}

// The reader.

/// What a reader does when it is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Create,
    /// Over what one left that was killed.
    CreateOver,
    Frame,
    Message,
    /// Of two frames, the first last: both go back.
    GiveBack,
    /// Copies frames that are held out of the ring, for a writer that waits.
    Evacuate,
    Replace,
    Close,
    CloseIfUnused,
}

impl Read {
    fn comes(self) -> bool {
        matches!(self, Read::Create | Read::CreateOver)
    }

    fn goes(self) -> bool {
        matches!(self, Read::Close | Read::CloseIfUnused)
    }

    /// What the writer has said before.
    fn before(self) -> Vec<Said> {
        match self {
            Read::Message => vec![Said::message(30), Said::frame(41)],
            Read::Evacuate => vec![Said::frame(400), Said::frame(401)],
            Read::CloseIfUnused | Read::Create | Read::CreateOver => vec![],
            _ => vec![Said::with_note(30), Said::frame(41)],
        }
    }
}

fn after() -> [Said; 2] {
    [Said::frame(200), Said::with_note(100)]
}

/// Says what is to be read up to the writer's end.
fn tell_all(reader: &Reader) {
    let end = loop {
        match reader.read(LONG) {
            Ok(item) => say(&format!("{:?}", Said::from(item))),
            Err(err) => break Err::<(), _>(err),
        }
    };
    say(&in_short(&end));
}

fn be_reader(read: Read, name: &str) {
    let mut reader = (!read.comes()).then(|| self::reader(name));
    let mut held = Vec::new();
    if matches!(read, Read::GiveBack | Read::Evacuate) {
        let reader = reader.as_ref().unwrap();
        reader.set_evacuation(read == Read::Evacuate);
        held.extend((0..2).map(|_| reader.read_frame(LONG).unwrap()));
        for frame in &held {
            say(&format!("{:?}", Said::of(Some(frame), frame.records())));
        }
        if read == Read::GiveBack {
            // Nothing goes back before the first does.
            drop(held.pop());
        }
    }
    let mut old = None;
    let mut item = None;
    steps::begin();
    let done = match read {
        Read::Create | Read::CreateOver => {
            Reader::create(name, &config()).map(|new| reader = Some(new))
        }
        Read::Frame | Read::Message => (reader.as_ref().unwrap())
            .read(Duration::ZERO)
            .map(|new| item = Some(new)),
        Read::Evacuate => match reader.as_ref().unwrap().read(Duration::ZERO) {
            Err(Error::Timeout { .. }) => Ok(()),
            other => panic!("{other:?}"),
        },
        Read::GiveBack => {
            held.clear();
            Ok(())
        }
        Read::Replace => {
            let new = reader.as_ref().unwrap().replace(&config());
            new.map(|new| old = reader.replace(new))
        }
        Read::Close => {
            drop(reader.take());
            Ok(())
        }
        Read::CloseIfUnused => {
            // Posts too many may look like use, and then it closes by being dropped.
            reader.take().unwrap().close_if_unused();
            Ok(())
        }
    };
    steps::end();
    say(&in_short(&done));
    listen();
    if let Some(item) = item {
        say(&format!("{:?}", Said::from(item)));
    }
    old.iter().for_each(tell_all);
    drop((old, held));
    reader.iter().for_each(tell_all);
    drop(reader);
    say("end");
    listen();
}

/// A reader that is about to do it, and its writer.
struct Reading {
    name: Name,
    writer: Option<Writer>,
    read: Read,
    /// What the child has told already of what it has read.
    told: Vec<String>,
}

impl Reading {
    fn start(test: &str, read: Read) -> (Self, Led) {
        let name = Name::new(&format!("matrix-{read:?}"));
        if read == Read::CreateOver {
            let role = format!("Close {}", &*name);
            let mut child = Running::start(&mut again(test, &role));
            child.hear();
            child.kill();
            assert_eq!(name.objects().len(), 4);
        }
        let mut child = Running::start(&mut again(test, &format!("{read:?} {}", &*name)));
        let mut told = Vec::new();
        let mut writer = None;
        if !read.comes() && read != Read::CloseIfUnused {
            let new = Writer::attach_wait(&name, LONG).unwrap();
            for said in read.before() {
                said.send(&new).unwrap();
            }
            writer = Some(new);
        }
        if matches!(read, Read::GiveBack | Read::Evacuate) {
            told = read.before().iter().map(|_| child.hear()).collect();
        }
        let led = Led::new(child, &name, || {
            if read == Read::Evacuate {
                // As a writer of ours that waits says it.
                want(&name, 900);
            }
        });
        let reading = Reading {
            name,
            writer,
            read,
            told,
        };
        (reading, led)
    }

    fn strike(self, led: Led, blow: Blow) {
        match blow {
            Blow::Kill => self.killed(led),
            Blow::KillAndNext => self.killed_and_next(led),
            Blow::Stop => self.stopped(led),
            Blow::Unlink => self.unlinked(led),
            Blow::Posts => self.posted(led),
        }
    }

    /// The writer is told, at the first look, that there is no reader.
    #[track_caller]
    fn expect_gone(&self, pid: u64) {
        let Some(writer) = &self.writer else { return };
        assert!(!writer.is_reader_connected());
        // With a frame it looks when it has not for 50 ms.
        let end = loop {
            match writer.write_frame_wait(b"lost", LONG) {
                Ok(_) => thread::yield_now(),
                Err(err) => break err,
            }
        };
        match end {
            Error::ReaderDead { pid: dead, .. } => assert_eq!(dead, pid),
            Error::ReaderClosed { .. } => assert!(self.read.goes(), "{end}"),
            Error::ReaderReplaced { .. } => assert_eq!(self.read, Read::Replace),
            other => panic!("{other}"),
        }
    }

    fn killed(self, led: Led) {
        let pid = led.process();
        led.kill();
        self.expect_gone(pid);
        let none = Writer::attach(&self.name);
        assert!(none.as_ref().is_err_and(Error::is_no_reader), "{none:?}");
        self.next();
    }

    fn killed_and_next(self, led: Led) {
        led.kill();
        self.next();
    }

    /// The next reader, while the writer still is that of the one before.
    fn next(self) {
        let reader = reader(&self.name);
        expect_whole(&reader, &self.name);
        if let Some(old) = &self.writer {
            assert!(!old.is_reader_connected());
            let _ = old.write_frame_wait(b"old", Duration::ZERO);
        }
        assert_eq!(reader.used_bytes(), 0, "it has nothing of the one before");
        let writer = Writer::attach(&self.name).unwrap();
        drop(self.writer);
        flows(&reader, &writer);
        drop((reader, writer));
        self.name.assert_nothing_left();
    }

    /// The writer of now, as it has to come if the buffer was made anew or has just been made.
    fn writer(&mut self) -> &Writer {
        let told = |writer: &Writer| writer.is_reader_connected();
        if !self.writer.as_ref().is_some_and(told) {
            self.writer = None;
            self.writer = Some(Writer::attach(&self.name).unwrap());
        }
        self.writer.as_ref().unwrap()
    }

    /// The child has done it: it reads all that is said from now on and was before.
    fn goes_on(mut self, mut child: Running) {
        let mut expected = self.read.before();
        if !self.read.goes() {
            let writer = self.writer();
            for said in after() {
                said.send(writer).unwrap();
            }
            expected.extend(after());
        }
        child.tell("go on");
        self.writer = None;
        loop {
            match &*child.hear() {
                "end" => break,
                // Of the old buffer and the new one.
                "WriterClosed" => {}
                said => self.told.push(said.into()),
            }
        }
        if self.read != Read::Close {
            let expected: Vec<String> = expected.iter().map(|said| format!("{said:?}")).collect();
            assert_eq!(self.told, expected);
        }
        child.wait().expect_success();
        self.name.assert_nothing_left();
    }

    fn stopped(self, led: Led) {
        let mut child = led.stop();
        if let Some(writer) = &self.writer {
            let pid = writer.reader_pid();
            assert_eq!(writer.is_reader_connected(), pid != 0);
            assert!(pid != 0 || self.read.goes() || self.read == Read::Replace);
        }
        let second = Reader::create(&self.name, &config());
        let came = match &second {
            Ok(_) => {
                assert!(self.read.comes() || self.read.goes());
                true
            }
            Err(Error::ReaderAlreadyConnected { .. }) => false,
            Err(err) => panic!("{err}"),
        };
        child.signal(Signal::SIGCONT);
        let said = child.hear();
        let refused = self.read.comes() && came;
        let expected = if refused {
            "ReaderAlreadyConnected"
        } else {
            "ok"
        };
        assert_eq!(said, expected);
        if let Ok(second) = second {
            // And it is whole, whatever the other has done.
            let writer = Writer::attach(&self.name).unwrap();
            flows(&second, &writer);
            drop(second);
        }
        if refused {
            child.tell("go on");
            assert_eq!(child.hear(), "end");
            child.wait().expect_success();
            return self.name.assert_nothing_left();
        }
        self.goes_on(child);
    }

    fn unlinked(self, led: Led) {
        unlink_underneath(&self.name);
        let mut child = led.go_on();
        let said = child.hear();
        if !self.read.comes() && self.read != Read::Replace {
            assert_eq!(said, "ok");
        }
        if let Some(writer) = &self.writer {
            assert!(!writer.is_reader_connected());
        }
        // Whatever has come of it, it ends with the writer, and leaves nothing.
        drop(self.writer);
        child.kill();
        begins_anew(&self.name);
    }

    fn posted(self, led: Led) {
        post_too_often(&self.name);
        let mut child = led.go_on();
        assert_eq!(child.hear(), "ok");
        self.goes_on(child);
    }
}

/// Says in the hello that a writer waits for so many free bytes.
fn want(name: &str, bytes: u64) {
    let hello = 128 + config().metadata_size - 64;
    raw::Raw::open(name).set(hello + 0x20, bytes);
}

/// Does it with a reader at every point.
fn strike_reader(test: &str, read: Read) {
    if let Some(role) = support::role().filter(|role| role != LOCKLESS) {
        let (what, name) = role.split_once(' ').unwrap();
        let reads = [read, Read::Close];
        let read = reads.into_iter().find(|read| format!("{read:?}") == what);
        return be_reader(read.unwrap(), name);
    }
    let mut ends = Vec::new();
    let points = &Points::find(|| {
        let (reading, led) = Reading::start(test, read);
        ends.push(reading);
        led
    });
    for end in ends {
        drop(end.writer);
        remove_all(&end.name);
    }
    let lockless = support::role().is_some();
    for (blow, point) in blows(points) {
        if (lockless, read, blow) == (true, Read::Create, Blow::KillAndNext) {
            // Each next one waits for a second, and what it finds is what it finds after `Kill`.
            continue;
        }
        println!("{read:?} {blow:?} {point:?}");
        let (reading, mut led) = Reading::start(test, read);
        led.lead_to(points, point);
        reading.strike(led, blow);
    }
}

/// The same where no lock files can be made.
fn strike_lockless_reader(test: &str, read: Read) {
    if support::role().is_some() {
        return strike_reader(test, read);
    }
    let mut struck = without_lock_folder(&again(test, LOCKLESS));
    Running::start(&mut struck).wait().expect_success();
}

#[test]
fn a_writer_that_attaches() {
    strike_writer("a_writer_that_attaches", Write::Attach);
}

#[test]
fn a_writer_that_takes_the_place_of_a_dead_one() {
    strike_writer(
        "a_writer_that_takes_the_place_of_a_dead_one",
        Write::Succeed,
    );
}

#[test]
fn a_writer_of_metadata() {
    strike_writer("a_writer_of_metadata", Write::Metadata);
}

#[test]
fn a_writer_of_a_frame() {
    strike_writer("a_writer_of_a_frame", Write::Frame);
}

#[test]
fn a_writer_of_a_frame_behind_a_marker() {
    strike_writer("a_writer_of_a_frame_behind_a_marker", Write::Wrap);
}

#[test]
fn a_writer_of_a_frame_behind_a_short_tail() {
    strike_writer("a_writer_of_a_frame_behind_a_short_tail", Write::Tail);
}

#[test]
fn a_writer_of_a_frame_with_records() {
    strike_writer("a_writer_of_a_frame_with_records", Write::Records);
}

#[test]
fn a_writer_of_a_message() {
    strike_writer("a_writer_of_a_message", Write::Message);
}

#[test]
fn a_writer_of_a_frame_behind_a_skip() {
    strike_writer("a_writer_of_a_frame_behind_a_skip", Write::Skip);
}

#[test]
fn a_writer_that_waits_for_room() {
    strike_writer("a_writer_that_waits_for_room", Write::Wait);
}

#[test]
fn a_writer_that_closes() {
    strike_writer("a_writer_that_closes", Write::Close);
}

#[test]
fn a_v1_writer_of_a_frame() {
    strike_writer("a_v1_writer_of_a_frame", Write::V1);
}

#[test]
fn a_reader_that_makes_its_buffer() {
    strike_reader("a_reader_that_makes_its_buffer", Read::Create);
}

#[test]
fn a_reader_that_makes_its_buffer_in_place_of_a_dead_ones() {
    strike_reader(
        "a_reader_that_makes_its_buffer_in_place_of_a_dead_ones",
        Read::CreateOver,
    );
}

#[test]
fn a_reader_of_a_frame() {
    strike_reader("a_reader_of_a_frame", Read::Frame);
}

#[test]
fn a_reader_of_a_message() {
    strike_reader("a_reader_of_a_message", Read::Message);
}

#[test]
fn a_reader_that_gives_frames_back() {
    strike_reader("a_reader_that_gives_frames_back", Read::GiveBack);
}

#[test]
fn a_reader_that_copies_frames_out_of_the_ring() {
    strike_reader(
        "a_reader_that_copies_frames_out_of_the_ring",
        Read::Evacuate,
    );
}

#[test]
fn a_reader_that_makes_its_buffer_anew() {
    strike_reader("a_reader_that_makes_its_buffer_anew", Read::Replace);
}

#[test]
fn a_reader_without_a_lock_folder_that_makes_its_buffer() {
    let test = "a_reader_without_a_lock_folder_that_makes_its_buffer";
    strike_lockless_reader(test, Read::Create);
}

#[test]
fn a_reader_without_a_lock_folder_that_makes_its_buffer_anew() {
    let test = "a_reader_without_a_lock_folder_that_makes_its_buffer_anew";
    strike_lockless_reader(test, Read::Replace);
}

#[test]
fn a_reader_without_a_lock_folder_that_closes() {
    let test = "a_reader_without_a_lock_folder_that_closes";
    strike_lockless_reader(test, Read::Close);
}

#[test]
fn a_reader_that_closes() {
    strike_reader("a_reader_that_closes", Read::Close);
}

#[test]
fn a_reader_that_closes_what_is_not_used() {
    strike_reader("a_reader_that_closes_what_is_not_used", Read::CloseIfUnused);
}

#[test]
fn a_writer_that_attaches_to_a_v1_reader() {
    strike_writer_of_v1("a_writer_that_attaches_to_a_v1_reader", Write::Attach);
}

#[test]
fn a_writer_of_metadata_for_a_v1_reader() {
    strike_writer_of_v1("a_writer_of_metadata_for_a_v1_reader", Write::Metadata);
}

#[test]
fn a_writer_of_a_frame_for_a_v1_reader() {
    strike_writer_of_v1("a_writer_of_a_frame_for_a_v1_reader", Write::Frame);
}

#[test]
fn a_writer_of_a_frame_behind_a_marker_for_a_v1_reader() {
    strike_writer_of_v1(
        "a_writer_of_a_frame_behind_a_marker_for_a_v1_reader",
        Write::Wrap,
    );
}

#[test]
fn a_writer_that_leaves_a_v1_reader() {
    strike_writer_of_v1("a_writer_that_leaves_a_v1_reader", Write::Close);
}

//! Peers that speak v1 and nothing else, as the published ones do, made of plain files. For tests
//! in which peer and library take turns: nothing here is atomic.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::thread;

use gstzerobuffer::{BufferConfig, Error, Reader};

use super::Name;
use super::raw::{self, Raw, RawSem};

/// A v1 reader: it makes the buffer and removes it when dropped.
pub struct V1Reader<'a> {
    name: &'a Name,
    pub raw: Raw,
    pub sem_write: RawSem,
    pub sem_read: RawSem,
    size: u64,
    pub at: u64,
    pub next: u64,
}

impl<'a> V1Reader<'a> {
    pub fn create(name: &'a Name, metadata_size: u64, payload_size: u64) -> Self {
        Self::make(name, metadata_size, payload_size, RawSem::create)
    }

    /// With the semaphores that there are, which are older than its segment.
    pub fn among_leftovers(name: &'a Name, metadata_size: u64, payload_size: u64) -> Self {
        // The clock for that goes in steps of some milliseconds.
        let made = |file: &File| file.metadata().unwrap().created().ok();
        let now = || made(&tempfile::tempfile_in("/dev/shm").unwrap());
        let left = ['w', 'r'].map(|kind| made(RawSem::open(kind, name).file()));
        while left.iter().any(|left| left.is_some() && now() <= *left) {
            thread::yield_now();
        }
        let leftover = |kind, name: &str, _| RawSem::open(kind, name);
        Self::make(name, metadata_size, payload_size, leftover)
    }

    fn make(
        name: &'a Name,
        metadata_size: u64,
        payload_size: u64,
        sem: impl Fn(char, &str, u32) -> RawSem,
    ) -> Self {
        let path = format!("/dev/shm/{}", &**name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        file.set_len(128 + metadata_size + payload_size).unwrap();
        // Behind the segment, as the published ones do.
        let (sem_write, sem_read) = (sem('w', name, 0), sem('r', name, 0));
        for file in [&file, sem_write.file(), sem_read.file()] {
            file.set_permissions(Permissions::from_mode(0o666)).unwrap();
        }
        let raw = Raw::open(name);
        raw.set(raw::METADATA_SIZE, metadata_size);
        raw.set(raw::METADATA_FREE, metadata_size);
        raw.set(raw::PAYLOAD_SIZE, payload_size);
        raw.set(raw::FREE, payload_size);
        raw.set(raw::READER_PID, std::process::id().into());
        raw.write(0, &[128, 0, 0, 0, 1, 0, 0, 0]);
        V1Reader {
            name,
            raw,
            sem_write,
            sem_read,
            size: payload_size,
            at: 0,
            next: 1,
        }
    }

    /// Makes the semaphores anew whose names have gone.
    pub fn make_missing(&mut self) {
        for (kind, sem) in [('w', &mut self.sem_write), ('r', &mut self.sem_read)] {
            if RawSem::try_open(kind, self.name).is_none() {
                *sem = RawSem::create(kind, self.name, 0);
            }
        }
    }

    /// Whether its segment was made a second ago, or nobody knows when.
    pub fn is_old_or_ageless(&self) -> bool {
        let born = self.raw.file().metadata().unwrap().created();
        let is_young = born.is_ok_and(|born| born.elapsed().is_ok_and(|age| age.as_secs() < 1));
        !is_young
    }

    /// Takes the lock file, like the published ones; who does not is one with another /tmp.
    pub fn lock(&self) -> File {
        let path = self.name.lock_file();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create_new(path).unwrap();
        file.lock().unwrap();
        file
    }

    /// The next frame, released at once. Reads headers wherever it stands, as the published
    /// readers do, and fails where they fail.
    pub fn read(&mut self) -> Option<Vec<u8>> {
        if !self.sem_write.try_wait() {
            return None;
        }
        if self.at == self.size {
            self.at = 0;
        }
        let (mut len, mut sequence) = self.header();
        if len == 0 {
            self.give_back(self.size - self.at);
            self.at = 0;
            (len, sequence) = self.header();
        }
        assert_eq!(sequence, self.next, "a v1 reader is out of step");
        assert!(
            len > 0 && self.at + 16 + len <= self.size,
            "a frame of {len} bytes at {}",
            self.at
        );
        let data = self
            .raw
            .bytes(self.raw.payload_start() + self.at + 16, len as usize);
        self.at += 16 + len;
        self.next += 1;
        self.raw.set(raw::READ_POS, self.at);
        self.raw
            .set(raw::READ_COUNT, self.raw.get(raw::READ_COUNT) + 1);
        self.give_back(16 + len);
        self.sem_read.post();
        Some(data)
    }

    fn header(&self) -> (u64, u64) {
        assert!(
            self.at + 16 <= self.size,
            "a v1 reader reads a header across the end, at {} of {}",
            self.at,
            self.size
        );
        self.raw.header(self.at)
    }

    fn give_back(&self, bytes: u64) {
        self.raw.set(raw::FREE, self.raw.get(raw::FREE) + bytes);
    }
}

impl Drop for V1Reader<'_> {
    fn drop(&mut self) {
        self.raw.set(raw::READER_PID, 0);
        for path in self.name.objects() {
            let _ = fs::remove_file(path);
        }
    }
}

/// A v1 writer, which writes what it is told, wrong or right.
pub struct V1Writer {
    pub raw: Raw,
    pub sem_write: RawSem,
    pub sequence: u64,
    at: u64,
}

impl V1Writer {
    /// Attaches and says that it is the process `pid`.
    pub fn attach(name: &Name, pid: u64) -> Self {
        Self::open(name, pid)
    }

    /// As [`V1Writer::attach`], in another process than the one that has the [`Name`].
    pub fn open(name: &str, pid: u64) -> Self {
        let raw = Raw::open(name);
        assert_eq!(raw.get(raw::WRITER_PID), 0);
        raw.set(raw::WRITER_PID, pid);
        V1Writer {
            at: raw.get(raw::WRITE_POS),
            raw,
            sem_write: RawSem::open('w', name),
            sequence: 1,
        }
    }

    /// A frame right behind the last one.
    pub fn write(&mut self, data: &[u8]) {
        self.write_at(self.at, data);
    }

    /// A frame at 0, without a marker: what is behind the last frame is wasted.
    pub fn write_at_start(&mut self, data: &[u8]) {
        let waste = self.raw.get(raw::PAYLOAD_SIZE) - self.at;
        self.take(waste);
        self.write_at(0, data);
    }

    fn write_at(&mut self, at: u64, data: &[u8]) {
        let start = self.raw.payload_start() + at;
        self.raw.write(start + 16, data);
        self.publish(at, data.len() as u64, data.len() as u64);
    }

    /// A header that says `len`, with nothing behind it.
    pub fn write_header(&mut self, len: u64) {
        self.publish(self.at, len, 0);
    }

    fn publish(&mut self, at: u64, len: u64, written: u64) {
        let start = self.raw.payload_start() + at;
        self.raw.set(start, len);
        self.raw.set(start + 8, self.sequence);
        self.at = at + 16 + written;
        self.take(16 + written);
        self.raw.set(raw::WRITE_POS, self.at);
        let count = self.raw.get(raw::WRITTEN_COUNT);
        self.raw.set(raw::WRITTEN_COUNT, count + 1);
        self.sequence += 1;
        self.sem_write.post();
    }

    fn take(&self, bytes: u64) {
        let free = self.raw.get(raw::FREE);
        self.raw.set(raw::FREE, free - bytes);
    }

    pub fn close(self) {
        self.raw.set(raw::WRITER_PID, 0);
    }
}

/// What lies where the segment of this name would be is no buffer: no reader takes its place.
#[track_caller]
pub fn assert_left_alone(name: &str, content: &[u8]) {
    let path = Path::new("/dev/shm").join(name);
    place_file(&path, content);
    let made = Reader::create(name, &BufferConfig::default());
    assert!(matches!(made, Err(Error::Corrupt { .. })), "{made:?}");
    assert_eq!(fs::read(&path).unwrap(), content);
    fs::remove_file(&path).unwrap();
}

/// The file `path` with these bytes, for things that are in a buffer's way.
pub fn place_file(path: impl AsRef<Path>, bytes: &[u8]) {
    let file = File::create_new(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

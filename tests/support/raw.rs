//! The objects of a buffer as plain files, with every number of the protocol written out: what a
//! test sees and does here owes nothing to the library.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

pub const METADATA_SIZE: u64 = 0x08;
pub const METADATA_FREE: u64 = 0x10;
pub const METADATA_WRITTEN: u64 = 0x18;
pub const PAYLOAD_SIZE: u64 = 0x20;
pub const FREE: u64 = 0x28;
pub const WRITE_POS: u64 = 0x30;
pub const READ_POS: u64 = 0x38;
pub const WRITTEN_COUNT: u64 = 0x40;
pub const READ_COUNT: u64 = 0x48;
pub const WRITER_PID: u64 = 0x50;
pub const READER_PID: u64 = 0x58;

/// A segment of /dev/shm as a file.
#[derive(Debug)]
pub struct Raw {
    file: File,
}

impl Raw {
    pub fn open(name: &str) -> Self {
        Self::try_open(name).unwrap_or_else(|| panic!("there is no /dev/shm/{name}"))
    }

    pub fn try_open(name: &str) -> Option<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/dev/shm/{name}"));
        Some(Raw { file: file.ok()? })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn len(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        // A write past the end would make the segment longer.
        assert!(
            at + bytes.len() as u64 <= self.len(),
            "outside of the segment"
        );
        self.file.write_all_at(bytes, at).unwrap();
    }

    pub fn get(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap())
    }

    pub fn set(&self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    pub fn payload_start(&self) -> u64 {
        128 + self.get(METADATA_SIZE)
    }

    /// Size and sequence number of the frame header at this position of the ring.
    pub fn header(&self, at: u64) -> (u64, u64) {
        let start = self.payload_start() + at;
        (self.get(start), self.get(start + 8))
    }
}

/// A named semaphore as a file: its count is the first half of glibc's sem_t on 64-bit machines.
///
/// Changes are not atomic: only for tests in which nobody else uses it at that moment.
#[derive(Debug)]
pub struct RawSem {
    file: File,
}

impl RawSem {
    fn path(kind: char, name: &str) -> PathBuf {
        format!("/dev/shm/sem.sem-{kind}-{name}").into()
    }

    /// `kind` is `w` or `r`.
    pub fn open(kind: char, name: &str) -> Self {
        Self::try_open(kind, name)
            .unwrap_or_else(|| panic!("there is no {}", Self::path(kind, name).display()))
    }

    pub fn try_open(kind: char, name: &str) -> Option<Self> {
        let path = Self::path(kind, name);
        let file = OpenOptions::new().read(true).write(true).open(path);
        Some(RawSem { file: file.ok()? })
    }

    /// Makes one with this count, as sem_open would.
    pub fn create(kind: char, name: &str, count: u32) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(Self::path(kind, name))
            .unwrap();
        let mut sem = [0; 32];
        sem[..4].copy_from_slice(&count.to_le_bytes());
        // Shared between processes.
        sem[8] = 128;
        file.write_all_at(&sem, 0).unwrap();
        RawSem { file }
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn count(&self) -> u32 {
        let mut count = [0; 4];
        self.file.read_exact_at(&mut count, 0).unwrap();
        u32::from_le_bytes(count)
    }

    pub fn set(&self, count: u32) {
        self.file.write_all_at(&count.to_le_bytes(), 0).unwrap();
    }

    pub fn post(&self) {
        self.set(self.count() + 1);
    }

    pub fn try_wait(&self) -> bool {
        let count = self.count();
        if count > 0 {
            self.set(count - 1);
        }
        count > 0
    }
}

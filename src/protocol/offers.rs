//! Who has something to send and waits for a reader: offers, so that others can choose among them.
//!
//! A writer makes nothing, so one that waits for its reader is not to be seen. Ours can leave word
//! of itself. All that one user's writers offer is in one file in `/dev/shm`, in slots; a slot counts
//! as long as its lock is held, so an offer goes with its writer, however that ends, and a killed one
//! leaves a slot for the next. The last one removes the file. See `docs/protocol.md`, "Offers".

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::Duration;

use super::buffer::check_name;
use super::error::{Error, Result};
use crate::sys::host;
use crate::sys::look::{Look, names_in};
use crate::sys::process;
use crate::sys::shm::{self, ShmFile};

/// What begins the name of the file; behind it stands the number of its user. No buffer and no
/// semaphore of one is called like that.
const FILE: &str = "sem.zerobuffer-offers-";
/// Bytes of a slot.
const SLOT: u64 = 16 << 10;
/// Slots, and the locks of each: a byte of the file with its number.
const SLOTS: u64 = 256;
/// The lock of who comes or goes.
const GATE: i64 = SLOTS as i64;
/// Bytes before the name.
const HEAD: usize = 32;
const MAGIC: u64 = u64::from_le_bytes(*b"ZBoffer\x01");

/// How often, and how far apart, the lock of the gate is tried for; others have it for a moment.
const TRIES: usize = 200;
const INTERVAL: Duration = Duration::from_millis(1);

/// Something to send, for as long as this value lives.
#[derive(Debug)]
pub struct Offer {
    name: String,
    file: ShmFile,
    slot: u64,
}

/// An offer as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The buffer that the writer waits for, or writes to by now.
    pub name: String,
    /// The writer's process, by its own pid namespace.
    pub pid: u64,
    /// What it would write as the buffer's metadata; empty if that is too long.
    pub metadata: Vec<u8>,
}

impl Offer {
    /// Offers to write to the buffer `name`, with this metadata.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; [`Error::Os`] where the file cannot be used, or is full.
    pub fn new(name: &str, metadata: &[u8]) -> Result<Self> {
        check_name(name)?;
        let os = |source| Error::Os {
            name: name.into(),
            what: "offering it",
            source,
        };
        let file_name = file_name();
        for _ in 0..TRIES {
            let file = match ShmFile::open(&file_name) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    match ShmFile::create_new(&file_name) {
                        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => continue,
                        other => other,
                    }
                }
                other => other,
            };
            let file = file.map_err(os)?;
            if file.owner().map_err(os)? != host::user() {
                return Err(os(io::ErrorKind::PermissionDenied.into()));
            }
            pass_gate(&file).map_err(os)?;
            // The last one to go may have removed it before we were through.
            if !file.is_linked() {
                continue;
            }
            let taken = take_slot(&file);
            // It cannot fail with a lock that we have, and would go with the file.
            let _ = file.unlock_byte(GATE);
            let offer = Offer {
                name: name.into(),
                slot: taken.map_err(os)?,
                file,
            };
            offer.tell(metadata)?;
            return Ok(offer);
        }
        Err(os(io::Error::other("the file is removed again and again")))
    }

    /// The buffer that is offered to be written to.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes the metadata.
    ///
    /// # Errors
    /// [`Error::Os`]: `/dev/shm` has no room.
    pub fn tell(&self, metadata: &[u8]) -> Result<()> {
        let slot = encode(&self.name, process::id(), metadata);
        let written = self.file.write_at(self.slot * SLOT, &slot);
        written.map_err(|source| Error::Os {
            name: self.name.clone(),
            what: "offering it",
            source,
        })
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        // Nobody comes meanwhile; where the gate cannot be had, the file stays for the next.
        let alone = pass_gate(&self.file).is_ok();
        // What fails here goes with the file, or stays for the next one to remove.
        let _ = self.file.unlock_byte(self.slot as i64);
        let used = |slot| self.file.is_byte_locked(slot).unwrap_or(true);
        if alone && self.file.is_linked() && !(0..GATE).any(used) {
            let _ = ShmFile::unlink(&file_name());
        }
        let _ = self.file.unlock_byte(GATE);
    }
}

fn file_name() -> String {
    format!("{FILE}{}", host::user())
}

fn pass_gate(file: &ShmFile) -> io::Result<()> {
    for _ in 0..TRIES {
        if file.try_lock_byte(GATE)? {
            return Ok(());
        }
        thread::sleep(INTERVAL);
    }
    Err(io::ErrorKind::WouldBlock.into())
}

fn take_slot(file: &ShmFile) -> io::Result<u64> {
    for slot in 0..SLOTS {
        if file.try_lock_byte(slot as i64)? {
            return Ok(slot);
        }
    }
    Err(io::Error::other("there are 256 offers already"))
}

/// All offers of writers that live, as far as we may see them, by the names of their buffers. Of
/// several for one buffer one is told.
pub fn offers() -> Vec<Offered> {
    let mut found = BTreeMap::new();
    for file in names_in(shm::DIRECTORY).filter(|name| name.starts_with(FILE)) {
        let Ok(look) = Look::open(&shm::path(&file)) else {
            continue;
        };
        let mut bytes = vec![0; SLOT as usize];
        for slot in 0..SLOTS.min(look.facts().len.div_ceil(SLOT)) {
            if !look.is_byte_locked(slot as i64).unwrap_or(false) {
                continue;
            }
            // The last slot may end early, where the file does.
            let len = SLOT.min(look.facts().len - slot * SLOT) as usize;
            if look.read(slot * SLOT, &mut bytes[..len])
                && let Some(offered) = decode(&bytes[..len])
            {
                found.entry(offered.name.clone()).or_insert(offered);
            }
        }
    }
    found.into_values().collect()
}

/// A slot's content: magic, check, pid, the lengths of name and metadata, then both.
fn encode(name: &str, pid: u64, metadata: &[u8]) -> Vec<u8> {
    let room = SLOT as usize - HEAD - name.len();
    let metadata = if metadata.len() <= room {
        metadata
    } else {
        b""
    };
    let mut slot = vec![0; 16];
    slot.extend(pid.to_le_bytes());
    slot.extend((name.len() as u32).to_le_bytes());
    slot.extend((metadata.len() as u32).to_le_bytes());
    slot.extend(name.as_bytes());
    slot.extend(metadata);
    let check = check(&slot[16..]);
    slot[..8].copy_from_slice(&MAGIC.to_le_bytes());
    slot[8..16].copy_from_slice(&check.to_le_bytes());
    slot
}

/// `None` if it is no offer, or one that is just being changed.
fn decode(slot: &[u8]) -> Option<Offered> {
    let word = |at: usize| Some(u64::from_le_bytes(slot.get(at..at + 8)?.try_into().ok()?));
    let lengths = word(24)?;
    let (name_len, metadata_len) = (lengths as u32 as usize, (lengths >> 32) as usize);
    let metadata_at = HEAD.checked_add(name_len)?;
    let end = metadata_at.checked_add(metadata_len)?;
    let content = slot.get(16..end)?;
    if word(0)? != MAGIC || word(8)? != check(content) {
        return None;
    }
    let name = std::str::from_utf8(slot.get(HEAD..metadata_at)?).ok()?;
    check_name(name).ok()?;
    Some(Offered {
        name: name.into(),
        pid: word(16)?,
        metadata: slot.get(metadata_at..end)?.to_vec(),
    })
}

/// FNV-1a: tells a content that is whole from one that is half the old and half the new.
fn check(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unique_name;

    fn find(name: &str) -> Option<Offered> {
        offers().into_iter().find(|offered| offered.name == name)
    }

    #[test]
    fn an_offer_is_seen_while_it_lives_and_changes() {
        let name = unique_name("offer");
        assert_eq!(find(&name), None);
        let offer = Offer::new(&name, b"a").unwrap();
        let other = Offer::new(&unique_name("offer"), b"").unwrap();
        let mut seen = find(&name).unwrap();
        assert_eq!((seen.pid, &seen.metadata[..]), (process::id(), &b"a"[..]));
        offer.tell(&[7; 9000]).unwrap();
        seen.metadata = vec![7; 9000];
        assert_eq!(find(&name), Some(seen));
        offer.tell(&[7; 99_000]).unwrap();
        assert_eq!(find(&name).unwrap().metadata, b"");
        drop(offer);
        assert_eq!(find(&name), None);
        assert!(find(&other.name).is_some());
    }

    #[test]
    fn a_slot_that_is_not_whole_is_no_offer() {
        let slot = encode("name", 1, b"metadata");
        assert!(decode(&slot).is_some());
        for at in 0..slot.len() {
            let mut broken = slot.clone();
            broken[at] ^= 0x81;
            assert_eq!(decode(&broken), None, "byte {at}");
            assert_eq!(decode(&slot[..at]), None, "{at} bytes");
        }
        for lengths in [[0xff; 8], [4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]] {
            let mut broken = slot.clone();
            broken[24..32].copy_from_slice(&lengths);
            assert_eq!(decode(&broken), None);
        }
        assert_eq!(decode(&encode("a/b", 1, b"")), None);
        assert_eq!(decode(&[0; 64]), None);
    }

    #[test]
    fn many_come_and_go_at_once() {
        let base = unique_name("offers");
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let base = &base;
                scope.spawn(move || {
                    for _ in 0..30 {
                        let name = format!("{base}-{thread}");
                        let offer = Offer::new(&name, name.as_bytes()).unwrap();
                        assert_eq!(find(&name).unwrap().metadata, name.as_bytes());
                        drop(offer);
                    }
                });
            }
        });
        assert!(
            offers()
                .iter()
                .all(|offered| !offered.name.starts_with(&base))
        );
    }
}

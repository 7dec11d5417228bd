//! What can go wrong, and what to do about it.

use std::io;
use std::time::Duration;

/// Everything that a [`Reader`](super::Reader) or [`Writer`](super::Writer) may answer instead of
/// doing what it was asked for.
///
/// The variants name what the exceptions of the other ZeroBuffer implementations name, and some
/// cases that those do not tell apart. The texts say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name cannot be that of a buffer.
    #[error("'{name}' is not a possible buffer name: {why}")]
    InvalidName {
        /// The name.
        name: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// The sizes or permissions asked for make no buffer.
    #[error("no buffer can be made like this: {why}")]
    InvalidConfig {
        /// What is wrong.
        why: String,
    },
    /// There is no buffer of this name (yet).
    #[error("there is no buffer '{name}': start its reader (zerobuffersrc) or check the name")]
    BufferNotFound {
        /// The name.
        name: String,
    },
    /// The name belongs to a reader that is alive.
    #[error(
        "buffer '{name}' already has a reader{}: stop it or choose another name{hint}",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    ReaderAlreadyConnected {
        /// The name.
        name: String,
        /// The reader, where it can be told.
        pid: Option<u64>,
        /// More to say, or nothing.
        hint: String,
    },
    /// The buffer has a writer that is alive.
    #[error(
        "buffer '{name}' already has a writer{}: only one can write, stop it or use another buffer",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    WriterAlreadyConnected {
        /// The name.
        name: String,
        /// The writer, where it can be told.
        pid: Option<u64>,
    },
    /// The writer ended without closing. Every frame that it wrote has been read.
    #[error("the writer of buffer '{name}' (pid {pid}) died")]
    WriterDead {
        /// The name.
        name: String,
        /// Its process id.
        pid: u64,
    },
    /// The writer closed the stream. Every frame that it wrote has been read.
    #[error("the writer of buffer '{name}' closed the stream")]
    WriterClosed {
        /// The name.
        name: String,
    },
    /// The reader ended without closing.
    #[error("the reader of buffer '{name}' (pid {pid}) died: attach again when there is a new one")]
    ReaderDead {
        /// The name.
        name: String,
        /// Its process id.
        pid: u64,
    },
    /// The reader closed the buffer, or it was removed.
    #[error("the reader of buffer '{name}' closed it: attach again when there is a new one")]
    ReaderClosed {
        /// The name.
        name: String,
    },
    /// The reader has made the buffer anew, with other sizes, under the same name.
    #[error("the reader of buffer '{name}' has made it anew: attach to the new one")]
    ReaderReplaced {
        /// The name.
        name: String,
    },
    /// The reader is of another implementation and has had frames of a writer before: it would take the
    /// first one of the next for an error.
    #[error(
        "the reader of buffer '{name}' is still with the writer before, and takes no second one: it \
         has to make the buffer anew"
    )]
    ReaderTaken {
        /// The name.
        name: String,
    },
    /// No room for the frame within the time allowed.
    #[error(
        "buffer '{name}' stayed full for {waited:?}: {needed} bytes are needed, {free} of \
         {payload_size} are free; the reader is too slow, holds frames or is stopped"
    )]
    BufferFull {
        /// The name.
        name: String,
        /// How long was waited.
        waited: Duration,
        /// Bytes needed, with header and wrap.
        needed: u64,
        /// Bytes free at the end of the wait.
        free: u64,
        /// Bytes of the ring.
        payload_size: u64,
    },
    /// No frame of this size can ever be in the ring.
    #[error(
        "a frame of {size} bytes is too large for buffer '{name}' with payload size \
         {payload_size}: create it with at least {good_size}"
    )]
    FrameTooLarge {
        /// The name.
        name: String,
        /// Bytes of the frame.
        size: u64,
        /// Bytes of the ring.
        payload_size: u64,
        /// A payload size that would do.
        good_size: u64,
    },
    /// The frame is smaller than the ring but cannot be placed from the writer's position, however
    /// long it waits, since it is larger than the parts before and behind that position.
    #[error(
        "a frame of {size} bytes cannot pass through buffer '{name}' with payload size \
         {payload_size} from position {position}, not even when it is empty: create it with at \
         least {good_size}"
    )]
    FrameCannotPass {
        /// The name.
        name: String,
        /// Bytes of the frame.
        size: u64,
        /// Bytes of the ring.
        payload_size: u64,
        /// Where the writer stands.
        position: u64,
        /// A payload size that would do.
        good_size: u64,
    },
    /// A frame has at least one byte.
    #[error("a frame of 0 bytes does not exist in ZeroBuffer: write at least one byte")]
    InvalidFrameSize,
    /// The sequence number of a frame is not the next one.
    #[error(
        "buffer '{name}' is out of step: expected frame {expected}, found {found}; its writer does \
         not follow the protocol, restart both ends"
    )]
    Sequence {
        /// The name.
        name: String,
        /// The number that was due.
        expected: u64,
        /// The number that was there.
        found: u64,
    },
    /// Metadata can be written once in the life of a buffer.
    #[error(
        "the metadata of buffer '{name}' has already been written: other metadata needs a new \
         buffer, that is a restart of the reader"
    )]
    MetadataAlreadyWritten {
        /// The name.
        name: String,
    },
    /// Metadata comes before the first frame, when the reader looks for it.
    #[error("the metadata of buffer '{name}' must be written before the first frame")]
    MetadataTooLate {
        /// The name.
        name: String,
    },
    /// The metadata does not fit into its block.
    #[error(
        "{size} bytes of metadata do not fit into the {metadata_size} bytes of buffer '{name}': \
         create it with a metadata size of at least {good_size}"
    )]
    MetadataTooLarge {
        /// The name.
        name: String,
        /// Bytes of metadata.
        size: u64,
        /// Bytes of the block.
        metadata_size: u64,
        /// A metadata size that would do.
        good_size: u64,
    },
    /// A place was reserved and neither committed nor dropped.
    #[error("commit or drop the reserved frame before writing the next one")]
    ReservationPending,
    /// A frame reserved after this one has been published before it.
    #[error("a frame reserved after this one was published first: copy this one to a new place")]
    OutOfOrder,
    /// The frame was reserved with less room for records than it turned out to need.
    #[error(
        "{needed} bytes of records do not fit into the {room} bytes in front of the reserved frame: \
         copy it to a new place"
    )]
    NoRoomForRecords {
        /// Bytes of the block that the records make.
        needed: u64,
        /// Bytes in front of the frame.
        room: u64,
    },
    /// Records that are larger than any frame's may be.
    #[error(
        "{size} bytes of records are too many for buffer '{name}', which takes {most} at a time"
    )]
    RecordsTooLarge {
        /// The name.
        name: String,
        /// Bytes of the block that the records make.
        size: u64,
        /// Bytes of the largest block: half the ring, 1 MiB at most.
        most: u64,
    },
    /// The reader understands no records, and there is one that must not be left out.
    #[error(
        "the reader of buffer '{name}' is of another implementation and cannot be told of changes \
         within a stream (caps, layout of a frame): close the stream and start a new one"
    )]
    RecordsNotCarried {
        /// The name.
        name: String,
    },
    /// The writer sent a record that must be understood, and it is not.
    #[error(
        "the writer of buffer '{name}' sent a record of kind {kind}, which must not be left out and \
         is not known here: use the same version at both ends"
    )]
    UnknownRecord {
        /// The name.
        name: String,
        /// Its kind.
        kind: u16,
    },
    /// The segment is of another version of the protocol.
    #[error("buffer '{name}' has protocol version {major}.x; this implementation speaks 1.x")]
    Version {
        /// The name.
        name: String,
        /// Its major version.
        major: u8,
    },
    /// The segment is not, or no longer, what the protocol says.
    #[error("'{name}' is not a valid ZeroBuffer: {what}; remove it or restart both ends")]
    Corrupt {
        /// The name.
        name: String,
        /// What was found.
        what: String,
    },
    /// `/dev/shm` has too little room.
    #[error(
        "buffer '{name}' needs {needed} bytes in /dev/shm, {}: make it smaller or give /dev/shm \
         more room (in Docker: --shm-size; elsewhere: mount -o remount,size=… /dev/shm)",
        match .available { Some(free) => format!("which has {free} free"), None => "which are not there".into() }
    )]
    NoSpace {
        /// The name.
        name: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are, where that can be told.
        available: Option<u64>,
    },
    /// The system does not let us.
    #[error("no permission for {object} of buffer '{name}'{detail}: {remedy}")]
    Permission {
        /// The name.
        name: String,
        /// What was opened.
        object: String,
        /// Its owner and mode, where they can be told.
        detail: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Nothing came within the time allowed.
    #[error("nothing came through buffer '{name}' within {waited:?}")]
    Timeout {
        /// The name.
        name: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The wait was ended by [`Interrupt::set`](super::Interrupt::set).
    #[error("interrupted")]
    Interrupted,
    /// The Reader or Writer has been closed.
    #[error("buffer '{name}' has been closed at this end")]
    Closed {
        /// The name.
        name: String,
    },
    /// A duplex client has no connection to a server.
    #[error("the client of duplex channel '{name}' has no server: call connect()")]
    NotConnected {
        /// The channel.
        name: String,
    },
    /// A duplex client has as many requests without an answer as it may have.
    #[error(
        "{count} requests on duplex channel '{name}' have no answer yet: receive answers before \
         sending more, or allow more in its configuration"
    )]
    TooManyRequests {
        /// The channel.
        name: String,
        /// How many.
        count: usize,
    },
    /// No answer to this request can come.
    #[error(
        "request {request} on duplex channel '{name}' waits for no answer: it was received already, \
         or that request was not sent to this server"
    )]
    UnknownRequest {
        /// The channel.
        name: String,
        /// The number of the request.
        request: u64,
    },
    /// A duplex server did not answer each request once. Nothing on the wire ties an answer to its
    /// request, so those that came since both were last known to be in step may be mixed up.
    #[error(
        "the server of duplex channel '{name}' did not answer each request once: {answers} answers \
         came to requests {first} to {last}, and which is whose cannot be told; drop them and go \
         on, or connect again if this comes again at once"
    )]
    OutOfStep {
        /// The channel.
        name: String,
        /// The first request in doubt.
        first: u64,
        /// The last.
        last: u64,
        /// How many answers came to them.
        answers: u64,
    },
    /// The handler of a duplex server failed.
    #[error(
        "the handler of duplex channel '{name}' failed at request {request}, which stays without an \
         answer: {source}"
    )]
    Handler {
        /// The channel.
        name: String,
        /// The number of the request.
        request: u64,
        /// What it failed with.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The operating system refused something else.
    #[error("buffer '{name}': {what} failed: {source}{}", advice(source))]
    Os {
        /// The name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Short for results with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether it only says that there is no reader to write to (yet).
    pub fn is_no_reader(&self) -> bool {
        matches!(
            self,
            Error::BufferNotFound { .. }
                | Error::ReaderClosed { .. }
                | Error::ReaderReplaced { .. }
                | Error::ReaderTaken { .. }
                | Error::ReaderDead { .. }
        )
    }

    /// Whether it says that the other end has gone, closing or dying.
    pub fn is_peer_gone(&self) -> bool {
        self.is_no_reader() || matches!(self, Error::WriterClosed { .. } | Error::WriterDead { .. })
    }
}

/// What to do about an error of the system, where that is not plain.
fn advice(err: &io::Error) -> &'static str {
    match err.raw_os_error() {
        Some(libc::EMFILE) => {
            "; this process has as many files open as it may: raise its limit (ulimit -n; \
             LimitNOFILE= with systemd), a buffer takes 4 at its reader and 1 at its writer"
        }
        Some(libc::ENOSPC) => {
            "; there are as many files as there may be (df -i /dev/shm; nr_inodes)"
        }
        Some(libc::ENFILE) => "; the system has as many files open as it may (fs.file-max)",
        Some(libc::ENOMEM) => {
            "; this process has as much memory, or as many mappings (vm.max_map_count), as it may"
        }
        _ => "",
    }
}

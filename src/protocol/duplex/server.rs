//! The server of a duplex channel: it answers the requests of one client after another.

use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use super::buffer_names;
use super::session::{Answer, Handler, HandlerError, Reply, Session};
use crate::protocol::error::{Error, Result};
use crate::protocol::reader::{BufferConfig, Frame, Reader};
use crate::protocol::wait::{Interrupt, SLICE, Wait};
use crate::protocol::writer::Writer;

/// How requests are handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Processing {
    /// One after another, by one thread.
    #[default]
    SingleThread,
    /// By so many threads at once. The answers are in the order of the requests all the same.
    ThreadPool(NonZeroUsize),
}

/// How a server is made. The default has the buffer of the requests as [`BufferConfig::default`],
/// one thread, and 5 seconds for a client to make its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuplexServerConfig {
    /// The buffer of the requests.
    pub request: BufferConfig,
    /// How requests are handled.
    pub processing: Processing,
    /// How long a client that sends requests may have no buffer for the answers. (Every client
    /// makes that before it comes.)
    pub response_timeout: Duration,
}

impl Default for DuplexServerConfig {
    fn default() -> Self {
        DuplexServerConfig {
            request: BufferConfig::default(),
            processing: Processing::default(),
            response_timeout: Duration::from_secs(5),
        }
    }
}

impl DuplexServerConfig {
    /// These sizes of the buffer of the requests, in bytes.
    pub fn new(metadata_size: u64, payload_size: u64) -> Self {
        DuplexServerConfig {
            request: BufferConfig::new(metadata_size, payload_size),
            ..Self::default()
        }
    }

    /// Other permissions, such as 0o666 for clients of any user.
    pub fn with_permissions(self, permissions: u32) -> Self {
        DuplexServerConfig {
            request: self.request.with_permissions(permissions),
            ..self
        }
    }

    /// Requests are handled by so many threads at once; 1 is the same as none.
    pub fn with_threads(self, threads: usize) -> Self {
        let processing = match NonZeroUsize::new(threads) {
            Some(threads) if threads.get() > 1 => Processing::ThreadPool(threads),
            _ => Processing::SingleThread,
        };
        DuplexServerConfig { processing, ..self }
    }
}

/// What a server has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DuplexServerStats {
    /// Clients that sent a request.
    pub clients: u64,
    /// Requests read.
    pub requests: u64,
    /// Answers written. While the server runs, a client may have one that is not counted yet.
    pub answers: u64,
    /// Answers that were not written in place but copied: in a pool, see [`Reply::reserve`].
    pub copied: u64,
    /// How often an answer had to wait for room.
    pub waits: u64,
}

type OnError = dyn Fn(&Error) + Send + Sync;
type OnMetadata = dyn FnMut(Option<&[u8]>) -> Option<Vec<u8>> + Send;

/// What is known before a [`DuplexServer`] starts.
#[must_use = "it does nothing before it is started"]
pub struct DuplexServerBuilder {
    name: String,
    config: DuplexServerConfig,
    on_error: Box<OnError>,
    on_metadata: Box<OnMetadata>,
}

/// Answers requests in threads of its own until it is stopped or dropped.
///
/// It makes the buffer of the requests and attaches to that of the answers, which its client makes.
/// When the client goes, closing or dying, it waits for the next one. It stops by itself only when
/// it cannot have its buffer any more.
///
/// A request whose handler fails or panics is told to [`DuplexServerBuilder::on_error`] and stays
/// without an answer. A client of ours notices that ([`DuplexClient`](super::DuplexClient)); those
/// of other implementations do not, and take the answers behind it for those of the requests before
/// them. So a handler does well to answer in any case.
#[derive(Debug)]
pub struct DuplexServer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    name: String,
    config: DuplexServerConfig,
    stop: Interrupt,
    running: AtomicBool,
    handler: Handler,
    on_error: Box<OnError>,
    session: Mutex<Option<Arc<Session>>>,
    /// Of the sessions before.
    past: Mutex<DuplexServerStats>,
    clients: AtomicU64,
    requests: AtomicU64,
    /// Our own.
    threads: Mutex<Vec<ThreadId>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DuplexServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DuplexServerBuilder")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl DuplexServerBuilder {
    /// Calls `tell` with whatever goes wrong, from a thread of the server: a handler that fails
    /// ([`Error::Handler`]), a client that dies or breaks the protocol, a buffer that cannot be
    /// made.
    pub fn on_error(self, tell: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        DuplexServerBuilder {
            on_error: Box::new(tell),
            ..self
        }
    }

    /// Calls `init` for each client with the metadata of its requests, when the first of these is
    /// there and before it is handled. What it returns is written as the metadata of the answers.
    pub fn on_metadata(
        self,
        init: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>> + Send + 'static,
    ) -> Self {
        DuplexServerBuilder {
            on_metadata: Box::new(init),
            ..self
        }
    }

    /// Starts with a handler that gets each request as it is in the ring, and room for its answer
    /// by the [`Reply`].
    ///
    /// # Errors
    /// As [`Reader::create`] for the buffer of the requests; [`Error::Os`] when there can be no
    /// thread.
    pub fn start<F>(self, handler: F) -> Result<DuplexServer>
    where
        F: Fn(&Frame, Reply<'_>) -> Result<Answer, HandlerError> + Send + Sync + 'static,
    {
        self.start_with(Handler::Immutable(Box::new(handler)))
    }

    /// Starts with a handler that changes the bytes of a request, which become the answer.
    ///
    /// They are copied once, from the ring of the requests into that of the answers, and changed
    /// there: in the ring of the requests they are the client's, who may still look at them.
    ///
    /// # Errors
    /// As [`DuplexServerBuilder::start`].
    pub fn start_mutable<F>(self, handler: F) -> Result<DuplexServer>
    where
        F: Fn(&mut Answer) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        self.start_with(Handler::Mutable(Box::new(handler)))
    }

    fn start_with(self, handler: Handler) -> Result<DuplexServer> {
        let [requests, _] = buffer_names(&self.name);
        let reader = Reader::create(&requests, &self.config.request)?;
        let shared = Arc::new(Shared {
            name: self.name,
            config: self.config,
            stop: Interrupt::new(),
            running: AtomicBool::new(true),
            handler,
            on_error: self.on_error,
            session: Mutex::default(),
            past: Mutex::default(),
            clients: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            threads: Mutex::default(),
        });
        let pool = Pool::start(&shared)?;
        let serving = Serving {
            shared: shared.clone(),
            on_metadata: self.on_metadata,
            pool,
            met: false,
            last: 0,
        };
        let thread = spawn(&shared, move || serving.run(reader))?;
        Ok(DuplexServer {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }
}

impl DuplexServer {
    /// A server of channel `name`, to be started.
    pub fn builder(name: &str, config: DuplexServerConfig) -> DuplexServerBuilder {
        DuplexServerBuilder {
            name: name.into(),
            config,
            on_error: Box::new(|_| ()),
            on_metadata: Box::new(|_| None),
        }
    }

    /// The name of the channel.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Whether it answers requests, or waits for some.
    pub fn is_running(&self) -> bool {
        // Acquire, with the Release in `Serving::run`: its buffers are gone.
        self.shared.running.load(Ordering::Acquire)
    }

    /// Whether there is a client that takes answers.
    pub fn is_client_connected(&self) -> bool {
        let session = lock(&self.shared.session).clone();
        session.is_some_and(|session| session.writer.is_reader_connected())
    }

    /// What it has done so far.
    pub fn stats(&self) -> DuplexServerStats {
        let session = lock(&self.shared.session);
        let mut stats = *lock(&self.shared.past);
        if let Some(session) = &*session {
            add(&mut stats, session);
        }
        stats.clients = self.shared.clients.load(Ordering::Relaxed);
        stats.requests = self.shared.requests.load(Ordering::Relaxed);
        stats
    }

    /// Waits until it has stopped. Does not wait if it is called by a handler.
    pub fn wait(&self) {
        if !lock(&self.shared.threads).contains(&thread::current().id())
            && let Some(thread) = lock(&self.thread).take()
        {
            // Handlers that panic are caught.
            let _ = thread.join();
        }
    }

    /// Stops: waits for the handlers that are at work, and removes the buffer of the requests.
    /// Requests that were not begun are lost; the client gets the answers that are written and then
    /// learns that the server has closed the channel. (Called by a handler, it does not wait.)
    pub fn stop(&self) {
        self.shared.stop.set();
        self.wait();
    }
}

impl Drop for DuplexServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(stats: &mut DuplexServerStats, session: &Session) {
    stats.answers += session.answers.load(Ordering::Relaxed);
    stats.copied += session.copied.load(Ordering::Relaxed);
    stats.waits += session.waits();
}

/// A thread of the server.
fn spawn(shared: &Arc<Shared>, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    // Noted before it can call a handler: it waits for the lock.
    let mut threads = lock(&shared.threads);
    let thread = thread::Builder::new()
        .name("zerobuffer-duplex".into())
        .spawn({
            let shared = shared.clone();
            move || {
                drop(lock(&shared.threads));
                work();
            }
        })
        .map_err(|source| Error::Os {
            name: shared.name.clone(),
            what: "starting a thread of the server",
            source,
        })?;
    threads.push(thread.thread().id());
    Ok(thread)
}

impl Shared {
    fn tell(&self, err: &Error) {
        // What ends a wait because of `stop`.
        if !matches!(err, Error::Interrupted) {
            // If that panics there is nobody left to tell.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.on_error)(err)));
        }
    }

    fn serve(&self, session: &Session, frame: Frame) {
        if let Err(err) = session.serve(&self.handler, frame) {
            self.tell(&err);
        }
    }
}

/// A request for whichever thread is free.
struct Job {
    session: Arc<Session>,
    frame: Frame,
}

/// The threads of [`Processing::ThreadPool`].
struct Pool {
    /// `None` for no thread. It holds no job, so a request is taken when a thread is free.
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    fn start(shared: &Arc<Shared>) -> Result<Self> {
        let mut pool = Pool {
            jobs: None,
            threads: Vec::new(),
        };
        if let Processing::ThreadPool(count) = shared.config.processing {
            let (sender, jobs) = sync_channel(0);
            pool.jobs = Some(sender);
            let jobs = Arc::new(Mutex::new(jobs));
            for _ in 0..count.get() {
                let (worker, jobs) = (shared.clone(), jobs.clone());
                let thread = spawn(shared, move || work(&worker, &jobs))?;
                pool.threads.push(thread);
            }
        }
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.jobs.take());
        for thread in self.threads.drain(..) {
            // Handlers that panic are caught.
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared, jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = lock(jobs).recv();
        let Ok(job) = job else { return };
        shared.serve(&job.session, job.frame);
    }
}

/// The thread that reads requests.
struct Serving {
    shared: Arc<Shared>,
    on_metadata: Box<OnMetadata>,
    pool: Pool,
    /// The client of this session has sent a request.
    met: bool,
    /// The number of the last request that was handed on in this session; 0: none.
    last: u64,
}

impl Serving {
    fn run(mut self, reader: Reader) {
        if let Err(err) = self.serve(reader) {
            self.shared.tell(&err);
        }
        drop(self.pool);
        // Release, with the Acquire in `is_running`.
        self.shared.running.store(false, Ordering::Release);
    }

    /// Serves until it is stopped; an error when it can no longer have its buffer.
    fn serve(&mut self, mut reader: Reader) -> Result<()> {
        let shared = self.shared.clone();
        while !shared.stop.is_set() {
            if !self.met {
                self.look_for_client();
            }
            match reader.read_frame(Wait::from(SLICE).interrupted_by(&shared.stop)) {
                Ok(frame) => self.take(&reader, frame),
                Err(Error::Timeout { .. } | Error::Interrupted) => {}
                Err(err) => {
                    self.leave();
                    match err {
                        Error::WriterClosed { .. } => {}
                        ref err => shared.tell(err),
                    }
                    reader = self.next_reader(reader, &err)?;
                }
            }
        }
        // The answers end first: who sees the end of the requests can be sure of that of the answers.
        self.leave();
        Ok(())
    }

    /// A buffer for the next client: metadata is written once, and what broke stays broken.
    fn next_reader(&self, reader: Reader, err: &Error) -> Result<Reader> {
        let ended = matches!(err, Error::WriterClosed { .. } | Error::WriterDead { .. });
        // The next client may be there already.
        if ended && !reader.close_if_unused() {
            return Ok(reader);
        }
        reader.close();
        let [requests, _] = buffer_names(&self.shared.name);
        Reader::create(&requests, &self.shared.config.request)
    }

    fn session(&self) -> Option<Arc<Session>> {
        lock(&self.shared.session).clone()
    }

    /// Before the first request: attaches to the answers of a client that is about to come.
    fn look_for_client(&mut self) {
        if let Some(session) = self.session() {
            if session.writer.is_reader_connected() {
                return;
            }
            self.leave();
        }
        let [_, responses] = buffer_names(&self.shared.name);
        // What is wrong with it is said when a request comes.
        if let Ok(writer) = Writer::attach(&responses) {
            self.begin(Arc::new(writer), None);
        }
    }

    fn begin(&self, writer: Arc<Writer>, connection: Option<u64>) {
        let shared = &self.shared;
        let session = Session::new(&shared.name, writer, connection, &shared.stop);
        *lock(&self.shared.session) = Some(Arc::new(session));
    }

    /// Ends a session when its requests are done with, and the answers with it.
    fn leave(&mut self) {
        if let Some(writer) = self.end() {
            writer.close();
        }
    }

    /// Ends a session when its requests are done with; returns where its answers went.
    fn end(&mut self) -> Option<Arc<Writer>> {
        self.met = false;
        let last = std::mem::take(&mut self.last);
        let session = self.session()?;
        session.wait_for_turn(last + 1, None);
        let mut now = lock(&self.shared.session);
        add(&mut lock(&self.shared.past), &session);
        *now = None;
        Some(session.writer.clone())
    }

    /// Hands a request on.
    fn take(&mut self, reader: &Reader, frame: Frame) {
        let shared = self.shared.clone();
        shared.requests.fetch_add(1, Ordering::Relaxed);
        if frame.sequence() == 1 {
            // Another client, or the same one again.
            if let Err(err) = self.meet(reader, frame.records().request()) {
                shared.tell(&err);
                self.leave();
            }
            self.met = true;
        }
        // What a client has left that takes no more answers stays without one.
        let Some(session) = self.session().filter(|session| !session.is_gone()) else {
            return;
        };
        self.last = frame.sequence();
        match &self.pool.jobs {
            None => shared.serve(&session, frame),
            // They take jobs as long as there is somebody to send some.
            Some(jobs) => drop(jobs.send(Job { session, frame })),
        }
    }

    /// Makes sure that there is a buffer for the answers, and hands the metadata on.
    fn meet(&mut self, reader: &Reader, connection: Option<u64>) -> Result<()> {
        let shared = self.shared.clone();
        shared.clients.fetch_add(1, Ordering::Relaxed);
        let writer = match self.end() {
            // The request before this one was left by a client that has gone, but its answer went to
            // this one's buffer: to close that now would be the end for a client that has just come.
            Some(writer) if writer.is_reader_connected() => writer,
            before => {
                if let Some(before) = before {
                    before.close();
                }
                let wait = Wait::from(shared.config.response_timeout).interrupted_by(&shared.stop);
                let [_, responses] = buffer_names(&shared.name);
                Arc::new(Writer::attach_wait(&responses, wait)?)
            }
        };
        self.begin(writer, connection);
        let metadata = reader.metadata()?;
        let init = AssertUnwindSafe(|| (self.on_metadata)(metadata.as_deref()));
        let ours = catch_unwind(init).map_err(|_| Error::Handler {
            name: shared.name.clone(),
            request: 1,
            source: "what looks at the metadata panicked".into(),
        })?;
        match (ours, self.session()) {
            (Some(ours), Some(session)) if session.writer.metadata().as_ref() != Some(&ours) => {
                session.writer.set_metadata(&ours)
            }
            _ => Ok(()),
        }
    }
}

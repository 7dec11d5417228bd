//! The client of a duplex channel: it sends requests and gets an answer to each.

mod config;
mod connection;
mod exchange;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use self::connection::{Connection, Taken};
use super::step::{Doubt, Owed, Step};
use super::{buffer_names, new_connection};
use crate::protocol::error::{Error, Result};
use crate::protocol::extension::records::Records;
use crate::protocol::layout::FRAME_HEADER_SIZE;
use crate::protocol::reader::{Frame, Reader};
use crate::protocol::wait::{Wait, Waiting};
use crate::protocol::writer::{DEFAULT_WRITE_TIMEOUT, Reservation, Writer};

pub use self::config::DuplexClientConfig;
pub use self::exchange::{Request, Response};

/// Sends requests through the channel and receives the answers, any number of them at once.
///
/// It makes the buffer of the answers, and attaches to that of the requests with
/// [`DuplexClient::connect`], also again when there is another server. Requests are numbered from 1
/// with each connection, and each answer says to which request it belongs. Threads may share a
/// client. Dropping it closes the channel at this end; answers that are held stay valid.
///
/// # Which answer belongs to which request
/// A server of ours names the request with each answer (in a record, see [`Records`](crate::Records)).
/// One without an answer is [`Error::OutOfStep`] all the same, which then names just those that will
/// get none; the answer behind it is received next.
///
/// With servers of other implementations nothing ties the two: the n-th answer is taken for that of
/// the n-th request. A server that skips a request, or answers one twice, would move all answers
/// behind it. So the client counts along:
///
/// * A request that the server has given back without an answer will not get one (unless
///   [`DuplexClientConfig::answers_after_release`] is set).
/// * An answer that comes when all requests have theirs is one too many.
///
/// In both cases it throws away what comes until the server has done with all requests, and says
/// [`Error::OutOfStep`], with the numbers of the requests whose answers cannot be trusted. From
/// there on both are in step again. With one request at a time no answer is given for that of
/// another because of a request without an answer; with several at once, and with an answer too
/// many, it may have happened to those that the error names.
///
/// If the server may answer after it has given the request back, only an answer too many is
/// noticed, and then nothing puts the two in step but [`DuplexClient::connect`].
#[derive(Debug)]
pub struct DuplexClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    buffers: [String; 2],
    config: DuplexClientConfig,
    /// Held by who connects.
    connecting: Mutex<()>,
    state: Mutex<State>,
    /// Told when `State::reading` ends.
    read: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The buffer of the answers, unless it could not be made again.
    reader: Option<Arc<Reader>>,
    /// Whether requests may have been answered in it.
    used: bool,
    connection: Option<Connection>,
    /// Some thread reads answers, for all.
    reading: bool,
    /// Threads that wait for that.
    waiting: usize,
    /// Answers that were read for other threads.
    aside: VecDeque<Response>,
    evacuation: bool,
    closed: bool,
}

impl DuplexClient {
    /// Makes the buffer of the answers of channel `name`, so that a server that comes finds it.
    ///
    /// # Errors
    /// As [`Reader::create`].
    pub fn create(name: &str, config: DuplexClientConfig) -> Result<Self> {
        if config.in_flight == 0 {
            return Err(Error::InvalidConfig {
                why: "at least one request must be allowed to wait for its answer".into(),
            });
        }
        let buffers = buffer_names(name);
        let reader = Reader::create(&buffers[1], &config.response)?;
        Ok(DuplexClient {
            shared: Arc::new(Shared {
                name: name.into(),
                buffers,
                config,
                connecting: Mutex::default(),
                state: Mutex::new(State {
                    reader: Some(Arc::new(reader)),
                    ..State::default()
                }),
                read: Condvar::new(),
            }),
        })
    }

    /// The name of the channel.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Attaches to the server, and waits for one if there is none (yet). Does nothing while it is
    /// connected to one that is there and in step. When it left another server before, answers of
    /// that one are thrown away, and requests are numbered from 1 again. A server of another
    /// implementation that has had requests of another connection is waited for until it has a new
    /// buffer.
    ///
    /// # Errors
    /// As [`Writer::attach_wait`] for the buffer of the requests and [`Reader::create`] for that of
    /// the answers, which is made anew where answers of the server before could still come.
    pub fn connect<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<()> {
        self.shared.connect(None, wait.into())
    }

    /// As [`DuplexClient::connect`], and writes `metadata` before the first request. A server that
    /// has the metadata of another client is waited for until it has a new buffer.
    ///
    /// # Errors
    /// As [`DuplexClient::connect`] and [`Writer::set_metadata`].
    pub fn connect_with<'a>(&self, metadata: &[u8], wait: impl Into<Wait<'a>>) -> Result<()> {
        self.shared.connect(Some(metadata), wait.into())
    }

    /// Whether there is a server that reads requests and can answer.
    pub fn is_server_connected(&self) -> bool {
        let connected = |(writer, reader): (Arc<Writer>, Arc<Reader>)| {
            writer.is_reader_connected() && reader.is_writer_connected()
        };
        self.shared.ends().is_ok_and(connected)
    }

    /// What the server has written about its answers; `None` as long as it has not.
    ///
    /// # Errors
    /// [`Error::NotConnected`]; as [`Reader::metadata`].
    pub fn metadata(&self) -> Result<Option<Vec<u8>>> {
        self.shared.ends()?.1.metadata()
    }

    /// How many requests have no answer yet.
    pub fn pending(&self) -> usize {
        let state = self.shared.state();
        let step = state.connection.as_ref().map(|now| &now.step);
        step.map_or(0, Step::pending)
    }

    /// Whether answers that are held leave the ring when the server needs their room
    /// ([`Reader::set_evacuation`]).
    pub fn set_evacuation(&self, evacuate: bool) {
        let mut state = self.shared.state();
        state.evacuation = evacuate;
        if let Some(reader) = &state.reader {
            reader.set_evacuation(evacuate);
        }
    }

    /// Sends a request, copying it in, and returns its number. Waits for room at most
    /// [`DEFAULT_WRITE_TIMEOUT`].
    ///
    /// # Errors
    /// As [`DuplexClient::reserve`] and [`Request::commit`].
    pub fn send(&self, request: &[u8]) -> Result<u64> {
        self.send_wait(request, DEFAULT_WRITE_TIMEOUT)
    }

    /// Sends a request, copying it in, and returns its number.
    ///
    /// # Errors
    /// As [`DuplexClient::reserve`] and [`Request::commit`].
    pub fn send_wait<'a>(&self, request: &[u8], wait: impl Into<Wait<'a>>) -> Result<u64> {
        let mut place = self.reserve(request.len() as u64, wait)?;
        place.copy_from_slice(request);
        place.commit()
    }

    /// Lends room for a request of exactly `len` bytes, to be filled in place.
    ///
    /// # Errors
    /// As [`Writer::reserve`]; [`Error::NotConnected`], also when [`DuplexClient::receive`] has
    /// said that the server is gone; [`Error::TooManyRequests`] until an answer is received;
    /// [`Error::OutOfStep`] until [`DuplexClient::receive`] has said so.
    pub fn reserve<'a>(&self, len: u64, wait: impl Into<Wait<'a>>) -> Result<Request> {
        let (writer, first) = self.shared.ready()?;
        let reservation = match first {
            Some(records) => writer.reserve_with(len, &records, wait)?,
            None => writer.reserve(len, wait)?,
        };
        Ok(self.request(reservation))
    }

    /// Lends room for a request ahead of time, as [`Writer::reserve_ahead`] does.
    pub fn reserve_ahead(&self, len: u64) -> Option<Request> {
        let (writer, first) = self.shared.ready().ok()?;
        let mut reservation = writer.reserve_ahead(len)?;
        if let Some(records) = first {
            // Without room for it the server answers with no connection.
            let _ = reservation.set_records(&records);
        }
        Some(self.request(reservation))
    }

    fn request(&self, reservation: Reservation) -> Request {
        Request {
            reservation,
            shared: self.shared.clone(),
        }
    }

    /// The next answer, whichever request it belongs to; in the order of the requests. It lends its
    /// room in the ring until it is dropped.
    ///
    /// # Errors
    /// [`Error::Timeout`] (the answer may still come, and is received then), [`Error::Interrupted`];
    /// [`Error::OutOfStep`]; [`Error::WriterClosed`], [`Error::WriterDead`], [`Error::ReaderClosed`],
    /// [`Error::ReaderDead`] once all answers of a server that went away are received: connect
    /// again; [`Error::Corrupt`], [`Error::Sequence`] when it breaks the protocol: the same;
    /// [`Error::NotConnected`]; [`Error::Closed`].
    pub fn receive<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<Response> {
        self.shared.receive(None, &wait.into().start())
    }

    /// The answer to this request; those to others are put aside for whoever asks for them, and lend
    /// their room meanwhile. Who wants all answers asks with [`DuplexClient::receive`].
    ///
    /// # Errors
    /// As [`DuplexClient::receive`]; [`Error::UnknownRequest`] when no answer to it can come.
    pub fn receive_for<'a>(&self, request: u64, wait: impl Into<Wait<'a>>) -> Result<Response> {
        self.shared.receive(Some(request), &wait.into().start())
    }

    /// Closes the channel at this end, and removes the buffer of the answers.
    pub fn close(&self) {
        let mut state = self.shared.state();
        state.closed = true;
        state.aside.clear();
        if let Some(connection) = state.connection.take() {
            connection.writer.close();
        }
        if let Some(reader) = state.reader.take() {
            reader.close();
        }
    }
}

impl Drop for DuplexClient {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> Error {
        Error::Closed {
            name: self.name.clone(),
        }
    }

    fn out_of_step(&self, doubt: Doubt) -> Error {
        Error::OutOfStep {
            name: self.name.clone(),
            first: doubt.first,
            last: doubt.last,
            answers: doubt.answers,
        }
    }

    fn not_connected(&self) -> Error {
        Error::NotConnected {
            name: self.name.clone(),
        }
    }

    fn connection<'a>(&self, state: &'a mut State) -> Result<&'a mut Connection> {
        if state.closed {
            return Err(self.closed());
        }
        let connection = state.connection.as_mut();
        connection.ok_or_else(|| self.not_connected())
    }

    /// The connection, if a request may be sent now.
    fn sending<'a>(&self, state: &'a mut State) -> Result<&'a mut Connection> {
        let connection = self.connection(state)?;
        if connection.ended {
            return Err(self.not_connected());
        }
        if connection.lost || connection.over.is_some() {
            return Err(self.out_of_step(connection.step.doubt()));
        }
        Ok(connection)
    }

    fn ends(&self) -> Result<(Arc<Writer>, Arc<Reader>)> {
        let mut state = self.state();
        let connection = self.connection(&mut state)?;
        Ok((connection.writer.clone(), connection.reader.clone()))
    }

    /// The writer, if a request may be sent now, and what goes along with the first.
    fn ready(&self) -> Result<(Arc<Writer>, Option<Records>)> {
        let mut state = self.state();
        let connection = self.sending(&mut state)?;
        let count = connection.step.pending();
        if count >= self.config.in_flight {
            return Err(Error::TooManyRequests {
                name: self.name.clone(),
                count,
            });
        }
        let first = connection.step.is_unused().then(|| {
            let mut records = Records::new();
            records.push_request(connection.number);
            records
        });
        Ok((connection.writer.clone(), first))
    }

    fn connect(&self, metadata: Option<&[u8]>, wait: Wait) -> Result<()> {
        let _one = self
            .connecting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut server_left = false;
        {
            let mut state = self.state();
            if state.closed {
                return Err(self.closed());
            }
            if let Some(connection) = &state.connection {
                server_left = !connection.writer.is_reader_connected();
                if connection.over.is_none() && !connection.ended && !server_left {
                    return Ok(());
                }
                connection.writer.close();
            }
            state.connection = None;
            state.aside.clear();
            // Who still reads for that connection ends within a slice of time.
            state.waiting += 1;
            while state.reading {
                state = self
                    .read
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            state.waiting -= 1;
        }
        let reader = self.unused_reader(server_left)?;
        // One who left other metadata there will have its buffer replaced by the server.
        let suits = |writer: &Writer| {
            writer.check_first()?;
            match metadata {
                _ if !writer.is_metadata_written() => Ok(true),
                None => Ok(false),
                Some(wanted) => Ok(writer.metadata().as_deref() == Some(wanted)),
            }
        };
        let writer = Writer::attach_wait_if(&self.buffers[0], wait, suits)?;
        if let Some(metadata) = metadata
            && !writer.is_metadata_written()
        {
            writer.set_metadata(metadata)?;
        }
        let mut state = self.state();
        if state.closed {
            return Err(self.closed());
        }
        state.used = true;
        state.connection = Some(Connection {
            writer: Arc::new(writer),
            reader,
            step: Step::default(),
            lost: false,
            over: None,
            ended: false,
            told: None,
            named: false,
            number: new_connection(),
        });
        Ok(())
    }

    /// A buffer of answers in which there is none, and will be none of a server before.
    fn unused_reader(&self, server_left: bool) -> Result<Arc<Reader>> {
        let (reader, used, evacuation) = {
            let mut state = self.state();
            (state.reader.take(), state.used, state.evacuation)
        };
        if let Some(reader) = reader {
            if !used || (server_left && reader.forget_writer()) {
                return self.put_reader(reader);
            }
            reader.close();
        }
        let reader = Reader::create(&self.buffers[1], &self.config.response)?;
        reader.set_evacuation(evacuation);
        self.put_reader(Arc::new(reader))
    }

    fn put_reader(&self, reader: Arc<Reader>) -> Result<Arc<Reader>> {
        let mut state = self.state();
        if state.closed {
            return Err(self.closed());
        }
        state.used = false;
        state.reader = Some(reader.clone());
        Ok(reader)
    }

    /// Publishes a request, and notes what has to come back.
    fn publish(&self, reservation: &mut Reservation) -> Result<u64> {
        let mut state = self.state();
        // Nobody else reads, so nobody is in the way of a look for surplus answers.
        let alone = !state.reading;
        let connection = self.sending(&mut state)?;
        if !reservation.is_pending_for(&connection.writer) {
            return Err(self.closed());
        }
        if connection.step.pending() == 0 {
            connection.look_for_surplus(alone, &self.config)?;
        }
        let connection = self.sending(&mut state)?;
        let len = reservation.len() as u64;
        // With the lock held: nobody looks at the ring and the step in between.
        reservation.publish()?;
        Ok(connection.step.send(len + FRAME_HEADER_SIZE))
    }

    fn receive(&self, request: Option<u64>, waiting: &Waiting) -> Result<Response> {
        let mut ends: Option<(Arc<Writer>, Arc<Reader>)> = None;
        loop {
            if waiting.is_interrupted() {
                return Err(Error::Interrupted);
            }
            let mut guard = self.state();
            let state = &mut *guard;
            let wanted = |response: &Response| request.is_none_or(|n| n == response.request);
            if let Some(at) = state.aside.iter().position(wanted)
                && let Some(response) = state.aside.remove(at)
            {
                return Ok(response);
            }
            let reading = state.reading;
            let connection = self.connection(state)?;
            let (writer, reader) = ends.get_or_insert_with(|| {
                let Connection { writer, reader, .. } = &*connection;
                (writer.clone(), reader.clone())
            });
            if !Arc::ptr_eq(writer, &connection.writer) {
                // That one has been left.
                return Err(self.not_connected());
            }
            if let Some(doubt) = connection.over {
                return Err(self.out_of_step(doubt));
            }
            if let Some(request) = request
                && !connection.step.is_pending(request)
            {
                return Err(match connection.told {
                    Some(doubt) if doubt.concerns(request) => self.out_of_step(doubt),
                    _ => Error::UnknownRequest {
                        name: self.name.clone(),
                        request,
                    },
                });
            }
            if reading {
                let slice = waiting.slice().ok_or_else(|| self.timeout(waiting))?;
                state.waiting += 1;
                let waited = self.read.wait_timeout(guard, slice);
                waited.unwrap_or_else(PoisonError::into_inner).0.waiting -= 1;
                continue;
            }
            state.reading = true;
            drop(guard);
            let found = self.read(writer, reader, waiting);
            let mut guard = self.state();
            let state = &mut *guard;
            state.reading = false;
            // Telling is a system call, also when nobody listens.
            if state.waiting > 0 {
                self.read.notify_all();
            }
            let now = state.connection.as_mut();
            let mut now = now.filter(|now| Arc::ptr_eq(writer, &now.writer));
            if let (Err(err), Some(connection)) = (&found, &mut now)
                && (err.is_peer_gone()
                    || matches!(err, Error::Corrupt { .. } | Error::Sequence { .. }))
            {
                connection.ended = true;
                // A server of another implementation cannot have the name of a buffer that seems to
                // have a writer.
                connection.writer.close();
            }
            let (Some(frame), Some(connection)) = (found?, now) else {
                continue;
            };
            let (without, answered) = match connection.take(&frame, &self.config) {
                Taken::Answer(answered) => (None, answered),
                Taken::AnswerBehind(without, answered) => (Some(without), answered),
                Taken::Nobodys => continue,
            };
            let response = Response {
                frame,
                request: answered,
            };
            match (request, without) {
                (None, None) => return Ok(response),
                (Some(wanted), _) if wanted == answered => return Ok(response),
                // It is received next.
                (None, Some(without)) => {
                    state.aside.push_back(response);
                    return Err(self.out_of_step(without));
                }
                _ => state.aside.push_back(response),
            }
        }
    }

    fn timeout(&self, waiting: &Waiting) -> Error {
        Error::Timeout {
            name: self.buffers[1].clone(),
            waited: waiting.waited(),
        }
    }

    /// Waits for the next answer for a slice of time. Only one thread is here at a time, and while
    /// it is, nobody connects.
    fn read(&self, writer: &Writer, reader: &Reader, waiting: &Waiting) -> Result<Option<Frame>> {
        let nothing = |err: &Error| matches!(err, Error::Timeout { .. });
        let (owing, lost) = {
            // With the lock held: nobody sends between the look at the ring and that at the step.
            let mut state = self.state();
            let connection = self.connection(&mut state)?;
            let used = connection.used();
            // Neither unread nor held.
            let unread = reader.used_bytes() > 0;
            let owed = connection.step.look(used, unread);
            let holds = !self.config.answers_after_release;
            (holds && owed == Owed::Suspect, connection.lost)
        };
        if owing || lost {
            match reader.read_frame(Wait::no()) {
                Err(err) if nothing(&err) => {
                    if let Some(frame) = self.lose()? {
                        return Ok(Some(frame));
                    }
                }
                found => return found.map(Some),
            }
        }
        let slice = waiting.slice();
        match reader.read_frame(slice.unwrap_or_default()) {
            Err(err) if nothing(&err) => {}
            found => return found.map(Some),
        }
        if let Err(gone) = writer.look_at_reader() {
            // What it answered before.
            return match reader.read_frame(Wait::no()) {
                Ok(frame) => Ok(Some(frame)),
                Err(_) => Err(gone),
            };
        }
        match slice {
            Some(_) => Ok(None),
            None => Err(self.timeout(waiting)),
        }
    }

    /// The server owes an answer that will not come, or gave one too many. From here on what comes
    /// is nobody's and nothing is sent, until it has done with all requests; then this is said.
    fn lose(&self) -> Result<Option<Frame>> {
        let mut state = self.state();
        let connection = self.connection(&mut state)?;
        // Answers that name their requests are not lost with others.
        connection.lost = !connection.named;
        if connection.used() > 0 {
            return Ok(None);
        }
        // What was answered before the last one was given back.
        match connection.reader.read_frame(Wait::no()) {
            Ok(frame) => return Ok(Some(frame)),
            Err(Error::Timeout { .. }) => {}
            Err(err) => return Err(err),
        }
        let doubt = connection.step.doubt();
        connection.step.start_over();
        connection.lost = false;
        connection.told = Some(doubt);
        let aside = &mut state.aside;
        aside.retain(|response| !doubt.concerns(response.request));
        Err(self.out_of_step(doubt))
    }
}

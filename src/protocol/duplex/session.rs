//! What a server does for one client: handlers, their answers, and the order of these.

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::protocol::error::{Error, Result};
use crate::protocol::extension::records::Records;
use crate::protocol::reader::Frame;
use crate::protocol::ring;
use crate::protocol::wait::{Interrupt, SLICE, Wait};
use crate::protocol::writer::{Reservation, Writer};

/// Whatever a handler fails with.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

type Immutable = dyn Fn(&Frame, Reply<'_>) -> Result<Answer, HandlerError> + Send + Sync;
type Mutable = dyn Fn(&mut Answer) -> Result<(), HandlerError> + Send + Sync;

/// What makes answers of requests.
pub enum Handler {
    Immutable(Box<Immutable>),
    Mutable(Box<Mutable>),
}

/// One client: where its answers go, and whose turn it is.
#[derive(Debug)]
pub struct Session {
    pub channel: String,
    pub writer: Arc<Writer>,
    /// What its client calls the connection, if it does.
    connection: Option<u64>,
    /// How often answers of another session had waited there for room.
    waited: u64,
    pub stop: Interrupt,
    /// It takes no more answers.
    gone: AtomicBool,
    /// The records of the answer that is due, with the memory of those before.
    due: Mutex<Records>,
    turn: Mutex<Turn>,
    /// Told when that changes.
    turned: Condvar,
    /// Answers written, and those of them that were copied from memory of our own.
    pub answers: AtomicU64,
    pub copied: AtomicU64,
}

#[derive(Debug)]
struct Turn {
    /// The number of the request whose answer is due.
    next: u64,
    /// Its answer has no room. Answers behind it may have what it needs, so they leave the ring.
    crowded: bool,
    /// Threads that wait for a change of this.
    waiting: usize,
}

impl Session {
    pub fn new(
        channel: &str,
        writer: Arc<Writer>,
        connection: Option<u64>,
        stop: &Interrupt,
    ) -> Self {
        Session {
            channel: channel.into(),
            waited: writer.waits(),
            writer,
            connection,
            stop: stop.clone(),
            gone: AtomicBool::new(false),
            due: Mutex::default(),
            turn: Mutex::new(Turn {
                next: 1,
                crowded: false,
                waiting: 0,
            }),
            turned: Condvar::new(),
            answers: AtomicU64::new(0),
            copied: AtomicU64::new(0),
        }
    }

    /// How often an answer had to wait for room.
    pub fn waits(&self) -> u64 {
        self.writer.waits() - self.waited
    }

    pub fn is_gone(&self) -> bool {
        // Relaxed: a hint, that saves work.
        self.gone.load(Ordering::Relaxed)
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all requests before this one are done with, whose `answer` may be there. Each of
    /// them is some time, however its handler ends.
    pub fn wait_for_turn(&self, request: u64, mut answer: Option<&mut Answer>) {
        let mut turn = self.turn();
        while turn.next < request {
            if turn.crowded
                && let Some(answer) = answer.take()
            {
                drop(turn);
                answer.leave_ring();
                turn = self.turn();
                continue;
            }
            turn.waiting += 1;
            turn = (self.turned.wait(turn)).unwrap_or_else(PoisonError::into_inner);
            turn.waiting -= 1;
        }
    }

    fn change_turn(&self, change: impl FnOnce(&mut Turn)) {
        let mut turn = self.turn();
        change(&mut turn);
        // Telling is a system call, also when nobody listens.
        if turn.waiting > 0 {
            self.turned.notify_all();
        }
    }

    fn wait(&self) -> Wait<'_> {
        Wait::forever().interrupted_by(&self.stop)
    }

    /// To which request an answer belongs.
    fn name(&self, request: u64, records: &mut Records) {
        match self.connection {
            Some(connection) => records.push_answer_for(request, connection),
            None => records.push_answer(request),
        }
    }

    /// Room in the ring for the answer that is due, which says to what.
    fn room(&self, len: u64, request: u64) -> Result<Reservation> {
        // Only who is due is here.
        let mut records = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        records.clear();
        self.name(request, &mut records);
        let short = Wait::from(SLICE).interrupted_by(&self.stop);
        match self.writer.reserve_with(len, &records, short) {
            Err(Error::BufferFull { .. }) => {}
            other => return other,
        }
        let crowd = |crowded| self.change_turn(|turn| turn.crowded = crowded);
        crowd(true);
        let place = self.writer.reserve_with(len, &records, self.wait());
        crowd(false);
        place
    }

    /// Handles one request and answers it when its turn comes. Gives the request back in any case,
    /// after the answer: a client may go by that.
    pub fn serve(&self, handler: &Handler, frame: Frame) -> Result<()> {
        let request = frame.sequence();
        let answer = catch_unwind(AssertUnwindSafe(|| self.handle(handler, &frame)));
        let mut answer = answer.unwrap_or_else(|panic| {
            let text = (panic.downcast_ref::<&str>().copied())
                .or(panic.downcast_ref::<String>().map(String::as_str));
            Err(format!("it panicked: {}", text.unwrap_or("(no text)")).into())
        });
        self.wait_for_turn(request, answer.as_mut().ok());
        let answered = match answer {
            Ok(answer) if answer.request != request => {
                Err(self.failed(request, "it returned the answer to another request".into()))
            }
            Ok(answer) => self.publish(answer),
            Err(err) => Err(self.failed(request, err)),
        };
        drop(frame);
        self.change_turn(|turn| turn.next += 1);
        if answered.as_ref().is_err_and(|err| self.is_end(err)) {
            self.gone.store(true, Ordering::Relaxed);
        }
        answered
    }

    fn failed(&self, request: u64, err: HandlerError) -> Error {
        let source = match err.downcast::<Error>() {
            // There is no room for an answer any more: not the handler's fault.
            Ok(err) if self.is_end(&err) => return *err,
            Ok(err) => err,
            Err(err) => err,
        };
        Error::Handler {
            name: self.channel.clone(),
            request,
            source,
        }
    }

    /// Whether no answer can be written from now on.
    fn is_end(&self, err: &Error) -> bool {
        err.is_no_reader() || matches!(err, Error::Interrupted | Error::Closed { .. })
    }

    fn handle(&self, handler: &Handler, frame: &Frame) -> Result<Answer, HandlerError> {
        let reply = Reply {
            session: self,
            request: frame.sequence(),
        };
        match handler {
            Handler::Immutable(handler) => handler(frame, reply),
            Handler::Mutable(handler) => {
                let mut answer = reply.reserve(frame.len() as u64)?;
                // The one copy: the request's bytes are the client's, who may still look at them.
                answer.copy_from_slice(frame);
                handler(&mut answer)?;
                Ok(answer)
            }
        }
    }

    fn publish(&self, answer: Answer) -> Result<()> {
        let request = answer.request;
        let copy = |bytes: &[u8]| {
            self.copied.fetch_add(1, Ordering::Relaxed);
            let mut place = self.room(bytes.len() as u64, request)?;
            place.copy_from_slice(bytes);
            place.commit()
        };
        match answer.place {
            Place::Ring(mut place) => match place.publish() {
                // An answer before this one took a place behind it.
                Err(Error::OutOfOrder) => copy(&place),
                published => published,
            },
            Place::Own(bytes) => copy(&bytes),
        }?;
        self.answers.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// What a handler answers with: exactly one answer comes of it.
#[derive(Debug)]
pub struct Reply<'a> {
    session: &'a Session,
    request: u64,
}

impl Reply<'_> {
    /// The number of the request.
    pub fn request(&self) -> u64 {
        self.request
    }

    /// Room for an answer of exactly `len` bytes, to be filled and returned; its content is
    /// whatever was there. It is in the ring, and waits for room there as long as the client lives;
    /// only in a pool, where an answer before this one may still be due, can it be memory of our
    /// own, which is copied when its turn comes.
    ///
    /// # Errors
    /// As [`Writer::reserve`]; to be passed on.
    pub fn reserve(self, len: u64) -> Result<Answer> {
        let Reply { session, request } = self;
        let writer = &session.writer;
        let (due, crowded) = {
            let turn = session.turn();
            (turn.next == request, turn.crowded)
        };
        let place = match due {
            true => Some(session.room(len, request)?),
            false if crowded => None,
            false => writer.reserve_ahead(len).and_then(|mut place| {
                let mut records = Records::new();
                session.name(request, &mut records);
                place.set_records(&records).ok().map(|()| place)
            }),
        };
        if let Some(place) = place {
            let place = Place::Ring(place);
            return Ok(Answer { request, place });
        }
        if len == 0 {
            return Err(Error::InvalidFrameSize);
        }
        // More than the ring will never be needed.
        let own = usize::try_from(len).ok();
        let own = own.filter(|_| len <= writer.payload_size());
        let own = own.ok_or_else(|| Error::FrameTooLarge {
            name: writer.name().into(),
            size: len,
            payload_size: writer.payload_size(),
            good_size: ring::good_size(len),
        })?;
        let place = Place::Own(vec![0; own]);
        Ok(Answer { request, place })
    }

    /// An answer with these bytes, copied in.
    ///
    /// # Errors
    /// As [`Reply::reserve`].
    pub fn copy(self, bytes: &[u8]) -> Result<Answer> {
        let mut answer = self.reserve(bytes.len() as u64)?;
        answer.copy_from_slice(bytes);
        Ok(answer)
    }
}

/// The answer to one request, written when its turn comes. Dropping it leaves no trace.
#[derive(Debug)]
#[must_use = "an answer that is not returned is not sent"]
pub struct Answer {
    request: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Ring(Reservation),
    Own(Vec<u8>),
}

impl Answer {
    /// Copies it to memory of our own.
    fn leave_ring(&mut self) {
        if let Place::Ring(place) = &self.place {
            self.place = Place::Own(place.to_vec());
        }
    }

    /// The number of the request.
    pub fn request(&self) -> u64 {
        self.request
    }
}

impl Deref for Answer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.place {
            Place::Ring(place) => place,
            Place::Own(bytes) => bytes,
        }
    }
}

impl DerefMut for Answer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.place {
            Place::Ring(place) => place,
            Place::Own(bytes) => bytes,
        }
    }
}

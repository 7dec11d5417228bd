//! Every order in which the two ends can hand something over, tried by a model checker. The steps
//! are those of the library (`protocol::handoff`), with loom's words, semaphore and ring in place
//! of shared memory; both ends are threads.
//!
//! Loom and not ThreadSanitizer: see `docs/architecture.md`, "Why loom". What loom cannot tell is
//! SeqCst, which it takes for AcqRel: `Reader::close_if_unused` is left to the tests with threads.

use std::convert::Infallible;

use gstzerobuffer::protocol::handoff::{self, Posts, Word, Written};
use gstzerobuffer::protocol::ring::{Credits, Placement, Ticket};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// A word of the OIEB.
struct Shared(AtomicU64);

impl Shared {
    fn new(value: u64) -> Self {
        Shared(AtomicU64::new(value))
    }
}

impl Word for Shared {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_add(value, order)
    }

    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_sub(value, order)
    }

    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool {
        self.0
            .compare_exchange(current, new, order, Ordering::Relaxed)
            .is_ok()
    }
}

/// A semaphore as glibc has it: an empty one is told by a look without any order.
struct Semaphore(AtomicU32);

impl Posts for Semaphore {
    type Error = Infallible;

    fn post(&self) -> Result<(), Infallible> {
        self.0.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn try_wait(&self) -> Result<bool, Infallible> {
        loop {
            let count = self.0.load(Ordering::Relaxed);
            if count == 0 {
                return Ok(false);
            }
            let taken = self.0.compare_exchange_weak(
                count,
                count - 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if taken.is_ok() {
                return Ok(true);
            }
        }
    }
}

/// A semaphore of which nothing gets through, because its poster dies before it posts.
struct Unposted;

impl Posts for Unposted {
    type Error = Infallible;

    fn post(&self) -> Result<(), Infallible> {
        Ok(())
    }

    fn try_wait(&self) -> Result<bool, Infallible> {
        Ok(false)
    }
}

/// A buffer whose ring has room for `N` frames, each as large as one unit of the free bytes. Loom
/// fails if a frame is touched by both ends at once, or by one without having seen what the other
/// did to it.
struct Buffer<const N: usize> {
    ring: [UnsafeCell<u64>; N],
    free: Shared,
    write_pos: Shared,
    count: Shared,
    writer_pid: Shared,
    metadata_written: Shared,
    sem_write: Semaphore,
    sem_read: Semaphore,
}

impl<const N: usize> Buffer<N> {
    fn new() -> Arc<Self> {
        Arc::new(Buffer {
            ring: std::array::from_fn(|_| UnsafeCell::new(0)),
            free: Shared::new(N as u64),
            write_pos: Shared::new(0),
            count: Shared::new(0),
            writer_pid: Shared::new(1),
            metadata_written: Shared::new(0),
            sem_write: Semaphore(AtomicU32::new(0)),
            sem_read: Semaphore(AtomicU32::new(0)),
        })
    }

    fn store(&self, frame: u64) {
        let at = (frame - 1) as usize % N;
        // SAFETY: loom checks that nobody else has it.
        self.ring[at].with_mut(|bytes| unsafe { *bytes = frame });
    }

    fn load(&self, frame: u64) -> u64 {
        let at = (frame - 1) as usize % N;
        // SAFETY: loom checks that nobody is changing it.
        self.ring[at].with(|bytes| unsafe { *bytes })
    }

    fn publish(&self, frame: u64, posts: &impl Posts<Error = Infallible>) {
        let at = (frame - 1) % N as u64;
        let placement = Placement {
            at,
            waste: 0,
            marker: None,
            total: 1,
        };
        let written = Written {
            free: &self.free,
            write_pos: &self.write_pos,
            count: &self.count,
        };
        let Ok(()) = handoff::publish(&written, posts, &placement);
    }

    fn room(&self) -> u64 {
        let Ok(free) = handoff::look_for_room(&self.free, &self.sem_read);
        free
    }

    fn write(&self, frame: u64) {
        while self.room() == 0 {
            thread::yield_now();
        }
        self.store(frame);
        self.publish(frame, &self.sem_write);
    }

    fn try_take(&self) -> bool {
        let Ok(taken) = self.sem_write.try_wait();
        taken
    }

    fn take(&self) {
        while !self.try_take() {
            thread::yield_now();
        }
    }

    fn release(&self, credits: &Mutex<Credits>, ticket: Ticket) {
        let mut held = credits.lock().unwrap();
        let credit = held.take_back(ticket);
        if credit.frames > 0 {
            handoff::give_back(held, credit, &self.free, &self.sem_read);
        }
    }
}

#[test]
fn a_frame_is_whole_when_it_is_read_and_read_when_it_is_overwritten() {
    loom::model(|| {
        let buffer = Buffer::<1>::new();
        let writing = {
            let buffer = buffer.clone();
            thread::spawn(move || (1..=2).for_each(|frame| buffer.write(frame)))
        };
        let credits = Mutex::new(Credits::default());
        for frame in 1..=2 {
            buffer.take();
            let ticket = credits.lock().unwrap().hand_out(1);
            assert_eq!(buffer.load(frame), frame);
            buffer.release(&credits, ticket);
        }
        writing.join().unwrap();
        assert_eq!(handoff::look(&buffer.free), 1);
    });
}

#[test]
fn a_writer_that_found_no_room_is_woken_by_a_post_that_comes_with_room() {
    loom::model(|| {
        let buffer = Buffer::<1>::new();
        buffer.write(1);
        buffer.take();
        let credits = Mutex::new(Credits::default());
        let ticket = credits.lock().unwrap().hand_out(1);
        let releasing = {
            let buffer = buffer.clone();
            thread::spawn(move || buffer.release(&credits, ticket))
        };
        // As in `Writer::reserve`, but with waits without end: a post that is lost is found out.
        while buffer.room() == 0 {
            while !buffer.sem_read.try_wait().unwrap() {
                thread::yield_now();
            }
        }
        buffer.store(2);
        releasing.join().unwrap();
    });
}

#[test]
fn no_change_of_the_free_bytes_is_lost() {
    loom::model(|| {
        let buffer = Buffer::<2>::new();
        let writing = {
            let buffer = buffer.clone();
            thread::spawn(move || (1..=2).for_each(|frame| buffer.write(frame)))
        };
        let credits = Mutex::new(Credits::default());
        buffer.take();
        let ticket = credits.lock().unwrap().hand_out(1);
        assert_eq!(buffer.load(1), 1);
        buffer.release(&credits, ticket);
        writing.join().unwrap();
        assert_eq!(handoff::look(&buffer.free), 1);
    });
}

#[test]
fn frames_released_by_two_threads_in_any_order_are_overwritten_after_both_have_read() {
    // All orders of three threads take half a minute; those with three forced switches a moment.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let buffer = Buffer::<2>::new();
        for frame in 1..=2 {
            buffer.write(frame);
            buffer.take();
        }
        let credits = Arc::new(Mutex::new(Credits::default()));
        let releasing: Vec<_> = (1..=2)
            .map(|frame| {
                let (buffer, credits) = (buffer.clone(), credits.clone());
                let ticket = credits.lock().unwrap().hand_out(1);
                thread::spawn(move || {
                    assert_eq!(buffer.load(frame), frame);
                    buffer.release(&credits, ticket);
                })
            })
            .collect();
        // The writer takes whatever room it sees, whoever gave it back.
        for frame in 0..buffer.room() {
            buffer.store(3 + frame);
        }
        for thread in releasing {
            thread.join().unwrap();
        }
        assert_eq!(buffer.room(), 2);
    });
}

#[test]
fn the_room_of_a_message_behind_a_held_frame_is_overwritten_after_both_have_been_read() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let buffer = Buffer::<2>::new();
        let credits = Arc::new(Mutex::new(Credits::default()));
        // A frame, and a message behind it.
        for item in 1..=2 {
            buffer.write(item);
            buffer.take();
        }
        let ticket = credits.lock().unwrap().hand_out(1);
        let holding = {
            let (buffer, credits) = (buffer.clone(), credits.clone());
            thread::spawn(move || {
                assert_eq!(buffer.load(1), 1);
                buffer.release(&credits, ticket);
            })
        };
        let reading = {
            let (buffer, credits) = (buffer.clone(), credits.clone());
            thread::spawn(move || {
                // As in `Shared::take_message`: copied, then passed.
                assert_eq!(buffer.load(2), 2);
                let mut held = credits.lock().unwrap();
                let credit = held.pass(1);
                if credit.frames > 0 {
                    handoff::give_back(held, credit, &buffer.free, &buffer.sem_read);
                }
            })
        };
        // Room comes back in the order of the ring, whoever gives it back.
        for item in 0..buffer.room() {
            buffer.store(3 + item);
        }
        holding.join().unwrap();
        reading.join().unwrap();
        assert_eq!(buffer.room(), 2);
    });
}

#[test]
fn a_writer_whose_reader_has_gone_knows_whether_it_made_the_buffer_anew() {
    loom::model(|| {
        let (reader_pid, replaced) = (Shared::new(1), Shared::new(0));
        let words = Arc::new((reader_pid, replaced));
        let retiring = {
            let words = words.clone();
            thread::spawn(move || handoff::retire(&words.0, Some(&words.1)))
        };
        let (reader_pid, replaced) = &*words;
        let gone = handoff::look(reader_pid) == 0;
        assert!(handoff::is_retired(reader_pid, replaced) || !gone);
        retiring.join().unwrap();
        assert!(handoff::is_retired(reader_pid, replaced));
        handoff::return_to(reader_pid, 1, Some(replaced));
        assert!(!handoff::is_retired(reader_pid, replaced));
    });
}

#[test]
fn the_end_of_a_stream_is_seen_after_its_last_frame() {
    loom::model(|| {
        let buffer = Buffer::<2>::new();
        let writing = {
            let buffer = buffer.clone();
            thread::spawn(move || {
                buffer.write(1);
                buffer.write(2);
                handoff::leave(&buffer.writer_pid, 1);
            })
        };
        let mut frames = 0;
        loop {
            // As in `Reader::read_frame`: the look at the writer first, then at the semaphore.
            let gone = handoff::look_at_writer(&buffer.writer_pid) == 0;
            if buffer.try_take() {
                frames += 1;
                assert_eq!(buffer.load(frames), frames);
            } else if gone {
                break;
            } else {
                thread::yield_now();
            }
        }
        assert_eq!(frames, 2, "the last frames are lost");
        writing.join().unwrap();
    });
}

#[test]
fn a_writer_that_leaves_does_not_take_out_the_pid_of_the_next() {
    loom::model(|| {
        let buffer = Buffer::<1>::new();
        let leaving = {
            let buffer = buffer.clone();
            thread::spawn(move || handoff::leave(&buffer.writer_pid, 1))
        };
        // One that takes the first for dead.
        let taken = buffer.writer_pid.replace(1, 2, Ordering::AcqRel);
        leaving.join().unwrap();
        let pid = handoff::look_at_writer(&buffer.writer_pid);
        assert_eq!(pid, if taken { 2 } else { 0 });
    });
}

#[test]
fn the_next_writer_goes_on_where_the_last_one_stopped() {
    loom::model(|| {
        let buffer = Buffer::<2>::new();
        let first = {
            let buffer = buffer.clone();
            thread::spawn(move || {
                buffer.write(1);
                handoff::leave(&buffer.writer_pid, 1);
            })
        };
        // As in `buffer::attach` and `Writer::attach`: claim, then look.
        while !buffer.writer_pid.replace(0, 2, Ordering::AcqRel) {
            thread::yield_now();
        }
        assert_eq!(handoff::look(&buffer.write_pos), 1);
        assert_eq!(buffer.room(), 1);
        buffer.write(2);
        first.join().unwrap();
    });
}

#[test]
fn a_frame_of_a_writer_that_died_before_its_post_is_whole() {
    loom::model(|| {
        let buffer = Buffer::<2>::new();
        let dying = {
            let buffer = buffer.clone();
            thread::spawn(move || {
                buffer.store(1);
                buffer.publish(1, &Unposted);
            })
        };
        if handoff::look(&buffer.write_pos) == 1 {
            assert_eq!(buffer.load(1), 1);
            assert_eq!(
                buffer.room(),
                1,
                "the free bytes change before the position"
            );
        }
        dying.join().unwrap();
    });
}

#[test]
fn metadata_is_whole_when_its_length_is_there() {
    loom::model(|| {
        let buffer = Buffer::<1>::new();
        let writing = {
            let buffer = buffer.clone();
            thread::spawn(move || {
                buffer.store(1);
                handoff::announce(&buffer.metadata_written, 12);
            })
        };
        if handoff::look(&buffer.metadata_written) == 12 {
            assert_eq!(buffer.load(1), 1);
        }
        writing.join().unwrap();
    });
}

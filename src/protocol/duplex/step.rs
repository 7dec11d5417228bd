//! Which answer belongs to which request: pure arithmetic on numbers.
//!
//! Nothing on the wire ties an answer to its request. Both ends number from 1, so the numbers agree
//! only while the server answers each request once and in order; this counts along and says when
//! that cannot have been so. See `docs/protocol.md`, "Duplex channel".

use std::collections::VecDeque;

/// The requests and answers of one connection.
#[derive(Debug, Default)]
pub struct Step {
    /// The number of the last request.
    sent: u64,
    /// Answers that have come.
    answers: u64,
    /// What each request without an answer takes up in its ring at least, the oldest first.
    pending: VecDeque<u64>,
    /// The sum of these.
    bytes: u64,
    /// The last request was sent when none was under way.
    alone: bool,
    /// All pairs up to this request, and these answers, are beyond doubt.
    certain: (u64, u64),
}

/// Answers that cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The first request whose answer is in doubt.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// How many answers came to them.
    pub answers: u64,
}

impl Doubt {
    pub fn concerns(&self, request: u64) -> bool {
        (self.first..=self.last).contains(&request)
    }
}

/// Why an answer is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// It is the next one of its server, but nothing was asked.
    Surplus,
    /// It is not the next one: its server has answered others, or has changed.
    Stranger,
}

/// What the room that the requests take up in their ring says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    /// Nothing is amiss.
    Nothing,
    /// If no answer can be read now, the server has given a request back without one.
    Suspect,
}

impl Step {
    /// Whether no request has been sent yet.
    pub fn is_unused(&self) -> bool {
        self.sent == 0
    }

    /// How many requests have no answer yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether this request has no answer yet.
    pub fn is_pending(&self, request: u64) -> bool {
        request >= self.first_pending() && request <= self.sent
    }

    fn first_pending(&self) -> u64 {
        self.sent - self.pending.len() as u64 + 1
    }

    /// A request went out, which takes up `bytes` of its ring at least; returns its number.
    pub fn send(&mut self, bytes: u64) -> u64 {
        self.sent += 1;
        self.alone = self.pending.is_empty();
        self.pending.push_back(bytes);
        self.bytes += bytes;
        self.sent
    }

    /// An answer came with this number; returns that of its request.
    ///
    /// # Errors
    /// When it cannot be the answer to any.
    pub fn answer(&mut self, sequence: u64) -> Result<u64, Odd> {
        if sequence != self.answers + 1 {
            return Err(Odd::Stranger);
        }
        self.answers = sequence;
        let request = self.first_pending();
        let bytes = self.pending.pop_front().ok_or(Odd::Surplus)?;
        self.bytes -= bytes;
        Ok(request)
    }

    /// An answer came with this number that names its request, which is beyond doubt; returns the
    /// requests before it that have none and, the server being in order, will get none.
    ///
    /// # Errors
    /// When that request waits for no answer.
    pub fn answer_to(&mut self, sequence: u64, request: u64) -> Result<Option<Doubt>, Odd> {
        if sequence != self.answers + 1 {
            return Err(Odd::Stranger);
        }
        self.answers = sequence;
        if !self.is_pending(request) {
            return Err(Odd::Surplus);
        }
        let first = self.first_pending();
        let done = (request - first) as usize + 1;
        self.bytes -= self.pending.drain(..done).sum::<u64>();
        self.certain = (request, self.answers);
        Ok((first < request).then_some(Doubt {
            first,
            last: request - 1,
            answers: 0,
        }))
    }

    /// An answer came that is thrown away.
    pub fn discard(&mut self, sequence: u64) {
        self.answers = sequence;
    }

    /// What follows from `used`, the bytes of the ring of requests that are not given back, for a
    /// server that gives a request back after its answer; and `unread`, whether there may be an
    /// answer that has not been looked at.
    pub fn look(&mut self, used: u64, unread: bool) -> Owed {
        // What the ring wastes when it wraps only makes `used` larger.
        if used < self.bytes {
            return Owed::Suspect;
        }
        // All before the one request that is under way are given back, and it was not sent before
        // their answers were here: those that are here are theirs.
        if used == self.bytes && !unread && self.alone && self.pending.len() == 1 {
            self.certain = (self.sent - 1, self.answers);
        }
        Owed::Nothing
    }

    /// No request is under way and no answer is to be read: all pairs so far were right.
    pub fn settle(&mut self) {
        if self.pending.is_empty() {
            self.certain = (self.sent, self.answers);
        }
    }

    /// The requests whose answers nobody can vouch for.
    pub fn doubt(&self) -> Doubt {
        let (request, answers) = self.certain;
        Doubt {
            first: (request + 1).min(self.sent),
            last: self.sent,
            answers: self.answers - answers,
        }
    }

    /// The server has done with all requests and nothing is to be read: whatever happened, the next
    /// answer is that of the next request.
    pub fn start_over(&mut self) {
        self.pending.clear();
        self.bytes = 0;
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_those_of_the_requests_in_order() {
        let mut step = Step::default();
        assert_eq!([step.send(20), step.send(30), step.send(40)], [1, 2, 3]);
        assert_eq!(step.answer(1), Ok(1));
        assert_eq!(step.answer(2), Ok(2));
        assert_eq!(step.send(50), 4);
        assert_eq!(step.pending(), 2);
        assert!(!step.is_pending(2) && step.is_pending(3) && step.is_pending(4));
        assert!(!step.is_pending(5) && !step.is_pending(0));
        assert_eq!(step.answer(3), Ok(3));
        assert_eq!(step.answer(4), Ok(4));
    }

    #[test]
    fn an_answer_without_a_request_or_with_another_number_is_found() {
        let mut step = Step::default();
        assert_eq!(step.answer(1), Err(Odd::Surplus));
        let mut step = Step::default();
        step.send(20);
        let not_first = step.answer(2);
        assert_eq!(not_first, Err(Odd::Stranger), "its first was not for us");
        assert_eq!(step.answer(1), Ok(1));
        assert_eq!(step.answer(2), Err(Odd::Surplus));
        step.send(20);
        assert_eq!(step.answer(1), Err(Odd::Stranger), "another server");
    }

    #[test]
    fn room_that_came_back_without_an_answer_is_suspect() {
        let mut step = Step::default();
        step.send(100);
        step.send(200);
        // Nothing given back; then the first one, answered or not.
        assert_eq!(step.look(300, false), Owed::Nothing);
        assert_eq!(step.look(200, false), Owed::Suspect);
        assert_eq!(step.answer(1), Ok(1));
        assert_eq!(step.look(200, false), Owed::Nothing);
        // The waste of a wrap counts as used.
        assert_eq!(step.look(250, false), Owed::Nothing);
        assert_eq!(step.look(0, false), Owed::Suspect);
    }

    #[test]
    fn doubt_reaches_back_to_the_last_moment_without_any() {
        let mut step = Step::default();
        for _ in 0..3 {
            step.send(10);
        }
        assert_eq!(step.answer(1), Ok(1));
        step.settle();
        let all = Doubt {
            first: 1,
            last: 3,
            answers: 1,
        };
        assert_eq!(step.doubt(), all, "two were under way");
        assert_eq!((step.answer(2), step.answer(3)), (Ok(2), Ok(3)));
        step.settle();
        step.send(10);
        let last = Doubt {
            first: 4,
            last: 4,
            answers: 0,
        };
        assert_eq!(step.doubt(), last);
        assert!(last.concerns(4) && !last.concerns(3) && !last.concerns(5));
    }

    #[test]
    fn of_requests_one_at_a_time_only_the_last_is_in_doubt() {
        let mut step = Step::default();
        for number in 1..=5 {
            step.send(10);
            // The one before is not given back yet; then it is, but an answer is there already.
            assert_eq!(step.look(20, false), Owed::Nothing);
            assert_eq!(step.look(10, true), Owed::Nothing);
            assert_eq!(step.doubt().first, 1.max(number - 1));
            assert_eq!(step.look(10, false), Owed::Nothing);
            assert_eq!(step.doubt().first, number);
            assert_eq!(step.answer(number), Ok(number));
        }
        // With two under way, what is given back may be either.
        step.send(10);
        step.send(10);
        assert_eq!(step.answer(6), Ok(6));
        assert_eq!(step.look(10, false), Owed::Nothing);
        assert_eq!((step.doubt().first, step.doubt().last), (5, 7));
    }

    #[test]
    fn an_answer_that_names_its_request_leaves_no_doubt() {
        let mut step = Step::default();
        for _ in 0..5 {
            step.send(10);
        }
        assert_eq!(step.answer_to(1, 1), Ok(None));
        let skipped = Doubt {
            first: 2,
            last: 3,
            answers: 0,
        };
        assert_eq!(step.answer_to(2, 4), Ok(Some(skipped)));
        assert_eq!(step.answer_to(3, 4), Err(Odd::Surplus));
        assert_eq!(step.answer_to(4, 6), Err(Odd::Surplus));
        assert_eq!(step.answer_to(4, 5), Err(Odd::Stranger));
        assert_eq!((step.doubt().first, step.doubt().last), (5, 5));
        assert_eq!((step.pending(), step.look(10, false)), (1, Owed::Nothing));
        assert_eq!(step.answer_to(5, 5), Ok(None));
        assert_eq!((step.pending(), step.look(0, false)), (0, Owed::Nothing));
    }

    #[test]
    fn after_a_fresh_start_the_next_answer_is_the_next_requests() {
        let mut step = Step::default();
        for _ in 0..4 {
            step.send(10);
        }
        assert_eq!(step.answer(1), Ok(1));
        step.discard(2);
        step.start_over();
        assert_eq!((step.pending(), step.look(0, false)), (0, Owed::Nothing));
        assert_eq!(step.send(10), 5);
        assert_eq!(step.doubt().first, 5);
        assert_eq!(step.answer(3), Ok(5));
    }
}

//! What is under way, in the order in which it came in: frames whose answers are due, and events
//! between them; and which answer belongs to which frame.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Of so many frames that were given up it is known that a late answer is theirs.
const REMEMBERED: usize = 256;

/// A request: the connection that it belongs to, and its number there.
pub type Name = (u64, u64);

/// A frame, or what comes between two.
#[derive(Debug)]
pub enum Item<I, A, E> {
    Event(E),
    Frame(I, Due<A>),
}

/// What has become of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Due<A> {
    /// Its request has this name, and went out then.
    Sent { name: Name, at: Instant },
    /// This is its answer, which took so long.
    Answered { answer: A, took: Duration },
    /// There will be none.
    Failed(Failure),
    /// It needs none.
    Through,
}

/// Why a frame has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// None came in time.
    Late,
    /// The worker has passed it over.
    Skipped,
    /// The worker is gone.
    Gone(String),
    /// There is no worker, or it takes no requests: none was sent.
    NotSent,
}

/// To what an answer belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// A frame, after so many that were passed over.
    Frame { skipped: u64 },
    /// A frame that was given up before.
    Late,
    /// None: that frame has its answer, or nothing was asked.
    Nobodys,
    /// It has no name, and more than one request could be meant: nothing was changed.
    Unclear,
}

#[derive(Debug)]
pub struct UnderWay<I, A, E> {
    items: VecDeque<Item<I, A, E>>,
    frames: usize,
    /// The numbers of frames that were given up while their answer could still come.
    given_up: VecDeque<Name>,
}

impl<I, A, E> Default for UnderWay<I, A, E> {
    fn default() -> Self {
        UnderWay {
            items: VecDeque::new(),
            frames: 0,
            given_up: VecDeque::new(),
        }
    }
}

impl<I, A, E> UnderWay<I, A, E> {
    pub fn push_event(&mut self, event: E) {
        self.items.push_back(Item::Event(event));
    }

    pub fn push_frame(&mut self, input: I, due: Due<A>) {
        self.frames += 1;
        self.items.push_back(Item::Frame(input, due));
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// How many frames are under way.
    pub fn frames(&self) -> usize {
        self.frames
    }

    pub fn events(&self) -> impl Iterator<Item = &E> {
        self.items.iter().filter_map(|item| match item {
            Item::Event(event) => Some(event),
            Item::Frame(..) => None,
        })
    }

    /// Whether some request waits for its answer.
    pub fn is_waiting(&self) -> bool {
        self.waiting() > 0
    }

    /// How many do.
    pub fn waiting(&self) -> usize {
        let sent = |item: &&Item<I, A, E>| matches!(item, Item::Frame(_, Due::Sent { .. }));
        self.items.iter().filter(sent).count()
    }

    /// Whether one request and no more waits for its answer.
    pub fn is_one_waiting(&self) -> bool {
        self.waiting() == 1
    }

    /// Whether answers may still come to frames that were given up.
    pub fn is_owed(&self) -> bool {
        !self.given_up.is_empty()
    }

    /// Takes the first item unless it waits for its answer; when that went out is the error.
    pub fn next(&mut self) -> Result<Option<Item<I, A, E>>, Instant> {
        if let Some(Item::Frame(_, Due::Sent { at, .. })) = self.items.front() {
            return Err(*at);
        }
        let item = self.items.pop_front();
        if let Some(Item::Frame(..)) = item {
            self.frames -= 1;
        }
        Ok(item)
    }

    /// Whether an answer to this request is awaited, or would come late.
    pub fn knows(&self, name: Name) -> bool {
        let waits = |item: &Item<I, A, E>| match item {
            Item::Frame(_, Due::Sent { name: sent, .. }) => *sent == name,
            _ => false,
        };
        self.items.iter().any(waits) || self.given_up.contains(&name)
    }

    /// An answer came that names its request, or that has no name: then it is that of the only one.
    /// Workers answer in order, so those before it get none.
    pub fn answer(&mut self, name: Option<Name>, answer: A, now: Instant) -> Match {
        if name.is_none() && self.waiting() + self.given_up.len() > 1 {
            return Match::Unclear;
        }
        let (mut skipped, mut found) = (0, None);
        for (index, item) in self.items.iter().enumerate() {
            let Item::Frame(_, Due::Sent { name: sent, at }) = item else {
                continue;
            };
            if name.is_none_or(|name| name == *sent) {
                found = Some((index, *at));
                break;
            }
            skipped += 1;
        }
        let Some((index, at)) = found else {
            let given_up =
                (self.given_up.iter()).position(|sent| name.is_none_or(|name| name == *sent));
            return match given_up.and_then(|index| self.given_up.remove(index)) {
                Some(_) => Match::Late,
                None => Match::Nobodys,
            };
        };
        for item in self.items.range_mut(..index) {
            if let Item::Frame(_, due @ Due::Sent { .. }) = item {
                *due = Due::Failed(Failure::Skipped);
            }
        }
        if let Some(Item::Frame(_, due)) = self.items.get_mut(index) {
            let took = now.saturating_duration_since(at);
            *due = Due::Answered { answer, took };
        }
        Match::Frame { skipped }
    }

    /// Gives up the oldest request that waits for its answer.
    pub fn fail_oldest(&mut self, failure: Failure) {
        for item in &mut self.items {
            if let Item::Frame(_, due @ Due::Sent { .. }) = item {
                if let Due::Sent { name, .. } = due {
                    self.given_up.push_back(*name);
                }
                *due = Due::Failed(failure);
                break;
            }
        }
        if self.given_up.len() > REMEMBERED {
            self.given_up.pop_front();
        }
    }

    /// Gives up all requests that wait for their answers; returns how many.
    pub fn fail_all(&mut self, failure: &Failure) -> u64 {
        let mut failed = 0;
        while self.is_waiting() {
            self.fail_oldest(failure.clone());
            failed += 1;
        }
        failed
    }

    /// Drops everything, for a flush, and returns the events. The answers may still come.
    pub fn clear(&mut self) -> Vec<E> {
        self.fail_all(&Failure::NotSent);
        self.frames = 0;
        let events = self.items.drain(..).filter_map(|item| match item {
            Item::Event(event) => Some(event),
            Item::Frame(..) => None,
        });
        events.collect()
    }

    /// Requests are numbered from 1 again, and answers to those before will not come.
    pub fn start_over(&mut self) {
        self.given_up.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = UnderWay<char, u8, &'static str>;

    const CONNECTION: u64 = 9;

    fn sent(number: u64) -> Due<u8> {
        let at = Instant::now();
        let name = (CONNECTION, number);
        Due::Sent { name, at }
    }

    fn named(number: u64) -> Option<Name> {
        Some((CONNECTION, number))
    }

    fn with(frames: &[(char, u64)]) -> Plain {
        let mut plain = Plain::default();
        for (input, number) in frames {
            plain.push_frame(*input, sent(*number));
        }
        plain
    }

    /// What comes out until something has to be waited for.
    fn out(plain: &mut Plain) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(Some(item)) = plain.next() {
            all.push(match item {
                Item::Event(event) => event.into(),
                Item::Frame(input, Due::Answered { answer, .. }) => format!("{input}{answer}"),
                Item::Frame(input, Due::Failed(failure)) => format!("{input} {failure:?}"),
                Item::Frame(input, _) => input.into(),
            });
        }
        all
    }

    #[test]
    fn everything_comes_out_in_the_order_in_which_it_came_in() {
        let mut plain = with(&[('a', 1)]);
        plain.push_event("tag");
        plain.push_frame('-', Due::Through);
        plain.push_frame('b', sent(2));
        assert_eq!((plain.frames(), plain.len()), (3, 4));
        assert!(out(&mut plain).is_empty());
        let now = Instant::now();
        assert_eq!(plain.answer(named(1), 10, now), Match::Frame { skipped: 0 });
        assert_eq!(out(&mut plain), ["a10", "tag", "-"]);
        assert_eq!(plain.answer(named(2), 20, now), Match::Frame { skipped: 0 });
        assert_eq!(out(&mut plain), ["b20"]);
        assert_eq!((plain.frames(), plain.len()), (0, 0));
    }

    #[test]
    fn an_answer_that_passes_frames_over_is_still_that_of_its_own() {
        let mut plain = with(&[('a', 1), ('b', 2), ('c', 3), ('d', 4)]);
        let now = Instant::now();
        assert_eq!(plain.answer(named(3), 30, now), Match::Frame { skipped: 2 });
        assert_eq!(out(&mut plain), ["a Skipped", "b Skipped", "c30"]);
        for nobodys in [3, 2, 5, 0, u64::MAX] {
            assert_eq!(plain.answer(named(nobodys), 0, now), Match::Nobodys);
        }
        assert!(plain.is_waiting());
    }

    #[test]
    fn an_answer_without_a_name_is_that_of_the_only_one_or_of_none() {
        let mut plain = with(&[('a', 1), ('b', 2)]);
        let now = Instant::now();
        assert_eq!(plain.answer(None, 1, now), Match::Unclear);
        assert!(out(&mut plain).is_empty());
        plain.fail_oldest(Failure::Late);
        // It could still be the first one's.
        assert_eq!(plain.answer(None, 1, now), Match::Unclear);
        plain.start_over();
        assert_eq!(plain.answer(None, 2, now), Match::Frame { skipped: 0 });
        assert_eq!(plain.answer(None, 3, now), Match::Nobodys);
        assert_eq!(out(&mut plain), ["a Late", "b2"]);
        let mut plain = with(&[('c', 3)]);
        plain.fail_oldest(Failure::Late);
        assert_eq!(plain.answer(None, 3, now), Match::Late);
        assert_eq!(plain.answer(None, 3, now), Match::Nobodys);
    }

    #[test]
    fn who_was_given_up_gets_its_answer_late_and_once() {
        let mut plain = with(&[('a', 1), ('b', 2)]);
        let now = Instant::now();
        plain.fail_oldest(Failure::Late);
        assert_eq!(out(&mut plain), ["a Late"]);
        assert_eq!(plain.answer(named(1), 1, now), Match::Late);
        assert_eq!(plain.answer(named(1), 1, now), Match::Nobodys);
        assert_eq!(plain.fail_all(&Failure::Gone("x".into())), 1);
        assert!(!plain.is_waiting());
        assert_eq!(out(&mut plain), ["b Gone(\"x\")"]);
        plain.start_over();
        assert_eq!(plain.answer(named(2), 2, now), Match::Nobodys);
    }

    #[test]
    fn what_a_flush_drops_may_still_be_answered() {
        let mut plain = with(&[('a', 7)]);
        plain.push_event("tag");
        assert_eq!(plain.clear(), ["tag"]);
        assert_eq!((plain.frames(), plain.len()), (0, 0));
        assert_eq!(plain.answer(named(7), 1, Instant::now()), Match::Late);
    }

    #[test]
    fn the_same_number_in_another_connection_is_another_request() {
        let mut plain = with(&[('a', 1)]);
        let at = Instant::now();
        let next = (CONNECTION + 1, 1);
        plain.push_frame('b', Due::Sent { name: next, at });
        assert!(plain.knows((CONNECTION, 1)) && plain.knows(next));
        assert!(!plain.knows((CONNECTION + 2, 1)) && !plain.knows((CONNECTION, 2)));
        assert_eq!(plain.answer(named(1), 1, at), Match::Frame { skipped: 0 });
        assert_eq!(plain.answer(Some(next), 2, at), Match::Frame { skipped: 0 });
        assert_eq!(out(&mut plain), ["a1", "b2"]);
    }
}

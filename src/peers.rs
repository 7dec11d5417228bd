//! Tells the application when the peer comes and goes, by signals and by messages.
//!
//! A thread of its own looks for that, since it is most of all while no frames flow that somebody
//! wants to know: a camera that rests because nobody looks has nothing to send. The streaming threads
//! only wake it, so no handler of the application ever holds up a frame, and no lock of ours is held
//! while one is called: it may ask the element for anything, or change its state.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gstreamer as gst;

use crate::protocol::{Bell, Changes, Error};

/// How often the peer is looked at where nothing tells of it. That it died is to be told within 100 ms;
/// and each look wakes a processor that may sleep, which costs as much as a frame does at 60 a second.
const INTERVAL: Duration = Duration::from_millis(80);
/// How often it is looked at when the kernel tells that it may be going.
const SELDOM: Duration = Duration::from_secs(1);
/// Looks, one interval apart, until what has happened is over: a process is not gone at once.
const SETTLED: u32 = 3;

const CONNECTED: &str = "peer-connected";
const DISCONNECTED: &str = "peer-disconnected";

/// Why a peer is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstZeroBufferPeerReason")]
pub enum Reason {
    #[enum_value(name = "It closed the stream or the buffer", nick = "closed")]
    Closed,
    #[enum_value(name = "It ended without closing: killed, crashed", nick = "died")]
    Died,
    #[enum_value(name = "Another process has taken its place", nick = "replaced")]
    Replaced,
    #[enum_value(name = "This element was stopped", nick = "stopped")]
    Stopped,
}

/// What a look at the peer finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is there, with this process id.
    Peer(u64),
    Nobody(Reason),
    /// It is between two rings: whatever was so is still so.
    Unsettled,
}

/// The signals of an element; each needs its own.
pub fn signals() -> Vec<glib::subclass::Signal> {
    vec![
        glib::subclass::Signal::builder(CONNECTED)
            .param_types([u64::static_type()])
            .build(),
        glib::subclass::Signal::builder(DISCONNECTED)
            .param_types([u64::static_type(), Reason::static_type()])
            .build(),
    ]
}

/// The thread of an element, while it runs.
#[derive(Debug, Default)]
pub struct Peers(Mutex<Option<Running>>);

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    /// Returns the peer whose end is still to be told.
    thread: JoinHandle<Option<u64>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Rung when somebody has reason to look now, and when it ends.
    bell: Bell,
}

#[derive(Debug, Default)]
struct State {
    /// A streaming thread saw this one dead; it may be gone without a trace when we look.
    died: Option<u64>,
    /// A handler may be running.
    telling: bool,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peers {
    /// Begins to look. `look` finds `None` when the element is gone; `changes` finds what tells that
    /// the peer that there is may be going, if anything does.
    pub fn start(
        &self,
        element: &impl IsA<gst::Element>,
        name: String,
        look: impl Fn() -> Option<Seen> + Send + 'static,
        changes: impl Fn() -> Option<Changes> + Send + 'static,
    ) -> std::io::Result<()> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            bell: Bell::new()?,
        });
        let teller = Teller {
            element: element.upcast_ref::<gst::Element>().downgrade(),
            name,
        };
        let thread = {
            let shared = shared.clone();
            thread::Builder::new()
                .name("zerobuffer-peer".into())
                .spawn(move || watch(&shared, &teller, look, changes))?
        };
        self.stop(element, "");
        *self.running() = Some(Running { shared, thread });
        Ok(())
    }

    /// A streaming thread has found the peer gone.
    pub fn notice(&self, why: &Error) {
        if let Some(running) = &*self.running() {
            if let Error::WriterDead { pid, .. } | Error::ReaderDead { pid, .. } = why {
                running.shared.state().died = Some(*pid);
            }
            running.shared.bell.ring();
        }
    }

    /// Ends the thread, and tells that the peer there was is no longer this element's.
    pub fn stop(&self, element: &impl IsA<gst::Element>, name: &str) {
        let Some(Running { shared, thread }) = self.running().take() else {
            return;
        };
        let telling = {
            let mut state = shared.state();
            state.ended = true;
            shared.bell.ring();
            state.telling
        };
        // A handler that runs now may itself wait for the change of state that we are in, or have
        // begun it; then the thread tells the rest by itself, and ends.
        if !telling && let Ok(Some(pid)) = thread.join() {
            let teller = Teller {
                element: element.upcast_ref::<gst::Element>().downgrade(),
                name: name.into(),
            };
            teller.gone(pid, Reason::Stopped);
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn watch(
    shared: &Shared,
    teller: &Teller,
    look: impl Fn() -> Option<Seen>,
    changes: impl Fn() -> Option<Changes>,
) -> Option<u64> {
    let mut told = None;
    // What tells that the one that is told of may be going.
    let mut kernel = None;
    // Since anything happened.
    let mut looks = 0;
    while let Some(seen) = look() {
        let differs = match (seen, told) {
            (Seen::Peer(pid), told) => told != Some(pid),
            (Seen::Nobody(_), told) => told.is_some(),
            (Seen::Unsettled, _) => false,
        };
        let mut state = shared.state();
        if state.ended {
            return told;
        }
        if !differs {
            drop(state);
            looks = u32::saturating_add(looks, 1);
            if kernel.is_none() && told.is_some() && looks >= SETTLED {
                kernel = changes();
                if kernel.is_some() {
                    // It may have gone before.
                    continue;
                }
            }
            let time = if kernel.is_some() { SELDOM } else { INTERVAL };
            if shared.bell.wait(kernel.as_ref(), time) {
                (kernel, looks) = (None, 0);
            }
            continue;
        }
        (kernel, looks) = (None, 0);
        state.telling = true;
        let died = state.died.take();
        drop(state);
        if let Some(pid) = told.take() {
            let why = match seen {
                _ if died == Some(pid) => Reason::Died,
                Seen::Nobody(why) => why,
                _ => Reason::Replaced,
            };
            teller.gone(pid, why);
        }
        if let Seen::Peer(pid) = seen {
            teller.came(pid);
            told = Some(pid);
        }
        let mut state = shared.state();
        state.telling = false;
        if state.ended {
            drop(state);
            if let Some(pid) = told {
                teller.gone(pid, Reason::Stopped);
            }
            return None;
        }
    }
    told
}

struct Teller {
    element: glib::WeakRef<gst::Element>,
    name: String,
}

impl Teller {
    fn came(&self, pid: u64) {
        if let Some(element) = self.element.upgrade() {
            element.emit_by_name::<()>(CONNECTED, &[&pid]);
            let message = gst::Structure::builder(format!("zerobuffer-{CONNECTED}"))
                .field("buffer-name", &self.name)
                .field("peer-pid", pid);
            post(&element, message.build());
        }
    }

    fn gone(&self, pid: u64, why: Reason) {
        if let Some(element) = self.element.upgrade() {
            element.emit_by_name::<()>(DISCONNECTED, &[&pid, &why]);
            let value = why.to_value();
            let reason = glib::EnumValue::from_value(&value).map_or("", |(_, why)| why.nick());
            let message = gst::Structure::builder(format!("zerobuffer-{DISCONNECTED}"))
                .field("buffer-name", &self.name)
                .field("peer-pid", pid)
                .field("reason", reason);
            post(&element, message.build());
        }
    }
}

fn post(element: &gst::Element, structure: gst::Structure) {
    let message = gst::message::Element::builder(structure)
        .src(element)
        .build();
    // There is nobody to tell it to where there is no bus.
    let _ = element.post_message(message);
}

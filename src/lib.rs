//! Video between processes through ZeroBuffer rings in shared memory.
//!
//! * [`protocol`] (its main types also here): the ZeroBuffer v1.0.0 library for plain Rust programs.
//! * [`duplex`]: requests and answers between two processes, in that library.
//! * [`inspect`], [`offers`]: what others see of buffers, and of who has something to send.
//! * [`testing`]: names and patterns for tests across languages.
//! * With the feature `plugin` (default): the GStreamer plugin `zerobuffer` with the elements
//!   `zerobuffersink`, `zerobuffersrc` and `zerobufferfilter`. Loaded from libgstzerobuffer.so, or
//!   registered by an application that links this crate:
//!   `gstzerobuffer::plugin_register_static()`.

#![warn(missing_docs)]

#[cfg(feature = "plugin")]
mod devices;
#[cfg(feature = "plugin")]
mod element;
#[cfg(feature = "plugin")]
mod events;
#[cfg(feature = "plugin")]
mod frame_info;
#[cfg(feature = "plugin")]
mod frame_prefix;
#[cfg(feature = "plugin")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "plugin")]
mod memory;
#[cfg(feature = "plugin")]
mod metas;
#[cfg(feature = "plugin")]
mod peer_text;
#[cfg(feature = "plugin")]
mod peers;
pub mod protocol;
#[cfg(feature = "plugin")]
mod qos;
#[cfg(feature = "plugin")]
mod requests;
#[cfg(feature = "plugin")]
mod segments;
#[cfg(feature = "plugin")]
mod sending;
#[cfg(feature = "plugin")]
mod stream_info;
mod sys;
pub mod testing;
#[cfg(feature = "plugin")]
mod timing;
#[cfg(feature = "plugin")]
mod uri;
#[cfg(feature = "plugin")]
mod zerobufferfilter;
#[cfg(feature = "plugin")]
mod zerobuffersink;
#[cfg(feature = "plugin")]
mod zerobuffersrc;

pub use protocol::{
    BufferConfig, Error, FIRST_USER_KIND, Frame, FrameLayout, FrameTime, Interrupt, Item,
    MAX_PLANES, MetadataReservation, Offer, Offered, Reader, Record, Records, Reservation, Turn,
    Wait, Writer, WriterState, duplex, inspect, offers, ring_size,
};

#[cfg(feature = "plugin")]
mod plugin {
    #![allow(missing_docs)]
    use gstreamer as gst;

    fn plugin_init(plugin: &gst::Plugin) -> Result<(), gst::glib::BoolError> {
        crate::frame_prefix::register();
        crate::zerobufferfilter::register(plugin)?;
        crate::zerobuffersink::register(plugin)?;
        crate::zerobuffersrc::register(plugin)?;
        crate::devices::register(plugin)
    }

    gst::plugin_define!(
        zerobuffer,
        "Frames between processes through ZeroBuffer rings in shared memory",
        plugin_init,
        concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
        // The spelling of MIT that GStreamer knows.
        "MIT/X11",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_NAME"),
        "https://crates.io/crates/gst-plugin-zerobuffer",
        env!("BUILD_REL_DATE")
    );
}

#[cfg(feature = "plugin")]
pub use plugin::plugin_register_static;

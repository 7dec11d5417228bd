//! `zerobuffersrc`: see [`imp`] and `gst-inspect-1.0 zerobuffersrc`.

use gst::glib;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_base as gst_base;

mod frames;
mod imp;
mod ring;
mod settings;
mod stream;
mod unsent;

/// What happens when the writer has gone and all its frames are out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstZeroBufferSrcOnWriterExit")]
pub(crate) enum OnWriterExit {
    #[default]
    #[enum_value(name = "Send EOS", nick = "eos")]
    Eos,
    #[enum_value(name = "Wait for the next writer", nick = "wait")]
    Wait,
}

/// What happens when the writer has gone without closing, and all its frames are out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstZeroBufferSrcOnWriterDeath")]
pub(crate) enum OnWriterDeath {
    #[default]
    #[enum_value(name = "As if it had closed: on-writer-exit says", nick = "auto")]
    Auto,
    #[enum_value(name = "Send EOS", nick = "eos")]
    Eos,
    #[enum_value(name = "Wait for the next writer", nick = "wait")]
    Wait,
    #[enum_value(name = "End with an error", nick = "error")]
    Error,
}

/// Which frames are left out when they come faster than they are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstZeroBufferSrcLeaky")]
pub(crate) enum Leaky {
    #[default]
    #[enum_value(name = "Not leaky: the writer waits, or drops", nick = "no")]
    No,
    #[enum_value(
        name = "Leaky on downstream (old frames): only the newest that is there",
        nick = "downstream"
    )]
    Downstream,
}

/// What the timestamps of outgoing buffers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstZeroBufferSrcTimestamps")]
pub(crate) enum Timestamps {
    #[default]
    #[enum_value(
        name = "When the sender shows the frame, on this pipeline's clock",
        nick = "sender"
    )]
    Sender,
    #[enum_value(name = "The sender's PTS and DTS, untouched", nick = "pts")]
    Pts,
    #[enum_value(name = "When the frame arrives", nick = "arrival")]
    Arrival,
}

glib::wrapper! {
    pub struct ZeroBufferSrc(ObjectSubclass<imp::ZeroBufferSrc>)
        @extends gst_base::PushSrc, gst_base::BaseSrc, gst::Element, gst::Object,
        @implements gst::URIHandler;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    #[cfg(feature = "doc")]
    {
        // So that GStreamer's documentation shows them with the element.
        OnWriterExit::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
        OnWriterDeath::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
        Leaky::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
        crate::peers::Reason::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
        Timestamps::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    }
    gst::Element::register(
        Some(plugin),
        "zerobuffersrc",
        gst::Rank::NONE,
        ZeroBufferSrc::static_type(),
    )
}

//! `zerobuffersink`: see [`imp`] and `gst-inspect-1.0 zerobuffersink`.

use gst::glib;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_base as gst_base;

mod imp;
mod offering;
mod pausing;
mod settings;

/// What happens to the stream when its reader has closed or died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstZeroBufferSinkOnReaderGone")]
pub(crate) enum OnReaderGone {
    #[default]
    #[enum_value(
        name = "As if there had been none yet: wait-for-connection says",
        nick = "auto"
    )]
    Auto,
    #[enum_value(name = "Hold the stream until there is another reader", nick = "wait")]
    Wait,
    #[enum_value(name = "Drop its frames until there is another reader", nick = "drop")]
    Drop,
    #[enum_value(name = "End with an error", nick = "error")]
    Error,
    #[enum_value(name = "End the stream (EOS)", nick = "eos")]
    Eos,
}

/// What happens to a frame for which the ring has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstZeroBufferSinkOnFull")]
pub(crate) enum OnFull {
    #[default]
    #[enum_value(
        name = "Hold the stream until the reader gives room back",
        nick = "block"
    )]
    Block,
    #[enum_value(name = "Drop the frame", nick = "drop")]
    Drop,
}

/// What happens when the caps change towards a reader that cannot be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstZeroBufferSinkOnCapsChange")]
pub(crate) enum OnCapsChange {
    #[default]
    #[enum_value(name = "End with an error", nick = "error")]
    Error,
    #[enum_value(
        name = "Close the buffer and wait until the reader opens it anew",
        nick = "reopen"
    )]
    Reopen,
}

glib::wrapper! {
    pub struct ZeroBufferSink(ObjectSubclass<imp::ZeroBufferSink>)
        @extends gst_base::BaseSink, gst::Element, gst::Object,
        @implements gst::URIHandler;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    #[cfg(feature = "doc")]
    {
        // So that GStreamer's documentation shows them with the element.
        OnReaderGone::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
        OnFull::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
        OnCapsChange::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    }
    gst::Element::register(
        Some(plugin),
        "zerobuffersink",
        gst::Rank::NONE,
        ZeroBufferSink::static_type(),
    )
}

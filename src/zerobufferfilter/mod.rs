//! `zerobufferfilter`: see [`imp`] and `gst-inspect-1.0 zerobufferfilter`.

use gst::glib;
use gst::prelude::*;
use gstreamer as gst;

mod answers;
mod asking;
mod flow;
mod imp;
mod output;
mod rounds;
mod under_way;
mod working;

/// What happens to a frame that the worker does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstZeroBufferFilterOnFailure")]
pub(crate) enum OnFailure {
    #[default]
    #[enum_value(name = "End with an error", nick = "error")]
    Error,
    #[enum_value(name = "Drop the frame", nick = "drop")]
    Drop,
    #[enum_value(name = "Send the frame on as it came in", nick = "passthrough")]
    Passthrough,
}

glib::wrapper! {
    pub struct ZeroBufferFilter(ObjectSubclass<imp::ZeroBufferFilter>)
        @extends gst::Element, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "zerobufferfilter",
        gst::Rank::NONE,
        ZeroBufferFilter::static_type(),
    )
}

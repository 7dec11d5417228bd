//! Buffers as devices, so that applications which let their users choose a camera find them.
//!
//! * A **source** is a stream that somebody has to send: a `zerobuffersink` that runs, whether it has
//!   a reader by now or not, or any writer that has attached. Like a camera, it is in the list also
//!   while another application uses it (`zerobuffer.in-use`), and cannot be opened then.
//! * A **sink** is a buffer whose reader waits for a writer. What it wants to have is not known.
//!
//! Looking disturbs nobody: nothing is attached, mapped or locked. See `docs/protocol.md`, "Offers".

use gst::glib;
use gst::prelude::*;
use gstreamer as gst;

mod device;
mod provider;
mod seen;

glib::wrapper! {
    pub struct ZeroBufferDevice(ObjectSubclass<device::ZeroBufferDevice>)
        @extends gst::Device, gst::Object;
}

glib::wrapper! {
    pub struct ZeroBufferDeviceProvider(ObjectSubclass<provider::ZeroBufferDeviceProvider>)
        @extends gst::DeviceProvider, gst::Object;
}

pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::DeviceProvider::register(
        Some(plugin),
        "zerobufferdeviceprovider",
        // Those without a rank are not asked.
        gst::Rank::MARGINAL,
        ZeroBufferDeviceProvider::static_type(),
    )
}

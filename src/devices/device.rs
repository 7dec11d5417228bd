//! One device.

use std::sync::OnceLock;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;

use super::seen::{Kind, Seen};
use crate::uri;

#[derive(Debug, Default)]
pub struct ZeroBufferDevice {
    seen: OnceLock<Seen>,
}

#[glib::object_subclass]
impl ObjectSubclass for ZeroBufferDevice {
    const NAME: &'static str = "GstZeroBufferDevice";
    type Type = super::ZeroBufferDevice;
    type ParentType = gst::Device;
}

impl ObjectImpl for ZeroBufferDevice {}

impl GstObjectImpl for ZeroBufferDevice {}

impl DeviceImpl for ZeroBufferDevice {
    fn create_element(&self, name: Option<&str>) -> Result<gst::Element, gst::LoggableError> {
        let (factory, buffer) = self.end()?;
        let mut element = gst::ElementFactory::make(factory).property("buffer-name", buffer);
        if let Some(name) = name {
            element = element.name(name);
        }
        element
            .build()
            .map_err(|err| gst::loggable_error!(gst::CAT_RUST, "{err}"))
    }

    fn reconfigure_element(&self, element: &gst::Element) -> Result<(), gst::LoggableError> {
        let (factory, buffer) = self.end()?;
        let is_ours = element.factory().is_some_and(|its| its.name() == factory);
        if !is_ours || element.current_state() > gst::State::Ready {
            return Err(gst::loggable_error!(
                gst::CAT_RUST,
                "not a {factory} that is in NULL or READY"
            ));
        }
        element.set_property("buffer-name", buffer);
        Ok(())
    }
}

impl ZeroBufferDevice {
    /// The element for it, and its buffer.
    fn end(&self) -> Result<(&'static str, &str), gst::LoggableError> {
        let seen = self.seen.get();
        let seen = seen.ok_or_else(|| gst::loggable_error!(gst::CAT_RUST, "no device"))?;
        let factory = match seen.kind {
            Kind::Source => "zerobuffersrc",
            Kind::Sink => "zerobuffersink",
        };
        Ok((factory, &seen.buffer))
    }
}

impl super::ZeroBufferDevice {
    pub fn new(seen: &Seen) -> Self {
        let properties = gst::Structure::builder("zerobuffer-proplist")
            .field("device.api", "zerobuffer")
            .field("zerobuffer.name", seen.buffer.as_str())
            .field("zerobuffer.uri", uri::of_name(&seen.buffer))
            .field("zerobuffer.in-use", seen.in_use)
            .field("zerobuffer.pid", seen.pid)
            .build();
        let device: Self = glib::Object::builder()
            .property("display-name", format!("{} (ZeroBuffer)", seen.buffer))
            .property("device-class", seen.class())
            .property("caps", &seen.caps)
            .property("properties", properties)
            .build();
        // It is new, so the cell is empty.
        let _ = device.imp().seen.set(seen.clone());
        device
    }
}

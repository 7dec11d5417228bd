//! The list of devices, as it is and as it changes.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;

use super::ZeroBufferDevice;
use super::seen::{self, Seen};
use crate::protocol::Interrupt;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "zerobufferdevices",
        gst::DebugColorFlags::empty(),
        Some("ZeroBuffer devices"),
    )
});

/// Between two looks, while somebody wants to know of changes. Nothing tells when a lock is freed
/// or when metadata is written through a mapping.
const INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub struct ZeroBufferDeviceProvider {
    watching: Mutex<Option<(Interrupt, JoinHandle<()>)>>,
}

#[glib::object_subclass]
impl ObjectSubclass for ZeroBufferDeviceProvider {
    const NAME: &'static str = "GstZeroBufferDeviceProvider";
    type Type = super::ZeroBufferDeviceProvider;
    type ParentType = gst::DeviceProvider;
}

impl ObjectImpl for ZeroBufferDeviceProvider {}

impl GstObjectImpl for ZeroBufferDeviceProvider {}

impl DeviceProviderImpl for ZeroBufferDeviceProvider {
    fn metadata() -> Option<&'static gst::subclass::DeviceProviderMetadata> {
        static METADATA: LazyLock<gst::subclass::DeviceProviderMetadata> = LazyLock::new(|| {
            gst::subclass::DeviceProviderMetadata::new(
                "ZeroBuffer device provider",
                "Source/Sink/Video/Audio",
                "Lists the streams that other processes of this machine send through ZeroBuffer \
                 rings, and the rings that wait for a sender",
                "The gst-plugin-zerobuffer developers",
            )
        });
        Some(&METADATA)
    }

    fn probe(&self) -> Vec<gst::Device> {
        let devices = seen::look();
        let devices = devices.iter().map(ZeroBufferDevice::new);
        devices.map(|device| device.upcast()).collect()
    }

    fn start(&self) -> Result<(), gst::LoggableError> {
        let provider = self.obj().downgrade();
        let mut known = Vec::new();
        update(&self.obj(), &mut known);
        let interrupt = Interrupt::new();
        let stop = interrupt.clone();
        let thread = thread::Builder::new().name("zerobufferdevices".into());
        let watching = thread.spawn(move || {
            while !stop.sleep(INTERVAL) {
                let Some(provider) = provider.upgrade() else {
                    return;
                };
                update(&provider, &mut known);
            }
        });
        let watching =
            watching.map_err(|err| gst::loggable_error!(CAT, "No thread to look: {err}"))?;
        *self.watching() = Some((interrupt, watching));
        Ok(())
    }

    fn stop(&self) {
        let watching = self.watching().take();
        if let Some((interrupt, watching)) = watching {
            interrupt.set();
            // It may be this one, which has the last reference.
            if watching.thread().id() != thread::current().id() {
                // A panic there has been told; nothing of it is left to be done here.
                let _ = watching.join();
            }
        }
    }
}

impl ZeroBufferDeviceProvider {
    fn watching(&self) -> MutexGuard<'_, Option<(Interrupt, JoinHandle<()>)>> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Known = Vec<(Seen, ZeroBufferDevice)>;

/// Tells what has changed since the last look.
fn update(provider: &super::ZeroBufferDeviceProvider, known: &mut Known) {
    let now = seen::look();
    let same = |a: &Seen, b: &Seen| (a.kind, &a.buffer) == (b.kind, &b.buffer);
    known.retain(|(seen, device)| {
        let stays = now.iter().any(|it| same(it, seen));
        if !stays {
            gst::info!(CAT, obj = provider, "Gone: {seen:?}");
            provider.device_remove(device);
        }
        stays
    });
    for seen in now {
        let before = known.iter_mut().find(|(it, _)| same(it, &seen));
        match before {
            Some((it, _)) if *it == seen => {}
            Some(before) => {
                gst::info!(CAT, obj = provider, "Changed: {seen:?}");
                let device = ZeroBufferDevice::new(&seen);
                provider.device_changed(&device, &before.1);
                *before = (seen, device);
            }
            None => {
                gst::info!(CAT, obj = provider, "New: {seen:?}");
                let device = ZeroBufferDevice::new(&seen);
                provider.device_add(&device);
                known.push((seen, device));
            }
        }
    }
}

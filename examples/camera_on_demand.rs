//! A camera that runs only while somebody looks: `camera_on_demand NAME`.
//!
//! It sends a live picture (a test picture here; put your camera in its place) to the buffer NAME.
//! While there is no receiver the camera is off: the sink tells when one comes and when it goes, and
//! why. Start and end receivers as you like, for instance the first command of README.md.
//!
//! The same is told by the signals `peer-connected` and `peer-disconnected` of the sink. They are
//! called in a thread of the sink's own; messages on the bus come to the thread that reads them.

use std::env;
use std::error::Error;

use gst::prelude::*;
use gstreamer as gst;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result {
    let name = env::args().nth(1).ok_or("usage: camera_on_demand NAME")?;
    gst::init()?;
    gstzerobuffer::plugin_register_static()?;

    // The sink must never hold up the camera, or it could not be switched off.
    let pipeline = gst::parse::launch(
        "videotestsrc name=camera is-live=true ! video/x-raw,width=320,height=240,framerate=30/1 \
         ! zerobuffersink name=sink wait-for-connection=false on-full=drop",
    )?;
    let pipeline = pipeline
        .downcast::<gst::Pipeline>()
        .map_err(|_| "no pipeline")?;
    let camera = pipeline.by_name("camera").ok_or("no camera")?;
    let sink = pipeline.by_name("sink").ok_or("no sink")?;
    sink.set_property("buffer-name", name);

    // Off, whatever the pipeline does.
    camera.set_locked_state(true);
    pipeline.set_state(gst::State::Playing)?;
    let bus = pipeline.bus().ok_or("a pipeline has a bus")?;
    for message in bus.iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Element(told) => {
                let Some(told) = told.structure() else {
                    continue;
                };
                match told.name().as_str() {
                    "zerobuffer-peer-connected" => {
                        let pid: u64 = told.get("peer-pid")?;
                        println!("process {pid} is there: camera on");
                        camera.set_locked_state(false);
                        camera.sync_state_with_parent()?;
                    }
                    "zerobuffer-peer-disconnected" => {
                        let (pid, why): (u64, &str) = (told.get("peer-pid")?, told.get("reason")?);
                        println!("process {pid} has gone ({why}): camera off");
                        camera.set_locked_state(true);
                        camera.set_state(gst::State::Null)?;
                    }
                    _ => {}
                }
            }
            gst::MessageView::Error(err) => {
                pipeline.set_state(gst::State::Null)?;
                return Err(err.error().into());
            }
            _ => {}
        }
    }
    Ok(())
}

//! An application that draws its frames straight into the ring: `appsrc_in_place NAME [FRAMES]`.
//!
//! It sends FRAMES frames (300 unless told otherwise), 640×360 at 30 a second, through
//! `appsrc ! zerobuffersink buffer-name=NAME`. Start a receiver of that name in another terminal,
//! for instance the first command of README.md.
//!
//! An application usually allocates its frames, and the sink copies them into the ring. Here they
//! are in the ring from the beginning: the sink proposes a buffer pool whose buffers are places in
//! the ring, the application takes its buffers from it and draws into them, and the sink has only to
//! tell the receiver where they are.
//!
//! At the end it prints the sink's `stats`. Exit status 0 if every frame was in place, 1 if one had
//! to be copied, or if something went wrong.

use std::env;
use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_video::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

const WIDTH: u32 = 640;
const HEIGHT: u32 = 360;
const RATE: u64 = 30;

/// How long to wait for room in the ring before a frame is drawn into ordinary memory instead.
const PATIENCE: Duration = Duration::from_secs(1);

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result {
    let args: Vec<String> = env::args().skip(1).collect();
    let (name, frames) = match &args[..] {
        [name] => (name, 300),
        [name, frames] => (name, frames.parse()?),
        _ => return Err("usage: appsrc_in_place NAME [FRAMES]".into()),
    };
    gst::init()?;
    // From this crate, so no plugin path is needed.
    gstzerobuffer::plugin_register_static()?;

    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, WIDTH, HEIGHT)
        .fps(gst::Fraction::new(RATE as i32, 1))
        .build()?;
    let appsrc = gst_app::AppSrc::builder()
        .caps(&info.to_caps()?)
        .format(gst::Format::Time)
        // push_buffer() waits while two frames wait for the sink, so few places are taken ahead.
        .block(true)
        .max_bytes(2 * info.size() as u64)
        .build();
    let sink = gst::ElementFactory::make("zerobuffersink")
        .property("buffer-name", name)
        .build()?;
    let pipeline = gst::Pipeline::new();
    pipeline.add_many([appsrc.upcast_ref(), &sink])?;
    appsrc.link(&sink)?;

    let sent = send(&pipeline, &appsrc, &sink, &info, frames);
    let stats: gst::Structure = sink.property("stats");
    pipeline.set_state(gst::State::Null)?;
    sent?;

    println!("{stats}");
    let (in_place, copied): (u64, u64) = (stats.get("in-place")?, stats.get("copied")?);
    if (in_place, copied) != (frames, 0) {
        return Err(format!("{in_place} frames were in place, {copied} were copied").into());
    }
    Ok(())
}

fn send(
    pipeline: &gst::Pipeline,
    appsrc: &gst_app::AppSrc,
    sink: &gst::Element,
    info: &gst_video::VideoInfo,
    frames: u64,
) -> Result {
    let bus = pipeline.bus().ok_or("a pipeline has a bus")?;
    // A pool can be asked for when the pads are active, so from PAUSED on.
    pipeline.set_state(gst::State::Paused)?;
    let pool = receivers_pool(appsrc, sink, info)?;
    pool.set_active(true)?;
    pipeline.set_state(gst::State::Playing)?;

    let mut patience = PATIENCE;
    for number in 0..frames {
        let mut buffer = pool.acquire_buffer(None)?;
        // While the ring is full the pool gives ordinary memory, which the sink copies, rather than
        // hold up a thread that is not the sink's. A live source would take that; this one has time.
        let since = Instant::now();
        while !is_in_ring(&buffer) && since.elapsed() < patience {
            thread::sleep(Duration::from_millis(1));
            buffer = pool.acquire_buffer(None)?;
        }
        if !is_in_ring(&buffer) {
            // The receiver stands still, or it is one of another implementation, to which
            // everything is copied.
            patience = Duration::ZERO;
        }
        let due = gst::ClockTime::SECOND.mul_div_floor(number, RATE);
        buffer.make_mut().set_pts(due);
        let mut frame = gst_video::VideoFrame::from_buffer_writable(buffer, info)
            .map_err(|_| "the buffer cannot be written to")?;
        draw(&mut frame, number)?;
        if appsrc.push_buffer(frame.into_buffer()).is_err() {
            // The bus says why.
            break;
        }
    }
    // After an error nobody takes the end of the stream.
    let _ = appsrc.end_of_stream();
    for message in bus.iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(err) => return Err(err.error().into()),
            _ => {}
        }
    }
    Ok(())
}

/// Waits for the receiver and returns the pool that the sink proposes, set up for our frames.
fn receivers_pool(
    appsrc: &gst_app::AppSrc,
    sink: &gst::Element,
    info: &gst_video::VideoInfo,
) -> Result<gst::BufferPool> {
    let caps = info.to_caps()?;
    let pad = appsrc.static_pad("src").ok_or("appsrc has a pad")?;
    loop {
        // "What memory would you like for frames of these caps, and do you have a pool?"
        let mut query = gst::query::Allocation::new(Some(&caps), true);
        if !pad.peer_query(&mut query) {
            return Err("the sink does not answer".into());
        }
        // The sink looks for the receiver when it is asked. Without one there is no ring yet, and
        // the pool would give ordinary memory.
        let receiver: u64 = sink.property::<gst::Structure>("stats").get("peer-pid")?;
        if receiver == 0 {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        let (pool, size, least, most) = query
            .allocation_pools()
            .next()
            .ok_or("the sink proposes no pool")?
            .to_owned();
        let pool = pool.ok_or("the sink proposes no pool")?;
        let mut config = pool.config();
        config.set_params(Some(&caps), size, least, most);
        // Each buffer says where its rows and planes are.
        config.add_option(gst_video::BUFFER_POOL_OPTION_VIDEO_META);
        pool.set_config(config)?;
        return Ok(pool);
    }
}

/// Whether a buffer is a place in the ring.
fn is_in_ring(buffer: &gst::BufferRef) -> bool {
    buffer.n_memory() == 1 && buffer.peek_memory(0).is_type("ZeroBufferRing")
}

/// Draws frame `number`: stripes and colours that move.
fn draw(
    frame: &mut gst_video::VideoFrame<gst_video::video_frame::Writable>,
    number: u64,
) -> Result {
    for plane in 0..frame.n_planes() {
        let stride = frame.plane_stride()[plane as usize] as usize;
        for (y, row) in (0u64..).zip(frame.plane_data_mut(plane)?.chunks_mut(stride)) {
            for (x, pixel) in (0u64..).zip(row) {
                *pixel = match plane {
                    0 => x + y + 4 * number,
                    1 => 2 * x + number,
                    _ => 2 * y + number,
                } as u8;
            }
        }
    }
    Ok(())
}

//! `zerobufferfilter` with a worker in another process that changes the first bytes of each frame in
//! place. Upstream draws into the ring of requests and downstream looks at that of the answers; what v1
//! forces is the one copy in between, from ring to ring, which the worker makes.

use std::io::Read;

use gst::prelude::*;
use gstreamer as gst;
use gstzerobuffer::duplex::{DuplexServer, DuplexServerConfig};

use crate::{PLACES, Peer, RING, Result, SIZES, frame_size, memcpy, peer};

const FRAMES: u64 = 300;
const RATES: [u64; 3] = [30, 60, 300];

/// The worker; it ends when its standard input does.
pub fn work(name: &str) -> Result {
    let config = DuplexServerConfig::new(4096, RING * (frame_size(SIZES[2]) + 4096));
    let server = DuplexServer::builder(name, config).start_mutable(|frame| {
        for byte in frame.iter_mut().take(8) {
            *byte = !*byte;
        }
        Ok(())
    })?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    server.stop();
    Ok(())
}

/// Prints round trips, a memcpy, and what was copied where.
pub fn measure() -> Result {
    peer::init()?;
    println!(
        "| frame | frames/s | round trip, µs (mean) | a memcpy, µs | requests in place | answers in place |\n\
         |---|---|---|---|---|---|"
    );
    for size in &SIZES[..2] {
        for rate in RATES {
            let copy = memcpy(*size, PLACES[0])?;
            let name = gstzerobuffer::testing::unique_name("bench-filter");
            let mut worker = Peer::start_with_input(&["--work", &name])?;
            let interval = 1_000_000_000 / rate;
            let (width, height) = *size;
            let pipeline = gst::parse::launch(&format!(
                "benchsrc name=in num-buffers={FRAMES} interval={interval} \
                 ! video/x-raw,format=I420,width={width},height={height},framerate=60/1 \
                 ! zerobufferfilter name=filter channel-name={name} \
                 ! fakesink sync=false enable-last-sample=false"
            ))?;
            peer::run(&pipeline, |pipeline| {
                let stats: gst::Structure = peer::element(pipeline, "filter")?.property("stats");
                let get = |field| stats.get::<u64>(field);
                println!(
                    "| {width}×{height} | {rate} | {:.0} | {copy:.0} | {} of {FRAMES} | {} of {FRAMES} |",
                    get("rtt-mean")? as f64 / 1000.0,
                    get("requests-in-place")?,
                    get("answers-in-place")?,
                );
                Ok(())
            })?;
            worker.end()?;
        }
    }
    Ok(())
}

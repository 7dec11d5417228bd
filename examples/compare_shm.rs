//! Compares zerobuffersink/zerobuffersrc with shmsink/shmsrc in one run: `compare_shm [ROUNDS]`.
//!
//! Each measurement is a sender and a receiver in two processes (this program starts itself again).
//! A source element made for this keeps a picture's drawing out of the figures. What it does with a
//! frame, and what the receiver does:
//!
//! * `in place`: takes memory from the sink's proposal, writes a time into its first bytes; the
//!   receiver reads that.
//! * `copied in`: has memory of its own, which the sink has to copy; the receiver reads the time.
//! * `every byte`: memory from the proposal, all of it written; the receiver reads all of it.
//!
//! Unpaced: frames a second and processor time a frame of both processes together. At 60 frames/s:
//! one-way latency (median, 99th of a hundred) and processor time. The two are measured in turn, and
//! the table gives medians of the rounds and their ratio; only the ratio means something on another
//! machine. Processor time is what the kernel accounted to both processes from start to end.

use std::env;
use std::error::Error;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gstreamer as gst;
use serde_json::{Value, json};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const SIZES: [(i32, i32); 3] = [(1280, 720), (1920, 1080), (3840, 2160)];
const WORK: [&str; 3] = ["in place", "copied in", "every byte"];

mod source {
    use super::*;
    use gst::subclass::prelude::*;
    use gst_base::prelude::*;
    use gst_base::subclass::prelude::*;
    use gstreamer_base as gst_base;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    pub struct FrameSrc {
        /// Write every byte, not just the time.
        fill: AtomicBool,
        /// Take no memory from downstream.
        own: AtomicBool,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for FrameSrc {
        const NAME: &'static str = "CompareFrameSrc";
        type Type = super::FrameSrc;
        type ParentType = gst_base::PushSrc;
    }

    impl ObjectImpl for FrameSrc {
        fn properties() -> &'static [glib::ParamSpec] {
            static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
                ["fill", "own"]
                    .map(|name| glib::ParamSpecBoolean::builder(name).build())
                    .into()
            });
            &PROPERTIES
        }

        fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
            let flag = match pspec.name() {
                "fill" => &self.fill,
                _ => &self.own,
            };
            flag.store(value.get().unwrap_or_default(), Ordering::Relaxed);
        }

        fn constructed(&self) {
            self.parent_constructed();
            self.obj().set_format(gst::Format::Time);
        }
    }

    impl GstObjectImpl for FrameSrc {}

    impl ElementImpl for FrameSrc {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new(
                    "Source of the comparison",
                    "Source/Video",
                    "Frames with a time in them",
                    "The gst-plugin-zerobuffer developers",
                )
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                gst::PadTemplate::new(
                    "src",
                    gst::PadDirection::Src,
                    gst::PadPresence::Always,
                    &gst::Caps::builder("video/x-raw").build(),
                )
                .into_iter()
                .collect()
            });
            &TEMPLATES
        }
    }

    impl BaseSrcImpl for FrameSrc {
        fn decide_allocation(
            &self,
            query: &mut gst::query::Allocation,
        ) -> std::result::Result<(), gst::LoggableError> {
            if self.own.load(Ordering::Relaxed) {
                // All that downstream proposes.
                while !query.allocation_pools().next().is_none() {
                    query.remove_nth_allocation_pool(0);
                }
                while !query.allocation_params().next().is_none() {
                    query.remove_nth_allocation_param(0);
                }
            }
            if let Some(caps) = query.get_owned().0 {
                let size = gstreamer_video::VideoInfo::from_caps(&caps).map_or(0, |i| i.size());
                self.obj().set_blocksize(size as u32);
            }
            self.parent_decide_allocation(query)
        }
    }

    impl PushSrcImpl for FrameSrc {
        fn fill(
            &self,
            buffer: &mut gst::BufferRef,
        ) -> std::result::Result<gst::FlowSuccess, gst::FlowError> {
            let mut map = buffer.map_writable().map_err(|_| gst::FlowError::Error)?;
            if self.fill.load(Ordering::Relaxed) {
                map.fill(gst::get_timestamp().nseconds() as u8);
            }
            // The same clock in all processes of a machine.
            let now = gst::get_timestamp().nseconds();
            map[..8].copy_from_slice(&now.to_le_bytes());
            Ok(gst::FlowSuccess::Ok)
        }
    }
}

glib::wrapper! {
    pub struct FrameSrc(ObjectSubclass<source::FrameSrc>)
        @extends gstreamer_base::PushSrc, gstreamer_base::BaseSrc, gst::Element, gst::Object;
}

fn main() -> Result {
    let args: Vec<String> = env::args().skip(1).collect();
    match &args[..] {
        [role, pipeline, work] if role == "--receive" => receive(pipeline, work == "every byte"),
        [role, pipeline] if role == "--send" => send(pipeline),
        [rounds] => compare(rounds.parse()?),
        [] => compare(5),
        _ => Err("usage: compare_shm [ROUNDS]".into()),
    }
}

fn init() -> Result {
    gst::init()?;
    gstzerobuffer::plugin_register_static()?;
    gst::Element::register(None, "comparesrc", gst::Rank::NONE, FrameSrc::static_type())?;
    Ok(())
}

/// Runs a pipeline to its end.
fn run(pipeline: &gst::Element) -> Result {
    let bus = pipeline.bus().ok_or("a pipeline has a bus")?;
    pipeline.set_state(gst::State::Playing)?;
    for message in bus.iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            // shmsrc ends like this when its sender goes.
            gst::MessageView::Error(err) if err.error().matches(gst::ResourceError::Read) => break,
            gst::MessageView::Error(err) => return Err(err.error().to_string().into()),
            _ => {}
        }
    }
    pipeline.set_state(gst::State::Null)?;
    Ok(())
}

/// Nanoseconds of processor time of this process, ended threads too.
fn processor_time() -> Result<u64> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    let nanos =
        |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000_000 + time.tv_usec() * 1000;
    Ok(u64::try_from(
        nanos(usage.user_time()) + nanos(usage.system_time()),
    )?)
}

fn send(pipeline: &str) -> Result {
    init()?;
    let pipeline = gst::parse::launch(pipeline)?;
    let before = processor_time()?;
    run(&pipeline)?;
    println!("{}", json!({"cpu": processor_time()? - before}));
    Ok(())
}

fn receive(pipeline: &str, every_byte: bool) -> Result {
    init()?;
    let pipeline = gst::parse::launch(pipeline)?;
    let sink = pipeline
        .downcast_ref::<gst::Bin>()
        .and_then(|bin| bin.by_name("out"))
        .ok_or("no sink")?;
    let (arrived, arrivals) = std::sync::mpsc::channel();
    let pad = sink.static_pad("sink").ok_or("no pad")?;
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(map) = info.buffer().and_then(|buffer| buffer.map_readable().ok()) {
            let now = gst::get_timestamp().nseconds();
            let sent = map[..8].try_into().map_or(0, u64::from_le_bytes);
            let sum = if every_byte {
                let words = map.chunks_exact(8);
                words.fold(0_u64, |sum, word| {
                    sum.wrapping_add(word.try_into().map_or(0, u64::from_le_bytes))
                })
            } else {
                0
            };
            let _ = arrived.send((
                Instant::now(),
                now.saturating_sub(sent),
                std::hint::black_box(sum),
            ));
        }
        gst::PadProbeReturn::Ok
    });
    let before = processor_time()?;
    run(&pipeline)?;
    let cpu = processor_time()? - before;
    let arrivals: Vec<_> = arrivals.try_iter().collect();
    // The first frames find cold caches and pages.
    let warm = &arrivals[arrivals.len() / 10..];
    let (first, last) = (
        warm.first().ok_or("no frames")?,
        warm.last().ok_or("no frames")?,
    );
    let mut latencies: Vec<_> = warm.iter().map(|arrival| arrival.1).collect();
    latencies.sort_unstable();
    println!(
        "{}",
        json!({
            "frames": arrivals.len(),
            "rate": (warm.len() - 1) as f64 / (last.0 - first.0).as_secs_f64(),
            "p50": latencies[latencies.len() / 2],
            "p99": latencies[latencies.len() * 99 / 100],
            "cpu": cpu,
        })
    );
    Ok(())
}

/// One sender and one receiver to the end: rate, p50 and p99 in µs, processor time a frame in µs.
fn measure(ours: bool, (width, height): (i32, i32), work: &str, paced: bool) -> Result<[f64; 4]> {
    let name = gstzerobuffer::testing::unique_name("compare");
    let socket = env::temp_dir().join(&name);
    let frame = width * height * 3 / 2;
    let ring = 8 * (frame + 4096);
    let frames = if paced {
        150
    } else {
        (600_000_000 / frame).clamp(60, 400)
    };
    let caps = format!("video/x-raw,format=I420,width={width},height={height},framerate=60/1");
    let (sink, src) = if ours {
        (
            format!("zerobuffersink buffer-name={name}"),
            format!("zerobuffersrc buffer-name={name} payload-size={ring}"),
        )
    } else {
        (
            format!(
                "shmsink wait-for-connection=true shm-size={ring} socket-path={}",
                socket.display()
            ),
            format!(
                "shmsrc is-live=true socket-path={} ! {caps}",
                socket.display()
            ),
        )
    };
    let source = format!(
        "comparesrc num-buffers={frames} fill={} own={} do-timestamp={paced} ! {caps}",
        work == "every byte",
        work == "copied in"
    );
    // Paced by the source's clock, not by the sink's, so that both sinks send at once.
    let pace = if paced {
        "! identity sleep-time=16666"
    } else {
        ""
    };
    let sending = format!("{source} {pace} ! {sink} sync=false");
    let receiving = format!("{src} ! fakesink name=out sync=false enable-last-sample=false");

    let start = |args: &[&str]| {
        Command::new(env::current_exe()?)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
    };
    let sender;
    let receiver;
    if ours {
        receiver = start(&["--receive", &receiving, work])?;
        sender = start(&["--send", &sending])?;
    } else {
        // shmsrc does not wait for its sender.
        sender = start(&["--send", &sending])?;
        while !socket.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        receiver = start(&["--receive", &receiving, work])?;
    }
    let output = |child: std::process::Child| -> Result<Value> {
        let output = child.wait_with_output()?;
        Ok(serde_json::from_slice(&output.stdout).map_err(|_| "a process gave no figures")?)
    };
    let (sent, got) = (output(sender)?, output(receiver)?);
    let _ = std::fs::remove_file(&socket);
    let number = |value: &Value, key: &str| value[key].as_f64().unwrap_or(f64::NAN);
    let cpu = number(&sent, "cpu") + number(&got, "cpu");
    Ok([
        number(&got, "rate"),
        number(&got, "p50") / 1000.0,
        number(&got, "p99") / 1000.0,
        cpu / number(&got, "frames") / 1000.0,
    ])
}

fn compare(rounds: usize) -> Result {
    init()?;
    println!(
        "Medians of {rounds} rounds: ours, shm, ours / shm. Rates in frames/s, times in µs.\n\n\
         | frame | work | | frames/s | | | CPU a frame | | | p50 at 60/s | | | p99 at 60/s | | | CPU at 60/s | | |"
    );
    for size in SIZES {
        for work in WORK {
            // [paced][ours][figure][round]
            let mut figures = vec![vec![vec![Vec::new(); 4]; 2]; 2];
            for _ in 0..rounds {
                for paced in [false, true] {
                    for ours in [true, false] {
                        let measured = measure(ours, size, work, paced)?;
                        let into = &mut figures[usize::from(paced)][usize::from(ours)];
                        for (values, value) in into.iter_mut().zip(measured) {
                            values.push(value);
                        }
                    }
                }
            }
            let mut line = format!("| {}×{} | {work} |", size.0, size.1);
            for (paced, figure) in [(0, 0), (0, 3), (1, 1), (1, 2), (1, 3)] {
                let [shm, ours] = [0, 1].map(|who| median(&figures[paced][who][figure]));
                line += &format!(" | {ours:.0} | {shm:.0} | {:.2} |", ours / shm);
            }
            println!("{line}");
        }
    }
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

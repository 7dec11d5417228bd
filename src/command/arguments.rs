//! What can be said on the command line. Help, man page and completions come from here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Looks at the ZeroBuffers of this machine: rings in shared memory that carry video from one process
/// to another.
///
/// Looking changes nothing: no buffer, and nothing that its two ends could notice.
#[derive(Parser)]
#[command(name = "zerobuffer", version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    List(List),
    Inspect(Inspect),
    Doctor(Doctor),
    Clean(Clean),
    Peek(Peek),
    Top(Top),
    Bench(Bench),
    Generate(Generate),
    #[command(hide = true)]
    BenchReader(BenchReader),
}

/// All buffers: name, state, stream, size, use, both ends, age
///
/// On a terminal it is a table. Otherwise it is one line for each buffer, with tabs between the
/// columns and a line of their names first; sizes are in bytes, ages in seconds, and "-" is not known.
///
/// States: live (both ends are there), waiting (for a first writer), ended (the writer has closed),
/// writer-dead, reader-dead, closed (left by a reader that closed), unclear (an end is perhaps in
/// another pid namespace), unfinished (in the making, or left by a reader that died meanwhile), hidden
/// (another user's, not readable), no-buffer.
#[derive(Args)]
pub struct List {
    /// Print JSON instead: one object for each buffer, in an array
    #[arg(long)]
    pub json: bool,
}

/// Everything about one buffer, decoded and checked
#[derive(Args)]
pub struct Inspect {
    /// The name of the buffer
    pub name: String,
    /// Print JSON instead
    #[arg(long)]
    pub json: bool,
    /// How many of the frames in the ring to show, the newest
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub frames: usize,
}

/// What would keep two processes from meeting, and what to do about it
///
/// Exit status 0: nothing that would; 1: there is a problem; 2: it could not be found out.
#[derive(Args)]
pub struct Doctor {
    /// Also look at the buffer of this name and at both its ends
    pub name: Option<String>,
    /// Print JSON instead
    #[arg(long)]
    pub json: bool,
}

/// Removes what dead readers have left: segments, semaphores, lock files
///
/// Only what is provably nobody's is removed, by the same locks by which a new reader takes a name.
/// Exit status 0: nothing of that kind is left; 1: something could not be removed.
#[derive(Args)]
pub struct Clean {
    /// Only these buffers, and not all
    pub names: Vec<String>,
    /// Only say what would be removed
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

/// A picture of the newest frame, without disturbing the stream
///
/// The frame is copied out of the ring and then looked at again: if it was overwritten meanwhile, the
/// next one is taken. Raw video is written as PNG; everything else, such as JPEG or H.264, as it is.
#[derive(Args)]
pub struct Peek {
    /// The name of the buffer
    pub name: String,
    /// The file to be written; "-" is the standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Take the frame for this, whatever the stream says: video/x-raw,format=RGB,width=640,height=480
    #[arg(long, value_name = "CAPS")]
    pub caps: Option<String>,
    /// Leave so many bytes out before the picture; without it what the stream says of a frame prefix
    #[arg(long, value_name = "BYTES")]
    pub skip: Option<usize>,
    /// Write the bytes of the frame as they are
    #[arg(long, conflicts_with_all = ["caps", "skip"])]
    pub raw: bool,
    /// How long to wait for a frame, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub timeout: f64,
}

/// All buffers, live: rates, use of the ring, how late frames are
///
/// LATE is by how much the newest frame is behind the moment at which it is due to be shown: the least
/// that was seen in the interval. Less than 0: it is there before. It is known of streams that tell when
/// their frames are due. In RING, '#' is in use, and up to '+' was at some time of the interval.
///
/// Keys: n, s, r, u, l, a sort by name, state, rate, use, latency and age; + and - change the
/// interval; q ends. Without a terminal there is one table after the other.
#[derive(Args)]
pub struct Top {
    /// Only these buffers, and not all
    pub names: Vec<String>,
    /// How long to measure before each table, in seconds
    #[arg(long, short, value_name = "SECONDS", default_value_t = 1.0)]
    pub interval: f64,
    /// Print one table and end; without a terminal with tabs between the columns, for programs
    #[arg(long)]
    pub once: bool,
    /// By what to sort
    #[arg(long, value_enum, default_value_t = Order::Name)]
    pub sort: Order,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    Name,
    State,
    Rate,
    Use,
    Latency,
    Age,
}

/// Frames from one process to another on this machine, against a copy within one
///
/// It makes a ring of its own, starts itself again as the reader, and removes all of it. Frames a
/// second are flat out; the latency is that of frames at their pace, 100 a second.
#[derive(Args)]
pub struct Bench {
    /// How long to measure each line, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub seconds: f64,
    /// Bytes of a frame; without it those of I420 at 640x480, 1920x1080 and 3840x2160
    #[arg(long, value_name = "BYTES")]
    pub size: Option<usize>,
    /// Print JSON instead
    #[arg(long)]
    pub json: bool,
}

/// The other process of a benchmark.
#[derive(Args)]
pub struct BenchReader {
    pub name: String,
    pub ring: u64,
    /// Copy each frame out of the ring
    #[arg(long)]
    pub copy: bool,
}

/// Writes man pages and completions for shells into a folder
#[derive(Args)]
#[command(hide = true)]
pub struct Generate {
    /// Made if it is not there
    pub folder: PathBuf,
}

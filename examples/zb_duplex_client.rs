//! Sends requests on a duplex channel of ZeroBuffer and prints a JSON line for each answer.
//!
//! `zb_duplex_client NAME REQUESTS SIZES IN_FLIGHT METADATA [METADATA_SIZE PAYLOAD_SIZE]` makes the
//! buffer NAME_response with these sizes in bytes (4096 and 33554432 unless told otherwise),
//! attaches to the server (for 10 s it tries again while there is none), writes METADATA (`-`:
//! none), and sends so many requests, IN_FLIGHT of them before it waits for an answer. Their sizes
//! are those of the comma list SIZES in turn; byte j of request i, both from 0, is (i + j) & 255.
//! For each answer it prints `{"request":…,"size":…,"crc32":…}`. Exit status 0 when all were
//! answered, 1 with a line on stderr when not.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use gstzerobuffer::duplex::{DuplexClient, DuplexClientConfig};
use gstzerobuffer::testing;

const USAGE: &str = "usage: zb_duplex_client NAME REQUESTS SIZES IN_FLIGHT METADATA \
                     [METADATA_SIZE PAYLOAD_SIZE]";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that is stopped must not hang a test for ever.
const TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("zb_duplex_client: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [name, requests, sizes, in_flight, metadata, config @ ..] = &args[..] else {
        return Err(USAGE.into());
    };
    let requests: u64 = requests.parse()?;
    let sizes: Vec<u64> = sizes.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let in_flight: u64 = in_flight.parse()?;
    let config = match config {
        [] => DuplexClientConfig::default(),
        [metadata, payload] => DuplexClientConfig::new(metadata.parse()?, payload.parse()?),
        _ => return Err(USAGE.into()),
    };

    let client = DuplexClient::create(name, config)?;
    match metadata.as_str() {
        "-" => client.connect(CONNECT_TIMEOUT)?,
        metadata => client.connect_with(metadata.as_bytes(), CONNECT_TIMEOUT)?,
    }
    let mut out = io::stdout().lock();
    let mut sent = 0;
    for received in 0..requests {
        while sent < requests && sent - received < in_flight.max(1) {
            let size = sizes[(sent % sizes.len() as u64) as usize];
            let mut request = client.reserve(size, TIMEOUT)?;
            testing::fill_frame_data(&mut request, sent);
            sent = request.commit()?;
        }
        let answer = client.receive(TIMEOUT)?;
        let (request, size) = (answer.request(), answer.len());
        let crc = crc32fast::hash(&answer);
        writeln!(
            out,
            r#"{{"request":{request},"size":{size},"crc32":{crc}}}"#
        )?;
    }
    Ok(())
}

//! Answers requests on a duplex channel of ZeroBuffer until its standard input ends.
//!
//! `zb_duplex_server NAME WORK [METADATA_SIZE PAYLOAD_SIZE [THREADS]]` makes the buffer
//! NAME_request with these sizes in bytes (4096 and 33554432 unless told otherwise), prints `ready`,
//! and answers with so many threads (1). WORK is what it does:
//!
//! * `echo`: the answer is the request;
//! * `invert`: each byte inverted, written into the ring of the answers in place;
//! * `invert-in-place`: the same by a handler that changes the request's bytes;
//! * `twice`: the request two times.
//!
//! When its input ends it stops, prints `{"clients":…,"requests":…,"answers":…}`, and exits with
//! status 0. What goes wrong meanwhile is a line on stderr.

use std::env;
use std::io;
use std::process::ExitCode;

use gstzerobuffer::Frame;
use gstzerobuffer::duplex::{Answer, DuplexServer, DuplexServerConfig, HandlerError, Reply};

const USAGE: &str = "usage: zb_duplex_server NAME echo|invert|invert-in-place|twice \
                     [METADATA_SIZE PAYLOAD_SIZE [THREADS]]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("zb_duplex_server: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let (name, work, config) = match &args[..] {
        [name, work] => (name, work, DuplexServerConfig::new(4096, 32 << 20)),
        [name, work, metadata, payload, threads @ ..] if threads.len() < 2 => {
            let config = DuplexServerConfig::new(metadata.parse()?, payload.parse()?);
            let threads = threads.first().map_or(Ok(1), |threads| threads.parse())?;
            (name, work, config.with_threads(threads))
        }
        _ => return Err(USAGE.into()),
    };
    let server =
        DuplexServer::builder(name, config).on_error(|err| eprintln!("zb_duplex_server: {err}"));
    let server = match work.as_str() {
        "echo" => server.start(|request, reply| Ok(reply.copy(request)?)),
        "invert" => server.start(invert),
        "invert-in-place" => server.start_mutable(|bytes| {
            bytes.iter_mut().for_each(|byte| *byte = !*byte);
            Ok(())
        }),
        "twice" => server.start(|request, reply| {
            let mut answer = reply.reserve(2 * request.len() as u64)?;
            let (first, second) = answer.split_at_mut(request.len());
            first.copy_from_slice(request);
            second.copy_from_slice(request);
            Ok(answer)
        }),
        _ => return Err(USAGE.into()),
    }?;
    println!("ready");
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    server.stop();
    let stats = server.stats();
    println!(
        r#"{{"clients":{},"requests":{},"answers":{}}}"#,
        stats.clients, stats.requests, stats.answers
    );
    Ok(())
}

fn invert(request: &Frame, reply: Reply) -> Result<Answer, HandlerError> {
    let mut answer = reply.reserve(request.len() as u64)?;
    for (out, byte) in answer.iter_mut().zip(&request[..]) {
        *out = !byte;
    }
    Ok(answer)
}

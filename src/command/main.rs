//! `zerobuffer`: what buffers there are on this machine, what is in them, and what is wrong. It needs
//! no GStreamer. See `docs/command.md`.

mod arguments;
mod bench;
mod caps;
mod clean;
mod doctor;
mod generate;
mod inspect;
mod json;
mod list;
mod peek;
mod picture;
mod text;
mod top;

use std::io::{self, Write, stderr};
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

/// Why a command failed: a text for people.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        // Whoever read our output has had enough of it.
        Err(err) if is_broken_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => {
            complain(err.as_ref());
            ExitCode::from(2)
        }
    }
}

/// Says what went wrong, if anybody still hears it.
fn complain(err: &dyn std::error::Error) {
    let _ = writeln!(stderr(), "zerobuffer: {}", text::plain(&err.to_string()));
}

fn is_broken_pipe(err: &Failure) -> bool {
    err.downcast_ref::<io::Error>()
        .is_some_and(|err| err.kind() == io::ErrorKind::BrokenPipe)
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::List(options) => list::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Clean(options) => clean::run(&options),
        Command::Peek(options) => peek::run(&options),
        Command::Top(options) => top::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::BenchReader(options) => bench::read(&options),
        Command::Generate(options) => generate::run(&options),
    }
}

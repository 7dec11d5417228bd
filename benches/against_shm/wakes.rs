//! The least that a frame takes to another process when that sleeps: a few bytes through a pipe.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::measure::{now, quantile};
use crate::{INTERVAL, Result};

const TIMES: u64 = 180;

/// Runs on this processor only.
fn settle_on(processor: usize) -> Result {
    let mut only = CpuSet::new();
    only.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

/// The process that is woken: prints how long each wake-up took, in nanoseconds.
pub fn receive(processor: usize) -> Result {
    settle_on(processor)?;
    let mut stamp = [0; 8];
    while io::stdin().read_exact(&mut stamp).is_ok() {
        println!("{}", now().saturating_sub(u64::from_le_bytes(stamp)));
    }
    Ok(())
}

/// It does not outlive the measurement.
struct Woken(Child);

impl Drop for Woken {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The median of µs at 60 wake-ups a second.
fn wake(from: usize, to: usize) -> Result<f64> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--wake", &to.to_string()]);
    let mut woken = Woken((command.stdin(Stdio::piped()).stdout(Stdio::piped())).spawn()?);
    settle_on(from)?;
    let (input, output) = (woken.0.stdin.take(), woken.0.stdout.take());
    let (mut input, mut output) = (input.ok_or("no pipe")?, output.ok_or("no pipe")?);
    let began = Instant::now();
    for number in 1..=TIMES {
        let due = began + Duration::from_nanos(INTERVAL * number);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        input.write_all(&now().to_le_bytes())?;
    }
    drop(input);
    let mut text = String::new();
    output.read_to_string(&mut text)?;
    let mut nanos = (text.lines().map(str::parse)).collect::<std::result::Result<Vec<f64>, _>>()?;
    Ok(quantile(&mut nanos, 0.5) / 1000.0)
}

/// What a wake-up takes on the same processor, and on another, if there is one.
pub fn measure() -> Result<String> {
    // In a thread of its own, which alone keeps to a processor.
    let measured = thread::spawn(|| {
        let usable = sched_getaffinity(Pid::from_raw(0)).map_err(|err| err.to_string())?;
        let usable: Vec<usize> = (0..CpuSet::count())
            .filter(|processor| usable.is_set(*processor).unwrap_or_default())
            .collect();
        let [first, others @ ..] = &usable[..] else {
            return Err("no processor".into());
        };
        let wake = |to: usize| wake(*first, to).map_err(|err| err.to_string());
        let same = wake(*first)?;
        Ok(match others.first() {
            Some(other) => {
                format!(
                    "{same:.0} µs on the same processor, {:.0} on another",
                    wake(*other)?
                )
            }
            None => format!("{same:.0} µs, on the only processor"),
        })
    });
    let took: std::result::Result<String, String> = measured.join().map_err(|_| "it panicked")?;
    Ok(format!(
        "\nTo wake another process by 8 bytes through a pipe, at 60 a second, takes {} (median).\n",
        took?
    ))
}

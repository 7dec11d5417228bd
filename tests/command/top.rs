//! `top`: in a terminal, with keys, and without one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use gstzerobuffer::inspect::host;
use gstzerobuffer::{BufferConfig, FrameTime, Reader, Records, Writer};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use super::{PROGRAM, output, zerobuffer};
use crate::support::{LONG, Name};

/// A stream of 50 frames a second or so of 1000 bytes, each 5 ms late, while `during` runs.
fn stream<T>(name: &Name, during: impl FnOnce() -> T) -> T {
    let reader = Reader::create(name, &BufferConfig::new(1024, 1 << 16)).unwrap();
    let writer = Writer::attach(name).unwrap();
    writer
        .set_metadata(b"video/x-raw,format=GRAY8,width=40,height=25,framerate=50/1")
        .unwrap();
    let done = AtomicBool::new(false);
    /// Also when a test fails.
    struct AtEnd<'a>(&'a AtomicBool);
    impl Drop for AtEnd<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let due = host::monotonic().saturating_sub(Duration::from_millis(5));
                let time = FrameTime {
                    monotonic: u64::try_from(due.as_nanos()).ok(),
                    ..FrameTime::default()
                };
                let records = Records::new().with_time(&time);
                writer.write_frame_with(&[7; 1000], &records, LONG).unwrap();
                drop(reader.read_frame(LONG).unwrap());
                thread::sleep(Duration::from_millis(20));
            }
        });
        let _end = AtEnd(&done);
        during()
    })
}

#[test]
fn once_it_tells_rates_and_how_late_frames_are() {
    let name = Name::new("top-once");
    let text = stream(&name, || {
        output(
            &mut zerobuffer(&["top", "--once", "--interval", "0.5", &name]),
            0,
        )
    });
    let mut rows = text
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let columns = rows.next().unwrap();
    let row = rows.next().unwrap();
    assert!(rows.next().is_none());
    let value = |column: &str| {
        let at = columns.iter().position(|it| *it == column).unwrap();
        row[at].parse::<f64>().unwrap()
    };
    assert_eq!(&row[..2], [&*name, "live"]);
    // It cannot be more than one in 20 ms, and on a busy machine it is less.
    let rate = value("frames_per_second");
    assert!(rate > 0.0 && rate <= 52.0, "{rate}");
    assert!((value("bytes_per_second") - rate * 1000.0).abs() < 1.0);
    let late = value("late_seconds");
    assert!((0.005..60.0).contains(&late), "{late}");
    assert!(value("sequence") >= 1.0);
    // A buffer in which nothing happens.
    let reader = Reader::create(&name, &BufferConfig::new(1024, 4096)).unwrap();
    let text = output(
        &mut zerobuffer(&["top", "--once", "--interval", "0.1", &name]),
        0,
    );
    let row: Vec<&str> = text.lines().nth(1).unwrap().split('\t').collect();
    assert_eq!(
        row,
        [
            &*name, "waiting", "0.000000", "0.000000", "0.000000", "0.000000", "-", "-"
        ]
    );
    drop(reader);
    for interval in ["0", "0.01", "nan", "1e9"] {
        output(
            &mut zerobuffer(&["top", "--once", "--interval", interval]),
            2,
        );
    }
}

/// What a program has written to its terminal.
struct Terminal {
    master: File,
    seen: String,
}

impl Terminal {
    /// Reads on until this is there, behind all that was read before.
    fn until(&mut self, text: &str) {
        let from = self.seen.len();
        let mut bytes = [0; 4096];
        while !self.seen[from..].contains(text) {
            let mut wait = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut wait, PollTimeout::try_from(LONG).unwrap()).unwrap();
            assert!(ready > 0, "no {text:?} in {:?}", self.seen);
            let len = self.master.read(&mut bytes).unwrap();
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }
}

#[test]
fn in_a_terminal_keys_sort_and_end_it_and_the_terminal_is_as_it_was() {
    let name = Name::new("top-keys");
    stream(&name, || {
        let size = Winsize {
            ws_row: 24,
            ws_col: 160,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let before = tcgetattr(pty.slave.as_fd()).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let start = || {
            Command::new(PROGRAM)
                .args(["top", "--interval", "0.2", &name])
                .env("TERM", "xterm")
                .stdin(slave())
                .stdout(slave())
                .stderr(slave())
                .spawn()
                .unwrap()
        };
        let mut child = start();
        let mut terminal = Terminal {
            master: File::from(pty.master),
            seen: String::new(),
        };
        terminal.until("\x1b[?1049h");
        terminal.until("sorted by name");
        terminal.until("top-keys");
        let raw = tcgetattr(pty.slave.as_fd()).unwrap();
        assert!(
            !raw.local_flags.contains(LocalFlags::ICANON),
            "keys come at once"
        );
        for (key, shown) in [
            ("r", "sorted by rate"),
            ("u", "sorted by use"),
            ("l", "sorted by latency"),
            ("a", "sorted by age"),
            ("s", "sorted by state"),
            ("n", "sorted by name"),
            ("+", "every 0.4 s"),
            ("-", "every 0.2 s"),
        ] {
            terminal.press(key);
            terminal.until(shown);
        }
        terminal.until("GRAY8 40x25 50/1");
        terminal.until(" ms ");
        // Keys that mean nothing.
        terminal.press("x\x1b[A");
        terminal.until("top-keys");
        terminal.press("q");
        terminal.until("\x1b[?1049l");
        assert!(child.wait().unwrap().success());
        let is_as_it_was = || {
            let after = tcgetattr(pty.slave.as_fd()).unwrap();
            assert_eq!(after.local_flags, before.local_flags);
            assert_eq!(after.input_flags, before.input_flags);
        };
        is_as_it_was();
        // Also when somebody ends it from outside.
        let mut child = start();
        terminal.until("sorted by name");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        terminal.until("\x1b[?1049l");
        assert!(child.wait().unwrap().success());
        is_as_it_was();
        assert!(terminal.seen.contains("\x1b[?25h"), "the cursor is back");
    });
}

#[test]
fn a_terminal_of_any_size_will_do() {
    let name = Name::new("top-tiny");
    let reader = Reader::create(&name, &BufferConfig::new(1024, 4096)).unwrap();
    // 0 is what a serial line says, which does not know; there is room for all then.
    for (rows, columns, shown) in [
        (0, 0, "sorted by name"),
        (1, 1, "n"),
        (1, 80, "q end"),
        (2, 9, "zerobuffe"),
        (3, 40, "zerobuffer top: 1 buffer, every 0.1 s"),
        (5, 500, "top-tiny"),
    ] {
        let size = |ws_row, ws_col| Winsize {
            ws_row,
            ws_col,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size(rows, columns), None).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut child = Command::new(PROGRAM)
            .args(["top", "--interval", "0.1", &name])
            .env("TERM", "xterm")
            .env_remove("COLUMNS")
            .env_remove("LINES")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let mut terminal = Terminal {
            master: File::from(pty.master),
            seen: String::new(),
        };
        terminal.until("\x1b[?1049h");
        terminal.until(shown);
        terminal.press("r+-q");
        terminal.until("\x1b[?1049l");
        assert!(child.wait().unwrap().success(), "{rows}x{columns}");
    }
    drop(reader);
}

#[test]
fn without_a_terminal_there_is_one_table_after_the_other() {
    let name = Name::new("top-batch");
    stream(&name, || {
        let mut command = zerobuffer(&["top", "--interval", "0.1", &name]);
        let mut top = crate::support::Running::start(&mut command);
        let mut tables = 0;
        while tables < 3 {
            let line = top.line().unwrap();
            assert!(!line.contains('\x1b'), "{line}");
            tables += usize::from(line.starts_with("NAME"));
        }
        top.kill();
    });
}

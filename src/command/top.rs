//! `zerobuffer top`.

mod rates;
mod screen;

use std::io::{IsTerminal, Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::arguments::{Order, Top};
use crate::{Failure, list, text};

use rates::{Measured, Rates};
use screen::{Key, Screen};

/// How often it is looked within an interval.
const SAMPLES: Duration = Duration::from_millis(50);
const INTERVALS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];

pub fn run(options: &Top) -> Result<ExitCode, Failure> {
    let interval = Duration::try_from_secs_f64(options.interval)
        .ok()
        .filter(|time| (INTERVALS[0]..=INTERVALS[1]).contains(time))
        .ok_or_else(|| format!("not from 0.1 to 60 seconds: {}", options.interval))?;
    if options.names.is_empty() {
        // Where they are not to be seen, no table is better than one that is empty.
        list::names()?;
    }
    let mut view = View {
        order: options.sort,
        interval,
        rates: Rates::of(&options.names),
    };
    if !options.once && stdout().is_terminal() {
        return live(&mut view);
    }
    let mut out = stdout();
    loop {
        view.measure(|time| {
            std::thread::sleep(time);
            Ok(Wish::GoOn)
        })?;
        let rows = view.rows();
        if options.once && !out.is_terminal() {
            writeln!(out, "{}", COLUMNS.join("\t"))?;
            for row in &rows {
                writeln!(out, "{}", for_programs(row).join("\t"))?;
            }
        } else {
            writeln!(out, "{}", table(&rows))?;
        }
        out.flush()?;
        if options.once {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// What somebody at the keyboard wants.
enum Wish {
    GoOn,
    /// Show it again, differently.
    Redraw,
    End,
}

struct View {
    order: Order,
    interval: Duration,
    rates: Rates,
}

impl View {
    /// Looks again and again for one interval, or until somebody wants something.
    fn measure(
        &mut self,
        mut pause: impl FnMut(Duration) -> Result<Wish, Failure>,
    ) -> Result<Wish, Failure> {
        let start = Instant::now();
        self.rates.begin();
        loop {
            self.rates.sample();
            let left = self.interval.saturating_sub(start.elapsed());
            if left.is_zero() {
                self.rates.end(start.elapsed());
                return Ok(Wish::GoOn);
            }
            match pause(left.min(SAMPLES))? {
                Wish::GoOn => {}
                other => return Ok(other),
            }
        }
    }

    /// What was measured last, in order.
    fn rows(&self) -> Vec<&Measured> {
        let mut rows: Vec<&Measured> = self.rates.measured().collect();
        let down = |value: Option<f64>| -value.unwrap_or(f64::NEG_INFINITY);
        let key = |it: &Measured| match self.order {
            Order::Name => 0.0,
            Order::State => f64::from(it.seen.state() as u8),
            Order::Rate => down(it.rate),
            Order::Use => down(Some(it.used)),
            Order::Latency => down(it.late),
            Order::Age => it.seen.age().map_or(0.0, |age| age.as_secs_f64()),
        };
        // By name where that is the same.
        rows.sort_by(|a, b| {
            let order = key(a).total_cmp(&key(b));
            order.then_with(|| a.seen.name.cmp(&b.seen.name))
        });
        rows
    }

    fn press(&mut self, key: Key) -> Wish {
        let order = match key {
            Key::End => return Wish::End,
            Key::Resized => return Wish::Redraw,
            Key::Letter('n') => Order::Name,
            Key::Letter('s') => Order::State,
            Key::Letter('r') => Order::Rate,
            Key::Letter('u') => Order::Use,
            Key::Letter('l') => Order::Latency,
            Key::Letter('a') => Order::Age,
            Key::Letter('+') => {
                self.interval = (self.interval * 2).min(INTERVALS[1]);
                return Wish::Redraw;
            }
            Key::Letter('-') => {
                self.interval = (self.interval / 2).max(INTERVALS[0]);
                return Wish::Redraw;
            }
            Key::Letter(_) => return Wish::GoOn,
        };
        self.order = order;
        Wish::Redraw
    }
}

fn live(view: &mut View) -> Result<ExitCode, Failure> {
    let mut screen = Screen::open()?;
    // Something at once, without rates.
    view.rates.begin();
    view.rates.sample();
    loop {
        let rows = view.rows();
        let heading = format!(
            "zerobuffer top: {}, every {:.1} s, sorted by {}",
            text::count(rows.len(), "buffer", "buffers"),
            view.interval.as_secs_f64(),
            format!("{:?}", view.order).to_lowercase()
        );
        let keys = "n name  s state  r rate  u use  l latency  a age  + - interval  q end";
        screen.show(&[&heading, "", &table(&rows)], keys)?;
        loop {
            let mut pressed = Vec::new();
            let wish = view.measure(|time| {
                let Some(key) = screen.key(time)? else {
                    return Ok(Wish::GoOn);
                };
                pressed.push(key);
                Ok(Wish::Redraw)
            })?;
            let wishes: Vec<Wish> = pressed.into_iter().map(|key| view.press(key)).collect();
            if wishes.iter().any(|wish| matches!(wish, Wish::End)) {
                return Ok(ExitCode::SUCCESS);
            }
            if matches!(wish, Wish::GoOn) || wishes.iter().any(|it| matches!(it, Wish::Redraw)) {
                break;
            }
        }
    }
}

fn table(rows: &[&Measured]) -> String {
    // What changes comes first: a terminal of 80 columns has room for that.
    let heading = [
        "NAME", "STATE", "FRAMES/S", "RATE/S", "RING", "LATE", "STREAM", "READER", "WRITER",
    ];
    let mut cells = vec![heading.map(String::from).to_vec()];
    cells.extend(rows.iter().map(|row| for_people(row)));
    text::table(&cells)
}

fn for_people(it: &Measured) -> Vec<String> {
    let none = || "-".to_string();
    let late = |late: f64| format!("{:+.1} ms", late * 1e3);
    let caps = it.caps.as_ref().map_or_else(none, |caps| caps.short());
    vec![
        text::plain(&text::short(&it.seen.name, 30)),
        it.seen.state().as_str().into(),
        it.rate.map_or_else(none, |rate| format!("{rate:.1}")),
        it.bytes
            .map_or_else(none, |bytes| text::bytes(bytes as u64)),
        bar(it.used, it.peak),
        it.late.map_or_else(none, late),
        text::plain(&text::short(&caps, 30)),
        list::end(&it.seen.reader),
        list::end(&it.seen.writer),
    ]
}

/// How full a ring is, and was.
fn bar(used: f64, peak: f64) -> String {
    const WIDTH: usize = 10;
    let cells = |part: f64| (part * WIDTH as f64).ceil().clamp(0.0, WIDTH as f64) as usize;
    let (used_cells, peak_cells) = (cells(used), cells(peak.max(used)));
    format!(
        "[{}{}{}] {:>3.0}%",
        "#".repeat(used_cells),
        "+".repeat(peak_cells - used_cells),
        ".".repeat(WIDTH - peak_cells),
        used * 100.0
    )
}

/// What the columns are for programs. New ones come at the end.
const COLUMNS: [&str; 8] = [
    "name",
    "state",
    "frames_per_second",
    "bytes_per_second",
    "used",
    "most_used",
    "late_seconds",
    "sequence",
];

fn for_programs(it: &Measured) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.6}"));
    vec![
        text::plain(&it.seen.name),
        it.seen.state().as_str().into(),
        number(it.rate),
        number(it.bytes),
        number(Some(it.used)),
        number(Some(it.peak)),
        number(it.late),
        it.sequence.map_or("-".into(), |number| number.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_what_is_used_and_what_was() {
        assert_eq!(bar(0.0, 0.0), "[..........]   0%");
        assert_eq!(bar(0.25, 0.5), "[###++.....]  25%");
        assert_eq!(bar(1.0, 1.0), "[##########] 100%");
        assert_eq!(bar(0.5, 0.2), "[#####.....]  50%");
        assert_eq!(bar(7.0, 9.0), "[##########] 700%");
    }
}

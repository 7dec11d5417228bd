//! The figures as a page with plots.

use std::fs;
use std::path::Path;

use gstreamer as gst;
use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;

use crate::{Comparison, Result, Row, WORK, tables};

const NAMES: [&str; 3] = ["zerobuffer", "shm", "queue in one process"];
const COLOURS: [RGBColor; 3] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x99, 0x99, 0x99),
];
const SIZE: (u32, u32) = (840, 420);
const FONT: (&str, u32) = ("sans-serif", 15);

/// Which columns of a [`Row`] the plots show.
const RATE: usize = 0;
const CPU: usize = 1;

/// Writes `README.md` and the plots that it shows into `folder`.
pub fn write(folder: &Path, comparison: &Comparison) -> Result {
    fs::create_dir_all(folder)?;
    let rows = &comparison.rows;
    latencies(&folder.join("latency.svg"), rows)?;
    let of = |column: usize| move |row: &Row| row.medians[column];
    bars(
        &folder.join("rate.svg"),
        "frames/s (logarithmic)",
        rows,
        of(RATE),
    )?;
    bars(
        &folder.join("cpu.svg"),
        "µs a frame (logarithmic)",
        rows,
        of(CPU),
    )?;
    let page = format!(
        "# Numbers\n\n\
         Made by `cargo bench --bench against_shm -- --report docs/numbers`, which\n\
         [benches/against_shm](../../benches/against_shm/main.rs) explains, on\n\n\
         {}\n\n\
         Only the ratios mean something on another machine: run it on yours.\n\n\
         ## Frames a second\n\nUnpaced.\n\n![Frames a second](rate.svg)\n\n\
         ## Processor time\n\nOf both processes together, unpaced.\n\n![Processor time](cpu.svg)\n\n\
         ## Latency at 60 frames/s\n\n\
         So many of 100 frames arrive within so many µs, 1920×1080, rendered in place.\n\n\
         ![Latency](latency.svg)\n\n\
         ## All of it\n\n{}",
        machine(),
        tables(comparison)
    );
    fs::write(folder.join("README.md"), page.trim_end().to_owned() + "\n")?;
    Ok(())
}

/// What the figures were measured on.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value
            .map_or("unknown", |(_, value)| value.trim())
            .to_owned()
    };
    let is_virtual = field("flags").split(' ').any(|flag| flag == "hypervisor");
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor"));
    let system = read("/etc/os-release");
    let system = system
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    [
        format!(
            "* {}, {} cores{}",
            field("model name"),
            cores.count(),
            if is_virtual {
                " of a virtual machine"
            } else {
                ""
            }
        ),
        format!(
            "* {}, Linux {}",
            system.unwrap_or("unknown").trim_matches('"'),
            read("/proc/sys/kernel/osrelease").trim()
        ),
        format!(
            "* {}, this plugin {}",
            gst::version_string(),
            env!("CARGO_PKG_VERSION")
        ),
    ]
    .join("\n")
}

/// How the latencies at 60 frames/s are spread, for a frame of 1920×1080 in place.
fn latencies(path: &Path, rows: &[Row]) -> Result {
    let Some(row) = (rows.iter()).find(|row| row.size.1 == 1080 && row.work == "in place") else {
        return Err("nothing was measured at 1920×1080".into());
    };
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    // The slowest of all would hide the others.
    let most = (row.spreads.iter().flatten()).fold(0.0, |most: f64, value| most.max(*value));
    let p98 = (row.spreads.iter()).filter_map(|spread| spread.get(98));
    let most = p98.fold(1.0, |most: f64, value| most.max(*value)).min(most) * 1.1;
    let mut chart = ChartBuilder::on(&area)
        .margin(15)
        .x_label_area_size(40)
        .y_label_area_size(55)
        .build_cartesian_2d(0.0..most, 0.0..100.0)?;
    (chart.configure_mesh())
        .x_desc("µs from the source's push to the receiver's sink")
        .y_desc("% of frames")
        .label_style(FONT)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for ((spread, colour), name) in row.spreads.iter().zip(COLOURS).zip(NAMES) {
        let points = spread.iter().enumerate();
        let points = points.map(|(percent, value)| (value.min(most), percent as f64));
        (chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?)
            .label(name)
            .legend(move |at| legend(at, colour));
    }
    (chart.configure_series_labels())
        .position(SeriesLabelPosition::LowerRight)
        .label_font(FONT)
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

fn legend((x, y): (i32, i32), colour: RGBColor) -> Rectangle<(i32, i32)> {
    Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled())
}

/// For each work a chart, with a group of bars for each size.
fn bars(path: &Path, what: &str, rows: &[Row], get: impl Fn(&Row) -> [f64; 3]) -> Result {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let values: Vec<f64> = rows.iter().flat_map(&get).collect();
    let most = values.iter().fold(1.0_f64, |most, value| most.max(*value)) * 2.0;
    let least = values.iter().fold(most, |least, value| least.min(*value)) / 2.0;
    let (top, charts) = area.split_vertically(30);
    for (who, (colour, name)) in COLOURS.into_iter().zip(NAMES).enumerate() {
        let x = 70 + 190 * who as i32;
        top.draw(&Rectangle::new([(x, 12), (x + 12, 24)], colour.filled()))?;
        top.draw(&Text::new(name, (x + 18, 10), FONT))?;
    }
    for ((work, chart), first) in WORK
        .into_iter()
        .zip(charts.split_evenly((1, 3)))
        .zip([true, false, false])
    {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.work == work).collect();
        let mut chart = ChartBuilder::on(&chart)
            .margin(10)
            .caption(work, FONT)
            .x_label_area_size(25)
            .y_label_area_size(if first { 65 } else { 45 })
            .build_cartesian_2d(
                // It includes its end.
                (0..rows.len().saturating_sub(1) as u32).into_segmented(),
                (least..most).log_scale(),
            )?;
        (chart.configure_mesh())
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .y_desc(if first { what } else { "" })
            .label_style(FONT)
            .y_label_formatter(&|value| format!("{value:.0}"))
            .x_labels(rows.len())
            .x_label_formatter(&|at| match at {
                SegmentValue::CenterOf(row) => (rows.get(*row as usize))
                    .map_or(String::new(), |row| format!("{}p", row.size.1)),
                _ => String::new(),
            })
            .draw()?;
        // Side by side, in pixels: the axis knows groups only.
        let (across, _) = chart.plotting_area().get_pixel_range();
        let group = f64::from(across.end - across.start) / rows.len() as f64;
        let height = |value| chart.backend_coord(&(SegmentValue::CenterOf(0), value)).1;
        for (i, row) in rows.iter().enumerate() {
            for (who, (value, colour)) in get(row).into_iter().zip(COLOURS).enumerate() {
                let left = f64::from(across.start) + group * (i as f64 + 0.14 + 0.24 * who as f64);
                let corners = [
                    (left as i32, height(value)),
                    ((left + group * 0.22) as i32, height(least)),
                ];
                area.draw(&Rectangle::new(corners, colour.filled()))?;
            }
        }
    }
    area.present()?;
    Ok(())
}

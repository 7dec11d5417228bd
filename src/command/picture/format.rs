//! A format of raw video with a size: where its planes are, and what a pixel is.
//!
//! Names and default layouts are those of GStreamer (`GstVideoFormat`, `gst_video_info_set_format`).

use super::Planes;
use super::colour::Colour;
use super::pixels::{Kind, Pixels, Rows};
use crate::caps::Caps;

/// A larger picture is not made.
const MOST_PIXELS: u64 = 1 << 28;

/// What frames of a stream are.
#[derive(Clone, Debug)]
pub struct Format {
    /// As caps call it.
    pub name: String,
    /// In pixels.
    pub width: u32,
    /// In pixels; of a field where fields are sent one by one.
    pub height: u32,
    pixels: Pixels,
    is_interlaced: bool,
    colour: Colour,
}

/// A plane, as it is by default.
pub(super) struct Shape {
    pub offset: u64,
    /// Bytes from one row to the next.
    pub stride: u64,
    /// Bytes of a row that mean something.
    pub row: u64,
    pub rows: u64,
}

impl Format {
    /// Of caps of raw video.
    pub fn of(caps: &Caps) -> Result<Self, String> {
        if caps.media != "video/x-raw" {
            return Err(format!("{} is not raw video", caps.media));
        }
        let name = caps.get("format").unwrap_or_default();
        let pixels = Pixels::of(name).ok_or_else(|| {
            format!("there is no picture of format {name} (--raw writes a frame as it is)")
        })?;
        let (width, height) = (caps.number("width"), caps.number("height"));
        let (Some(width @ 1..), Some(height @ 1..)) = (width, height) else {
            return Err("the caps have no width and height".into());
        };
        let fields = caps.get("interlace-mode") == Some("alternate");
        let height = if fields { height.div_ceil(2) } else { height };
        if u64::from(width) * u64::from(height) > MOST_PIXELS {
            return Err(format!("{width}x{height} is too large for a picture"));
        }
        let yuv = matches!(pixels.kind, Kind::Yuv | Kind::V210);
        let mode = caps.get("interlace-mode");
        Ok(Format {
            name: name.into(),
            width,
            height,
            pixels,
            is_interlaced: mode.is_some_and(|mode| mode != "progressive"),
            colour: Colour::of(caps.get("colorimetry"), yuv, height),
        })
    }

    pub(super) fn has_alpha(&self) -> bool {
        self.pixels.parts.len() == 4
    }

    /// Whether its pictures are grey, with so many bits.
    pub(super) fn grey(&self) -> Option<u32> {
        (self.pixels.kind == Kind::Grey).then(|| self.pixels.parts[0].bits)
    }

    /// Its planes, in the order in which they are in memory.
    pub(super) fn planes(&self) -> Vec<Shape> {
        let (width, height) = (u64::from(self.width), u64::from(self.height));
        // Rounded up to whole groups of pixels.
        let group = |pixels: u64, power: u32| pixels.div_ceil(1 << power);
        let parts = &self.pixels.parts;
        let count = parts.iter().map(|part| part.plane + 1).max().unwrap_or(1);
        let shared = parts.iter().map(|part| part.rows).max().unwrap_or(0);
        let mut offset = 0;
        let shape = |plane| {
            let of_plane = || parts.iter().filter(|part| part.plane == plane);
            let (stride, row) = match self.pixels.kind {
                Kind::V210 => (width.div_ceil(48) * 128, width.div_ceil(6) * 16),
                _ => {
                    // Where two pixels share colours, all of both is there.
                    let row = of_plane().map(|part| group(width, part.columns) * part.step as u64);
                    let row = row.max().unwrap_or(0);
                    (row.next_multiple_of(4), row)
                }
            };
            let rows_of = of_plane().map(|part| part.rows).max().unwrap_or(0);
            let rows = group(height, rows_of);
            let in_memory = match self.pixels.rows {
                Rows::Exact if rows_of == 0 => rows,
                _ if rows_of == 0 && shared > 0 => group(height, shared) << shared,
                Rows::Even => rows.next_multiple_of(2),
                // Colours of two fields, as many of each.
                _ if rows_of > 0 && self.is_interlaced => rows.next_multiple_of(2),
                _ => rows,
            };
            let shape = Shape {
                offset,
                stride,
                row,
                rows,
            };
            offset += stride * in_memory;
            shape
        };
        (0..count).map(shape).collect()
    }

    /// Bytes of a frame, by default.
    pub fn size(&self) -> u64 {
        let mut planes = self.planes();
        let rows = |shape: &Shape| shape.offset + shape.stride * shape.rows;
        planes.pop().as_ref().map_or(0, rows)
    }

    /// Red, green, blue and alpha; the grey value first, or as two bytes, big-endian, in grey formats.
    pub(super) fn pixel(&self, planes: &Planes, x: usize, y: usize) -> [u8; 4] {
        let parts = &self.pixels.parts;
        let full = |part: usize| {
            let part = parts.get(part);
            part.map_or(255, |part| part.full(planes, x, y))
        };
        match self.pixels.kind {
            Kind::Rgb => [0, 1, 2, 3].map(full),
            Kind::Yuv => {
                let number = |part: usize| {
                    let part = &parts[part];
                    part.value(planes, x, y) as f32 / (1 << (part.bits - 8)) as f32
                };
                let [red, green, blue] = self.colour.to_rgb([0, 1, 2].map(number));
                [red, green, blue, full(3)]
            }
            Kind::V210 => {
                // Cb Y Cr | Y Cb Y | Cr Y Cb | Y Cr Y, three to a double word.
                let (group, within) = (x / 6 * 16, x % 6);
                let number = |at: usize| {
                    let word = planes.double(0, y, group + at / 3 * 4);
                    (word >> (at % 3 * 10) & 0x3ff) as f32 / 4.0
                };
                let pair = within / 2 * 4;
                let yuv = [2 * within + 1, pair, pair + 2].map(number);
                let [red, green, blue] = self.colour.to_rgb(yuv);
                [red, green, blue, 255]
            }
            Kind::Grey => {
                let part = &parts[0];
                let value = part.value(planes, x, y) << (16 - part.bits);
                let [high, low] = (self.colour.to_grey(value) as u16).to_be_bytes();
                [high, low, 0, 0]
            }
        }
    }
}

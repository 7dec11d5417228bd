//! The formats of raw video: where their planes are, and what a pixel is.
//!
//! Names and default layouts are those of GStreamer (`GstVideoFormat`, `gst_video_info_set_format`).

use super::Planes;
use super::colour::Colour;
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
    pub(super) pixels: Pixels,
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

/// How the pixels of a format are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pixels {
    /// Three planes, of which those of colour have fewer columns and rows: by 2 to these powers.
    /// `swapped`: V before U. Ten bits in two bytes if `deep`.
    Planar {
        columns: u32,
        rows: u32,
        swapped: bool,
        deep: bool,
    },
    /// Two planes: luma, then both colours in turn. `deep`: ten bits, in the upper part of two bytes.
    Interleaved {
        columns: u32,
        rows: u32,
        swapped: bool,
        deep: bool,
    },
    /// Four bytes for two pixels: where the first and the second luma, U and V are.
    Packed422([usize; 4]),
    /// So many bytes for a pixel, and where red, green, blue and alpha are, or Y, U, V and alpha.
    Bytes {
        step: usize,
        at: [usize; 3],
        alpha: Option<usize>,
        yuv: bool,
    },
    /// Sixteen bits: five, six and five, with red or blue at the top; or five of each.
    Small {
        green: u32,
        red_on_top: bool,
    },
    /// Ten bits in groups of six pixels in sixteen bytes.
    V210,
    Grey8,
    Grey16 {
        big_endian: bool,
    },
}

fn pixels_of(name: &str) -> Option<Pixels> {
    let planar = |columns, rows, swapped, deep| Pixels::Planar {
        columns,
        rows,
        swapped,
        deep,
    };
    let interleaved = |columns, rows, swapped, deep| Pixels::Interleaved {
        columns,
        rows,
        swapped,
        deep,
    };
    let bytes = |step, at, alpha| Pixels::Bytes {
        step,
        at,
        alpha,
        yuv: false,
    };
    Some(match name {
        "I420" => planar(1, 1, false, false),
        "YV12" => planar(1, 1, true, false),
        "Y42B" => planar(1, 0, false, false),
        "Y444" => planar(0, 0, false, false),
        "Y41B" => planar(2, 0, false, false),
        "I420_10LE" => planar(1, 1, false, true),
        "I422_10LE" => planar(1, 0, false, true),
        "Y444_10LE" => planar(0, 0, false, true),
        "NV12" => interleaved(1, 1, false, false),
        "NV21" => interleaved(1, 1, true, false),
        "NV16" => interleaved(1, 0, false, false),
        "NV61" => interleaved(1, 0, true, false),
        "NV24" => interleaved(0, 0, false, false),
        "P010_10LE" => interleaved(1, 1, false, true),
        "YUY2" => Pixels::Packed422([0, 2, 1, 3]),
        "YVYU" => Pixels::Packed422([0, 2, 3, 1]),
        "UYVY" => Pixels::Packed422([1, 3, 0, 2]),
        "VYUY" => Pixels::Packed422([1, 3, 2, 0]),
        "v210" => Pixels::V210,
        "RGB" => bytes(3, [0, 1, 2], None),
        "BGR" => bytes(3, [2, 1, 0], None),
        "RGBA" => bytes(4, [0, 1, 2], Some(3)),
        "BGRA" => bytes(4, [2, 1, 0], Some(3)),
        "ARGB" => bytes(4, [1, 2, 3], Some(0)),
        "ABGR" => bytes(4, [3, 2, 1], Some(0)),
        "RGBx" => bytes(4, [0, 1, 2], None),
        "BGRx" => bytes(4, [2, 1, 0], None),
        "xRGB" => bytes(4, [1, 2, 3], None),
        "xBGR" => bytes(4, [3, 2, 1], None),
        "AYUV" => Pixels::Bytes {
            step: 4,
            at: [1, 2, 3],
            alpha: Some(0),
            yuv: true,
        },
        "v308" => Pixels::Bytes {
            step: 3,
            at: [0, 1, 2],
            alpha: None,
            yuv: true,
        },
        "RGB16" | "BGR16" => Pixels::Small {
            green: 6,
            red_on_top: name == "RGB16",
        },
        "RGB15" | "BGR15" => Pixels::Small {
            green: 5,
            red_on_top: name == "RGB15",
        },
        "GRAY8" => Pixels::Grey8,
        "GRAY16_LE" | "GRAY16_BE" => Pixels::Grey16 {
            big_endian: name == "GRAY16_BE",
        },
        _ => return None,
    })
}

impl Format {
    /// Of caps of raw video.
    pub fn of(caps: &Caps) -> Result<Self, String> {
        if caps.media != "video/x-raw" {
            return Err(format!("{} is not raw video", caps.media));
        }
        let name = caps.get("format").unwrap_or_default();
        let pixels = pixels_of(name).ok_or_else(|| {
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
        let yuv = !matches!(
            pixels,
            Pixels::Small { .. }
                | Pixels::Bytes { yuv: false, .. }
                | Pixels::Grey8
                | Pixels::Grey16 { .. }
        );
        Ok(Format {
            name: name.into(),
            width,
            height,
            pixels,
            colour: Colour::of(caps.get("colorimetry"), yuv, height),
        })
    }

    pub(super) fn has_alpha(&self) -> bool {
        matches!(self.pixels, Pixels::Bytes { alpha: Some(_), .. })
    }

    /// Its planes, in the order in which they are in memory.
    pub(super) fn planes(&self) -> Vec<Shape> {
        let (width, height) = (u64::from(self.width), u64::from(self.height));
        let four = |bytes: u64| bytes.next_multiple_of(4);
        // Rounded up to whole groups of pixels.
        let group = |pixels: u64, power: u32| pixels.div_ceil(1 << power);
        // (stride, row, rows, rows that it takes in memory) of each.
        let one = |stride, row| vec![(stride, row, height, height)];
        let planes = match self.pixels {
            Pixels::Planar {
                columns,
                rows,
                deep,
                ..
            } => {
                let size = 1 + u64::from(deep);
                let (columns_of, rows_of) = (group(width, columns), group(height, rows));
                let luma = four(width * size);
                // Half of the luma's row rounded up to eight for Y42B, a quarter of that to sixteen
                // for Y41B; for the others their own rounded up to four.
                let colour = if rows == 0 && columns > 0 && !deep {
                    width.next_multiple_of(4 << columns) >> columns
                } else {
                    four(columns_of * size)
                };
                // I422_10LE has an even number of rows in all planes.
                let even = deep && (columns, rows) == (1, 0);
                let in_memory = |rows: u64| rows.next_multiple_of(1 + u64::from(even));
                let colours = (colour, columns_of * size, rows_of, in_memory(rows_of));
                let first = (luma, width * size, height, in_memory(rows_of << rows));
                vec![first, colours, colours]
            }
            Pixels::Interleaved {
                columns,
                rows,
                deep,
                ..
            } => {
                let size = 1 + u64::from(deep);
                let (columns_of, rows_of) = (group(width, columns), group(height, rows));
                let luma = four(width * size);
                let colour = if columns == 0 { four(2 * width) } else { luma };
                let colours = (colour, 2 * columns_of * size, rows_of, rows_of);
                vec![(luma, width * size, height, rows_of << rows), colours]
            }
            Pixels::Packed422(_) => one(four(2 * width), 4 * group(width, 1)),
            Pixels::Bytes { step, .. } => {
                let row = width * step as u64;
                one(four(row), row)
            }
            Pixels::Small { .. } | Pixels::Grey16 { .. } => one(four(2 * width), 2 * width),
            Pixels::V210 => one(width.div_ceil(48) * 128, width.div_ceil(6) * 16),
            Pixels::Grey8 => one(four(width), width),
        };
        let mut offset = 0;
        let shape = |(stride, row, rows, in_memory)| {
            let shape = Shape {
                offset,
                stride,
                row,
                rows,
            };
            offset += stride * in_memory;
            shape
        };
        planes.into_iter().map(shape).collect()
    }

    /// Bytes of a frame, by default.
    pub fn size(&self) -> u64 {
        let mut planes = self.planes();
        let rows = |shape: &Shape| shape.offset + shape.stride * shape.rows;
        planes.pop().as_ref().map_or(0, rows)
    }

    /// Red, green, blue and alpha; the grey value first, or as two bytes, big-endian, in grey formats.
    pub(super) fn pixel(&self, planes: &Planes, x: usize, y: usize) -> [u8; 4] {
        // Luma and colours with ten bits, of which eight-bit formats have the upper eight.
        let yuv = |[luma, u, v]: [u32; 3], alpha| {
            let [red, green, blue] = self.colour.to_rgb([luma, u, v]);
            [red, green, blue, alpha]
        };
        match self.pixels {
            Pixels::Planar {
                columns,
                rows,
                swapped,
                deep,
            } => {
                let (u, v) = if swapped { (2, 1) } else { (1, 2) };
                let value = |plane, row, column| {
                    if deep {
                        u32::from(planes.word(plane, row, 2 * column)) & 0x3ff
                    } else {
                        u32::from(planes.byte(plane, row, column)) << 2
                    }
                };
                let colour = |plane| value(plane, y >> rows, x >> columns);
                yuv([value(0, y, x), colour(u), colour(v)], 255)
            }
            Pixels::Interleaved {
                columns,
                rows,
                swapped,
                deep,
            } => {
                let value = |plane, row, column| {
                    if deep {
                        u32::from(planes.word(plane, row, 2 * column)) >> 6
                    } else {
                        u32::from(planes.byte(plane, row, column)) << 2
                    }
                };
                let colour = |second: bool| {
                    let column = 2 * (x >> columns) + usize::from(second);
                    value(1, y >> rows, column)
                };
                yuv([value(0, y, x), colour(swapped), colour(!swapped)], 255)
            }
            Pixels::Packed422(at) => {
                let group = x / 2 * 4;
                let value = |at: usize| u32::from(planes.byte(0, y, group + at)) << 2;
                yuv([value(at[x % 2]), value(at[2]), value(at[3])], 255)
            }
            Pixels::Bytes {
                step,
                at,
                alpha,
                yuv: is_yuv,
            } => {
                let values = at.map(|at| planes.byte(0, y, x * step + at));
                let alpha = alpha.map_or(255, |at| planes.byte(0, y, x * step + at));
                if is_yuv {
                    return yuv(values.map(|value| u32::from(value) << 2), alpha);
                }
                let [red, green, blue] = values;
                [red, green, blue, alpha]
            }
            Pixels::Small { green, red_on_top } => {
                let value = u32::from(planes.word(0, y, 2 * x));
                let part = |shift: u32, bits: u32| {
                    let most = (1 << bits) - 1;
                    ((value >> shift & most) * 255 / most) as u8
                };
                let (top, middle, bottom) = (part(5 + green, 5), part(5, green), part(0, 5));
                if red_on_top {
                    [top, middle, bottom, 255]
                } else {
                    [bottom, middle, top, 255]
                }
            }
            Pixels::V210 => {
                // Cb Y Cr | Y Cb Y | Cr Y Cb | Y Cr Y, three to a double word.
                let (group, within) = (x / 6 * 16, x % 6);
                let value =
                    |at: usize| planes.double(0, y, group + at / 3 * 4) >> (at % 3 * 10) & 0x3ff;
                let pair = within / 2 * 4;
                yuv([value(2 * within + 1), value(pair), value(pair + 2)], 255)
            }
            Pixels::Grey8 => {
                let grey = self.colour.to_grey(u32::from(planes.byte(0, y, x)) << 8) >> 8;
                [grey as u8, 0, 0, 0]
            }
            Pixels::Grey16 { big_endian } => {
                let value = planes.word(0, y, 2 * x);
                let value = if big_endian {
                    value.swap_bytes()
                } else {
                    value
                };
                let [high, low] = (self.colour.to_grey(value.into()) as u16).to_be_bytes();
                [high, low, 0, 0]
            }
        }
    }
}

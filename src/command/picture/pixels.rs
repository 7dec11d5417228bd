//! The formats of raw video by name: where in memory the parts of a pixel are.
//!
//! Names are those of GStreamer (`GstVideoFormat`).

use super::Planes;

/// How the pixels of a format are laid out.
#[derive(Clone, Debug)]
pub(super) struct Pixels {
    pub kind: Kind,
    /// Luma and the two colours, or red, green and blue, or grey; and alpha behind them.
    pub parts: Vec<Part>,
    /// What is between the rows of its planes in memory.
    pub rows: Rows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Yuv,
    Rgb,
    Grey,
    /// YUV with ten bits in groups of six pixels in sixteen bytes, as no other.
    V210,
}

/// How many rows of a plane are in memory by default, where it is not as many as it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// Luma for every row of colours.
    Whole,
    /// An even number in all planes.
    Even,
    /// Those that there are.
    Exact,
}

/// One part of a pixel: where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub plane: usize,
    /// Bytes to it in a group of pixels that have it in common, and of all that stands there for one.
    pub at: usize,
    pub step: usize,
    /// How many pixels have it in common across and down, as powers of two.
    pub columns: u32,
    pub rows: u32,
    pub word: Word,
    /// Where its lowest bit is in the word, and how many it has.
    pub shift: u32,
    pub bits: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Byte,
    Two { big_endian: bool },
    Four { big_endian: bool },
}

impl Word {
    fn bytes(self) -> usize {
        match self {
            Word::Byte => 1,
            Word::Two { .. } => 2,
            Word::Four { .. } => 4,
        }
    }
}

impl Part {
    /// The number that stands there for a pixel.
    pub fn value(&self, planes: &Planes, x: usize, y: usize) -> u32 {
        let (row, at) = (y >> self.rows, (x >> self.columns) * self.step + self.at);
        let word = match self.word {
            Word::Byte => u32::from(planes.byte(self.plane, row, at)),
            Word::Two { big_endian } => {
                let word = planes.word(self.plane, row, at);
                u32::from(if big_endian { word.swap_bytes() } else { word })
            }
            Word::Four { big_endian } => {
                let word = planes.double(self.plane, row, at);
                if big_endian { word.swap_bytes() } else { word }
            }
        };
        word >> self.shift & self.most()
    }

    fn most(&self) -> u32 {
        (1 << self.bits) - 1
    }

    /// The same as a part of 255, where all numbers are used.
    pub fn full(&self, planes: &Planes, x: usize, y: usize) -> u8 {
        ((self.value(planes, x, y) * 255 + self.most() / 2) / self.most()) as u8
    }
}

/// The end of a name: how many bits, and which byte comes first.
fn depth(suffix: &str) -> Option<(Option<u32>, bool)> {
    let (bits, big_endian) = match suffix.strip_suffix("BE") {
        Some(bits) => (bits, true),
        None => (suffix.strip_suffix("LE")?, false),
    };
    match bits {
        "" => Some((None, big_endian)),
        "10" | "12" | "16" => Some((bits.parse().ok(), big_endian)),
        _ => None,
    }
}

impl Pixels {
    /// By the format's name; `None` if there is no picture of it.
    pub fn of(name: &str) -> Option<Self> {
        let (base, suffix) = name.split_once('_').unwrap_or((name, ""));
        let (bits, big_endian) = match suffix {
            "" => (None, false),
            suffix => depth(suffix)?,
        };
        planar(base, bits, big_endian)
            .or_else(|| interleaved(base, bits, big_endian))
            .or_else(|| packed(name))
    }
}

/// A plane for each part.
fn planar(base: &str, bits: Option<u32>, big_endian: bool) -> Option<Pixels> {
    use Kind::{Grey, Rgb, Yuv};
    // Kind, planes of the parts, and how many pixels share a colour, across and down.
    let (kind, planes, columns, rows): (_, &[usize], _, _) = match base {
        "I420" => (Yuv, &[0, 1, 2], 1, 1),
        "YV12" => (Yuv, &[0, 2, 1], 1, 1),
        "Y42B" | "I422" => (Yuv, &[0, 1, 2], 1, 0),
        "Y444" => (Yuv, &[0, 1, 2], 0, 0),
        "Y41B" => (Yuv, &[0, 1, 2], 2, 0),
        "YUV9" => (Yuv, &[0, 1, 2], 2, 2),
        "YVU9" => (Yuv, &[0, 2, 1], 2, 2),
        "A420" => (Yuv, &[0, 1, 2, 3], 1, 1),
        "A422" => (Yuv, &[0, 1, 2, 3], 1, 0),
        "A444" => (Yuv, &[0, 1, 2, 3], 0, 0),
        "GBR" => (Rgb, &[2, 0, 1], 0, 0),
        "GBRA" => (Rgb, &[2, 0, 1, 3], 0, 0),
        "RGBP" => (Rgb, &[0, 1, 2], 0, 0),
        "BGRP" => (Rgb, &[2, 1, 0], 0, 0),
        "GRAY8" | "GRAY16" => (Grey, &[0], 0, 0),
        _ => return None,
    };
    let (bits, word) = match bits {
        _ if base == "GRAY16" => (16, Word::Two { big_endian }),
        None => (8, Word::Byte),
        Some(bits) => (bits, Word::Two { big_endian }),
    };
    let part = |(number, plane): (usize, &usize)| {
        let is_shared = kind == Yuv && (1..3).contains(&number);
        Part {
            plane: *plane,
            at: 0,
            step: word.bytes(),
            columns: if is_shared { columns } else { 0 },
            rows: if is_shared { rows } else { 0 },
            word,
            shift: 0,
            bits,
        }
    };
    Some(Pixels {
        kind,
        parts: planes.iter().enumerate().map(part).collect(),
        rows: match rows {
            0 if columns == 1 && bits > 8 => Rows::Even,
            0 if matches!(base, "A422" | "A444") && bits == 8 => Rows::Even,
            0 | 1 => Rows::Whole,
            _ => Rows::Exact,
        },
    })
}

/// Two planes: luma, then both colours in turn.
fn interleaved(base: &str, bits: Option<u32>, big_endian: bool) -> Option<Pixels> {
    let (columns, rows, swapped) = match base {
        "NV12" | "P010" | "P012" | "P016" => (1, 1, false),
        "NV21" => (1, 1, true),
        "NV16" => (1, 0, false),
        "NV61" => (1, 0, true),
        "NV24" => (0, 0, false),
        _ => return None,
    };
    // More than eight are in the upper part of two bytes.
    let (bits, word) = match (base, bits) {
        ("P010", Some(10)) => (10, Word::Two { big_endian }),
        ("P012", None) => (12, Word::Two { big_endian }),
        ("P016", None) => (16, Word::Two { big_endian }),
        (_, None) if base.starts_with("NV") => (8, Word::Byte),
        _ => return None,
    };
    let size = word.bytes();
    let shift = 8 * size as u32 - bits;
    let luma = Part {
        plane: 0,
        at: 0,
        step: size,
        columns: 0,
        rows: 0,
        word,
        shift,
        bits,
    };
    let colour = |second: bool| Part {
        plane: 1,
        at: if second { size } else { 0 },
        step: 2 * size,
        columns,
        rows,
        ..luma
    };
    Some(Pixels {
        kind: Kind::Yuv,
        parts: vec![luma, colour(swapped), colour(!swapped)],
        rows: Rows::Whole,
    })
}

/// One plane, with all parts of a pixel one after the other.
fn packed(name: &str) -> Option<Pixels> {
    use Kind::{Rgb, V210, Yuv};
    let of = |kind, parts| {
        Some(Pixels {
            kind,
            parts,
            rows: Rows::Whole,
        })
    };
    let part = |step, at, word: Word, shift, bits| Part {
        plane: 0,
        at,
        step,
        columns: 0,
        rows: 0,
        word,
        shift,
        bits,
    };
    // A byte, or two of which `bits` are used, for each part, in this order.
    let whole = |kind, order: &[usize], count: usize, word: Word, bits: u32| {
        let size = word.bytes();
        let shift = 8 * size as u32 - bits;
        let one = |at: &usize| part(count * size, at * size, word, shift, bits);
        of(kind, order.iter().map(one).collect())
    };
    let bytes = |kind, order: &[usize], count| whole(kind, order, count, Word::Byte, 8);
    let two = |big_endian| Word::Two { big_endian };
    // Two pixels with a luma each and the colours in common: where the first luma, U and V are.
    let pairs = |[luma, u, v]: [usize; 3], word: Word, bits: u32| {
        let size = word.bytes();
        let shift = 8 * size as u32 - bits;
        let luma = part(2 * size, luma * size, word, shift, bits);
        let colour = |at: usize| Part {
            columns: 1,
            ..part(4 * size, at * size, word, shift, bits)
        };
        of(Yuv, vec![luma, colour(u), colour(v)])
    };
    // All of a pixel in one word: lowest bit and number of bits of each.
    let inside = |kind, word: Word, bits: &[(u32, u32)]| {
        let one = |(shift, bits): &(u32, u32)| part(word.bytes(), 0, word, *shift, *bits);
        of(kind, bits.iter().map(one).collect())
    };
    let four = |big_endian| Word::Four { big_endian };
    let big_endian = name.ends_with("_BE");
    match name {
        "YUY2" => pairs([0, 1, 3], Word::Byte, 8),
        "YVYU" => pairs([0, 3, 1], Word::Byte, 8),
        "UYVY" => pairs([1, 0, 2], Word::Byte, 8),
        "VYUY" => pairs([1, 2, 0], Word::Byte, 8),
        "Y210" => pairs([0, 1, 3], two(false), 10),
        "Y212_LE" | "Y212_BE" => pairs([0, 1, 3], two(big_endian), 12),
        "v216" => pairs([1, 0, 2], two(false), 16),
        "v210" => of(V210, Vec::new()),
        "RGB" => bytes(Rgb, &[0, 1, 2], 3),
        "BGR" => bytes(Rgb, &[2, 1, 0], 3),
        "RGBA" => bytes(Rgb, &[0, 1, 2, 3], 4),
        "BGRA" => bytes(Rgb, &[2, 1, 0, 3], 4),
        "ARGB" => bytes(Rgb, &[1, 2, 3, 0], 4),
        "ABGR" => bytes(Rgb, &[3, 2, 1, 0], 4),
        "RGBx" => bytes(Rgb, &[0, 1, 2], 4),
        "BGRx" => bytes(Rgb, &[2, 1, 0], 4),
        "xRGB" => bytes(Rgb, &[1, 2, 3], 4),
        "xBGR" => bytes(Rgb, &[3, 2, 1], 4),
        "AYUV" => bytes(Yuv, &[1, 2, 3, 0], 4),
        "VUYA" => bytes(Yuv, &[2, 1, 0, 3], 4),
        "v308" => bytes(Yuv, &[0, 1, 2], 3),
        "IYU2" => bytes(Yuv, &[1, 0, 2], 3),
        // Where GStreamer knows no alpha, in Y410 and Y412, there is none.
        // Without a suffix they are in the order of this machine, and that is little-endian.
        "ARGB64" | "ARGB64_LE" | "ARGB64_BE" => whole(Rgb, &[1, 2, 3, 0], 4, two(big_endian), 16),
        "RGBA64_LE" | "RGBA64_BE" => whole(Rgb, &[0, 1, 2, 3], 4, two(big_endian), 16),
        "BGRA64_LE" | "BGRA64_BE" => whole(Rgb, &[2, 1, 0, 3], 4, two(big_endian), 16),
        "ABGR64_LE" | "ABGR64_BE" => whole(Rgb, &[3, 2, 1, 0], 4, two(big_endian), 16),
        "AYUV64" => whole(Yuv, &[1, 2, 3, 0], 4, two(false), 16),
        "Y412_LE" | "Y412_BE" => whole(Yuv, &[1, 0, 2], 4, two(big_endian), 12),
        "Y410" => inside(Yuv, four(false), &[(10, 10), (0, 10), (20, 10)]),
        "RGB10A2_LE" => inside(Rgb, four(false), &[(0, 10), (10, 10), (20, 10), (30, 2)]),
        "BGR10A2_LE" => inside(Rgb, four(false), &[(20, 10), (10, 10), (0, 10), (30, 2)]),
        "r210" => inside(Rgb, four(true), &[(20, 10), (10, 10), (0, 10)]),
        "RGB16" => inside(Rgb, two(false), &[(11, 5), (5, 6), (0, 5)]),
        "BGR16" => inside(Rgb, two(false), &[(0, 5), (5, 6), (11, 5)]),
        "RGB15" => inside(Rgb, two(false), &[(10, 5), (5, 5), (0, 5)]),
        "BGR15" => inside(Rgb, two(false), &[(0, 5), (5, 5), (10, 5)]),
        _ => None,
    }
}

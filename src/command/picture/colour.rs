//! What numbers mean as colours: range and matrix of the colorimetry in caps.

/// From luma and colours to red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Colour {
    /// All numbers are used, and not only those from 16 to 235 (240 for colours) of 255.
    full: bool,
    /// How much red and blue are of luma.
    red: f32,
    blue: f32,
}

impl Colour {
    /// By the field of caps: a name, or four numbers with colons. Where it says nothing it is what
    /// GStreamer takes for the height.
    pub fn of(colorimetry: Option<&str>, yuv: bool, height: u32) -> Self {
        // (range, matrix) as GStreamer numbers them: GstVideoColorRange, GstVideoColorMatrix.
        let (range, matrix) = match colorimetry {
            Some("bt601") => (2, 4),
            Some("bt709") => (2, 3),
            Some("smpte240m") => (2, 5),
            Some("bt2020" | "bt2020-10" | "bt2100-pq" | "bt2100-hlg") => (2, 6),
            Some("sRGB") => (1, 1),
            Some(other) => {
                let mut numbers = other
                    .split(':')
                    .map(|part| part.trim().parse().unwrap_or(0));
                (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
            }
            None => (0, 0),
        };
        let (red, blue) = match matrix {
            2 => (0.30, 0.11),
            3 => (0.2126, 0.0722),
            4 => (0.299, 0.114),
            5 => (0.212, 0.087),
            6 => (0.2627, 0.0593),
            _ if height > 576 => (0.2126, 0.0722),
            _ => (0.299, 0.114),
        };
        Colour {
            full: match range {
                1 => true,
                2 => false,
                _ => !yuv,
            },
            red,
            blue,
        }
    }

    /// Of numbers of eight bits, and parts of one where there are more.
    pub fn to_rgb(self, [luma, u, v]: [f32; 3]) -> [u8; 3] {
        let (luma, u, v) = if self.full {
            (luma, u - 128.0, v - 128.0)
        } else {
            (
                (luma - 16.0) * 255.0 / 219.0,
                (u - 128.0) * 255.0 / 224.0,
                (v - 128.0) * 255.0 / 224.0,
            )
        };
        let red = luma + 2.0 * (1.0 - self.red) * v;
        let blue = luma + 2.0 * (1.0 - self.blue) * u;
        let green = (luma - self.red * red - self.blue * blue) / (1.0 - self.red - self.blue);
        // `as` keeps what is outside at the ends.
        [red, green, blue].map(|value| value.round() as u8)
    }

    /// Of a number of sixteen bits.
    pub fn to_grey(self, value: u32) -> u32 {
        if self.full {
            return value;
        }
        let luma = (value as f32 - 16.0 * 256.0) * 255.0 / 219.0;
        luma.round().clamp(0.0, 65535.0) as u32
    }
}

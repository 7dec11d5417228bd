//! Frames of raw video as pictures.

mod colour;
mod format;
mod pixels;

use gstzerobuffer::FrameLayout;

pub use format::Format;

/// A picture, in rows from the top without gaps.
pub struct Picture {
    width: u32,
    height: u32,
    colour: png::ColorType,
    depth: png::BitDepth,
    bytes: Vec<u8>,
}

/// The bytes of a frame and where its planes are in them.
struct Planes<'a> {
    bytes: &'a [u8],
    offsets: [usize; 4],
    strides: [usize; 4],
}

impl Planes<'_> {
    /// A byte of a row of a plane. All that a format needs is there: `new` has seen to it.
    fn byte(&self, plane: usize, row: usize, at: usize) -> u8 {
        let place = self.offsets[plane] + row * self.strides[plane] + at;
        self.bytes.get(place).copied().unwrap_or(0)
    }

    /// Two bytes, little-endian.
    fn word(&self, plane: usize, row: usize, at: usize) -> u16 {
        u16::from_le_bytes([self.byte(plane, row, at), self.byte(plane, row, at + 1)])
    }

    /// Four of them.
    fn double(&self, plane: usize, row: usize, at: usize) -> u32 {
        u32::from(self.word(plane, row, at)) | u32::from(self.word(plane, row, at + 2)) << 16
    }
}

impl Picture {
    /// From a frame of this format. Its planes are where the layout has them, or where the format has
    /// them by default.
    pub fn decode(
        format: &Format,
        layout: Option<&FrameLayout>,
        bytes: &[u8],
    ) -> Result<Self, String> {
        let planes = planes(format, layout, bytes)?;
        let (width, height) = (format.width as usize, format.height as usize);
        let (colour, depth, channels) = match format.grey() {
            Some(16) => (png::ColorType::Grayscale, png::BitDepth::Sixteen, 2),
            Some(_) => (png::ColorType::Grayscale, png::BitDepth::Eight, 1),
            _ if format.has_alpha() => (png::ColorType::Rgba, png::BitDepth::Eight, 4),
            _ => (png::ColorType::Rgb, png::BitDepth::Eight, 3),
        };
        let mut out = Vec::with_capacity(width * height * channels);
        for y in 0..height {
            for x in 0..width {
                let pixel = format.pixel(&planes, x, y);
                out.extend_from_slice(&pixel[..channels]);
            }
        }
        Ok(Picture {
            width: format.width,
            height: format.height,
            colour,
            depth,
            bytes: out,
        })
    }

    /// As a PNG file.
    pub fn to_png(&self) -> Result<Vec<u8>, String> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(self.colour);
        encoder.set_depth(self.depth);
        encoder
            .write_header()
            .and_then(|mut writer| {
                writer.write_image_data(&self.bytes)?;
                writer.finish()
            })
            .map_err(|err| format!("the picture cannot be written: {err}"))?;
        Ok(file)
    }
}

/// Where the planes are, after a check that all of them are inside of the frame.
fn planes<'a>(
    format: &Format,
    layout: Option<&FrameLayout>,
    bytes: &'a [u8],
) -> Result<Planes<'a>, String> {
    let mut planes = Planes {
        bytes,
        offsets: [0; 4],
        strides: [0; 4],
    };
    let shapes = format.planes();
    if let Some(layout) = layout
        && layout.planes as usize != shapes.len()
    {
        return Err(format!(
            "the frame has {} planes, and {} has {}",
            layout.planes,
            format.name,
            shapes.len()
        ));
    }
    for (at, shape) in shapes.iter().enumerate() {
        let (offset, stride) = match layout {
            Some(layout) => (
                layout.offsets[at],
                u64::try_from(layout.strides[at])
                    .map_err(|_| format!("a stride of {}", layout.strides[at]))?,
            ),
            None => (shape.offset, shape.stride),
        };
        // The last row need not be as long as the others.
        let end = (shape.rows - 1)
            .checked_mul(stride)
            .and_then(|rows| rows.checked_add(offset)?.checked_add(shape.row));
        if stride < shape.row && shape.rows > 1 || end.is_none_or(|end| end > bytes.len() as u64) {
            return Err(format!(
                "a frame of {} bytes is not {} {}x{}, which takes {}: it may be of other caps than the \
                 stream began with (--caps tells them, --raw writes it as it is)",
                bytes.len(),
                format.name,
                format.width,
                format.height,
                format.size()
            ));
        }
        planes.offsets[at] = offset as usize;
        planes.strides[at] = stride as usize;
    }
    Ok(planes)
}

use gstzerobuffer::{BufferConfig, Reader, Writer};
use std::time::Duration;

pub fn send(name: &str) -> Result<(), gstzerobuffer::Error> {
    // The buffer may come later: its reader makes it.
    let writer = Writer::attach_wait(name, Duration::from_secs(10))?;
    writer.set_metadata(b"about the stream")?;
    writer.write_frame(b"copied in")?;
    let mut place = writer.reserve(9, Duration::from_secs(1))?;
    place.copy_from_slice(b"or filled");
    place.commit()?;
    Ok(())
} // Dropping the writer closes the stream.

pub fn receive(name: &str) -> Result<usize, gstzerobuffer::Error> {
    let reader = Reader::create(name, &BufferConfig::new(1024, 1 << 20))?;
    let mut count = 0;
    for frame in reader.frames(Duration::from_secs(10)) {
        let frame = frame?; // The ring's own bytes, lent until it is dropped.
        println!("frame {}: {} bytes", frame.sequence(), frame.len());
        count += 1;
    }
    Ok(count)
}

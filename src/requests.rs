//! Which request of a duplex channel a buffer was made of, in a pipeline that answers them: the
//! source of `NAME_request` marks its buffers, the sink of `NAME_response` sends the number back.
//!
//! The mark is a meta without tags, which elements copy from what comes in to what goes out.

use std::sync::Once;

use gst::meta::CustomMeta;
use gstreamer as gst;

const META: &str = "GstZeroBufferRequestMeta";
const CHANNEL: &str = "channel";
const REQUEST: &str = "request";
const CONNECTION: &str = "connection";

/// The channel whose requests come through this buffer.
pub fn channel_of_requests(buffer_name: &str) -> Option<&str> {
    buffer_name.strip_suffix("_request")
}

/// The channel whose answers go through this buffer.
pub fn channel_of_answers(buffer_name: &str) -> Option<&str> {
    buffer_name.strip_suffix("_response")
}

/// In place of a connection, for clients that tell none.
pub const NOT_TOLD: u64 = 0;

fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| CustomMeta::register_simple(META));
}

/// Marks a buffer as this request of this connection.
pub fn mark(buffer: &mut gst::BufferRef, channel: &str, (request, connection): (u64, u64)) {
    register();
    if let Ok(mut meta) = CustomMeta::add(buffer, META) {
        let structure = meta.mut_structure();
        structure.set(CHANNEL, channel);
        structure.set(REQUEST, request);
        structure.set(CONNECTION, connection);
    }
}

/// The request of this channel that the buffer was made of: its number and its connection.
pub fn request(buffer: &gst::BufferRef, channel: &str) -> Option<(u64, u64)> {
    register();
    buffer
        .iter_meta::<gst::Meta>()
        .filter_map(|meta| Some(meta.try_as_custom_meta()?.structure().to_owned()))
        .filter(|structure| structure.get::<&str>(CHANNEL) == Ok(channel))
        .find_map(|structure| {
            let number = |field| structure.get::<u64>(field).ok();
            number(REQUEST).zip(number(CONNECTION))
        })
}

/// Whether a meta is such a mark, which means something in its own process only.
#[cfg(feature = "v1_24")]
pub fn is_mark(meta: &gst::MetaRef<gst::Meta>) -> bool {
    meta.try_as_custom_meta()
        .is_some_and(|meta| meta.has_name(META))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::duplex::buffer_names;

    #[test]
    fn a_mark_is_for_its_channel_and_is_copied_with_the_buffer() {
        gst::init().unwrap();
        let mut buffer = gst::Buffer::new();
        assert_eq!(request(&buffer, "a"), None);
        mark(buffer.get_mut().unwrap(), "a", (7, 1));
        mark(buffer.get_mut().unwrap(), "b", (8, 2));
        let copy = buffer.copy();
        for (channel, number) in [("a", Some((7, 1))), ("b", Some((8, 2))), ("c", None)] {
            assert_eq!(request(&copy, channel), number);
        }
    }

    #[test]
    fn channels_are_known_by_the_names_of_their_buffers() {
        let [requests, answers] = buffer_names("x");
        assert_eq!(channel_of_requests(&requests), Some("x"));
        assert_eq!(channel_of_answers(&answers), Some("x"));
        assert_eq!(channel_of_answers("x_request"), None);
        assert_eq!(channel_of_requests("x"), None);
    }
}

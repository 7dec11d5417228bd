//! The allocator whose memory is room in the ring. It is how we recognise our own memory.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use gst::ffi;
use gst::glib;
use gst::glib::translate::*;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;

use crate::protocol::{Error, Records, Reservation, Writer};

/// GStreamer's memory with our own fields behind it.
#[repr(C)]
struct RingMemory {
    mem: MaybeUninit<ffi::GstMemory>,
    data: *mut u8,
    /// So many bytes of the place are in front of the memory.
    head: usize,
    /// `None` for a part of another such memory, which is its parent and lives as long.
    reservation: Option<Mutex<Reservation>>,
}

/// What marks memory that can only be read.
const READONLY: ffi::GstMemoryFlags = ffi::GST_MINI_OBJECT_FLAG_LOCK_READONLY;

mod imp {
    use super::*;

    #[derive(Default)]
    pub struct RingAllocator;

    #[glib::object_subclass]
    impl ObjectSubclass for RingAllocator {
        const NAME: &'static str = "GstZeroBufferRingAllocator";
        type Type = super::RingAllocator;
        type ParentType = gst::Allocator;
    }

    impl ObjectImpl for RingAllocator {
        fn constructed(&self) {
            self.parent_constructed();
            let obj = self.obj();
            obj.set_object_flags(gst::ObjectFlags::MAY_BE_LEAKED);
            let allocator = obj.upcast_ref::<gst::Allocator>().as_ptr();
            // SAFETY: our own instance, under construction; these fields are the allocator's to set
            // (GstAllocator's documentation), and the strings and functions live for ever.
            unsafe {
                (*allocator).mem_type = c"ZeroBufferRing".as_ptr();
                (*allocator).mem_map = Some(mem_map);
                (*allocator).mem_unmap = Some(mem_unmap);
                (*allocator).mem_share = Some(mem_share);
                (*allocator).object.flags |= ffi::GST_ALLOCATOR_FLAG_CUSTOM_ALLOC;
            }
        }
    }

    impl GstObjectImpl for RingAllocator {}

    // SAFETY: `alloc` hands out nothing; `free` is only called with memory of this allocator, all of
    // which `leak` has made.
    unsafe impl AllocatorImpl for RingAllocator {
        unsafe fn alloc(&self, _: usize, _: &gst::AllocationParams) -> *mut ffi::GstMemory {
            // A place in the ring comes from a writer, not from a size.
            ptr::null_mut()
        }

        unsafe fn free(&self, memory: *mut ffi::GstMemory) {
            // SAFETY: a Box that `leak` has leaked, and this is its last reference.
            drop(unsafe { Box::from_raw(memory.cast::<RingMemory>()) });
        }
    }
}

glib::wrapper! {
    pub struct RingAllocator(ObjectSubclass<imp::RingAllocator>)
        @extends gst::Allocator, gst::Object;
}

// SAFETY (of all three): called by GStreamer with memory of this allocator, which it keeps alive.
unsafe extern "C" fn mem_map(
    memory: *mut ffi::GstMemory,
    _maxsize: usize,
    _flags: ffi::GstMapFlags,
) -> glib::ffi::gpointer {
    // SAFETY: see above; `leak` has made it.
    unsafe { (*memory.cast::<RingMemory>()).data.cast() }
}

unsafe extern "C" fn mem_unmap(_memory: *mut ffi::GstMemory) {}

/// A part of `memory`, to be read only, like the parts that GStreamer's own allocator gives. It
/// holds the whole, so the place is lent as long as the part lives.
unsafe extern "C" fn mem_share(
    memory: *mut ffi::GstMemory,
    offset: isize,
    size: isize,
) -> *mut ffi::GstMemory {
    // SAFETY: see above; GStreamer has locked it, so these fields do not change.
    let (parent, data, maxsize, from, len) = unsafe {
        (
            (*memory).parent,
            (*memory.cast::<RingMemory>()).data,
            (*memory).maxsize,
            (*memory).offset,
            (*memory).size,
        )
    };
    let whole = if parent.is_null() { memory } else { parent };
    // A size of -1 is all that is behind the offset.
    let size = usize::try_from(size)
        .ok()
        .or(len.checked_sub_signed(offset));
    let start = from.checked_add_signed(offset);
    let Some((start, size)) = start.zip(size) else {
        return ptr::null_mut();
    };
    if start.checked_add(size).is_none_or(|end| end > maxsize) {
        return ptr::null_mut();
    }
    let part = RingMemory {
        mem: MaybeUninit::uninit(),
        data,
        head: 0,
        reservation: None,
    };
    // SAFETY: the whole is alive, and the part's `free` gives it back.
    unsafe { leak(part, READONLY, whole, maxsize, start, size) }
}

static ALLOCATOR: LazyLock<RingAllocator> = LazyLock::new(glib::Object::new);

/// A place in the ring as memory, without its first `head` bytes. The place is given back when the
/// last reference to the memory and to its parts goes.
pub fn wrap(mut reservation: Reservation, head: usize) -> gst::Memory {
    let head = head.min(reservation.len());
    let size = reservation.len() - head;
    let memory = RingMemory {
        mem: MaybeUninit::uninit(),
        // SAFETY: inside of the place, or at its end.
        data: unsafe { reservation.as_mut_ptr().add(head) },
        head,
        reservation: Some(Mutex::new(reservation)),
    };
    // SAFETY: there is no parent, and the reference is ours to give.
    unsafe { from_glib_full(leak(memory, 0, ptr::null_mut(), size, 0, size)) }
}

/// Makes GStreamer's memory of ours, which its `free` takes back.
///
/// # Safety
/// `parent` is null or memory of this allocator that is alive.
unsafe fn leak(
    memory: RingMemory,
    flags: ffi::GstMemoryFlags,
    parent: *mut ffi::GstMemory,
    maxsize: usize,
    offset: usize,
    size: usize,
) -> *mut ffi::GstMemory {
    let memory = Box::into_raw(Box::new(memory)).cast::<ffi::GstMemory>();
    let allocator = ALLOCATOR.upcast_ref::<gst::Allocator>();
    // SAFETY: the GstMemory is the first field of a #[repr(C)] struct of ours; init fills it all and
    // takes references of the allocator and of the parent itself.
    unsafe {
        ffi::gst_memory_init(
            memory,
            flags,
            allocator.as_ptr(),
            parent,
            maxsize,
            0,
            offset,
            size,
        );
    }
    memory
}

/// Whether this is memory of ours.
pub fn is_ring(memory: &gst::MemoryRef) -> bool {
    memory
        .allocator()
        .is_some_and(|allocator| allocator.is::<RingAllocator>())
}

/// Publishes memory of ours as a frame of `writer`, with `head` in front of it and with these
/// records: its number, or why not. `None` if it is not ours, not this writer's, only a part, has
/// not that much room in front, or is published already: then it has to be copied.
pub fn publish(
    memory: &gst::MemoryRef,
    head: &[u8],
    records: &Records,
    writer: &Writer,
) -> Option<Result<u64, Error>> {
    if !is_ring(memory) || memory.offset() != 0 || memory.size() != memory.maxsize() {
        return None;
    }
    let memory = memory.as_ptr().cast_mut();
    // SAFETY: memory of our allocator is a RingMemory, and the borrow keeps it alive.
    let (reservation, data, room) = unsafe {
        let memory = memory.cast::<RingMemory>();
        (&(*memory).reservation, (*memory).data, (*memory).head)
    };
    let mut reservation = (reservation.as_ref()?.lock()).unwrap_or_else(PoisonError::into_inner);
    if !reservation.is_pending_for(writer) || head.len() != room {
        return None;
    }
    // SAFETY: the place begins so many bytes before `data`, is ours until it is published, and
    // nobody was ever given this part of it.
    unsafe { ptr::copy_nonoverlapping(head.as_ptr(), data.sub(room), room) };
    if let Err(err) = reservation.set_records(records) {
        return Some(Err(err));
    }
    // The reader looks at these bytes from now on: who still has the memory can only read it
    // (gst_buffer_map makes a copy for writing).
    // SAFETY: the flags of a live mini object, an aligned u32; GStreamer reads them like that.
    let flags = unsafe { AtomicU32::from_ptr(&raw mut (*memory).mini_object.flags) };
    flags.fetch_or(READONLY, Ordering::Relaxed);
    Some(reservation.publish())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::{BufferConfig, Reader};
    use crate::testing::unique_name;

    #[test]
    fn parts_are_inside_and_keep_the_place() {
        gst::init().unwrap();
        let name = unique_name("parts");
        let reader = Reader::create(&name, &BufferConfig::new(1024, 10_000)).unwrap();
        let writer = Writer::attach(&name).unwrap();
        let mut place = writer.reserve_ahead(1000).unwrap();
        for (i, byte) in place.iter_mut().enumerate() {
            *byte = i as u8;
        }
        let whole = wrap(place, 0);
        let share = |memory: &gst::Memory, offset: isize, size: isize| -> Option<gst::Memory> {
            // SAFETY: memory that is alive; what comes back is ours, or null.
            unsafe { from_glib_full(ffi::gst_memory_share(memory.as_mut_ptr(), offset, size)) }
        };
        for (offset, size) in [(-1, 10), (0, 1001), (991, 10), (1001, -1), (isize::MIN, -1)] {
            assert!(share(&whole, offset, size).is_none(), "{offset} {size}");
        }
        let part = share(&whole, 100, 500).unwrap();
        let end = share(&part, 100, -1).unwrap();
        assert_eq!((end.offset(), end.size()), (200, 400));
        assert!(
            publish(&part, &[], &Records::new(), &writer).is_none(),
            "only a whole frame is"
        );
        assert!(
            publish(&whole, &[], &Records::new(), &writer)
                .unwrap()
                .is_ok()
        );
        drop((part, whole));
        // Somebody may still look at the end, so nothing is lent there in any lap.
        for _ in 0..50 {
            assert!(reader.read_frame(Duration::ZERO).is_ok());
            let mut next = writer.reserve_ahead(1000).unwrap();
            next.fill(0xee);
            next.commit().unwrap();
        }
        let end = end.map_readable().unwrap();
        assert!((200..600).zip(end.iter()).all(|(i, byte)| i as u8 == *byte));
    }
}

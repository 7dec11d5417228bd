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
    reservation: Mutex<Reservation>,
}

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
                (*allocator).object.flags |= ffi::GST_ALLOCATOR_FLAG_CUSTOM_ALLOC;
            }
        }
    }

    impl GstObjectImpl for RingAllocator {}

    // SAFETY: `alloc` hands out nothing; `free` is only called with memory of this allocator, all of
    // which `wrap` has made.
    unsafe impl AllocatorImpl for RingAllocator {
        unsafe fn alloc(&self, _: usize, _: &gst::AllocationParams) -> *mut ffi::GstMemory {
            // A place in the ring comes from a writer, not from a size.
            ptr::null_mut()
        }

        unsafe fn free(&self, memory: *mut ffi::GstMemory) {
            // SAFETY: a Box that `wrap` has leaked, and this is its last reference.
            drop(unsafe { Box::from_raw(memory.cast::<RingMemory>()) });
        }
    }
}

glib::wrapper! {
    pub struct RingAllocator(ObjectSubclass<imp::RingAllocator>)
        @extends gst::Allocator, gst::Object;
}

// SAFETY (of both): called by GStreamer with memory of this allocator.
unsafe extern "C" fn mem_map(
    memory: *mut ffi::GstMemory,
    _maxsize: usize,
    _flags: ffi::GstMapFlags,
) -> glib::ffi::gpointer {
    // SAFETY: see above; `wrap` has made it.
    unsafe { (*memory.cast::<RingMemory>()).data.cast() }
}

unsafe extern "C" fn mem_unmap(_memory: *mut ffi::GstMemory) {}

static ALLOCATOR: LazyLock<RingAllocator> = LazyLock::new(glib::Object::new);

/// A place in the ring as memory. The place is given back when the memory's last reference goes.
pub fn wrap(mut reservation: Reservation) -> gst::Memory {
    let (size, data) = (reservation.len(), reservation.as_mut_ptr());
    let allocator = ALLOCATOR.upcast_ref::<gst::Allocator>();
    let memory = Box::into_raw(Box::new(RingMemory {
        mem: MaybeUninit::uninit(),
        data,
        reservation: Mutex::new(reservation),
    }))
    .cast::<ffi::GstMemory>();
    // SAFETY: the GstMemory is the first field of a #[repr(C)] struct of ours; init fills it all and
    // takes a reference of the allocator itself. A part of it cannot be shared: it would outlive
    // what we know of the whole.
    unsafe {
        ffi::gst_memory_init(
            memory,
            ffi::GST_MEMORY_FLAG_NO_SHARE,
            allocator.as_ptr(),
            ptr::null_mut(),
            size,
            0,
            0,
            size,
        );
        from_glib_full(memory)
    }
}

/// Whether this is memory of ours.
pub fn is_ring(memory: &gst::MemoryRef) -> bool {
    memory
        .allocator()
        .is_some_and(|allocator| allocator.is::<RingAllocator>())
}

/// Publishes memory of ours as a frame of `writer`, with these records: its number, or why not. `None` if it is not
/// ours, not this writer's, only a part, or published already: then it has to be copied.
pub fn publish(
    memory: &gst::MemoryRef,
    records: &Records,
    writer: &Writer,
) -> Option<Result<u64, Error>> {
    if !is_ring(memory) || memory.offset() != 0 || memory.size() != memory.maxsize() {
        return None;
    }
    let memory = memory.as_ptr().cast_mut();
    // SAFETY: memory of our allocator is a RingMemory, and the borrow keeps it alive.
    let reservation = unsafe { &(*memory.cast::<RingMemory>()).reservation };
    let mut reservation = reservation.lock().unwrap_or_else(PoisonError::into_inner);
    if !reservation.is_pending_for(writer) {
        return None;
    }
    if let Err(err) = reservation.set_records(records) {
        return Some(Err(err));
    }
    // The reader looks at these bytes from now on: who still has the memory can only read it
    // (gst_buffer_map makes a copy for writing).
    // SAFETY: the flags of a live mini object, an aligned u32; GStreamer reads them like that.
    let flags = unsafe { AtomicU32::from_ptr(&raw mut (*memory).mini_object.flags) };
    flags.fetch_or(ffi::GST_MINI_OBJECT_FLAG_LOCK_READONLY, Ordering::Relaxed);
    Some(reservation.publish())
}

//! What the bindings have no safe words for, about metas.

use gstreamer as gst;
use gstreamer_video as gst_video;

/// What a region of interest is, if that was told.
pub fn region_type<'a>(
    region: &gst::MetaRef<'a, gst_video::VideoRegionOfInterestMeta>,
) -> Option<&'a str> {
    // SAFETY: the reference keeps the meta alive and from being changed; a quark is a number.
    let quark = unsafe { (*region.as_ptr()).roi_type };
    // 0 is the quark of no string, which `roi_type` would read nevertheless.
    (quark != 0).then(|| region.roi_type())
}

/// What this process knows of metas of a name.
#[cfg(feature = "v1_24")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Whether they are a structure, written as text.
    pub custom: bool,
    /// The type that has their tags.
    pub api: gst::glib::Type,
}

/// Looks a meta up by the name of its implementation; loads no plugin for it.
#[cfg(feature = "v1_24")]
pub fn registered(name: &gst::glib::GStr) -> Option<Registered> {
    use gst::ffi;
    use gst::glib::translate::from_glib;

    // SAFETY: the name ends with a zero byte. What is registered stays as long as the process.
    unsafe {
        let info = ffi::gst_meta_get_info(name.as_ptr()).as_ref()?;
        Some(Registered {
            custom: from_glib(ffi::gst_meta_info_is_custom(info)),
            api: from_glib(info.api),
        })
    }
}

#[cfg(test)]
mod tests {
    use gst_video::VideoRegionOfInterestMeta;

    use super::*;

    #[test]
    fn a_region_may_have_no_type() {
        gst::init().unwrap();
        let mut buffer = gst::Buffer::new();
        let buffer = buffer.get_mut().unwrap();
        VideoRegionOfInterestMeta::add(buffer, "a face", (0, 0, 1, 1));
        // SAFETY: a buffer that is writable, and numbers.
        unsafe {
            let add = gst_video::ffi::gst_buffer_add_video_region_of_interest_meta_id;
            add(buffer.as_mut_ptr(), 0, 0, 0, 1, 1);
        }
        let types: Vec<_> = buffer
            .iter_meta::<VideoRegionOfInterestMeta>()
            .map(|region| region_type(&region))
            .collect();
        assert_eq!(types, [Some("a face"), None]);
    }

    #[cfg(feature = "v1_24")]
    #[test]
    fn what_is_registered_is_known_with_its_tags() {
        use gst::glib::gstr;
        use gst::meta::tags;

        gst::init().unwrap();
        assert_eq!(registered(gstr!("GstNoSuchMeta")), None);
        gst::ParentBufferMeta::add(gst::Buffer::new().get_mut().unwrap(), &gst::Buffer::new());
        let parent = registered(gstr!("GstParentBufferMeta")).unwrap();
        assert!(!parent.custom);
        let has_tag = gst::meta::meta_api_type_has_tag::<tags::MemoryReference>;
        assert!(has_tag(parent.api));
        gst::meta::CustomMeta::register_simple("ZeroBufferTestRegistered");
        let custom = registered(gstr!("ZeroBufferTestRegistered")).unwrap();
        assert!(custom.custom && !has_tag(custom.api));
    }
}

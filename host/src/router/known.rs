//! The task types that applications are known to submit, and what serves each of them by default. Data, not law: types
//! that nobody lists are served too.

/// What serves a known type when nothing else is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A plugin; without it the type falls through to Wan2GP.
    Plugin,
    Comfyui,
    Wan2gp,
}

/// A task type and its default owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownType {
    pub name: &'static str,
    pub owner: Owner,
}

/// Every known type, plugins' types first.
pub fn known_types() -> &'static [KnownType] {
    KNOWN
}

/// What is known about a type.
pub fn known_type(name: &str) -> Option<KnownType> {
    KNOWN.iter().copied().find(|known| known.name == name)
}

const fn plugin(name: &'static str) -> KnownType {
    KnownType { name, owner: Owner::Plugin }
}

const fn comfyui(name: &'static str) -> KnownType {
    KnownType { name, owner: Owner::Comfyui }
}

const fn wan2gp(name: &'static str) -> KnownType {
    KnownType { name, owner: Owner::Wan2gp }
}

static KNOWN: &[KnownType] = &[
    plugin("travel_orchestrator"),
    plugin("travel_segment"),
    plugin("individual_travel_segment"),
    plugin("travel_stitch"),
    plugin("join_clips_orchestrator"),
    plugin("join_clips_segment"),
    plugin("join_final_stitch"),
    plugin("edit_video_orchestrator"),
    plugin("inpaint_frames"),
    plugin("magic_edit"),
    plugin("create_visualization"),
    plugin("extract_frame"),
    plugin("rife_interpolate_images"),
    comfyui("comfy"),
    wan2gp("generate_video"),
    wan2gp("t2v"),
    wan2gp("t2v_22"),
    wan2gp("wan_2_2_t2i"),
    wan2gp("i2v"),
    wan2gp("i2v_22"),
    wan2gp("vace"),
    wan2gp("vace_21"),
    wan2gp("vace_22"),
    wan2gp("flux"),
    wan2gp("hunyuan"),
    wan2gp("ltxv"),
    wan2gp("qwen_image"),
    wan2gp("qwen_image_2512"),
    wan2gp("qwen_image_edit"),
    wan2gp("qwen_image_hires"),
    wan2gp("qwen_image_style"),
    wan2gp("image_inpaint"),
    wan2gp("annotated_image_edit"),
    wan2gp("z_image_turbo"),
    wan2gp("z_image_turbo_i2i"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_five_types_are_known_each_once() {
        let names: std::collections::BTreeSet<_> = KNOWN.iter().map(|known| known.name).collect();
        assert_eq!((KNOWN.len(), names.len()), (35, 35));
        assert_eq!(KNOWN.iter().filter(|known| known.owner == Owner::Plugin).count(), 13);
    }
}

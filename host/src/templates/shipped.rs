//! The templates that come with the program. `enginehouse init` writes them into a new home, where they are files like any
//! other: to be changed, copied and deleted. They need no model.

/// Name and content of each file.
pub const FILES: [(&str, &str); 2] = [
    ("picture_resize.json", include_str!("../../../templates/comfyui/picture_resize.json")),
    ("video_resample.json", include_str!("../../../templates/comfyui/video_resample.json")),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates::Template;

    #[test]
    fn what_is_shipped_works_without_a_warning_and_says_what_it_is() {
        for (file, text) in FILES {
            let template = Template::parse(file, text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
            assert!(template.warnings.is_empty(), "{file}: {:?}", template.warnings);
            assert!(template.requires.models.is_empty(), "{file} needs no model");
            assert!(template.title.is_some() && template.description.is_some() && template.licence.is_some(), "{file}");
        }
    }
}

//! The forms that recordings describe in words.

use crate::http::form;

/// A small PNG of some length, as far as its head shows.
fn bytes(length: usize, fill: u8) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.resize(length, fill);
    bytes
}

/// Content type and body of a form that a recording puts into words: `image=NAME`, `subfolder=`, `type=`, `overwrite=`,
/// or `file name NAME`.
pub fn described(words: &str) -> (String, Vec<u8>) {
    if let Some(name) = words.strip_prefix("file name ") {
        return form(&[("image", Some(name), &bytes(20, 1))]);
    }
    if words.starts_with("field named file") {
        return form(&[("file", Some("a.png"), &bytes(20, 1))]);
    }
    if words.starts_with("image as plain text") {
        return form(&[("image", None, b"a.png")]);
    }
    if let Some(size) = words.strip_prefix("image of ") {
        let mib: usize = size.split(' ').next().and_then(|mib| mib.parse().ok()).expect("a size in MiB");
        return form(&[("image", Some(&format!("ok{mib}.bin")), &vec![0; mib << 20])]);
    }
    let value = |name: &str| {
        let rest = words.split_once(&format!("{name}="))?.1;
        Some(rest.split([' ', ',', '(']).next().unwrap_or_default())
    };
    let name = value("image").expect("a form has an image");
    // The client that was recorded escaped slashes.
    let name = name.replace('/', "%2F");
    let content = match name.as_str() {
        "clip.mp4" => vec![0; 100],
        "run.sh" => b"echo".to_vec(),
        "a.png" if words.contains("(bytes A)") || words.contains("same bytes") => bytes(70, 1),
        "a.png" if words.contains("overwrite=false") => bytes(72, 3),
        "a.png" => bytes(71, 2),
        _ => bytes(70, 1),
    };
    let mut fields: Vec<(&str, Option<&str>, &[u8])> = vec![("image", Some(&name), &content)];
    for field in ["subfolder", "type", "overwrite"] {
        if let Some(value) = value(field) {
            fields.push((field, None, value.as_bytes()));
        }
    }
    form(&fields)
}

//! What the file of a LoRA is called.

/// Names that say nothing without the folder they lie in.
const GENERIC: [&str; 2] = ["high_noise_model.safetensors", "low_noise_model.safetensors"];

/// Whether a LoRA is given by its address rather than by the name of a file.
pub fn is_url(lora: &str) -> bool {
    lora.starts_with("http://") || lora.starts_with("https://")
}

/// The name of the file that is fetched from an address: the last part of its path, percent-decoded. The two generic
/// names get their folder in front. A file name stays as it is.
pub fn file_name(lora: &str) -> String {
    let path = lora.split(['?', '#']).next().unwrap_or(lora);
    let mut parts = path.rsplit('/');
    let name = percent_decoded(parts.next().unwrap_or(path));
    // An escaped slash must not lead out of the folder.
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    match parts.next().filter(|folder| GENERIC.contains(&name.as_str()) && !folder.is_empty()) {
        Some(folder) => format!("{}_{name}", percent_decoded(folder)),
        None => name,
    }
}

/// The address that answers with the file: model hubs show a page under `/blob/` and the file under `/resolve/`.
pub fn download_url(url: &str) -> String {
    if url.starts_with("https://huggingface.co/") { url.replacen("/blob/", "/resolve/", 1) } else { url.to_owned() }
}

/// `%20` → a space. What is no valid escape stays as it stands.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match tail {
            [high, low, ..] if first == b'%' => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.push(high * 16 + low);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_part_of_the_address_names_the_file() {
        assert_eq!(file_name("https://h/x/b.safetensors"), "b.safetensors");
        assert_eq!(file_name("https://h/x/my%20style%2Bv2.safetensors?download=true"), "my style+v2.safetensors");
        assert_eq!(file_name("a.safetensors"), "a.safetensors");
        assert_eq!(file_name("100%.safetensors"), "100%.safetensors");
    }

    #[test]
    fn generic_names_get_their_folder_in_front() {
        assert_eq!(file_name("https://h/r/dance/high_noise_model.safetensors"), "dance_high_noise_model.safetensors");
        assert_eq!(file_name("low_noise_model.safetensors"), "low_noise_model.safetensors");
    }

    #[test]
    fn a_page_of_the_hub_is_read_as_its_file() {
        assert_eq!(
            download_url("https://huggingface.co/a/b/blob/main/c.safetensors"),
            "https://huggingface.co/a/b/resolve/main/c.safetensors"
        );
        assert_eq!(download_url("https://h/blob/c"), "https://h/blob/c");
    }

    proptest! {
        #[test]
        fn a_file_name_never_holds_a_path(url in "https://[a-z]{1,5}(/[a-z%0-9]{0,6}){0,4}") {
            prop_assert!(!file_name(&url).contains('/'));
        }
    }
}

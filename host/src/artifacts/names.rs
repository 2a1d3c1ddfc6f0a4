//! File names that every file system, shell and storage service takes: one part, no blanks, no characters with a
//! meaning of their own; letters of every script stay, and so does the extension.

/// Most bytes of a name that [`sanitised`] returns.
pub const NAME_BYTES: usize = 160;

/// The name of a file for people, made safe. `..`, an empty name and the like become `file`.
pub fn sanitised(name: &str) -> String {
    let mut safe = once(name);
    // What was taken out may have hidden an extension: `a..b!` becomes `a..b`, which has one.
    loop {
        let again = once(&safe);
        if again == safe {
            return safe;
        }
        safe = again;
    }
}

fn once(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).find(|part| !part.trim().is_empty()).unwrap_or_default();
    let (stem, extension) = split(last.trim());
    let stem = part(stem, NAME_BYTES - extension.map_or(0, |extension| extension.len() + 1));
    let stem = if stem.is_empty() { "file" } else { stem.as_str() };
    match extension {
        Some(extension) => format!("{stem}.{extension}"),
        None => stem.to_string(),
    }
}

/// A name without its extension, and the extension without its dot. Extensions are short, and letters and digits alone.
pub fn split(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once('.') {
        Some((stem, extension))
            if (1..=12).contains(&extension.len()) && extension.bytes().all(|b| b.is_ascii_alphanumeric()) =>
        {
            (stem, Some(extension))
        }
        _ => (name, None),
    }
}

fn part(text: &str, bytes: usize) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        if c.is_whitespace() || c == '_' {
            if !safe.ends_with('_') {
                safe.push('_');
            }
        } else if stays(c) {
            safe.push(c);
        }
    }
    let mut safe = ends_stripped(&safe);
    while safe.len() > bytes {
        let mut characters = safe.chars();
        characters.next_back();
        safe = ends_stripped(characters.as_str());
    }
    safe
}

/// A name must not be hidden (`.`), nor look like an option (`-`).
fn ends_stripped(text: &str) -> String {
    text.trim_start_matches(['.', '-', '_']).trim_end_matches(['.', '_']).to_string()
}

fn stays(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || "-.+=()".contains(c);
    }
    // Invisible characters and those that turn the direction of writing make names look like others.
    let invisible = matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{ffff}' | '\u{e0000}'..='\u{e0fff}');
    !c.is_control() && !invisible && !"§®©™·º½¾¿¡".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_safe_and_keep_their_extension() {
        for (name, expected) in [
            ("my picture (1).png", "my_picture_(1).png"),
            ("Größe 写真.JPG", "Größe_写真.JPG"),
            ("../../etc/passwd", "passwd"),
            ("C:\\films\\a.mp4", "a.mp4"),
            ("a/b/", "b"),
            ("..", "file"),
            ("", "file"),
            (".env", "file.env"),
            ("-rf", "rf"),
            ("c .png", "c.png"),
            ("[x] {y} <z>?.webp", "x_y_z.webp"),
            ("a\u{202e}gpj.exe", "agpj.exe"),
            ("model.v1.safetensors", "model.v1.safetensors"),
            ("a.tar.gz", "a.tar.gz"),
            ("no extension.", "no_extension"),
            ("nul\0l\n.txt", "null.txt"),
            ("A..a!", "A.a"),
        ] {
            assert_eq!(sanitised(name), expected, "{name:?}");
        }
        let long = sanitised(&format!("{}.png", "ü".repeat(500)));
        assert!(long.len() <= NAME_BYTES && long.ends_with("ü.png"));
    }

    proptest! {
        #[test]
        fn any_name_becomes_one_safe_part(name in "\\PC{0,40}(\\.[a-zA-Z0-9]{1,5})?", junk in any::<String>()) {
            for name in [name, junk] {
                let safe = sanitised(&name);
                prop_assert!(!safe.is_empty() && safe.len() <= NAME_BYTES);
                prop_assert!(!safe.contains(['/', '\\', ' ', '\0', '\n', '"', '\'', '$', '`', '*', '?', ':']));
                prop_assert!(!safe.starts_with(['.', '-']));
                prop_assert_eq!(&sanitised(&safe), &safe);
            }
        }
    }
}

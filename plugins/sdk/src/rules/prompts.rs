//! Texts for the models.

/// As the engine wants it: trimmed, and one space where there is nothing (it refuses an empty prompt).
pub fn normalised(prompt: Option<&str>) -> &str {
    match prompt.map(str::trim) {
        Some(text) if !text.is_empty() => text,
        _ => " ",
    }
}

/// The first text that is not blank, as it stands; "" if all are.
pub fn first_of<'a>(texts: impl IntoIterator<Item = Option<&'a str>>) -> &'a str {
    texts.into_iter().flatten().find(|text| !text.trim().is_empty()).unwrap_or("")
}

/// A prompt between two texts, joined by single spaces; what is blank takes no part. Without wrappers the prompt stays
/// untouched.
pub fn wrapped(before: &str, prompt: &str, after: &str) -> String {
    let (before, after) = (before.trim(), after.trim());
    if before.is_empty() && after.is_empty() {
        return prompt.to_owned();
    }
    let middle = if prompt.trim().is_empty() { "" } else { prompt };
    [before, middle, after].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prompt_that_says_nothing_is_one_space() {
        for prompt in [None, Some(""), Some(" \n\t")] {
            assert_eq!(normalised(prompt), " ");
        }
        assert_eq!(normalised(Some("  a walk ")), "a walk");
    }

    #[test]
    fn wrappers_leave_no_stray_spaces() {
        assert_eq!(wrapped(" cinematic, ", "a walk", ""), "cinematic, a walk");
        assert_eq!(wrapped("cinematic", "", "4k"), "cinematic 4k");
        assert_eq!(wrapped("", "a walk", "4k"), "a walk 4k");
        assert_eq!(wrapped(" ", " a walk ", ""), " a walk ");
        assert_eq!(wrapped("cinematic", "  ", ""), "cinematic");
    }

    #[test]
    fn blank_texts_are_passed_over() {
        assert_eq!(first_of([None, Some("  "), Some("a"), Some("b")]), "a");
        assert_eq!(first_of([None, Some("")]), "");
    }

    proptest! {
        #[test]
        fn a_wrapped_prompt_has_no_blank_ends_of_the_wrappers(before in "[a-z ]{0,6}", prompt in "[a-z]{0,6}", after in "[a-z ]{0,6}") {
            let text = wrapped(&before, &prompt, &after);
            prop_assert_eq!(text.trim(), text.as_str());
            prop_assert!(text.contains(&prompt));
        }
    }
}

//! "Did you mean": the known word that a mistyped one most likely stands for.

/// The closest of the known words, when it is close enough to be meant: at most one mistake in three letters.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let mistakes = |candidate: &str| strsim::osa_distance(&word, &candidate.to_lowercase());
    known
        .into_iter()
        .map(|candidate| (mistakes(candidate), candidate))
        .filter(|(mistakes, candidate)| *mistakes <= 1.max(word.chars().count().max(candidate.chars().count()) / 3))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_is_recognised_and_another_word_is_not() {
        let known = ["travel_stitch", "travel_segment", "t2v", "flux"];
        assert_eq!(nearest("travel_stich", known), Some("travel_stitch"));
        assert_eq!(nearest("Travel_Sgement", known), Some("travel_segment"));
        assert_eq!(nearest("t2w", known), Some("t2v"));
        assert_eq!(nearest("upscale_video", known), None);
        assert_eq!(nearest("", []), None);
    }
}

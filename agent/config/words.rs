//! The nearest right word for a wrong one.

/// The candidate that a typing mistake could have turned into `word`: at most a third of its letters wrong,
/// a swap of two counted as one.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let wanted = plain(word);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean X?`, or the whole list where nothing is near.
pub fn offer(word: &str, candidates: &[&str], are_called: &str) -> String {
    match nearest(word, candidates.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if candidates.is_empty() => format!("there are no {are_called} here"),
        None => {
            let list: Vec<String> = candidates.iter().map(|candidate| format!("`{candidate}`")).collect();
            format!("the {are_called} here are {}", list.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_mended_and_another_word_is_not() {
        let words = ["drain", "restore", "health_check", "min_healthy", "fd.used"];
        for (wrong, right) in [
            ("drian", Some("drain")),
            ("Health-Check", Some("health_check")),
            ("healthcheck", Some("health_check")),
            ("min_health", Some("min_healthy")),
            ("stop", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, words), right, "{wrong:?}");
        }
    }
}

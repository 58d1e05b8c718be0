//! The word that somebody probably meant.

/// The candidate with the fewest edits to `word`; `None` if even that one shares too little with it
/// (more than one edit in three characters, though two are always allowed).
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, candidate)| {
            *edits <= (candidate.chars().count().max(word.chars().count()) / 3).max(2)
        })
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements that make `b` of `a`, and swaps of neighbours.
pub fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut last = None;
    for (i, x) in a.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut least = (above[j] + usize::from(x != *y)).min(above[j + 1] + 1).min(row[j] + 1);
            if j > 0 && last == Some(*y) && b[j - 1] == x {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
        last = Some(x);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, count) in [
            ("", "", 0),
            ("", "abc", 3),
            ("listen", "listen", 0),
            ("lisen", "listen", 1),
            ("lsiten", "listen", 1),
            ("ab", "ba", 1),
            ("kitten", "sitting", 3),
            ("GANTRY_CORS", "GANTRY_CORES", 1),
        ] {
            assert_eq!(edits(a, b), count, "{a} {b}");
            assert_eq!(edits(b, a), count, "{b} {a}");
        }
    }

    #[test]
    fn the_nearest_is_near_or_nobody() {
        let keys = ["listen", "data", "log", "log_format", "access_log"];
        assert_eq!(nearest("lisen", keys), Some("listen"));
        assert_eq!(nearest("logformat", keys), Some("log_format"));
        assert_eq!(nearest("acess_log", keys), Some("access_log"));
        assert_eq!(nearest("storage_backend", keys), None);
    }
}

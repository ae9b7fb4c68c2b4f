//! Finds the known name that an unknown name probably meant.

/// The candidate with the fewest single-letter changes from `text`; of equally near ones the first.
pub(super) fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates.min_by_key(|candidate| distance(text, candidate))
}

/// The number of insertions, deletions and replacements between the two texts (Levenshtein distance).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (index, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, right) in other.chars().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_letter_changes() {
        for (one, other, changes) in
            [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]
        {
            assert_eq!(distance(one, other), changes);
            assert_eq!(distance(other, one), changes);
        }
    }

    #[test]
    fn the_nearest_is_the_one_with_the_fewest_changes() {
        let known = ["listen", "admin_listen", "limits.connections"];
        assert_eq!(nearest("lisen", known.into_iter()), Some("listen"));
        assert_eq!(nearest("limit.connections", known.into_iter()), Some("limits.connections"));
        assert_eq!(nearest("x", std::iter::empty()), None);
    }
}

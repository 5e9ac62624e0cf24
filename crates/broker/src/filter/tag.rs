//! What a group wants of a topic, by tag.
//!
//! The broker compares tag hashes only, as they stand in the queue entries; the client compares the tags themselves
//! again, so a hash that two tags share costs a delivery and loses none. (Java: `FilterAPI`, `ExpressionMessageFilter`)

use std::sync::Arc;

use wire::hash::java_string_hash;

/// A tag expression, ready to be compared with queue entries; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TagFilter {
    /// `*`: every message.
    All,
    /// The hashes of the tags that are wanted, sorted.
    AnyOf(Arc<[i32]>),
}

/// The expression has no tag at all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoTags;

impl TagFilter {
    /// Reads `*`, an empty text, or tags separated by `||`.
    pub(crate) fn parse(expression: &str) -> Result<TagFilter, NoTags> {
        if expression.is_empty() || expression == "*" {
            return Ok(TagFilter::All);
        }
        // Java's `split` drops empty parts at the end, and refuses what has no other parts.
        if expression.split("||").all(str::is_empty) {
            return Err(NoTags);
        }
        let tags = expression.split("||").map(trimmed).filter(|tag| !tag.is_empty());
        Ok(TagFilter::any_of(tags.map(java_string_hash)))
    }

    /// Takes the hashes that a client has computed itself.
    pub(crate) fn any_of(hashes: impl IntoIterator<Item = i32>) -> TagFilter {
        let mut hashes: Vec<i32> = hashes.into_iter().collect();
        hashes.sort_unstable();
        hashes.dedup();
        TagFilter::AnyOf(hashes.into())
    }

    /// Compares with the tags code of a queue entry.
    pub(crate) fn matches(&self, tags_code: i64) -> bool {
        match self {
            TagFilter::All => true,
            // A code below any hash is an address in the queue's extension file (Java: `isExtAddr`): unknown, so sent.
            TagFilter::AnyOf(_) if tags_code < i64::from(i32::MIN) => true,
            TagFilter::AnyOf(hashes) => hashes.binary_search(&(tags_code as i32)).is_ok(),
        }
    }
}

/// Without blanks around it, as Java understands them.
fn trimmed(tag: &str) -> &str {
    tag.trim_matches(|c| c <= ' ')
}

/// Says whether an expression type means tags: absent, empty or `TAG`.
pub(crate) fn is_tag_type(kind: &str) -> bool {
    matches!(kind, "" | "TAG")
}

#[cfg(test)]
mod tests {
    use wire::hash::tags_code;

    use super::*;

    fn check(expression: &str, wanted: &[&str], others: &[&str]) {
        let filter = TagFilter::parse(expression).unwrap();
        for tag in wanted {
            assert!(filter.matches(tags_code(tag)), "`{expression}` wants `{tag}`");
        }
        for tag in others {
            assert!(!filter.matches(tags_code(tag)), "`{expression}` does not want `{tag}`");
        }
    }

    #[test]
    fn tags_are_separated_by_two_bars() {
        check("*", &["a", ""], &[]);
        check("", &["a", ""], &[]);
        check("a || b", &["a", "b"], &["c", "", "a || b"]);
        check("||a", &["a"], &["b", ""]);
        check(" || ", &[], &["a", " ", ""]);
        check("\u{3000}a|| b|c \t", &["\u{3000}a", "b|c"], &["a", "b", "c"]);
        assert_eq!(TagFilter::parse("||"), Err(NoTags));
    }

    #[test]
    fn an_address_in_the_extension_file_is_not_a_tag() {
        assert!(TagFilter::parse("a").unwrap().matches(i64::MIN + 5));
    }
}

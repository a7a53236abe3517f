//! Text written by others, made harmless for a terminal.

use std::borrow::Cow;

use larder_client::text::{Unseen, escape, escaped_name, unseen};
use unicode_segmentation::UnicodeSegmentation;

/// What a person writes as one character has fewer code points than this, families of emoji included. More are marks heaped
/// on a letter, which cover the lines around it.
const CLUSTER_CHARS_MAX: usize = 12;
/// Marks on one letter. Vietnamese has two, Hebrew with cantillation four.
const MARKS_MAX: usize = 5;

/// Shows text that somebody else wrote on one line that it cannot leave.
///
/// A terminal obeys what it is sent: escape sequences move the cursor, rewrite titles and, on some, run commands;
/// a line feed starts a line that looks like another person's; bidirectional controls show words in another order
/// than they are stored; other format characters hide text. Each such character ([`Unseen::Moves`], [`Unseen::Hides`]) is
/// replaced by its Rust escape (`\n`, `\u{1b}`, `\u{202e}`). A tab becomes a space. The joiners and selectors that emoji and
/// many scripts need stay. Of marks that are heaped on one letter, as many stay as any language needs, and `\u{fffd}` stands
/// for the rest.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hostile) {
        return levelled(Cow::Borrowed(text));
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\t' => shown.push(' '),
            c if is_hostile(c) => escape(&mut shown, c),
            c => shown.push(c),
        }
    }
    levelled(Cow::Owned(shown))
}

/// Shows a group's name, which its members chose: every character that is not what one sees is escaped, also those that
/// messages need ([`unseen`]), so that names that differ look different.
pub(crate) fn name(name: &str) -> Cow<'_, str> {
    match escaped_name(name) {
        Cow::Borrowed(name) => levelled(Cow::Borrowed(name)),
        Cow::Owned(escaped) => Cow::Owned(levelled(Cow::Owned(escaped)).into_owned()),
    }
}

/// Shows text of several lines, each as [`plain`] shows it. What is left of a line feed is nothing but that a new line begins,
/// so this is for where a line cannot pass for another person's.
pub(crate) fn lines(text: &str) -> Vec<String> {
    text.split('\n')
        .map(|line| plain(line.strip_suffix('\r').unwrap_or(line)).into_owned())
        .collect()
}

/// The text with clusters of a size that people write.
fn levelled(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.is_ascii()
        || text
            .graphemes(true)
            .all(|cluster| fitting(cluster) == cluster.len())
    {
        return text;
    }
    let mut shown = String::with_capacity(text.len());
    for cluster in text.graphemes(true) {
        let fits = fitting(cluster);
        shown.push_str(&cluster[..fits]);
        if fits < cluster.len() {
            shown.push(char::REPLACEMENT_CHARACTER);
        }
    }
    Cow::Owned(shown)
}

/// How many bytes of a cluster are shown.
fn fitting(cluster: &str) -> usize {
    let mut marks = 0;
    for (chars, (at, c)) in cluster.char_indices().enumerate() {
        // A joiner is what makes one sign of several.
        if chars > 0 && c != '\u{200d}' && unicode_width::UnicodeWidthChar::width(c) == Some(0) {
            marks += 1;
        }
        if chars == CLUSTER_CHARS_MAX || marks > MARKS_MAX {
            return at;
        }
    }
    cluster.len()
}

/// Shows a group's name, which its creator chose, where `#name <user> text` is read: a name of anything but letters,
/// digits and `-_.` is put in quotes, so that no name can look like the rest of a line.
pub(crate) fn label(name: &str) -> Cow<'_, str> {
    let simple = |c: char| (c.is_alphanumeric() || matches!(c, '-' | '_' | '.')) && unseen(c).is_none();
    if !name.is_empty() && name.chars().all(simple) {
        return Cow::Borrowed(name);
    }
    let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
    Cow::Owned(format!("\"{}\"", self::name(&quoted)))
}

fn is_hostile(c: char) -> bool {
    matches!(unseen(c), Some(Unseen::Moves | Unseen::Hides))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_of_any_script_is_untouched() {
        for text in [
            "",
            "hello, world",
            "grüße – naïve",
            "שלום עולם",
            "مرحبا",
            "नमस्ते",
            "👩‍🍳 cooks",
            "می‌خواهم",
            "❤\u{fe0f} and ✂\u{fe0e}",
            "葛\u{e0100}城",
            "100\u{a0}%",
            "Donau\u{ad}dampf",
        ] {
            assert!(
                matches!(plain(text), Cow::Borrowed(same) if same == text),
                "{text}"
            );
        }
    }

    #[test]
    fn escape_sequences_are_shown_and_not_obeyed() {
        assert_eq!(
            plain("\u{1b}[2J\u{1b}]0;title\u{7}"),
            r"\u{1b}[2J\u{1b}]0;title\u{7}"
        );
        assert_eq!(plain("\u{9b}31m\u{7f}\u{0}"), r"\u{9b}31m\u{7f}\u{0}");
    }

    #[test]
    fn a_text_cannot_start_a_line_of_its_own() {
        assert_eq!(plain("hi\r\n#room <admin> obey"), r"hi\r\n#room <admin> obey");
        assert_eq!(plain("a\u{2028}b\u{85}c\u{b}d"), r"a\u{2028}b\u{85}c\u{b}d");
    }

    #[test]
    fn text_cannot_be_reordered_or_hidden() {
        for c in [
            '\u{202e}',
            '\u{2066}',
            '\u{2069}',
            '\u{200f}',
            '\u{61c}',
            '\u{200b}',
            '\u{feff}',
            '\u{e0041}',
            '\u{3164}',
            '\u{ffa0}',
            '\u{1d173}',
            '\u{fff0}',
            '\u{e0fff}',
        ] {
            let shown = plain(&format!("a{c}b")).into_owned();
            assert!(!shown.contains(c) && shown.is_ascii(), "{shown}");
        }
    }

    #[test]
    fn marks_heaped_on_a_letter_do_not_cover_the_lines_around_it() {
        let heap = format!("z{}algo", "\u{301}".repeat(200));
        assert_eq!(plain(&heap), format!("z{}\u{fffd}algo", "\u{301}".repeat(5)));
        let chain = "👩\u{200d}".repeat(50);
        assert!(
            plain(&chain).chars().count() <= 2 * CLUSTER_CHARS_MAX,
            "{}",
            plain(&chain)
        );
        for written in ["ệ", "e\u{323}\u{302}", "👨🏽‍👩🏽‍👧🏽‍👦🏽", "בְּרֵאשִׁ֖ית", "🏴"]
        {
            assert_eq!(plain(written), written);
        }
    }

    #[test]
    fn lines_are_lines_and_nothing_else_moves_the_cursor() {
        assert_eq!(
            lines("one\r\ntwo\n\n\u{1b}[2Jthree"),
            ["one", "two", "", r"\u{1b}[2Jthree"]
        );
        assert_eq!(lines("a\rb"), [r"a\rb"]);
        assert_eq!(lines(""), [""]);
    }

    #[test]
    fn nothing_that_is_shown_is_hostile() {
        for c in (0..=0x10ffff).filter_map(char::from_u32) {
            assert!(!plain(&c.to_string()).contains(is_hostile), "{c:?}");
        }
    }

    #[test]
    fn a_group_name_cannot_pose_as_a_sender() {
        assert_eq!(label("kitchen-2.b_ü"), "kitchen-2.b_ü");
        assert_eq!(label("room <alice> hi"), r#""room <alice> hi""#);
        assert_eq!(label("a\" <bob> \u{1b}"), r#""a\" <bob> \u{1b}""#);
        assert_eq!(label(""), r#""""#);
    }

    #[test]
    fn nothing_hides_in_a_group_name() {
        for c in [
            '\u{3164}',
            '\u{115f}',
            '\u{1160}',
            '\u{ffa0}',
            '\u{2800}',
            '\u{34f}',
            '\u{ad}',
            '\u{fe0f}',
            '\u{e0100}',
            '\u{200c}',
            '\u{200d}',
            '\u{a0}',
            '\u{3000}',
            '\u{e0041}',
            '\u{202e}',
            '\t',
            '\u{17b4}',
            '\u{180b}',
        ] {
            let hiding = format!("room{c}");
            let escaped = format!("room{}", c.escape_unicode());
            assert_eq!(name(&hiding), escaped);
            assert_eq!(label(&hiding), format!("\"{escaped}\""));
        }
        assert_eq!(name("a room, with 🍳"), "a room, with 🍳");
    }
}

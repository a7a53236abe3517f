//! Text that people and their programs choose: which characters of it are not what one sees, and when two texts are the same.
//!
//! [`unseen`] is the only table of such characters. What is done about them depends on the use:
//!
//! | | messages | names of groups | names of files |
//! |---|---|---|---|
//! | [`Unseen::Moves`] | escaped | escaped | left out |
//! | [`Unseen::Hides`] | escaped | escaped | left out |
//! | [`Unseen::Shapes`] | kept | escaped | left out |
//! | [`Unseen::Blank`] | kept | escaped | a space |
//!
//! A name is short, is typed again and is what one group is told from another by; a message is of whom it says it is, whatever
//! it holds, and languages and emoji need what shapes.

use std::borrow::Cow;
use std::fmt::Write;

use icu_casemap::CaseMapper;
use icu_normalizer::{ComposingNormalizer, DecomposingNormalizer};

/// What a character does that is not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unseen {
    /// Changes where, in which direction or on which line other characters stand: controls, bidirectional controls, ends of
    /// lines and paragraphs, annotations. A terminal obeys some of them.
    Moves,
    /// Is nothing, and is there: a place to hide a difference, or text.
    Hides,
    /// Is nothing by itself and changes how its neighbours are drawn or broken: joiners, variation selectors, fillers of
    /// syllables, soft hyphens. Scripts and emoji need them.
    Shapes,
    /// Looks like a space and is none (U+0020 is one).
    Blank,
}

/// What a character does beyond being seen; `None` for all others.
///
/// In the table are Default_Ignorable_Code_Point, White_Space, the controls (Cc), the format characters (Cf) that have no
/// form of their own, and characters whose form is empty. Unicode does not move what is assigned; what is reserved
/// as ignorable is in the table already.
pub const fn unseen(c: char) -> Option<Unseen> {
    Some(match c {
        '\0'..='\x1f' | '\x7f'..='\u{9f}'
        | '\u{61c}'                     // Arabic letter mark
        | '\u{200e}'..='\u{200f}'       // left-to-right and right-to-left marks
        | '\u{2028}'..='\u{202e}'       // line and paragraph separators, embeddings and overrides
        | '\u{2066}'..='\u{206f}'       // isolates, deprecated controls
        | '\u{fff9}'..='\u{fffb}'       // interlinear annotations
        => Unseen::Moves,
        '\u{180e}'                      // Mongolian vowel separator
        | '\u{200b}'                    // zero width space
        | '\u{2060}'..='\u{2065}'       // word joiner, invisible operators
        | '\u{3164}' | '\u{ffa0}'       // Hangul fillers, which terminals draw as wide as they like
        | '\u{feff}'                    // zero width no-break space
        | '\u{fff0}'..='\u{fff8}'       // reserved
        | '\u{13430}'..='\u{1345f}'     // Egyptian format controls and blanks
        | '\u{16fe4}'                   // Khitan filler
        | '\u{1bca0}'..='\u{1bca3}'     // shorthand format controls
        | '\u{1d173}'..='\u{1d17a}'     // musical format controls
        | '\u{e0000}'..='\u{e00ff}'     // tags
        | '\u{e01f0}'..='\u{e0fff}'     // reserved
        => Unseen::Hides,
        '\u{ad}'                        // soft hyphen
        | '\u{34f}'                     // combining grapheme joiner
        | '\u{115f}'..='\u{1160}'       // fillers of Hangul syllables
        | '\u{17b4}'..='\u{17b5}'       // inherent vowels of Khmer
        | '\u{180b}'..='\u{180d}' | '\u{180f}' // Mongolian variation selectors
        | '\u{200c}'..='\u{200d}'       // zero width joiner and non-joiner
        | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' // variation selectors
        => Unseen::Shapes,
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' // spaces
        | '\u{2800}'                    // Braille without a dot
        | '\u{1d159}'                   // a note without a head
        => Unseen::Blank,
        _ => return None,
    })
}

/// Writes a character as its Rust escape: `\n`, `\u{202e}`.
pub fn escape(into: &mut String, c: char) {
    let escaped = match c {
        '\n' => into.write_str("\\n"),
        '\r' => into.write_str("\\r"),
        c => write!(into, "{}", c.escape_unicode()),
    };
    // Writing to a String cannot fail.
    debug_assert!(escaped.is_ok());
}

/// A name with every character escaped that is not what one sees ([`unseen`]): names that differ look different.
pub fn escaped_name(name: &str) -> Cow<'_, str> {
    if !name.contains(|c| unseen(c).is_some()) {
        return Cow::Borrowed(name);
    }
    let mut escaped = String::with_capacity(name.len() + 16);
    for c in name.chars() {
        match unseen(c) {
            Some(_) => escape(&mut escaped, c),
            None => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// A text as it is compared and searched: two are the same to people, whatever their case and however their accents are
/// stored, when these are equal.
///
/// It is the canonical caseless match of Unicode (D145): decomposed, with full case folding (`ß` is `ss`), and then in NFC,
/// so that a part of an accented letter is not found in it. It knows no language: `I` and `ı` are two letters.
pub fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let decomposed = DecomposingNormalizer::new_nfd().normalize(text);
    let folded = CaseMapper::new().fold_string(&decomposed).into_owned();
    ComposingNormalizer::new_nfc().normalize(&folded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_in_a_name_is_seen() {
        let hidden = [
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{1160}',
            '\u{17b4}',
            '\u{180b}',
            '\u{180e}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{2028}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{206a}',
            '\u{2800}',
            '\u{3164}',
            '\u{fe00}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff0}',
            '\u{fffb}',
            '\u{1bca0}',
            '\u{1d159}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{e01ef}',
            '\u{e0fff}',
            '\u{a0}',
            '\u{2003}',
            '\u{202f}',
            '\u{3000}',
            '\u{85}',
            '\t',
            '\u{7f}',
            '\0',
        ];
        for c in hidden {
            let shown = escaped_name(&format!("a{c}b")).into_owned();
            assert!(shown.is_ascii() && shown.len() > 5, "{c:?}: {shown}");
        }
    }

    #[test]
    fn what_is_white_space_or_a_control_is_in_the_table() {
        for c in ('\0'..=char::MAX).filter(|c| (c.is_whitespace() && *c != ' ') || c.is_control()) {
            assert!(unseen(c).is_some(), "{c:?}");
        }
    }

    /// Default_Ignorable_Code_Point of Unicode 16, in ranges.
    #[test]
    fn what_unicode_lets_programs_leave_out_is_in_the_table() {
        for range in [
            '\u{ad}'..='\u{ad}',
            '\u{34f}'..='\u{34f}',
            '\u{61c}'..='\u{61c}',
            '\u{115f}'..='\u{1160}',
            '\u{17b4}'..='\u{17b5}',
            '\u{180b}'..='\u{180f}',
            '\u{200b}'..='\u{200f}',
            '\u{202a}'..='\u{202e}',
            '\u{2060}'..='\u{206f}',
            '\u{3164}'..='\u{3164}',
            '\u{fe00}'..='\u{fe0f}',
            '\u{feff}'..='\u{feff}',
            '\u{ffa0}'..='\u{ffa0}',
            '\u{fff0}'..='\u{fff8}',
            '\u{1bca0}'..='\u{1bca3}',
            '\u{1d173}'..='\u{1d17a}',
            '\u{e0000}'..='\u{e0fff}',
        ] {
            for c in range {
                assert!(unseen(c).is_some(), "{c:?}");
            }
        }
    }

    #[test]
    fn names_of_any_script_are_as_they_were_written() {
        for name in [
            "",
            "kitchen",
            "a room of one's own",
            "grüße",
            "שלום",
            "料理",
            "नमस्ते",
            "🍳",
            "e\u{301}",
        ] {
            assert!(
                matches!(escaped_name(name), Cow::Borrowed(same) if same == name),
                "{name}"
            );
        }
    }

    #[test]
    fn texts_that_people_take_for_the_same_are_the_same() {
        for (one, other) in [
            ("café", "cafe\u{301}"),
            ("CAFÉ", "cafe\u{301}"),
            ("straße", "STRASSE"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
            ("ﬁsh", "FISH"),
            ("ỆN", "e\u{302}\u{323}n"),
            ("Å", "\u{212b}"),
            ("각", "\u{1100}\u{1161}\u{11a8}"),
            ("ᾳ", "αι"),
            ("Kitchen", "kITCHEN"),
        ] {
            assert_eq!(folded(one), folded(other), "{one} {other}");
            assert_eq!(folded(&folded(one)), folded(one), "{one}: once is enough");
        }
        assert!(folded("Die STRASSE nach Süden").contains(&folded("straße")));
        for (one, other) in [("cafe", "café"), ("ı", "i"), ("a", "а"), ("a\u{3164}", "a")] {
            assert_ne!(folded(one), folded(other), "{one} {other}");
        }
    }
}

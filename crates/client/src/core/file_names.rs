//! Names of files that others chose, made harmless: a name, on every system, of a file in the directory that the person chose.

use crate::text::{Unseen, unseen};

/// The longest name, in bytes. Systems take 255; a number in parentheses is to fit, too.
const NAME_BYTES_MAX: usize = 200;
/// What follows the last dot is kept when a name is cut, if it is no longer than this, in bytes.
const EXTENSION_BYTES_MAX: usize = 16;
/// A file without a name.
const NAMELESS: &str = "file";
/// Names that are devices on Windows, whatever follows a dot.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];

/// The last component of a name, without what a terminal, a shell or a file system would take for something else.
pub(crate) fn file_name(claimed: &str) -> String {
    let last = claimed.rsplit(['/', '\\']).next().unwrap_or_default();
    let shown: String = last
        .chars()
        .filter_map(|c| match (c, unseen(c)) {
            ('<' | '>' | ':' | '"' | '|' | '?' | '*', _) => Some('_'),
            (_, Some(Unseen::Moves | Unseen::Hides | Unseen::Shapes)) => None,
            (_, Some(Unseen::Blank)) => Some(' '),
            (c, None) => Some(c),
        })
        .collect();
    let visible = shown
        .trim_start_matches([' ', '.', '-', '~'])
        .trim_end_matches([' ', '.']);
    let name = cut(visible);
    if name.is_empty() {
        NAMELESS.to_owned()
    } else if is_device(&name) {
        format!("_{name}")
    } else {
        name
    }
}

fn cut(name: &str) -> String {
    if name.len() <= NAME_BYTES_MAX {
        return name.to_owned();
    }
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if extension.len() <= EXTENSION_BYTES_MAX => (stem, format!(".{extension}")),
        Some(_) | None => (name, String::new()),
    };
    let room = stem.floor_char_boundary(NAME_BYTES_MAX - extension.len());
    let stem = stem[..room].trim_end_matches([' ', '.']);
    format!("{stem}{extension}")
}

fn is_device(name: &str) -> bool {
    let stem = name
        .split('.')
        .next()
        .unwrap_or_default()
        .trim_end()
        .to_lowercase();
    let numbered = ["com", "lpt"].iter().any(|port| {
        stem.strip_prefix(port).is_some_and(|number| {
            let mut digits = number.chars();
            matches!(digits.next(), Some('0'..='9' | '¹' | '²' | '³')) && digits.next().is_none()
        })
    });
    numbered || DEVICES.contains(&stem.as_str())
}

/// The same name with a number: `report (2).pdf`.
pub(crate) fn numbered(name: &str, number: u32) -> String {
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => format!("{stem} ({number}).{extension}"),
        Some(_) | None => format!("{name} ({number})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_is_the_name_of_a_file_here() {
        for (claimed, name) in [
            ("report.pdf", "report.pdf"),
            ("über uns.txt", "über uns.txt"),
            ("../../etc/passwd", "passwd"),
            ("/etc/shadow", "shadow"),
            (r"C:\Windows\system32\evil.dll", "evil.dll"),
            (r"..\..\x", "x"),
            ("a/", "file"),
            ("..", "file"),
            ("", "file"),
            (".bashrc", "bashrc"),
            ("-rf", "rf"),
            ("a\u{0}b\nc\u{1b}[2J.txt", "abc[2J.txt"),
            ("cod\u{202e}exe.txt", "codexe.txt"),
            ("a\u{200b}\u{feff}b", "ab"),
            ("x. . .", "x"),
            ("CON", "_CON"),
            ("nul.tar.gz", "_nul.tar.gz"),
            ("lpt1 .txt", "_lpt1 .txt"),
            ("COM¹", "_COM¹"),
            ("combat", "combat"),
            ("file:stream", "file_stream"),
            ("a\u{2003}b", "a b"),
            ("a\u{2800}b\u{3164}c\u{ad}d\u{fe0f}.txt", "a bcd.txt"),
        ] {
            assert_eq!(file_name(claimed), name, "{claimed:?}");
            assert_eq!(file_name(name), name, "once is enough");
        }
    }

    #[test]
    fn a_long_name_is_cut_before_its_extension_and_between_characters() {
        let name = file_name(&format!("{}.tar", "ü".repeat(300)));
        assert!(name.len() <= NAME_BYTES_MAX && name.ends_with("ü.tar"));
        let name = file_name(&format!("a.{}", "b".repeat(300)));
        assert_eq!(name.len(), NAME_BYTES_MAX);
        assert!(numbered(&name, u32::MAX).len() < 255);
    }

    #[test]
    fn a_number_goes_before_the_extension() {
        assert_eq!(numbered("a.b.c", 2), "a.b (2).c");
        assert_eq!(numbered("a", 3), "a (3)");
    }
}

//! Writing in the editor that the configuration, `$VISUAL` or `$EDITOR` names.

use std::io::{Read, Seek, SeekFrom, Write};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use larder_client::TEXT_BYTES_MAX;

/// What an editor may leave, in bytes. A message has at most 32 KiB.
const EDITED_BYTES_MAX: u64 = 64 * 1024;

/// Lets the person's editor go on with a text. The text is on the disk meanwhile, in a file that only they can read.
///
/// # Errors
/// There is no editor, or it failed, or left something that is no text.
pub(super) fn edit(configured: Option<&str>, text: &str) -> Result<String> {
    let variables = ["VISUAL", "EDITOR"]
        .iter()
        .filter_map(|name| std::env::var(name).ok());
    // As git does it: what is meant for this program comes first.
    let editor = configured
        .map(str::to_owned)
        .into_iter()
        .chain(variables)
        .find(|editor| !editor.trim().is_empty())
        .context("set EDITOR to the program that you write with")?;
    edit_with(&editor, text)
}

fn edit_with(editor: &str, text: &str) -> Result<String> {
    let mut file = tempfile::Builder::new()
        .prefix("larder-")
        .suffix(".txt")
        .tempfile()?;
    file.write_all(text.as_bytes())?;
    file.flush()?;
    // As git does it: the variable may hold arguments.
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("sh")
        .arg(file.path())
        .status()
        .with_context(|| format!("{editor} cannot be started"))?;
    if !status.success() {
        bail!("{editor} ended with {status}; nothing was changed");
    }
    // Editors write a new file in the place of the old one.
    let mut edited = std::fs::File::open(file.path())?;
    edited.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    edited.take(EDITED_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > EDITED_BYTES_MAX {
        bail!(
            "what was written is too long: a message has {TEXT_BYTES_MAX} bytes at most; nothing was changed"
        );
    }
    String::from_utf8(bytes).context("what was written is not text; nothing was changed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_editor_goes_on_with_the_text_even_if_it_puts_a_new_file_in_its_place() {
        assert_eq!(
            edit_with("sed -i s/one/two/", "one and all").unwrap(),
            "two and all"
        );
        assert_eq!(edit_with("true", "as it was").unwrap(), "as it was");
    }

    #[test]
    fn what_an_editor_that_fails_leaves_is_not_taken() {
        assert!(
            edit_with("false", "text")
                .unwrap_err()
                .to_string()
                .contains("nothing was changed")
        );
        assert!(edit_with("printf '\\377' >", "text").is_err());
        let long = edit_with("head -c 70000 /dev/zero >", "text").unwrap_err();
        assert!(long.to_string().contains("too long"), "{long}");
    }
}

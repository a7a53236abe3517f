//! The configuration file that changes nothing: every key with its default, commented out.

use super::keys::{self, Form, SERVE};
use crate::tui::{self, Settings};

const COLUMNS: usize = 100;

const HEAD: &str = "\
# The configuration of larder. Each key is shown with what holds without it.
#
# A flag comes before an environment variable, and that before this file. An empty text (\"\") and an empty list ([]) say
# nothing; in [keys] an empty list takes an action's keys away. `larder config --path` tells where this file is looked for.
";

/// Every key with its default, commented out.
pub(crate) fn document() -> String {
    let mut text = HEAD.to_owned();
    for key in keys::arguments() {
        if key.table == Some(SERVE) && !text.contains("\n[serve]\n") {
            text.push_str("\n[serve]\n");
        }
        entry(&mut text, &key.help, &key.id, &value(key.form, &key.default));
    }
    text.push_str("\n[chat]\n");
    for key in keys::CHAT {
        entry(
            &mut text,
            key.help,
            key.id,
            &value(key.form, &chat_default(key.id)),
        );
    }
    text.push_str("\n[keys]\n");
    for (name, keys, help) in tui::actions() {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        entry(&mut text, help, name, &value(Form::List, &keys));
    }
    text
}

fn entry(text: &mut String, help: &str, id: &str, value: &str) {
    text.push('\n');
    // Names of what can be written stay in one piece.
    let whole_words = textwrap::Options::new(COLUMNS).word_splitter(textwrap::WordSplitter::NoHyphenation);
    for line in textwrap::wrap(help, whole_words) {
        text.push_str(&format!("# {line}\n"));
    }
    text.push_str(&format!("#{id} = {value}\n"));
}

/// A value as TOML writes it.
fn value(form: Form, values: &[String]) -> String {
    let first = values.first().map(String::as_str).unwrap_or_default();
    match form {
        Form::Switch if first.is_empty() => false.to_string(),
        Form::Switch => first.to_owned(),
        Form::Text if first.parse::<u64>().is_ok() => first.to_owned(),
        Form::Text => quoted(first),
        Form::List => {
            let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
            format!("[{}]", values.join(", "))
        }
    }
}

/// A basic string. What can be in a default needs no other escapes.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn chat_default(id: &str) -> Vec<String> {
    let Settings {
        keys: _,
        alert,
        groups_shown,
        editor,
    } = Settings::default();
    match id {
        "bell" => vec![alert.bell.to_string()],
        "notifications" => vec![alert.notify.to_string()],
        "groups" => vec![groups_shown.to_string()],
        _ => editor.into_iter().collect(),
    }
}

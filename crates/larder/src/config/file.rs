//! Reading a configuration file. What is wrong with it is told by its line, and without its value, which may be secret.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Configuration;
use super::keys::{self, CHAT, Form, Key, SERVE};
use crate::tui::Keys;

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Flaw {
    pub(super) line: usize,
    pub(super) what: String,
}

pub(super) fn read(text: &str) -> Result<Configuration, Flaw> {
    let document = DeTable::parse(text).map_err(|error| Flaw {
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        what: error.message().to_owned(),
    })?;
    let mut reader = Reader {
        text,
        known: keys::arguments(),
        configuration: Configuration::default(),
    };
    for (name, value) in document.get_ref() {
        let at = name.span().start;
        match (name.get_ref().as_ref(), value.get_ref()) {
            (SERVE, DeValue::Table(table)) => reader.arguments(Some(SERVE), table)?,
            ("chat", DeValue::Table(table)) => reader.chat(table)?,
            ("keys", DeValue::Table(table)) => reader.keys(table)?,
            (SERVE | "chat" | "keys", _) => return Err(reader.flaw(at, name.get_ref(), "must be a table")),
            (name, DeValue::Table(_)) => return Err(reader.flaw(at, name, "there is no such table")),
            (name, value) => reader.argument(None, name, at, value)?,
        }
    }
    Ok(reader.configuration)
}

struct Reader<'t> {
    text: &'t str,
    known: Vec<Key>,
    configuration: Configuration,
}

impl Reader<'_> {
    fn flaw(&self, at: usize, key: &str, what: impl AsRef<str>) -> Flaw {
        Flaw {
            line: line_of(self.text, at),
            what: format!("{key}: {}", what.as_ref()),
        }
    }

    fn arguments(&mut self, table: Option<&'static str>, values: &DeTable<'_>) -> Result<(), Flaw> {
        for (name, value) in values {
            self.argument(table, name.get_ref(), name.span().start, value.get_ref())?;
        }
        Ok(())
    }

    fn argument(
        &mut self,
        table: Option<&'static str>,
        id: &str,
        at: usize,
        value: &DeValue<'_>,
    ) -> Result<(), Flaw> {
        let full = match table {
            Some(table) => format!("{table}.{id}"),
            None => id.to_owned(),
        };
        let Some(key) = self.known.iter().find(|key| key.table == table && key.id == id) else {
            return Err(self.flaw(at, &full, "there is no such key"));
        };
        let values = values(key.form, value).map_err(|what| self.flaw(at, &full, what))?;
        if values.is_empty() {
            return Ok(());
        }
        if let Some(what) = keys::flaw(table, id, &values) {
            return Err(self.flaw(at, &full, what));
        }
        self.configuration
            .arguments
            .insert((table, id.to_owned()), values);
        Ok(())
    }

    fn chat(&mut self, table: &DeTable<'_>) -> Result<(), Flaw> {
        for (name, value) in table {
            let (id, at) = (name.get_ref().as_ref(), name.span().start);
            let full = format!("chat.{id}");
            let Some(key) = CHAT.iter().find(|key| key.id == id) else {
                return Err(self.flaw(at, &full, "there is no such key"));
            };
            let values = values(key.form, value.get_ref()).map_err(|what| self.flaw(at, &full, what))?;
            let Some(value) = values.into_iter().next() else {
                continue;
            };
            let chat = &mut self.configuration.chat;
            match id {
                "bell" => chat.alert.bell = value == "true",
                "notifications" => chat.alert.notify = value == "true",
                "groups" => chat.groups_shown = value == "true",
                _ => chat.editor = Some(value),
            }
        }
        Ok(())
    }

    fn keys(&mut self, table: &DeTable<'_>) -> Result<(), Flaw> {
        let mut wanted = BTreeMap::new();
        for (name, value) in table {
            let (action, at) = (name.get_ref(), name.span().start);
            let full = format!("keys.{action}");
            let keys = values(Form::List, value.get_ref()).map_err(|what| self.flaw(at, &full, what))?;
            wanted.insert(action.clone().into_owned(), keys);
            self.configuration.chat.keys = Keys::configured(&wanted).map_err(|what| Flaw {
                line: line_of(self.text, at),
                what,
            })?;
        }
        Ok(())
    }
}

/// The values of a key; none if it says nothing.
fn values(form: Form, value: &DeValue<'_>) -> Result<Vec<String>, &'static str> {
    match (form, value) {
        (Form::Text, DeValue::String(text)) if text.is_empty() => Ok(Vec::new()),
        (Form::Text, DeValue::String(text)) => Ok(vec![text.clone().into_owned()]),
        (Form::Text, DeValue::Integer(number)) => Ok(vec![number.to_string()]),
        (Form::Switch, DeValue::Boolean(is_so)) => Ok(vec![is_so.to_string()]),
        (Form::List, DeValue::Array(values)) => values.iter().map(text).collect(),
        (Form::Text, _) => Err("must be a text"),
        (Form::Switch, _) => Err("must be true or false"),
        (Form::List, _) => Err("must be a list of texts"),
    }
}

fn text(value: &Spanned<DeValue<'_>>) -> Result<String, &'static str> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        _ => Err("must be a list of texts"),
    }
}

/// The line of a byte, the first of them 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

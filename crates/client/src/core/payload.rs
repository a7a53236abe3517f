//! What messages carry.

use serde::{Deserialize, Serialize};

use crate::core::attachments::Announced;
use crate::error::Error;
use crate::types::{GROUP_NAME_CHARS_MAX, TEXT_BYTES_MAX};

/// The version of [`Payload`] that we write.
const PAYLOAD_VERSION: u8 = 1;
const KIND_TEXT: &str = "text";
const KIND_ATTACHMENT: &str = "attachment";
const KIND_GROUP_NAME: &str = "group-name";

/// What a PrivateMessage carries, as a CBOR map. Members that we do not know are ignored. Who sent it is not in here:
/// the MLS credential says so.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Payload {
    v: u8,
    pub(super) id: String,
    kind: String,
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attachment: Option<Announced>,
}

/// A payload as read.
pub(super) enum Content {
    /// A message of a person.
    Text { id: String, text: String },
    /// A file.
    Attachment { id: String, announced: Announced },
    /// The group's name, and the id of what named it.
    GroupName { id: String, name: String },
    /// Something that a later version understands.
    Unknown,
}

impl Payload {
    /// The group's name, under the id of what named it.
    pub(super) fn group_name(id: String, name: &str) -> Self {
        Self::new(KIND_GROUP_NAME, id, name)
    }

    /// A message of a person, under this id.
    pub(super) fn text(id: String, text: &str) -> Self {
        Self::new(KIND_TEXT, id, text)
    }

    /// A file, under this id.
    pub(super) fn attachment(id: String, announced: Announced) -> Self {
        Self {
            attachment: Some(announced.clone()),
            ..Self::new(KIND_ATTACHMENT, id, &announced.text())
        }
    }

    fn new(kind: &str, id: String, text: &str) -> Self {
        Self {
            v: PAYLOAD_VERSION,
            id,
            kind: kind.to_owned(),
            text: text.to_owned(),
            attachment: None,
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        ciborium::into_writer(self, &mut bytes).map_err(Error::mls("encoding a message"))?;
        Ok(bytes)
    }
}

/// Reads a payload; `None` when it is none.
pub(super) fn read_payload(bytes: &[u8]) -> Option<Content> {
    let payload: Payload = ciborium::from_reader(bytes).ok()?;
    let id = uuid::Uuid::parse_str(&payload.id).ok()?.to_string();
    match payload.kind.as_str() {
        KIND_TEXT if payload.text.len() <= TEXT_BYTES_MAX => Some(Content::Text {
            id,
            text: payload.text,
        }),
        KIND_TEXT => None,
        KIND_ATTACHMENT => Some(match payload.attachment.and_then(Announced::checked) {
            Some(announced) => Content::Attachment { id, announced },
            None => Content::Unknown,
        }),
        KIND_GROUP_NAME => Some(match check_name(&payload.text) {
            Ok(()) => Content::GroupName {
                id,
                name: payload.text,
            },
            Err(_) => Content::Unknown,
        }),
        _ => Some(Content::Unknown),
    }
}

/// An id that nothing else has; later ones are greater.
pub(super) fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Whether a group may have this name.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let fits = !name.trim().is_empty() && name.chars().count() <= GROUP_NAME_CHARS_MAX;
    if fits && !name.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(Error::InvalidGroupName)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_survives_and_unknown_members_and_kinds_are_no_error() {
        let bytes = Payload::text(new_id(), "hello").encode().unwrap();
        assert!(matches!(read_payload(&bytes), Some(Content::Text { text, .. }) if text == "hello"));
        let id = uuid::Uuid::now_v7().to_string();
        let later = serde_json::json!({"v": 2, "id": id, "kind": "poll", "text": "", "options": ["a"]});
        let mut bytes = Vec::new();
        ciborium::into_writer(&later, &mut bytes).unwrap();
        assert!(matches!(read_payload(&bytes), Some(Content::Unknown)));
        assert!(read_payload(b"not cbor").is_none());
        // A file without what it takes to open it.
        let bytes = Payload::new(KIND_ATTACHMENT, new_id(), "a.txt").encode().unwrap();
        assert!(matches!(read_payload(&bytes), Some(Content::Unknown)));
    }

    #[test]
    fn group_names_are_short_and_printable() {
        assert!(check_name("lunch").is_ok());
        for bad in ["", "  ", "a\nb", "a\u{1b}[2J", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}

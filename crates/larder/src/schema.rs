//! A JSON Schema of what is printed with `--json`, from the types that are printed.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value};

use crate::output::Failed;
use crate::record::Record;

/// One line of the standard output with `--json`.
#[derive(JsonSchema)]
#[schemars(untagged, title = "A line of `larder --json`")]
#[allow(
    dead_code,
    clippy::large_enum_variant,
    reason = "the schema describes it; its variants are printed each for itself"
)]
enum Line {
    /// A result.
    Record(Record),
    /// A failure: of the command, or of one line of its input, after which others may follow.
    Failed(Failed<'static>),
}

pub(crate) fn schema() -> Schema {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<Line>()
}

/// What the schema says of one kind of object.
pub(crate) struct Object {
    /// Its `type`; `error` for a failure, which has none.
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) keys: Vec<Key>,
}

pub(crate) struct Key {
    pub(crate) name: String,
    /// What a value looks like.
    pub(crate) form: String,
    pub(crate) description: String,
}

/// The kinds of objects in the schema, in its order.
pub(crate) fn objects(schema: &Schema) -> Vec<Object> {
    let root = schema.as_value();
    let records = root.pointer("/$defs/Record/oneOf").and_then(Value::as_array);
    let records: Vec<&Value> = records.into_iter().flatten().collect();
    // What is an object of its own is described there.
    let elsewhere: Vec<&Value> = records.iter().filter_map(|record| record.get("$ref")).collect();
    let failed = root.pointer("/$defs/Failed");
    records
        .iter()
        .copied()
        .chain(failed)
        .map(|object| {
            let mut properties = Map::new();
            collect(root, object, &mut properties);
            let name = properties
                .get("type")
                .and_then(|value| value.get("const"))
                .and_then(Value::as_str)
                .unwrap_or("error");
            let mut keys = Vec::new();
            for (key, value) in properties.iter().filter(|(key, _)| *key != "type") {
                keys.push(Key::new(key.clone(), value));
                let (part, prefix) = match value.get("items") {
                    Some(items) => (items, format!("{key}[].")),
                    None => (value, format!("{key}.")),
                };
                if part
                    .get("$ref")
                    .is_some_and(|reference| !elsewhere.contains(&reference))
                {
                    let mut parts = Map::new();
                    collect(root, part, &mut parts);
                    keys.extend(
                        parts
                            .iter()
                            .map(|(name, value)| Key::new(format!("{prefix}{name}"), value)),
                    );
                }
            }
            Object {
                name: name.to_owned(),
                description: description(object),
                keys,
            }
        })
        .collect()
}

impl Key {
    fn new(name: String, value: &Value) -> Self {
        Self {
            name,
            form: form(value),
            description: description(value),
        }
    }
}

/// The properties of an object, those included that it has from elsewhere.
fn collect(root: &Value, object: &Value, properties: &mut Map<String, Value>) {
    if let Some(own) = object.get("properties").and_then(Value::as_object) {
        properties.extend(own.clone());
    }
    if let Some(other) = referred(root, object) {
        collect(root, other, properties);
    }
    for part in object
        .get("allOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        collect(root, part, properties);
    }
}

fn referred<'s>(root: &'s Value, object: &Value) -> Option<&'s Value> {
    let reference = object.get("$ref")?.as_str()?;
    root.pointer(reference.strip_prefix('#')?)
}

fn description(object: &Value) -> String {
    object
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .replace('\n', " ")
}

fn form(value: &Value) -> String {
    let name = |form: &Value| form.as_str().unwrap_or("object").to_owned();
    match value.get("type") {
        Some(Value::Array(forms)) => forms.iter().map(name).collect::<Vec<_>>().join(" or "),
        Some(form) => name(form),
        None => "object".to_owned(),
    }
}

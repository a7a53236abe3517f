//! The legacy file. Its schema and its bytes are taken for hostile.

use std::path::Path;
use std::time::Duration;

use larder_lifecycle::UnixSeconds;
use openmls::prelude::KeyPackageRef;
use rusqlite::config::DbConfig;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OpenFlags, Row};

use super::{LegacyError, LegacyReason, LegacyReport, ROWS_MAX};
use crate::column;
use crate::key_package_ref::{from_column, key_package_ref_from_slice};

const TABLE: &str = "keypackages";
/// The columns that OpenMLS's storage makes redundant. The first is the public part.
const REDUNDANT: [&str; 3] = ["keypackage_bytes", "private_init_key", "private_encryption_key"];
const REQUIRED: [&str; 4] = ["keypackage_ref", "status", "created_at", "not_after"];
const OPTIONAL: [&str; 11] = [
    "uploaded_at",
    "reserved_at",
    "spent_at",
    "reservation_expires_at",
    "spent_group_id",
    "ciphersuite",
    "credential_hash",
    "reservation_id",
    "reserved_by",
    "spent_by",
    "updated_at",
];

/// Longer values are not read, in bytes. The longest that means anything is a group id.
const VALUE_BYTES_MAX: usize = 4096;
const STATUS_CHARS_MAX: usize = 32;
/// The end of the year 9999. Beyond it are milliseconds, or nonsense.
const TIME_MAX: i64 = 253_402_300_799;
/// How long to wait for another program that uses the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// A legacy database.
pub(super) struct LegacyFile {
    connection: Connection,
    /// As they are written in its schema.
    columns: Vec<String>,
}

/// A row, as far as it can be read.
#[derive(Debug)]
pub(super) struct LegacyRow {
    /// The primary key as stored.
    pub(super) key: Value,
    /// What it says, or why it says nothing.
    pub(super) content: Result<Content, LegacyReason>,
}

/// What a readable row says.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) key_package_ref: KeyPackageRef,
    pub(super) status: LegacyStatus,
    pub(super) created_at: UnixSeconds,
    pub(super) not_after: UnixSeconds,
    pub(super) uploaded_at: Option<UnixSeconds>,
    pub(super) reserved_at: Option<UnixSeconds>,
    pub(super) spent_at: Option<UnixSeconds>,
    pub(super) reservation_expires_at: Option<UnixSeconds>,
    pub(super) spent_group_id: Option<Vec<u8>>,
    pub(super) suite: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LegacyStatus {
    Created,
    Available,
    Reserved,
    Spent,
    Expired,
}

impl LegacyFile {
    /// For a look only.
    pub(super) fn open_to_read(path: &Path) -> Result<Self, LegacyError> {
        let file = Self::open(path)?;
        file.connection.pragma_update(None, "query_only", true)?;
        Ok(file)
    }

    /// To erase.
    pub(super) fn open_to_change(path: &Path) -> Result<Self, LegacyError> {
        let file = Self::open(path)?;
        // A check on the length of a key must not keep it from being erased.
        for (pragma, value) in [
            ("secure_delete", 1),
            ("synchronous", 2),
            ("ignore_check_constraints", 1),
        ] {
            file.connection.pragma_update(None, pragma, value)?;
        }
        let granted: i64 = file
            .connection
            .pragma_query_value(None, "secure_delete", |row| row.get(0))?;
        if granted != 1 {
            return Err(crate::error::StoreError::Pragma("secure_delete").into());
        }
        Ok(file)
    }

    fn open(path: &Path) -> Result<Self, LegacyError> {
        // To write even for a look: a database that was not closed in order has to be recovered before it can be read.
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(LegacyError::Open)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // A trigger could copy what is being erased, and a view could be anything.
        for (config, on) in [
            (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        ] {
            connection.set_db_config(config, on)?;
        }
        for (pragma, value) in [("cell_size_check", 1), ("temp_store", 2), ("foreign_keys", 0)] {
            connection.pragma_update(None, pragma, value)?;
        }
        let tables: i64 = connection
            .query_row(
                "SELECT count(*) FROM pragma_table_list
                 WHERE schema = 'main' AND name = ?1 COLLATE NOCASE AND type = 'table'",
                [TABLE],
                |row| row.get(0),
            )
            .map_err(LegacyError::Open)?;
        if tables != 1 {
            return Err(LegacyError::NotLegacy("the table keypackages"));
        }
        let mut file = Self {
            connection,
            columns: Vec::new(),
        };
        file.columns = file.read_columns()?;
        match REQUIRED.iter().find(|required| file.column(required).is_none()) {
            Some(missing) => Err(LegacyError::NotLegacy(missing)),
            None => Ok(file),
        }
    }

    fn read_columns(&self) -> Result<Vec<String>, LegacyError> {
        let mut statement = self
            .connection
            .prepare("SELECT name FROM pragma_table_xinfo(?1) ORDER BY cid")?;
        let names = statement.query_map([TABLE], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    /// The quoted name of a column, if the table has it.
    fn column(&self, name: &str) -> Option<String> {
        let found = self
            .columns
            .iter()
            .find(|column| column.eq_ignore_ascii_case(name))?;
        Some(quoted(found))
    }

    fn redundant(&self) -> Vec<String> {
        REDUNDANT.iter().filter_map(|name| self.column(name)).collect()
    }

    pub(super) fn has_no_redundant_columns(&self) -> bool {
        self.redundant().is_empty()
    }

    /// A condition on rows whose redundant columns hold something.
    fn holds_something(&self) -> String {
        let conditions: Vec<String> = self
            .redundant()
            .iter()
            .map(|column| format!("octet_length({column}) > 0"))
            .collect();
        match conditions.is_empty() {
            true => "0".to_owned(),
            false => conditions.join(" OR "),
        }
    }

    fn count_holding(&self) -> Result<u32, LegacyError> {
        let sql = format!("SELECT count(*) FROM {TABLE} WHERE {}", self.holds_something());
        let count: i64 = self.connection.query_row(&sql, [], |row| row.get(0))?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// What can be told of the file without its rows.
    pub(super) fn report(&self, report: &mut LegacyReport) -> Result<(), LegacyError> {
        report.with_redundant_columns = self.count_holding()?;
        let known = [&REDUNDANT[..], &REQUIRED, &OPTIONAL].concat();
        report.unknown_columns = self
            .columns
            .iter()
            .filter(|column| !known.iter().any(|known| column.eq_ignore_ascii_case(known)))
            .map(|column| {
                column
                    .chars()
                    .take(STATUS_CHARS_MAX)
                    .flat_map(char::escape_debug)
                    .collect()
            })
            .collect();
        Ok(())
    }

    /// Every row, without the redundant columns.
    pub(super) fn rows(&self) -> Result<Vec<LegacyRow>, LegacyError> {
        let columns: Vec<String> = REQUIRED
            .iter()
            .chain(&OPTIONAL[..6])
            .map(|name| match self.column(name) {
                Some(column) => bounded(&column),
                None => "NULL".to_owned(),
            })
            .collect();
        let key = self.key_column()?;
        let sql = format!("SELECT {} FROM {TABLE} ORDER BY {key}", columns.join(", "));
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        let mut read = Vec::new();
        while let Some(row) = rows.next()? {
            if read.len() == ROWS_MAX {
                return Err(LegacyError::TooManyRows);
            }
            read.push(LegacyRow {
                key: row.get(0)?,
                content: Content::read(row)?,
            });
        }
        Ok(read)
    }

    /// The private keys of every row, as they are stored, with the row's reference if it has one.
    pub(super) fn private_keys(
        &self,
        mut each: impl FnMut(Option<KeyPackageRef>, &[u8]),
    ) -> Result<(), LegacyError> {
        let columns: Vec<String> = std::iter::once(self.key_column()?)
            .chain(REDUNDANT[1..].iter().filter_map(|name| self.column(name)))
            .map(|column| bounded(&column))
            .collect();
        let mut statement = self
            .connection
            .prepare(&format!("SELECT {} FROM {TABLE}", columns.join(", ")))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let key_package_ref = key_package_ref(row.get_ref(0)?);
            for index in 1..columns.len() {
                if let ValueRef::Blob(bytes) | ValueRef::Text(bytes) = row.get_ref(index)? {
                    each(key_package_ref.clone(), bytes);
                }
            }
        }
        Ok(())
    }

    fn key_column(&self) -> Result<String, LegacyError> {
        self.column(REQUIRED[0])
            .ok_or(LegacyError::NotLegacy(REQUIRED[0]))
    }

    /// Empties the redundant columns of these rows, in one transaction.
    pub(super) fn empty_redundant_columns<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a Value>,
    ) -> Result<(), LegacyError> {
        let Some(sql) = self.emptying() else {
            return Ok(());
        };
        let sql = format!("{sql} AND {} IS ?1", self.key_column()?);
        let transaction = self.connection.transaction()?;
        {
            let mut statement = transaction.prepare(&sql)?;
            for key in keys {
                statement.execute([key])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Empties what is left, if these are all the rows: a reference may be too long, or not the text that it says to be,
    /// and then no row is found by it.
    pub(super) fn empty_the_rest(&self, rows: usize) -> Result<(), LegacyError> {
        let found: i64 = self
            .connection
            .query_row(&format!("SELECT count(*) FROM {TABLE}"), [], |row| row.get(0))?;
        if usize::try_from(found) != Ok(rows) {
            return Err(LegacyError::Changed);
        }
        if let Some(sql) = self.emptying() {
            self.connection.execute(&sql, [])?;
        }
        Ok(())
    }

    fn emptying(&self) -> Option<String> {
        let assignments: Vec<String> = self
            .redundant()
            .iter()
            .map(|column| format!("{column} = CASE typeof({column}) WHEN 'text' THEN '' ELSE x'' END"))
            .collect();
        if assignments.is_empty() {
            return None;
        }
        Some(format!(
            "UPDATE {TABLE} SET {} WHERE ({})",
            assignments.join(", "),
            self.holds_something()
        ))
    }

    /// Writes the file anew without what is free in it, and empties its log.
    pub(super) fn vacuum(&self) -> Result<(), LegacyError> {
        self.connection.execute_batch("VACUUM")?;
        self.empty_log()
    }

    fn empty_log(&self) -> Result<(), LegacyError> {
        // Without a log this does nothing, and the journal is deleted with each transaction.
        let busy: i64 = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        match busy {
            0 => Ok(()),
            _ => Err(LegacyError::Busy),
        }
    }

    /// Reads back that no row holds anything redundant.
    pub(super) fn verify_empty(&self) -> Result<(), LegacyError> {
        match self.count_holding()? {
            0 => Ok(()),
            _ => Err(LegacyError::Changed),
        }
    }

    /// Drops the redundant columns, which are empty by now, where the schema allows it.
    pub(super) fn drop_redundant_columns(&self) -> Result<(), LegacyError> {
        for column in self.redundant() {
            // An index or a constraint may need it. Then it stays, empty.
            let _ = self
                .connection
                .execute_batch(&format!("ALTER TABLE {TABLE} DROP COLUMN {column}"));
        }
        self.empty_log()
    }
}

impl Content {
    /// Reads the columns in the order of [`LegacyFile::rows`].
    fn read(row: &Row<'_>) -> Result<Result<Self, LegacyReason>, rusqlite::Error> {
        let values: Vec<ValueRef<'_>> = (0..10)
            .map(|index| row.get_ref(index))
            .collect::<Result<_, _>>()?;
        Ok(Self::parse(&values))
    }

    fn parse(values: &[ValueRef<'_>]) -> Result<Self, LegacyReason> {
        let time = |index: usize| {
            let name = [&REQUIRED[..], &OPTIONAL].concat()[index];
            match values[index] {
                ValueRef::Null => Ok(None),
                ValueRef::Integer(seconds @ 0..=TIME_MAX) => Ok(Some(UnixSeconds(seconds.unsigned_abs()))),
                _ => Err(LegacyReason::Malformed(name)),
            }
        };
        Ok(Self {
            key_package_ref: key_package_ref(values[0]).ok_or(LegacyReason::Malformed("keypackage_ref"))?,
            status: status(values[1])?,
            created_at: time(2)?.ok_or(LegacyReason::Malformed("created_at"))?,
            not_after: time(3)?.ok_or(LegacyReason::Malformed("not_after"))?,
            uploaded_at: time(4)?,
            reserved_at: time(5)?,
            spent_at: time(6)?,
            reservation_expires_at: time(7)?,
            spent_group_id: match values[8] {
                ValueRef::Null => None,
                ValueRef::Blob(bytes) | ValueRef::Text(bytes) => Some(bytes.to_vec()),
                ValueRef::Integer(_) | ValueRef::Real(_) => {
                    return Err(LegacyReason::Malformed("spent_group_id"));
                }
            },
            suite: match values[9] {
                ValueRef::Null => None,
                ValueRef::Integer(suite) => {
                    Some(u16::try_from(suite).map_err(|_| LegacyReason::Malformed("ciphersuite"))?)
                }
                _ => return Err(LegacyReason::Malformed("ciphersuite")),
            },
        })
    }
}

/// A reference as the hash itself, as TLS writes it with its length in front, or as the hexadecimal text of either.
pub(super) fn key_package_ref(value: ValueRef<'_>) -> Option<KeyPackageRef> {
    let (ValueRef::Blob(bytes) | ValueRef::Text(bytes)) = value else {
        return None;
    };
    match unhex(bytes) {
        // No hash consists of hexadecimal digits alone.
        Some(decoded) => hash(&decoded),
        None => hash(bytes),
    }
}

fn hash(bytes: &[u8]) -> Option<KeyPackageRef> {
    // The lengths of the hash functions of MLS; none of them is another one's with its length in front.
    let is_hash = |length: usize| matches!(length, 32 | 48 | 64);
    if is_hash(bytes.len()) {
        return key_package_ref_from_slice(bytes);
    }
    let read = from_column(bytes).ok()?;
    is_hash(read.as_slice().len()).then_some(read)
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    text.chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

fn status(value: ValueRef<'_>) -> Result<LegacyStatus, LegacyReason> {
    let ValueRef::Text(text) = value else {
        return Err(LegacyReason::Malformed("status"));
    };
    match text {
        b"created" => Ok(LegacyStatus::Created),
        b"available" => Ok(LegacyStatus::Available),
        b"reserved" => Ok(LegacyStatus::Reserved),
        b"spent" => Ok(LegacyStatus::Spent),
        b"expired" => Ok(LegacyStatus::Expired),
        other => {
            let shown = String::from_utf8_lossy(other);
            let shown = shown.chars().take(STATUS_CHARS_MAX).flat_map(char::escape_debug);
            Err(LegacyReason::UnknownStatus(shown.collect()))
        }
    }
}

/// A column, or NULL when its value is longer than any that means something.
fn bounded(column: &str) -> String {
    format!("CASE WHEN octet_length({column}) <= {VALUE_BYTES_MAX} THEN {column} END")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// For a report: how many.
pub(super) fn count(rows: usize) -> u32 {
    column::count(rows)
}

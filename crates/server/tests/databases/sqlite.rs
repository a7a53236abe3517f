//! A SQLite database of its own for each test.

use larder_server::StoreLocation;
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

/// How many random histories a test tries here.
pub(crate) const HISTORIES: u32 = 8;

pub(crate) struct Database {
    directory: TempDir,
}

impl Database {
    pub(crate) async fn create() -> Self {
        Self {
            directory: TempDir::new().expect("a temporary directory"),
        }
    }

    pub(crate) fn location(&self) -> StoreLocation {
        self.directory.path().join("larder.db").into()
    }

    /// Counts rows, on a connection of its own.
    pub(crate) async fn count(&self, sql: &str) -> usize {
        let count: i64 = self
            .connection()
            .query_row(sql, [], |row| row.get(0))
            .expect("a count");
        usize::try_from(count).expect("a count is not negative")
    }

    /// Reads a column of bytes, on a connection of its own.
    pub(crate) async fn bytes(&self, sql: &str) -> Vec<Vec<u8>> {
        self.connection()
            .prepare(sql)
            .expect("a statement")
            .query_map([], |row| row.get(0))
            .expect("rows")
            .collect::<Result<_, _>>()
            .expect("bytes")
    }

    /// All that is stored, and what is left of what was: every file.
    pub(crate) async fn everything(&self) -> Vec<u8> {
        std::fs::read_dir(self.directory.path())
            .expect("the directory of the database")
            .flat_map(|file| std::fs::read(file.expect("a file").path()).expect("its bytes"))
            .collect()
    }

    /// Changes what no program may change: without triggers, foreign keys and constraints.
    pub(crate) async fn corrupt(&self, sql: &str) {
        let connection =
            Connection::open(self.directory.path().join("larder.db")).expect("the database opens");
        let triggers: Vec<String> = connection
            .prepare("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            .expect("a statement")
            .query_map([], |row| row.get(0))
            .expect("rows")
            .collect::<Result<_, _>>()
            .expect("names");
        for trigger in triggers {
            connection
                .execute_batch(&format!("DROP TRIGGER {trigger}"))
                .expect("a trigger less");
        }
        connection
            .execute_batch(&format!(
                "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; {sql}"
            ))
            .expect("the change is made");
    }

    fn connection(&self) -> Connection {
        Connection::open_with_flags(
            self.directory.path().join("larder.db"),
            OpenFlags::SQLITE_OPEN_READ_ONLY,
        )
        .expect("the database opens")
    }
}

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use rusqlite::Connection;

use crate::error::Fault;
use crate::store::sqlite::{CacheSize, connect};

/// Frames of the log between two checkpoints: 16 MiB, of which each page goes into the database once.
const FRAMES_APART: i64 = 4096;
/// Frames of the log, pages of 4 KiB, up to which the writer waits for the rest of a checkpoint.
const REST_FRAMES_MAX: i64 = 256;
/// Frames of the log from which on the writer waits for that, so that the log begins anew: 128 MiB.
const LOG_FRAMES_MAX: i64 = 32 * 1024;
/// Checkpoints one after the other. The writer goes on meanwhile; what it writes faster than is checkpointed, it has to wait for.
const ATTEMPTS_MAX: u32 = 8;

thread_local! {
    /// How many frames the log had after the last commit of this thread, which is a writer.
    static LOG_FRAMES: Cell<i64> = const { Cell::new(0) };
}

/// A thread that brings what was committed from SQLite's write-ahead log into the database, so that nobody who writes waits for it:
/// it reads and writes pages all over the database, and has the disk store them.
///
/// The log begins anew only when all of it was brought over and nobody reads it, as happens by itself as soon as there is less to
/// write. If it does not and the log has become long, the thread goes on until little is left, and the writer brings over that
/// before it goes on: some ten milliseconds, in which everybody waits. It belongs to the writer.
pub(super) struct Checkpoints {
    wanted: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Little is left of a log that is long.
    almost_done: Arc<AtomicBool>,
    /// How many frames the log had when a checkpoint was asked for last.
    asked_at: i64,
}

impl Checkpoints {
    /// For this writer, whose thread tells of each commit.
    pub(super) fn start(path: &Path, writer: &Connection) -> Result<Self, Fault> {
        writer.wal_hook(Some(|_, frames| {
            LOG_FRAMES.set(frames.into());
            Ok(())
        }));
        let connection = connect(path, CacheSize::Reader)?;
        let (wanted, waiting) = mpsc::channel();
        let almost_done = Arc::new(AtomicBool::new(false));
        let is_almost_done = Arc::clone(&almost_done);
        let thread = std::thread::Builder::new()
            .name("larder-checkpoint".to_owned())
            .spawn(move || {
                while waiting.recv().is_ok() {
                    let is_long = |log: &Log| log.frames >= LOG_FRAMES_MAX;
                    let mut log = checkpoint(&connection).filter(is_long);
                    for _ in 1..ATTEMPTS_MAX {
                        if log.as_ref().is_none_or(|log| log.rest <= REST_FRAMES_MAX) {
                            break;
                        }
                        log = checkpoint(&connection).filter(is_long);
                    }
                    is_almost_done.store(log.is_some(), Ordering::Release);
                }
            })
            .map_err(|_| Fault::Closed)?;
        Ok(Self {
            wanted: Some(wanted),
            thread: Some(thread),
            almost_done,
            asked_at: 0,
        })
    }

    /// The writer has committed, and nobody waits for it.
    pub(super) fn committed(&mut self, connection: &Connection) {
        if self.almost_done.swap(false, Ordering::Acquire) {
            checkpoint(connection);
        }
        let frames = LOG_FRAMES.get();
        // There are fewer when the log has begun anew.
        self.asked_at = self.asked_at.min(frames);
        if frames - self.asked_at >= FRAMES_APART {
            self.asked_at = frames;
            if let Some(wanted) = &self.wanted {
                // Without its thread, the log grows until the database is opened anew.
                let _ = wanted.send(());
            }
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        drop(self.wanted.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The write-ahead log, in frames.
struct Log {
    frames: i64,
    /// Those that are not in the database yet.
    rest: i64,
}

/// Brings over what can be without waiting for anybody. `None` when it failed.
fn checkpoint(connection: &Connection) -> Option<Log> {
    let log = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let frames: i64 = row.get(1)?;
        let rest = frames.saturating_sub(row.get(2)?);
        Ok(Log { frames, rest })
    });
    log.inspect_err(|error| tracing::warn!(%error, "a checkpoint failed"))
        .ok()
}

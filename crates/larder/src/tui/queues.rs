//! What is to be done, in order.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::app::Effect;

/// Where effects go. Both do one after the other: what is quick does not wait for what waits for the server.
pub(super) struct Queues {
    quick: mpsc::UnboundedSender<Effect>,
    slow: mpsc::UnboundedSender<Effect>,
    workers: [JoinHandle<()>; 2],
}

impl Queues {
    /// Queues whose ends two workers have.
    pub(super) fn new(
        quick: mpsc::UnboundedSender<Effect>,
        slow: mpsc::UnboundedSender<Effect>,
        workers: [JoinHandle<()>; 2],
    ) -> Self {
        Self { quick, slow, workers }
    }

    /// Takes no more, and waits until all that was asked for is done, or the time is over. Returns whether it is done.
    pub(super) async fn finish(self, patience: Duration) -> bool {
        let Self { quick, slow, workers } = self;
        drop((quick, slow));
        let finishing = async {
            for worker in workers {
                // One that panicked has said so.
                let _ = worker.await;
            }
        };
        tokio::time::timeout(patience, finishing).await.is_ok()
    }

    pub(super) fn push(&self, effect: Effect) {
        let queue = match effect {
            Effect::Do { .. } | Effect::Save { .. } => &self.slow,
            Effect::Load { .. }
            | Effect::Post { .. }
            | Effect::MarkRead { .. }
            | Effect::Members(_)
            | Effect::Copy(_)
            | Effect::Edit(_)
            | Effect::Alert { .. }
            | Effect::Redraw
            | Effect::Quit => &self.quick,
        };
        // The engine is gone when the interface is.
        let _ = queue.send(effect);
    }
}

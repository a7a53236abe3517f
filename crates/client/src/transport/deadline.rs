//! How long a request may take.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Unreachable};

/// When a request is given up. All that it needs takes from the same time: the name, the connection, the
/// session, every attempt, the pauses between them, and the answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    /// How long that was, for who is told that it is over.
    time: Duration,
}

impl Deadline {
    /// After so much time from now on.
    pub(super) fn after(time: Duration) -> Self {
        Self {
            at: Instant::now() + time,
            time,
        }
    }

    /// This one, or an earlier one after so much time.
    pub(super) fn or_after(self, time: Duration) -> Self {
        let other = Self::after(time);
        match other.at < self.at {
            true => other,
            false => self,
        }
    }

    /// Does something that ends by then.
    ///
    /// # Errors
    /// [`Unreachable::TimedOut`] if it did not; its own.
    pub(super) async fn bound<T>(self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        timeout_at(self.at, work).await.unwrap_or_else(|_| {
            Err(Error::Unreachable(Unreachable::TimedOut {
                seconds: self.time.as_secs(),
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn what_has_no_end_ends_at_the_deadline() {
        let deadline = Deadline::after(Duration::ZERO);
        let ended = deadline.bound(pending::<Result<(), Error>>()).await;
        let told = matches!(
            ended,
            Err(Error::Unreachable(Unreachable::TimedOut { seconds: 0 }))
        );
        assert!(told, "{ended:?}");
        let deadline = Deadline::after(Duration::from_secs(3600));
        assert!(matches!(deadline.bound(ready(Ok(7))).await, Ok(7)));
    }

    #[test]
    fn a_part_of_a_request_has_no_more_time_than_the_whole() {
        let whole = Deadline::after(Duration::from_secs(5));
        let (shorter, longer) = (Duration::from_secs(2), Duration::from_secs(9));
        assert!(whole.or_after(shorter).at < whole.at);
        assert_eq!(whole.or_after(longer).at, whole.at);
    }
}

//! Desktop notifications.

use std::thread;

/// Tells the desktop that something arrived: where and how much, not what. A desktop that takes no notifications is none of
/// this program's concern.
pub(super) fn tell(group: String, count: usize) {
    let body = match count {
        1 => format!("a new message in {group}"),
        count => format!("{count} new messages in {group}"),
    };
    // It waits for an answer of the desktop's.
    thread::spawn(move || {
        let shown = notify_rust::Notification::new()
            .appname("larder")
            .summary("Larder")
            .body(&body)
            .show();
        if let Err(error) = shown {
            tracing::debug!(%error, "the desktop takes no notification");
        }
    });
}

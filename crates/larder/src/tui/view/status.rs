//! The two lines at the bottom.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Span;
use ratatui::widgets::Paragraph;

use super::joined;
use crate::text::plain;
use crate::tui::app::App;
use crate::tui::keys::Action;
use crate::tui::theme::Theme;

/// What happened last, else what can be done now.
pub(super) fn draw_hints(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) {
    if let Some(word) = &app.word {
        let style = match word.is_failure {
            true => theme.alarm(),
            false => theme.strong(),
        };
        let text = format!(" {}", plain(&word.text));
        frame.render_widget(
            Paragraph::new(super::fit(&text, usize::from(area.width))).style(style),
            area,
        );
        return;
    }
    let key = |action, what: &str| Span::styled(format!("{} {what}", app.keys.of(action)), theme.faint());
    let hints = if app.panel.is_some() {
        vec![
            key(Action::Cancel, "close"),
            Span::styled("↑↓ move", theme.faint()),
        ]
    } else if !app.suggestions.is_empty() {
        vec![
            key(Action::Complete, "complete"),
            Span::styled("↑↓ choose", theme.faint()),
            key(Action::Send, "do it"),
        ]
    } else if app.groups.pointed().is_some() {
        vec![
            key(Action::Send, "go there"),
            key(Action::NextGroup, "next"),
            key(Action::Cancel, "back"),
        ]
    } else if app.groups.shown().is_some_and(|group| group.request.is_some()) {
        vec![
            Span::raw("/accept"),
            Span::raw("/decline"),
            Span::raw("/block USER"),
        ]
    } else {
        vec![
            key(Action::Send, "send"),
            key(Action::NewLine, "new line"),
            key(Action::NextUnread, "unread"),
            key(Action::NextGroup, "groups"),
            key(Action::Help, "help"),
        ]
    };
    frame.render_widget(Paragraph::new(joined(hints, theme)), area);
}

/// The connection, the keys, and what should not be overlooked.
pub(super) fn draw_status(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) {
    let mut parts = vec![
        Span::raw(app.me.split('/').next().unwrap_or_default().to_owned()),
        match app.status.online {
            None => Span::raw("connecting"),
            Some(true) => Span::raw("online"),
            Some(false) => Span::styled("offline, trying again", theme.alarm()),
        },
    ];
    if let Some(pool) = app.status.pool {
        parts.push(Span::raw(format!("keys {}/{}", pool.available, pool.target)));
        if pool.last_resort_used {
            parts.push(Span::styled("last-resort key in use", theme.alarm()));
        }
    }
    if !app.status.changed.is_empty() {
        let who = app.status.changed.join(", ");
        parts.push(Span::styled(format!("keys changed: {who}"), theme.alarm()));
    }
    match app.unsent().len() {
        0 => (),
        1 => parts.push(Span::raw("1 message waits")),
        waiting => parts.push(Span::raw(format!("{waiting} messages wait"))),
    }
    match app.groups.unread() {
        0 => (),
        unread => parts.push(Span::styled(format!("{unread} unread"), theme.unread())),
    }
    frame.render_widget(Paragraph::new(joined(parts, theme)).style(theme.bar()), area);
}

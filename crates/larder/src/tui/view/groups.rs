//! The groups, with what is unread.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph};

use super::fit;
use crate::tui::app::{App, Section, name_of};
use crate::tui::theme::Theme;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) {
    let block = Block::new().borders(Borders::RIGHT).border_style(theme.faint());
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let width = usize::from(inner.width);
    let height = usize::from(inner.height);

    let (mut lines, mut shown_at) = (Vec::new(), 0);
    let mut section = None;
    let shown = app.groups.shown().map(|group| &group.id);
    for group in app.groups.all() {
        let its = Section::of(group);
        if section != Some(its) {
            section = Some(its);
            let heading = match its {
                Section::Requests => Some("invitations"),
                Section::Groups => None,
                Section::Left => Some("left"),
            };
            if let Some(heading) = heading {
                lines.push(Line::styled(fit(&format!(" {heading}"), width), theme.faint()));
            } else if !lines.is_empty() {
                lines.push(Line::styled(fit(" groups", width), theme.faint()));
            }
        }
        let badge = match (group.unread, group.muted) {
            (0, false) => String::new(),
            (0, true) => " muted".to_owned(),
            (unread, _) => format!(" {}", unread.min(999)),
        };
        let is_shown = shown == Some(&group.id);
        if is_shown {
            shown_at = lines.len();
        }
        let is_open = app.groups.open() == Some(&group.id);
        let sign = match (is_open, is_shown) {
            (true, _) => '▌',
            (false, true) => '›',
            (false, false) => ' ',
        };
        let name = fit(
            &format!("{sign}{}", name_of(group)),
            width.saturating_sub(badge.len()),
        );
        let style = match (is_shown, group.unread > 0 && !group.muted, its) {
            (true, ..) => theme.pointed_at(),
            (false, true, _) => theme.strong(),
            (false, false, Section::Left) => theme.faint(),
            (false, false, Section::Requests | Section::Groups) => Style::new(),
        };
        let badge_style = match (is_shown, group.muted) {
            (true, _) => theme.pointed_at(),
            (false, false) => theme.unread(),
            (false, true) => theme.faint(),
        };
        lines.push(Line::from(vec![
            Span::styled(name, style),
            Span::styled(badge, badge_style),
        ]));
    }
    if lines.is_empty() {
        lines.push(Line::styled(fit(" no groups", width), theme.faint()));
    }
    // The one on the screen stays in view, with the next one.
    let first = (shown_at + 2)
        .saturating_sub(height)
        .min(lines.len().saturating_sub(height));
    let lines: Vec<_> = lines.into_iter().skip(first).take(height).collect();
    frame.render_widget(Paragraph::new(lines), inner);
}

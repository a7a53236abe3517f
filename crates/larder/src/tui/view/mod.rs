//! The screen.

mod groups;
mod messages;
mod panel;
mod status;
#[cfg(test)]
mod tests;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use super::app::App;
use super::theme::Theme;

/// Columns below which the groups give way to the messages.
const GROUPS_COLUMNS_MIN: u16 = 60;
/// Lines of the composer at most; more are scrolled.
const COMPOSER_LINES_MAX: u16 = 8;
/// Suggestions on the screen at a time.
const SUGGESTIONS_MAX: usize = 8;
const PROMPT: &str = "> ";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App, theme: Theme) {
    let area = frame.area();
    let room = area.width.saturating_sub(PROMPT.len() as u16);
    let composer = app.composer.height(room).clamp(1, COMPOSER_LINES_MAX);
    let [main, composer, hints, status] = Layout::vertical([
        Constraint::Min(1),
        Constraint::Length(composer + 1),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(area);
    let messages = match app.groups_shown && area.width >= GROUPS_COLUMNS_MIN {
        true => {
            let width = if area.width >= 120 { 30 } else { 21 };
            let [left, right] =
                Layout::horizontal([Constraint::Length(width), Constraint::Min(1)]).areas(main);
            groups::draw(frame, left, app, theme);
            right
        }
        false => main,
    };
    messages::draw(frame, messages, app, theme);
    draw_composer(frame, composer, app, theme);
    draw_suggestions(frame, main, app, theme);
    status::draw_hints(frame, hints, app, theme);
    status::draw_status(frame, status, app, theme);
    // A code to be scanned needs every line that there is.
    panel::draw(frame, area, app, theme);
}

fn draw_composer(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) {
    let block = Block::new().borders(Borders::TOP).border_style(theme.faint());
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [prompt, text] =
        Layout::horizontal([Constraint::Length(PROMPT.len() as u16), Constraint::Min(1)]).areas(inner);
    frame.render_widget(Paragraph::new(PROMPT).style(theme.faint()), prompt);
    frame.render_widget(app.composer.area(), text);
}

/// What is typed could become one of these: above the composer.
fn draw_suggestions(frame: &mut Frame<'_>, above: Rect, app: &App, theme: Theme) {
    if app.suggestions.is_empty() || app.panel.is_some() {
        return;
    }
    let shown = app
        .suggestions
        .len()
        .min(SUGGESTIONS_MAX)
        .min(usize::from(above.height));
    let first = (app.suggested + 1).saturating_sub(shown);
    let width = usize::from(above.width).min(76);
    let lines: Vec<Line<'_>> = app
        .suggestions
        .iter()
        .enumerate()
        .skip(first)
        .take(shown)
        .map(|(at, suggestion)| {
            let line = fit(
                &format!("  {:<12} {}", suggestion.text.trim_end(), suggestion.help),
                width,
            );
            match at == app.suggested {
                true => Line::styled(line, theme.pointed_at()),
                false => Line::styled(line, theme.bar()),
            }
        })
        .collect();
    let area = Rect {
        x: above.x,
        y: above.bottom().saturating_sub(shown as u16),
        width: width as u16,
        height: shown as u16,
    };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines), area);
}

/// Text in exactly so many columns: cut, or padded.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let width = text.width();
    if width <= columns {
        return format!("{text}{}", " ".repeat(columns - width));
    }
    let mut fitted = String::with_capacity(columns);
    let mut used = 0;
    for cluster in text.graphemes(true) {
        let width = cluster.width();
        if used + width + 1 > columns {
            break;
        }
        fitted.push_str(cluster);
        used += width;
    }
    if columns > 0 {
        fitted.push('…');
        used += 1;
    }
    fitted.push_str(&" ".repeat(columns.saturating_sub(used)));
    fitted
}

/// Parts of a line with something between them.
fn joined<'a>(parts: Vec<Span<'a>>, theme: Theme) -> Line<'a> {
    let mut spans = vec![Span::raw(" ")];
    for (number, part) in parts.into_iter().enumerate() {
        if number > 0 {
            spans.push(Span::styled(" · ", theme.faint()));
        }
        spans.push(part);
    }
    Line::from(spans)
}

//! What is looked at over the messages.

use ratatui::Frame;
use ratatui::layout::{Alignment, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph};

use super::fit;
use crate::tui::app::{App, Look};
use crate::tui::theme::Theme;

pub(super) fn draw(frame: &mut Frame<'_>, over: Rect, app: &mut App, theme: Theme) {
    let Some(panel) = &mut app.panel else { return };
    let longest = panel
        .lines
        .iter()
        .map(|line| unicode_width::UnicodeWidthStr::width(line.text.as_str()))
        .max()
        .unwrap_or(0);
    let width = (longest as u16)
        .saturating_add(4)
        .clamp(30, over.width.max(30))
        .min(over.width);
    let height = (panel.lines.len() as u16).saturating_add(2).min(over.height);
    let area = Rect {
        x: over.x + (over.width - width) / 2,
        y: over.y + (over.height - height) / 2,
        width,
        height,
    };
    let block = Block::bordered()
        .title(format!(" {} ", panel.title))
        .title_alignment(Alignment::Center)
        .border_style(theme.faint());
    let inner = block.inner(area);
    frame.render_widget(Clear, area);
    frame.render_widget(block, area);
    let columns = usize::from(inner.width).saturating_sub(2);
    let room = usize::from(inner.height);
    let (first, pointed) = panel.window(room);
    let lines: Vec<Line<'_>> = panel
        .lines
        .iter()
        .enumerate()
        .skip(first)
        .take(room)
        .map(|(at, line)| {
            let style = match (pointed == Some(at), line.look) {
                (true, _) => theme.pointed_at(),
                (false, Look::Plain) => Style::new(),
                (false, Look::Strong) => theme.strong(),
                (false, Look::Alarm) => theme.alarm(),
                // What a camera is to read has its colours whether or not others are wanted.
                (false, Look::Code) => Style::new().fg(Color::Black).bg(Color::White),
            };
            let text = match line.look {
                Look::Code => line.text.clone(),
                Look::Plain | Look::Strong | Look::Alarm => fit(&line.text, columns),
            };
            Line::from(vec![
                ratatui::text::Span::raw(" "),
                ratatui::text::Span::styled(text, style),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), inner);
}

//! The messages of the group on the screen.

use larder_client::{ContactRequest, GroupState, SendStatus};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line as Row, Span};
use ratatui::widgets::Paragraph;

use super::fit;
use crate::tui::app::{App, name_of};
use crate::tui::theme::Theme;
use crate::tui::timeline::{Author, Line, MARGIN, NAME};

const WELCOME: &str = "\
No group is open.

/new NAME  creates one, and
/invite USER…  adds people to it.
Who invites you appears on the left.

F1 shows all commands and keys.";

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &mut App, theme: Theme) {
    let [heading, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    let me = app.me.split('/').next().unwrap_or_default().to_owned();
    let Some((group, timeline)) = app.shown() else {
        frame.render_widget(Paragraph::new(WELCOME).alignment(Alignment::Center), body);
        return;
    };
    let width = usize::from(area.width);
    let people = match group.members {
        1 => "1 device".to_owned(),
        devices => format!("{devices} devices"),
    };
    let title = match &group.request {
        Some(_) if group.state == GroupState::Left => {
            let name = name_of(group);
            format!(" you were removed from {name}: /accept keeps what was written, /decline does not")
        }
        Some(ContactRequest::Invitation { by }) => {
            format!(" {by} invites you to {}: /accept or /decline", name_of(group))
        }
        Some(request @ ContactRequest::Listed { .. }) => format!(" {request}: /accept or /decline"),
        None => format!(" {} · {people} · {}", name_of(group), group.state),
    };
    let title = title.trim_end_matches(" · active").to_owned();
    frame.render_widget(Paragraph::new(fit(&title, width)).style(theme.bar()), heading);

    let (lines, needs_older) = timeline.view(body.width, usize::from(body.height));
    // The newest message is at the bottom, as everywhere.
    let empty = usize::from(body.height).saturating_sub(lines.len()) as u16;
    let rows: Vec<Row<'_>> = lines
        .into_iter()
        .map(|line| row(line, &me, width, theme))
        .collect();
    let rest = Rect {
        y: body.y + empty,
        height: body.height - empty,
        ..body
    };
    frame.render_widget(Paragraph::new(rows), rest);
    if needs_older {
        app.load_older();
    }
}

fn row(line: Line, me: &str, width: usize, theme: Theme) -> Row<'static> {
    match line {
        Line::Day(day) => rule(&day, width, theme.faint()),
        Line::New => rule("new", width, theme.unread()),
        Line::NotSent => Row::styled(
            format!("{}not sent: /retry tries again", " ".repeat(usize::from(MARGIN))),
            theme.alarm(),
        ),
        Line::Lost => Row::styled(
            format!(
                "{}lost by the server: /retry sends it again",
                " ".repeat(usize::from(MARGIN))
            ),
            theme.alarm(),
        ),
        Line::Text {
            head,
            text,
            mark,
            selected,
            event,
            row: _,
        } => {
            let style = match (selected, event) {
                (true, _) => theme.pointed_at(),
                (false, true) => theme.faint(),
                (false, false) => Style::new(),
            };
            let Some((minute, author)) = head else {
                let margin = " ".repeat(usize::from(MARGIN));
                return Row::from(vec![Span::raw(margin), Span::styled(text, style)]);
            };
            let (name, look) = match &author {
                Author::Me => (me, theme.me()),
                Author::User(user) => (user.as_str(), theme.name(user)),
                Author::Event => ("*", theme.faint()),
            };
            let gap = match mark {
                None | Some(SendStatus::Sent) => "  ",
                Some(SendStatus::Pending) => "… ",
                Some(SendStatus::Failed | SendStatus::Lost) => "✗ ",
            };
            Row::from(vec![
                Span::styled(format!("{minute} "), theme.faint()),
                Span::styled(fit(name, usize::from(NAME)), look),
                Span::styled(gap, theme.strong()),
                Span::styled(text, style),
            ])
        }
    }
}

/// A word in the middle of a line.
fn rule(word: &str, width: usize, style: Style) -> Row<'static> {
    let left = width.saturating_sub(word.len() + 2) / 2;
    let right = width.saturating_sub(word.len() + 2 + left);
    Row::styled(
        format!("{} {word} {}", "─".repeat(left), "─".repeat(right)),
        style,
    )
}

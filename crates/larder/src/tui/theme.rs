//! Colours, or none.

use ratatui::style::{Color, Modifier, Style};

/// How things look. Nothing is told by colour alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    colours: bool,
}

const NAMES: [Color; 6] = [
    Color::Cyan,
    Color::Green,
    Color::Yellow,
    Color::Magenta,
    Color::Blue,
    Color::LightRed,
];

impl Theme {
    /// With colours, unless `NO_COLOR` is set to anything (no-color.org).
    pub(super) fn of_environment() -> Self {
        let without = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colours: !without }
    }

    #[cfg(test)]
    pub(super) fn without_colours() -> Self {
        Self { colours: false }
    }

    fn colour(self, colour: Color) -> Style {
        match self.colours {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    pub(super) fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn pointed_at(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(super) fn bar(self) -> Style {
        match self.colours {
            true => Style::new().bg(Color::Indexed(236)).fg(Color::Indexed(252)),
            false => Style::new().add_modifier(Modifier::REVERSED),
        }
    }

    pub(super) fn alarm(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) fn unread(self) -> Style {
        self.colour(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    pub(super) fn me(self) -> Style {
        self.strong()
    }

    /// The same for the same name.
    pub(super) fn name(self, name: &str) -> Style {
        let sum = name.bytes().fold(7_usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(byte))
        });
        self.colour(NAMES[sum % NAMES.len()])
    }
}

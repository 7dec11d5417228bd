//! A terminal, as it was when we are done with it.

use std::io::{self, Stdout, Write, stdout};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, style, terminal};

/// What somebody did at the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Letter(char),
    End,
    /// The window has another size.
    Resized,
}

/// The whole window. Dropping gives it back.
pub struct Screen {
    out: Stdout,
}

impl Screen {
    pub fn open() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let mut screen = Screen { out: stdout() };
        execute!(
            screen.out,
            terminal::EnterAlternateScreen,
            terminal::DisableLineWrap,
            cursor::Hide
        )?;
        Ok(screen)
    }

    /// Shows lines, as many and as long as there is room for, and a last one below.
    pub fn show(&mut self, texts: &[&str], below: &str) -> io::Result<()> {
        let (width, height) = terminal::size().unwrap_or((80, 24));
        let lines = texts.iter().flat_map(|text| match *text {
            "" => vec![""],
            text => text.lines().collect(),
        });
        let room = usize::from(height.saturating_sub(1));
        let cut = |line: &str| line.chars().take(width.into()).collect::<String>();
        queue!(self.out, cursor::MoveTo(0, 0))?;
        for line in lines.take(room) {
            queue!(
                self.out,
                style::Print(cut(line)),
                terminal::Clear(terminal::ClearType::UntilNewLine),
                style::Print("\r\n")
            )?;
        }
        queue!(
            self.out,
            terminal::Clear(terminal::ClearType::FromCursorDown),
            cursor::MoveTo(0, height.saturating_sub(1)),
            style::SetAttribute(style::Attribute::Reverse),
            style::Print(cut(below)),
            style::SetAttribute(style::Attribute::Reset)
        )?;
        self.out.flush()
    }

    /// The next key, if one comes within this time.
    pub fn key(&mut self, time: Duration) -> io::Result<Option<Key>> {
        if !event::poll(time)? {
            return Ok(None);
        }
        Ok(match event::read()? {
            Event::Resize(..) => Some(Key::Resized),
            Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
                KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                    Some(Key::End)
                }
                KeyCode::Char('q') | KeyCode::Esc => Some(Key::End),
                KeyCode::Char(letter) => Some(Key::Letter(letter)),
                _ => None,
            },
            _ => None,
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(
            self.out,
            cursor::Show,
            terminal::EnableLineWrap,
            terminal::LeaveAlternateScreen
        );
        let _ = terminal::disable_raw_mode();
    }
}

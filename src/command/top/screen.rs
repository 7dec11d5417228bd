//! A terminal, as it was when we are done with it.

use std::io::{self, Stdout, Write, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, style, terminal};
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::flag;

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
    /// Somebody ended us from outside, who does not want the terminal left as it is now.
    ended: Arc<AtomicBool>,
}

impl Screen {
    pub fn open() -> io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGHUP, SIGTERM] {
            flag::register(signal, ended.clone())?;
        }
        terminal::enable_raw_mode()?;
        let mut screen = Screen {
            out: stdout(),
            ended,
        };
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
        // A serial line does not know how large what is at its other end is, and says 0.
        let size = terminal::size().ok();
        let (width, height) = size
            .filter(|(width, height)| *width > 0 && *height > 0)
            .unwrap_or((80, 24));
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
        let ready = event::poll(time)?;
        // Relaxed: it is only a flag.
        if self.ended.load(Ordering::Relaxed) {
            return Ok(Some(Key::End));
        }
        if !ready {
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
        // Where the terminal has gone there is nothing to give back, and nobody to tell.
        let _ = execute!(
            self.out,
            cursor::Show,
            terminal::EnableLineWrap,
            terminal::LeaveAlternateScreen
        );
        let _ = terminal::disable_raw_mode();
    }
}

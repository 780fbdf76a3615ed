//! What a terminal sends, as what the screen understands.

use ratatui::crossterm::event::{Event as Sent, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::Size;

use super::state::{Key, TopEvent};

/// What becomes of it.
#[derive(Clone, Debug)]
pub enum Meant {
    Event(TopEvent),
    /// Ctrl-Z.
    Stop,
    /// Ctrl-L: another program has written over the screen.
    Redraw,
    Nothing,
}

pub fn meant(sent: Sent) -> Meant {
    match sent {
        Sent::Resize(width, height) => Meant::Event(TopEvent::Resized(Size { width, height })),
        Sent::Key(key) if key.kind != KeyEventKind::Release => pressed(key),
        _ => Meant::Nothing,
    }
}

fn pressed(KeyEvent { code, modifiers, .. }: KeyEvent) -> Meant {
    let key = match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char('z') if modifiers.contains(KeyModifiers::CONTROL) => return Meant::Stop,
        KeyCode::Char('l') if modifiers.contains(KeyModifiers::CONTROL) => return Meant::Redraw,
        KeyCode::Char(_) if modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) => return Meant::Nothing,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return Meant::Nothing,
    };
    Meant::Event(TopEvent::Key(key))
}

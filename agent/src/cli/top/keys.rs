//! What is looked at, and what keys change of it.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::widgets::TableState;

use super::flows::Flows;
use super::panes::{Line, Pane};

/// What a key asks for beyond the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    Stay,
    /// The end.
    Leave,
}

/// What is on the screen over the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// One connection with its path.
    Detail((String, String)),
    /// The keys.
    Help,
}

/// What the user looks at.
#[derive(Debug)]
pub(super) struct View {
    pub(super) pane: Pane,
    /// By pane: the column to sort by, and whether the other way round.
    sorts: [(usize, bool); Pane::ALL.len()],
    pub(super) filter: String,
    /// Whether keys go to the filter.
    pub(super) typing: bool,
    pub(super) over: Option<Over>,
    pub(super) table: TableState,
    /// The line that is chosen: it stays so wherever it moves.
    pub(super) chosen: Option<(String, String)>,
    /// Lines that were drawn last, and how many fit.
    pub(super) drawn: Vec<(String, String)>,
    pub(super) page: usize,
    pub(super) agents: usize,
    /// Something to be known.
    pub(super) news: Option<String>,
}

impl View {
    pub(super) fn new(agents: usize) -> Self {
        Self {
            pane: Pane::Connections,
            sorts: Default::default(),
            filter: String::new(),
            typing: false,
            over: None,
            table: TableState::default(),
            chosen: None,
            drawn: Vec::new(),
            page: 1,
            agents,
            news: None,
        }
    }

    fn place(&self) -> usize {
        let place = Pane::ALL.iter().position(|pane| *pane == self.pane);
        place.unwrap_or_default()
    }

    /// The column that the list is sorted by, and whether the other way round.
    pub(super) fn sort(&self) -> (usize, bool) {
        self.sorts[self.place()]
    }

    fn show(&mut self, place: usize) {
        if let Some(pane) = Pane::ALL.get(place) {
            self.pane = *pane;
            self.chosen = None;
            self.over = None;
        }
    }

    /// The lines that are drawn: what is chosen is found again among them.
    pub(super) fn place_lines(&mut self, lines: &[Line], page: usize) {
        self.drawn = lines.iter().map(|line| line.key.clone()).collect();
        self.page = page.max(1);
        let chosen = self.chosen.as_ref();
        let at = chosen.and_then(|key| self.drawn.iter().position(|one| one == key));
        self.table.select(at);
    }

    fn choose(&mut self, by: isize) {
        if self.drawn.is_empty() {
            return;
        }
        let last = self.drawn.len() - 1;
        let next = match self.table.selected() {
            Some(at) => at.saturating_add_signed(by).min(last),
            None if by < 0 => last,
            None => 0,
        };
        self.table.select(Some(next));
        self.chosen = self.drawn.get(next).cloned();
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent, flows: &mut Flows) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Stay;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Action::Leave;
        }
        if self.typing {
            self.type_key(key.code);
            return Action::Stay;
        }
        let (place, columns) = (self.place(), self.pane.columns().len());
        let page = self.page.try_into().unwrap_or(isize::MAX);
        match key.code {
            KeyCode::Esc if self.over.is_some() => self.over = None,
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Char('q') | KeyCode::Esc => return Action::Leave,
            KeyCode::Char('?' | 'h') => {
                self.over = match self.over {
                    Some(Over::Help) => None,
                    _ => Some(Over::Help),
                };
            }
            KeyCode::Tab | KeyCode::Right => self.show((place + 1) % Pane::ALL.len()),
            KeyCode::BackTab | KeyCode::Left => {
                self.show((place + Pane::ALL.len() - 1) % Pane::ALL.len());
            }
            KeyCode::Char(digit @ '1'..='5') => self.show(digit as usize - '1' as usize),
            KeyCode::Char('s') => {
                let (column, _) = self.sorts[place];
                self.sorts[place] = ((column + 1) % columns, false);
            }
            KeyCode::Char('r') => self.sorts[place].1 ^= true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('p' | ' ') => flows.paused ^= true,
            KeyCode::Down | KeyCode::Char('j') => self.choose(1),
            KeyCode::Up | KeyCode::Char('k') => self.choose(-1),
            KeyCode::PageDown => self.choose(page),
            KeyCode::PageUp => self.choose(page.saturating_neg()),
            KeyCode::Home => self.choose(isize::MIN),
            KeyCode::End => self.choose(isize::MAX),
            KeyCode::Enter => {
                if self.chosen.is_none() {
                    self.choose(0);
                }
                self.over = match (&self.chosen, self.pane) {
                    // A pod is not one connection: those that it has are listed.
                    (Some((_, pod)), Pane::Pods) => {
                        self.filter = pod.clone();
                        self.show(0);
                        None
                    }
                    (Some(key), _) => Some(Over::Detail(key.clone())),
                    (None, _) => None,
                };
            }
            _ => {}
        }
        Action::Stay
    }

    /// A key of the filter, which is in force as it is typed.
    fn type_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
    }
}

//! A program on a terminal of its own: what it shows, keys that are pressed, another size.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::lab;

/// A program that runs on a pseudo-terminal; killed when dropped.
pub struct Terminal {
    master: File,
    child: Child,
    shown: Arc<Mutex<vt100::Parser>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Starts `argv` on a terminal of so many rows and columns.
    ///
    /// # Errors
    /// There is no terminal to be had, or the program does not start.
    pub fn start(argv: &[&str], (rows, columns): (u16, u16)) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        tcsetwinsize(&master, size(rows, columns))?;
        let path = ptsname(&master, Vec::new())?;
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path.to_str().context("the name of a terminal")?)?;
        // Its controlling terminal: a program is told of another size by that.
        let child = Command::new("setsid")
            .arg("--ctty")
            .args(argv)
            .env("TERM", "xterm-256color")
            .stdin(OwnedFd::from(slave.try_clone()?))
            .stdout(OwnedFd::from(slave.try_clone()?))
            .stderr(OwnedFd::from(slave))
            .spawn()
            .context("running setsid")?;
        let shown = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let master = File::from(master);
        let (mut from, into) = (master.try_clone()?, Arc::clone(&shown));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of the program is an error here (EIO, pty(7)).
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                into.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .process(&bytes[..count]);
            }
        });
        Ok(Self {
            master,
            child,
            shown,
            reader: Some(reader),
        })
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.screen().contents()
    }

    /// Whether the program has the whole screen to itself.
    pub fn is_full_screen(&self) -> bool {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.screen().alternate_screen()
    }

    /// Waits until the screen is as it should be.
    ///
    /// # Errors
    /// It is not, for long; with what is on it.
    pub fn wait(&self, what: &str, is: impl Fn(&str) -> bool) -> Result<()> {
        let outcome = lab::wait_for(what, Duration::from_secs(30), || is(&self.text()));
        outcome.with_context(|| self.text())
    }

    /// Presses keys.
    ///
    /// # Errors
    /// The program has ended.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.master.write_all(keys.as_bytes())?)
    }

    /// Makes the terminal another size.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        self.shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .screen_mut()
            .set_size(rows, columns);
        Ok(tcsetwinsize(&self.master, size(rows, columns))?)
    }

    /// How the program ended.
    ///
    /// # Errors
    /// It does not end.
    pub fn end(&mut self) -> Result<ExitStatus> {
        let mut status = None;
        lab::wait_for("the program's end", Duration::from_secs(30), || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        })?;
        // The last that it wrote may not be on the screen yet.
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        status.context("no status")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

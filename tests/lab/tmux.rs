//! A terminal with a shell in it: tmux, with a server of its own that ends with its guard.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::Lab;
use super::deadline::wait_until_seen;

/// The shell's prompt; nothing else that is shown holds it.
pub const PROMPT: &str = "lab-prompt$";

const SOON: Duration = Duration::from_secs(30);

pub struct Tmux<'lab> {
    lab: &'lab Lab,
    sockets: PathBuf,
}

impl<'lab> Tmux<'lab> {
    /// A pane with a shell that waits for a command.
    pub fn start(lab: &'lab Lab, columns: u16, rows: u16) -> Self {
        let tmux = Self { lab, sockets: lab.dir().join("tmux") };
        fs::create_dir(&tmux.sockets).expect("the lab's directory is writable");
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let prompt = format!("PS1={PROMPT} ");
        let shell = ["env", "HISTFILE=", prompt.as_str(), "bash", "--norc", "--noprofile", "-i"];
        let session = ["new-session", "-d", "-x", columns.as_str(), "-y", rows.as_str()];
        tmux.tmux(&[&session[..], &shell].concat());
        tmux.wait_for("the prompt", |shown| shown.contains(PROMPT));
        tmux
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let at = format!("TMUX_TMPDIR={}", self.sockets.display());
        let own = ["env", at.as_str(), "LC_ALL=C.UTF-8", "TERM=xterm", "tmux", "-u", "-f", "/dev/null", "-L", "lab"];
        self.lab.stdout(&[&own[..], arguments].concat())
    }

    /// Types keys by tmux's names (`Enter`, `Left`, `C-z`), and anything else as it stands.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys", "--"], keys].concat());
    }

    /// Types a command and Enter.
    pub fn run(&self, command: &str) {
        self.press(&[command, "Enter"]);
    }

    /// What the pane shows now.
    pub fn shown(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until it shows something.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        wait_until_seen(what, SOON, || {
            let shown = self.shown();
            if fits(&shown) { Ok(shown) } else { Err(shown) }
        })
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// What tmux calls it, such as `alternate_on`.
    pub fn tells(&self, format: &str) -> String {
        self.tmux(&["display-message", "-p", &format!("#{{{format}}}")])
    }

    /// The pid, as the lab sees it, of what the shell runs.
    pub fn child(&self) -> String {
        let shell = self.tells("pane_pid");
        wait_until_seen("the shell's child", SOON, || {
            let children = self.lab.command(&["ps", "-o", "pid=", "--ppid", &shell]).output().expect("ps starts");
            let children = String::from_utf8_lossy(&children.stdout).trim().to_owned();
            if children.is_empty() { Err("none") } else { Ok(children) }
        })
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        let at = format!("TMUX_TMPDIR={}", self.sockets.display());
        // Where the lab itself is gone, so is the server.
        let _ = self.lab.command(&["env", at.as_str(), "tmux", "-L", "lab", "kill-server"]).output();
    }
}

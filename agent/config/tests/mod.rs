//! Whole directories: what loads, and every word of what does not.

mod ceiling;
mod design;
mod diagnostics;
mod gentler;
mod hooks;
mod limits;
mod notify;
mod overlaps;
mod queries;
mod redis;
mod registries;
mod shipped;
mod tls;

use std::path::Path;

use super::*;

/// A configuration directory for one test.
struct Tree(tempfile::TempDir);

const HOST: &str = "interval: 15s\n";
const RUNBOOK: &str = "runbook: look\nsteps:\n  - snapshot\n";
const POLICY: &str = "policy: p\nservices: [a.service]\nwhen: close_wait > 5\nfor: 1m\nrunbook: look\n";

impl Tree {
    fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A directory that loads, with these files in place of, or beside, its own.
    fn with(files: &[(&str, &str)]) -> Self {
        let tree = Self::empty();
        for (name, text) in
            [("agent.yaml", HOST), ("runbooks/look.yaml", RUNBOOK), ("policies/p.yaml", POLICY)].iter().chain(files)
        {
            tree.write(name, text);
        }
        tree
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn load(&self) -> Result<Config, Diagnostics> {
        load_with(self.path(), &|name| (name == "CREDENTIALS_DIRECTORY").then(|| "/run/credentials/unwait".into()))
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    /// `file:line:column message`, the directory left out.
    fn wrong(&self) -> Vec<String> {
        let found = self.load().expect_err("this was to be refused");
        let short = |file: &Path| file.strip_prefix(self.path()).unwrap_or(file).display().to_string();
        found
            .iter()
            .map(|d| match (d.line, d.column) {
                (Some(line), Some(column)) => format!("{}:{line}:{column} {}", short(&d.file), d.message),
                _ => format!("{} {}", short(&d.file), d.message),
            })
            .collect()
    }
}

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

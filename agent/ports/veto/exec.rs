//! The owner's command itself: exit status 0 is yes, any other is no, with the first line of what it says as the reason. What
//! ends by a signal, or not in time, has not answered.

use std::path::Path;

use async_trait::async_trait;

use super::Vetoes;
use crate::command::{self, Ended};
use crate::model::duration;
use crate::model::policy::VetoCommand;
use crate::ports::said;
use crate::ports::silence::patient;
use crate::trust;

/// Of what it says the first line is shown.
const OUTPUT_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub struct VetoProgram;

#[async_trait]
impl Vetoes for VetoProgram {
    async fn ask(&self, command: &VetoCommand, question: &str) -> Result<Option<String>, String> {
        let program = command.argv.first().map(String::as_str).unwrap_or_default();
        // At each question: the file may be another by now.
        trust::may_run(Path::new(program))?;
        let deadline = patient(command.deadline);
        let ran = command::capture_asking(&command.argv, question, deadline, OUTPUT_BYTES).await;
        let said = said::first_line(&ran.output, []);
        match ran.ended {
            Ended::Exited(0) => Ok(None),
            Ended::Exited(status) if said.is_empty() => Ok(Some(format!("{program}: exit status {status}"))),
            Ended::Exited(_) => Ok(Some(format!("{program}: {said}"))),
            Ended::DeadlinePassed => Err(format!("{program}: no answer within {}", duration::format(deadline))),
            ended @ (Ended::Signalled(_) | Ended::NotStarted(_)) => {
                Err(format!("{program}: {ended}{}", said::behind(&said)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    /// What a script makes of the question `{"plan": {"runbook": "restart"}}`.
    fn ask(script: &str, mode: u32, deadline: Duration) -> Result<Option<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("may-act");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
        let command = VetoCommand { argv: vec![program.to_string_lossy().into_owned(), "trade".into()], deadline };
        let asked = VetoProgram.ask(&command, r#"{"plan":{"runbook":"restart"}}"#);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let hidden = format!("{}/", dir.path().display());
        runtime.block_on(asked).map(|no| no.map(|no| no.replace(&hidden, ""))).map_err(|why| why.replace(&hidden, ""))
    }

    #[test]
    fn it_may_act_where_the_command_ends_with_0_and_may_not_where_it_ends_with_anything_else() {
        const LONG: Duration = Duration::from_secs(60);
        let no = |why: &str| Ok(Some(format!("may-act: {why}")));
        for (script, answer) in [
            (r#"grep -q '"runbook":"restart"' && [ "$1" = trade ]"#, Ok(None)),
            ("exit 0", Ok(None)),
            ("echo; echo 'a sale is on'; echo more; exit 1", no("a sale is on")),
            ("echo 'to stderr' >&2; exit 77", no("to stderr")),
            ("exit 3", no("exit status 3")),
            (r#"[ -z "$HOME$CREDENTIALS_DIRECTORY" ] || exit 1"#, Ok(None)),
            ("kill -9 $$", Err("may-act: ended by SIGKILL".to_owned())),
        ] {
            assert_eq!(ask(script, 0o755, LONG), answer, "{script}");
        }
    }

    #[test]
    fn a_command_that_gives_no_answer_or_must_not_be_believed_is_an_error() {
        let soon = Duration::from_millis(300);
        assert_eq!(ask("sleep 600", 0o755, soon), Err("may-act: no answer within 300ms".into()));
        let not_executable = ask("exit 0", 0o644, soon).unwrap_err();
        assert!(not_executable.contains("not started"), "{not_executable}");
        if trust::runs_as_root() {
            let anybodys = ask("exit 0", 0o777, soon).unwrap_err();
            assert!(anybodys.contains("can be written by anyone"), "{anybodys}");
        }
    }
}

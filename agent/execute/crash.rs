//! Points where the crash stories kill the agent. Compiled to nothing without the feature `crash-points`.

/// Kills this process with SIGKILL where `UNWAIT_CRASH_AT` names this point, as `STEP:MOMENT`
/// (`drain:intended`, `drain:acted`, `restart:done`, …); stops it with SIGSTOP where `UNWAIT_STOP_AT` does.
#[cfg(feature = "crash-points")]
pub fn point(step: &str, moment: &str) {
    if std::env::var("UNWAIT_STOP_AT").is_ok_and(|at| at == format!("{step}:{moment}")) {
        tracing::warn!(step, moment, "stop point");
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGSTOP);
    }
    if std::env::var("UNWAIT_CRASH_AT").is_ok_and(|at| at == format!("{step}:{moment}")) {
        tracing::warn!(step, moment, "crash point");
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(not(feature = "crash-points"))]
pub fn point(_step: &str, _moment: &str) {}

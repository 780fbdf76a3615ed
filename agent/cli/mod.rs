#![doc = include_str!("README.md")]

#[macro_use]
mod out;

mod act;
mod approve;
mod asking;
mod check;
mod demo;
mod discover;
mod explain;
mod history;
mod notify;
mod open;
mod order;
mod pause;
mod plan;
mod rearm;
mod reload;
mod render;
mod replay;
mod resolve;
mod review;
mod run;
mod scan;
mod scan_by;
mod show;
mod signals;
mod silence;
mod slot;
mod status;
mod test;

#[cfg(test)]
mod wants_tests;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Finds the services that hold TCP sockets in CLOSE_WAIT, and carries out the runbook: isolate, restart, recover.
#[derive(Debug, Parser)]
#[command(name = "unwait", version, about, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 refused, or something is wrong; 2 the command line or the \
configuration cannot be used; 3 the agent, the kernel or the state directory could not be reached.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Watch, decide and act, until SIGTERM. SIGHUP, or `unwait reload`, loads a new configuration whole or not at all.
    Run(run::Arguments),
    /// One look at the host: who holds sockets in CLOSE_WAIT.
    Scan(scan::Arguments),
    /// Read the configuration, and show every error at once.
    Check(check::Arguments),
    /// Run the policies' own tests. No network, no root.
    Test(test::Arguments),
    /// What would be done for a service now, filled in, and what blocks it.
    Plan(plan::Arguments),
    /// Why something is, or is not, being done about a service.
    Explain(explain::Arguments),
    /// Start the plan of a service by hand. The same guards are asked.
    Act(act::Arguments),
    /// Say yes to a plan that waits for it (`mode: approve`).
    Approve(approve::ApproveArguments),
    /// Say no to a plan that waits, or that is approved and has not begun; holds for the policy's cooldown.
    Deny(approve::DenyArguments),
    /// The kill switch: no action until `resume`, or until a time. Outlives a reboot.
    Pause(pause::PauseArguments),
    /// End the pause.
    Resume(pause::ResumeArguments),
    /// No action on a service, or on this host, for a while. Outlives a reboot, and ends by itself.
    Silence(silence::Arguments),
    /// Is the agent running, what is latched, what is under way, what is not delivered.
    Status(status::Arguments),
    /// Past incidents, newest first; with --signals what was measured of a service.
    History(history::Arguments),
    /// When policies would have breached, over the recorded history: try other thresholds before they are in force.
    Replay(replay::Arguments),
    /// Before you say `auto`: what each policy did and would have done, what healed by itself, and what held it.
    Review(review::Arguments),
    /// One incident: its steps, its outcome, its evidence.
    Show(show::Arguments),
    /// Decide what becomes of a service that rests stuck.
    Resolve(resolve::Arguments),
    /// Let a policy act again that went back to dry-run because its action did not help twice.
    Rearm(rearm::Arguments),
    /// Have the running agent load its configuration anew, whole or not at all.
    Reload(reload::Arguments),
    /// Who holds the fleet's slots; give one back for a host that is gone.
    Slot(slot::Arguments),
    /// Messages to people.
    #[command(subcommand)]
    Notify(notify::Verb),
    /// Which instance of a registry each service here is: the `services:` section, to review and paste.
    Discover(discover::Arguments),
    /// The whole story on this machine, in under a minute: a leaking service, the breach, the remedy.
    Demo(demo::Arguments),
    /// The demo's own leaking service and its peers.
    #[command(hide = true)]
    DemoService(demo::ServiceArguments),
}

/// Where the configuration lies; every verb but `demo` takes it.
#[derive(Debug, Clone, Args)]
struct ConfigArguments {
    /// The directory that holds agent.yaml, policies/ and runbooks/.
    #[arg(long, value_name = "DIR", default_value = CONFIG_DIR)]
    config: PathBuf,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

const CONFIG_DIR: &str = "/etc/unwait";

/// Why a verb did not do what was asked.
#[derive(Debug)]
enum Failure {
    /// Refused, or something is wrong.
    Wrong(String),
    /// The command line or the configuration.
    Usage(String),
    /// The agent, the kernel or the state directory.
    Unreachable(String),
}

impl Failure {
    fn text(&self) -> &str {
        let (Self::Wrong(text) | Self::Usage(text) | Self::Unreachable(text)) = self;
        text
    }

    fn code(&self) -> u8 {
        match self {
            Self::Wrong(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }
}

type Outcome = Result<(), Failure>;

/// For all threads, once the verb is done.
const ENDS_WITHIN: Duration = Duration::from_millis(500);

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            return match (error.print(), error.use_stderr()) {
                (_, true) => ExitCode::from(2),
                (Ok(()), false) => ExitCode::SUCCESS,
                (Err(_), false) => ExitCode::from(3),
            };
        }
    };
    if !matches!(cli.verb, Verb::Run(_) | Verb::Demo(_)) {
        // A reader that goes away (`unwait history | head`) ends us quietly, as it ends any other program. An agent
        // must outlive whoever reads its log.
        // SAFETY: SIG_DFL installs no handler, and no thread runs yet.
        let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    }
    // Whoever waits for a disk leaves the others a thread.
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("unwait: {error}");
            return ExitCode::from(3);
        }
    };
    let outcome = runtime.block_on(dispatch(cli.verb)).and(out::finish());
    // What is at work ends, and the store is closed. A thread that hangs in a name look-up, or on a disk, keeps nobody from ending.
    runtime.shutdown_timeout(ENDS_WITHIN);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.text();
            if !text.is_empty() {
                eprintln!("{}", out::harmless(text));
            }
            ExitCode::from(failure.code())
        }
    }
}

async fn dispatch(verb: Verb) -> Outcome {
    match verb {
        Verb::Run(arguments) => run::run(arguments).await,
        Verb::Scan(arguments) => scan::scan(arguments).await,
        Verb::Check(arguments) => check::check(arguments).await,
        Verb::Test(arguments) => test::test(arguments),
        Verb::Plan(arguments) => plan::plan(arguments).await,
        Verb::Explain(arguments) => explain::explain(arguments).await,
        Verb::Act(arguments) => act::act(arguments).await,
        Verb::Approve(arguments) => approve::approve(arguments).await,
        Verb::Deny(arguments) => approve::deny(arguments).await,
        Verb::Pause(arguments) => pause::pause(arguments),
        Verb::Resume(arguments) => pause::resume(arguments),
        Verb::Silence(arguments) => silence::silence(arguments),
        Verb::Status(arguments) => status::status(arguments).await,
        Verb::History(arguments) => history::history(arguments).await,
        Verb::Replay(arguments) => replay::replay(arguments).await,
        Verb::Review(arguments) => review::review(arguments).await,
        Verb::Show(arguments) => show::show(arguments).await,
        Verb::Resolve(arguments) => resolve::resolve(arguments).await,
        Verb::Rearm(arguments) => rearm::rearm(arguments),
        Verb::Reload(arguments) => reload::reload(arguments).await,
        Verb::Slot(arguments) => slot::slot(arguments).await,
        Verb::Notify(verb) => notify::notify(verb).await,
        Verb::Discover(arguments) => discover::discover(arguments).await,
        Verb::Demo(arguments) => demo::demo(arguments).await,
        Verb::DemoService(arguments) => demo::service(arguments),
    }
}

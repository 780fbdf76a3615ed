//! systemd's Manager on the system bus: the few calls that a restart needs, each with a deadline.
//!
//! The interface is `org.freedesktop.systemd1(5)`. The connection is made when it is first needed and made again after
//! it broke: a bus that restarts must not take the agent's hands away for good.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::Mutex;
use zbus::export::futures_core::Stream;
use zbus::{Connection, DynamicType, MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant};

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// Restarts what runs, and starts nothing that does not.
pub const RESTART: &str = "TryRestartUnit";
pub const RELOAD: &str = "ReloadUnit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
/// Where systemd's own tools look (sd-bus.h: DEFAULT_SYSTEM_BUS_ADDRESS); zbus' default goes by /var/run, a link that
/// a small root file system may lack.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// zbus has none by default. PID 1 answers within milliseconds, but not while it reloads its units (seconds).
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Ends of jobs that may wait while we ask something else: a full queue would hold up the answer. A big host that boots
/// runs some hundreds of jobs in all.
const QUEUED_JOBS: NonZeroUsize = NonZeroUsize::new(1_024).expect("1,024 is not 0");

#[derive(Debug, Default)]
pub(in crate::ports::restarter) struct Bus {
    connection: Mutex<Option<Connection>>,
}

/// Why a call gave nothing.
#[derive(Debug)]
pub(in crate::ports::restarter) enum BusError {
    /// systemd said no: the D-Bus error's name and text.
    Answered { name: String, text: String },
    /// Nobody answered in time, or the bus is not there.
    Silent(String),
}

impl std::fmt::Display for BusError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answered { name, text } => write!(f, "{text} ({name})"),
            Self::Silent(why) => write!(f, "systemd did not answer over D-Bus: {why}"),
        }
    }
}

/// The Manager's `JobRemoved` signals: every end of a job, with the job's path and result.
pub(in crate::ports::restarter) struct JobsRemoved(MessageStream);

impl JobsRemoved {
    /// The result of this job, once it has ended: `done`, `failed`, `canceled`, `timeout`, `dependency`, `skipped`…
    /// `None` where the stream broke; then only polling tells.
    pub async fn result_of(&mut self, job: &OwnedObjectPath) -> Option<String> {
        loop {
            let next = std::future::poll_fn(|context| Pin::new(&mut self.0).poll_next(context)).await?;
            let message = next.ok()?;
            let Ok((_, path, _, result)) = message.body().deserialize::<(u32, OwnedObjectPath, String, String)>()
            else {
                continue;
            };
            if path == *job {
                return Some(result);
            }
        }
    }
}

/// One command of a unit: its program, its arguments, whether its failure is ignored; and its last run.
pub(in crate::ports::restarter) type Command = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

/// One unit of `ListUnits`: its name is the first field, its object's path the seventh.
type ListedUnit = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// Properties of one interface, as systemd gave them.
pub(in crate::ports::restarter) struct Properties(HashMap<String, OwnedVariant>);

impl Properties {
    /// A property that is absent or of another type is its type's empty value: older versions lack some.
    pub fn get<T: TryFrom<OwnedVariant> + Default>(&self, name: &str) -> T {
        self.0.get(name).and_then(|value| T::try_from(value.clone()).ok()).unwrap_or_default()
    }
}

impl Bus {
    async fn connection(&self) -> Result<Connection, BusError> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let builder = match std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS") {
            Some(_) => zbus::connection::Builder::system(),
            None => zbus::connection::Builder::address(SYSTEM_BUS),
        };
        let connecting = builder.method_timeout(CALL_DEADLINE).build();
        let connection = tokio::time::timeout(CALL_DEADLINE, connecting)
            .await
            .map_err(|_| BusError::Silent(format!("no answer within {CALL_DEADLINE:?}")))?
            .map_err(|error| BusError::Silent(error.to_string()))?;
        *held = Some(connection.clone());
        Ok(connection)
    }

    async fn call<B: serde::Serialize + DynamicType>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<Message, BusError> {
        let connection = self.connection().await?;
        match connection.call_method(Some(DESTINATION), path, Some(interface), method, body).await {
            Ok(answer) => Ok(answer),
            Err(zbus::Error::MethodError(name, text, _)) => {
                Err(BusError::Answered { name: name.to_string(), text: text.unwrap_or_default() })
            }
            Err(zbus::Error::FDO(error)) => Err(fdo(*error)),
            Err(error) => {
                // Made again by the next call.
                *self.connection.lock().await = None;
                Err(BusError::Silent(error.to_string()))
            }
        }
    }

    async fn object<B: serde::Serialize + DynamicType>(
        &self,
        method: &str,
        body: &B,
    ) -> Result<OwnedObjectPath, BusError> {
        let answer = self.call(MANAGER_PATH, MANAGER, method, body).await?;
        answer.body().deserialize().map_err(|error| BusError::Silent(error.to_string()))
    }

    /// The unit's path, loaded if need be; a unit without a file has one too (`LoadState` is `not-found`).
    pub async fn load(&self, unit: &str) -> Result<OwnedObjectPath, BusError> {
        self.object("LoadUnit", &(unit,)).await
    }

    pub async fn properties(&self, unit: &OwnedObjectPath, interface: &str) -> Result<Properties, BusError> {
        let interface = format!("org.freedesktop.systemd1.{interface}");
        let answer = self.call(unit.as_str(), "org.freedesktop.DBus.Properties", "GetAll", &(interface,)).await?;
        let properties = answer.body().deserialize().map_err(|error| BusError::Silent(error.to_string()))?;
        Ok(Properties(properties))
    }

    async fn get<T: TryFrom<OwnedVariant>>(&self, path: &str, interface: &str, name: &str) -> Result<T, BusError>
    where
        T::Error: std::fmt::Display,
    {
        let answer = self.call(path, "org.freedesktop.DBus.Properties", "Get", &(interface, name)).await?;
        let value: OwnedVariant = answer.body().deserialize().map_err(|error| BusError::Silent(error.to_string()))?;
        T::try_from(value).map_err(|error| BusError::Silent(error.to_string()))
    }

    /// Of the whole host: `running`, `degraded`, `stopping`…
    pub async fn system_state(&self) -> Result<String, BusError> {
        self.get(MANAGER_PATH, MANAGER, "SystemState").await
    }

    /// The main process of a service; 0 where it has none.
    pub async fn main_pid(&self, unit: &OwnedObjectPath) -> Result<u32, BusError> {
        self.get(unit.as_str(), SERVICE, "MainPID").await
    }

    /// The arguments of each command of this kind (`ExecStart`, `ExecStop`…), the program first.
    pub async fn commands(&self, unit: &OwnedObjectPath, kind: &str) -> Result<Vec<Vec<String>>, BusError> {
        let commands: Vec<Command> = self.get(unit.as_str(), SERVICE, kind).await?;
        Ok(commands.into_iter().map(|(_, argv, ..)| argv).collect())
    }

    /// The services that run, each with its object's path.
    pub async fn running_services(&self) -> Result<Vec<(String, OwnedObjectPath)>, BusError> {
        let which = (["active", "reloading", "deactivating"].as_slice(), ["*.service"].as_slice());
        let answer = self.call(MANAGER_PATH, MANAGER, "ListUnitsByPatterns", &which).await?;
        let units: Vec<ListedUnit> =
            answer.body().deserialize().map_err(|error| BusError::Silent(error.to_string()))?;
        Ok(units.into_iter().map(|unit| (unit.0, unit.6)).collect())
    }

    /// The ends of jobs from now on. The match comes first: systemd sends no signal before somebody has subscribed.
    pub async fn jobs_removed(&self) -> Result<JobsRemoved, BusError> {
        let connection = self.connection().await?;
        let silent = |error: zbus::Error| BusError::Silent(error.to_string());
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .sender(DESTINATION)
            .interface(MANAGER)
            .member("JobRemoved")
            .build()
            .map_err(silent)?;
        let stream = MessageStream::for_match_rule(rule, &connection, Some(QUEUED_JOBS)).await.map_err(silent)?;
        match self.call(MANAGER_PATH, MANAGER, "Subscribe", &()).await {
            Ok(_) => {}
            Err(BusError::Answered { name, .. }) if name.ends_with("AlreadySubscribed") => {}
            Err(error) => return Err(error),
        }
        Ok(JobsRemoved(stream))
    }

    /// Reloads the unit, and starts nothing that does not run; the job's path.
    pub async fn reload(&self, unit: &str) -> Result<OwnedObjectPath, BusError> {
        self.object(RELOAD, &(unit, "replace")).await
    }

    /// Restarts the unit if it runs, and starts nothing that does not; the job's path.
    pub async fn try_restart(&self, unit: &str) -> Result<OwnedObjectPath, BusError> {
        self.object(RESTART, &(unit, "replace")).await
    }
}

/// The standard errors come as an enum of their own.
fn fdo(error: zbus::fdo::Error) -> BusError {
    use zbus::DBusError;
    match error {
        zbus::fdo::Error::NoReply(text) | zbus::fdo::Error::Timeout(text) | zbus::fdo::Error::Disconnected(text) => {
            BusError::Silent(text)
        }
        zbus::fdo::Error::ServiceUnknown(text) | zbus::fdo::Error::NameHasNoOwner(text) => {
            BusError::Silent(format!("systemd is not connected to the bus: {text}"))
        }
        other => BusError::Answered {
            name: other.name().to_string(),
            text: other.description().unwrap_or_default().to_owned(),
        },
    }
}

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
/// Where systemd's own tools look (sd-bus.h: DEFAULT_SYSTEM_BUS_ADDRESS); zbus' default goes by /var/run, a link that
/// a small root file system may lack.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// zbus has none by default. PID 1 answers within milliseconds, but not while it reloads its units (seconds).
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Ends of jobs that may wait while we ask something else: a full queue would hold up the answer. A big host that boots
/// runs some hundreds of jobs in all.
const QUEUED_JOBS: NonZeroUsize = NonZeroUsize::new(1_024).expect("1,024 is not 0");

#[derive(Debug, Default)]
pub(super) struct Bus {
    connection: Mutex<Option<Connection>>,
}

/// Why a call gave nothing.
#[derive(Debug)]
pub(super) enum BusError {
    /// systemd said no: the D-Bus error's name and text.
    Answered { name: String, text: String },
    /// Nobody answered in time, or the bus is not there.
    Silent(String),
}

impl std::fmt::Display for BusError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answered { name, text } => write!(f, "{text} ({name})"),
            Self::Silent(why) => write!(f, "systemd could not be asked over D-Bus: {why}"),
        }
    }
}

/// The Manager's `JobRemoved` signals: every end of a job, with the job's path and result.
pub(super) struct JobsRemoved(MessageStream);

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

/// Properties of one interface, as systemd gave them.
pub(super) struct Properties(HashMap<String, OwnedVariant>);

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
            .map_err(|_| BusError::Silent(format!("the bus did not answer within {CALL_DEADLINE:?}")))?
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

    /// Of the whole host: `running`, `degraded`, `stopping`…
    pub async fn system_state(&self) -> Result<String, BusError> {
        let which = (MANAGER, "SystemState");
        let answer = self.call(MANAGER_PATH, "org.freedesktop.DBus.Properties", "Get", &which).await?;
        let state: OwnedVariant = answer.body().deserialize().map_err(|error| BusError::Silent(error.to_string()))?;
        String::try_from(state).map_err(|error| BusError::Silent(error.to_string()))
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
        self.object("ReloadUnit", &(unit, "replace")).await
    }

    /// Restarts the unit if it runs, and starts nothing that does not; the job's path.
    pub async fn try_restart(&self, unit: &str) -> Result<OwnedObjectPath, BusError> {
        self.object("TryRestartUnit", &(unit, "replace")).await
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
            BusError::Silent(format!("systemd is not on the bus: {text}"))
        }
        other => BusError::Answered {
            name: other.name().to_string(),
            text: other.description().unwrap_or_default().to_owned(),
        },
    }
}

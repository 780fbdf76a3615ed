//! What may go wrong with a service, its registry, its manager and its host.

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
pub enum Fault {
    Nothing,
    EvidenceNotKept,
    /// Asked again before its n-th change, a guard refuses.
    RefusedAtFirst,
    RefusedAtSecond,
    /// The registry does not take the drain.
    DrainRefused,
    /// It took the drain, and the answer was lost.
    DrainAnswerLost,
    /// It fails its registry's check before us, and passes it once it is restarted.
    FailsItsCheck,
    /// Once drained, it takes nothing but what puts back: as an etcd without room.
    FullOnceDrained,
    /// Somebody isolated the service before us.
    IsolatedBefore,
    /// Inbound connections idle from the beginning on and never end, and the runbook unwinds.
    NeverEmpty,
    /// The restart is refused before anything happens.
    RestartRefused,
    StartLimit,
    /// The restart ends the service, and nothing comes up.
    RestartDies,
    /// The manager does not answer, and nothing happened.
    RestartUnheard,
    /// The manager's answer is lost, and a new incarnation runs.
    RestartAnswerLost,
    /// The manager can only stop and start.
    TwoHalves,
    UnhealthyAfterRestart,
    /// It registers itself anew at its start: our drain is gone.
    RegistersItself,
    /// The restart ends its registration, and it registers itself only a while after it answers: our drain still stands.
    RegistersLate,
    /// The same, and our drain is gone.
    RegistersLateInTraffic,
    /// The restart ends its registration for good.
    NeverRegistersAgain,
    /// Somebody else restarts the service while it is drained.
    RestartedWhileDrained,
    /// It falls ill while it is drained, and the restart is refused.
    IllWhileDrained,
    /// A person isolates it while we hold it drained.
    IsolatedWhileDrained,
    /// It leaves the registry while it is drained.
    DeregisteredWhileDrained,
    /// Another controller puts it back 3 s after it was drained, once.
    PutBackWhileDrained,
    /// The view that clients read shows a change 20 s after the record does, and the last of them follows 95 s after it.
    ClientsSlow,
    /// The view that clients read never shows it again, once it was drained.
    ClientsNeverFind,
    /// Clients go on connecting to it, whatever the registry shows.
    ClientsStay,
    /// The registry does not answer the first three tries to put it back.
    RegistryAwayAtRestore,
    /// The registry does not answer the first tries of an undo.
    RegistryAwayAtUndo,
    /// It falls ill once it is back in traffic.
    IllInTraffic,
    /// Ill once back in traffic, and the registry takes no second drain.
    IllInTrafficAndHeld,
    NotHelped,
    CannotBeMeasuredAtTheEnd,
    /// A socket is passing through CLOSE_WAIT at the moment of the first look at the end.
    PassesThrough,
    /// The service goes on as it was.
    ReloadFails,
    ReloadAnswerLost,
    ReloadDies,
    /// A worker ignores the signal.
    WorkerStays,
    /// The master starts no new workers.
    NoneStarted,
    /// The master ends with its workers, and is started anew.
    MasterDies,
    CloseRefused,
    /// The program keeps the descriptors of the sockets that were closed.
    DescriptorsStay,
    /// It falls ill of a gentler step.
    IllOfIt,
}

impl Fault {
    /// Happens in the gentler steps alone.
    pub fn is_of_a_gentle_step(self) -> bool {
        use Fault::*;
        let breaks = matches!(self, ReloadFails | ReloadAnswerLost | ReloadDies | CloseRefused | DescriptorsStay);
        breaks || matches!(self, WorkerStays | NoneStarted | MasterDies | IllOfIt)
    }
}

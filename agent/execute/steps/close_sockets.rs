//! `close_sockets`: the kernel closes the leaked sockets in the service's place (SOCK_DESTROY).
//!
//! That frees the kernel's state and tells the peer, but no descriptor: a program that does not look at the socket keeps it,
//! in state CLOSE, where nothing shows it any more. So it helped only where the program has let go of all of them.

use std::time::Duration;

use super::{Done, Failure, same_lifetime};
use crate::execute::saga::{Helped, Saga};
use crate::execute::world::{Closed, World};
use crate::model::{Reason, duration};

pub async fn apply(
    saga: &Saga,
    step: usize,
    older_than: Duration,
    at_most: u64,
    world: &World,
) -> Result<Done, Failure> {
    let closed = world.kernel.close_sockets(saga.plan(), older_than, at_most).await;
    let Closed { found, closed, leaked } = closed.map_err(|error| Failure::new(Reason::CloseFailed, error))?;
    same_lifetime(saga, step, Reason::CloseFailed, world).await?;
    let not_helped = |detail: String| Ok(Done { helped: Some(Helped::No), ..Done::saying(detail) });
    if found == 0 {
        let detail = format!("no socket has been in CLOSE_WAIT for {}", duration::format(older_than));
        return Err(Failure::new(Reason::NothingToDo, detail));
    }
    let more = match found - closed {
        0 => String::new(),
        more => format!(" (of {found}; {more} are left, or had gone by themselves)"),
    };
    match leaked {
        Some(0) => Ok(Done::saying(format!("{closed} sockets were closed{more}, and their descriptors are free"))),
        Some(leaked) => not_helped(format!(
            "{closed} sockets were closed{more}, but {leaked} of their descriptors STAY LEAKED: the service holds them in \
             state CLOSE, where they count against its limit (`fd.closed`); a restart frees them"
        )),
        None => Ok(Done {
            helped: Some(Helped::Unknown),
            ..Done::saying(format!(
                "{closed} sockets were closed{more}; their descriptors may still be held, since some processes of the \
                 service could not be read"
            ))
        }),
    }
}

//! Secrets that change while the agent runs, and logins that give a token; for every adapter that names itself to a
//! server.
//!
//! A [`Secret`] stands in a file. Where the server refuses it, the file is read again, and another word that stands there
//! by then is tried once. A [`Login`] is shared by all adapters of this host that ask the same server as the same user:
//! a login may cost the server more than all else (etcd hashes the password for 70 ms of a core, and goes on after the
//! client has gone). So one login is under way at a time, no caller takes it along when it gives up, and after a failure
//! the next one waits.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as BlockingMutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::User;
use crate::model::duration;
use crate::trust;

/// A password or a token, as it is known now. A clone is the same secret.
#[derive(Clone, Debug)]
pub struct Secret {
    now: Arc<BlockingMutex<SecretString>>,
    file: Option<PathBuf>,
}

impl Secret {
    /// What stands in `file`; white space around it does not count.
    pub fn in_file(file: PathBuf) -> std::io::Result<Self> {
        let now = read(&file)?;
        Ok(Self { now: Arc::new(BlockingMutex::new(now)), file: Some(file) })
    }

    pub fn now(&self) -> SecretString {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What its file holds now, for a server that does not say of a secret that it is another by now. Where it cannot be read,
    /// or is empty for the moment in which somebody writes it, what was known before.
    pub fn read_again(&self) -> SecretString {
        if let Some(file) = &self.file
            && let Ok(found) = read(file)
            && !found.expose_secret().is_empty()
        {
            *self.now.lock().unwrap_or_else(PoisonError::into_inner) = found;
        }
        self.now()
    }

    /// Asks with the secret. Where it is refused and its file holds another one by now, asks once more, with that one.
    pub async fn with<T, E, F>(
        &self,
        ask: impl Fn(SecretString) -> F + Send + Sync,
        is_refused: impl Fn(&E) -> bool + Send + Sync,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: Send,
    {
        let secret = self.now();
        match ask(secret.clone()).await {
            Err(error) if is_refused(&error) && self.renew(&secret) => ask(self.now()).await,
            answer => answer,
        }
    }

    /// True where another word than the one that was refused is known now.
    fn renew(&self, refused: &SecretString) -> bool {
        let Some(file) = &self.file else { return false };
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if !same(&now, refused) {
            return true;
        }
        let shown = file.display();
        match read(file) {
            // Empty for the moment in which somebody writes it.
            Ok(found) if same(&found, refused) || found.expose_secret().is_empty() => false,
            Ok(found) => {
                tracing::warn!(
                    file = %shown,
                    "the server refused the former secret of {shown}; trying the new one in that file",
                );
                *now = found;
                true
            }
            Err(error) => {
                tracing::warn!(
                    file = %shown,
                    %error,
                    "the server refused the secret of {shown}, and that file cannot be read again: {error}",
                );
                false
            }
        }
    }
}

impl From<String> for Secret {
    /// One that stands in no file, and stays as it is.
    fn from(secret: String) -> Self {
        Self { now: Arc::new(BlockingMutex::new(secret.into())), file: None }
    }
}

fn read(file: &Path) -> std::io::Result<SecretString> {
    Ok(SecretString::from(trust::read_secret(file)?.trim().to_owned()))
}

fn same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}

/// For one login: a fleet of 1,000 hosts that log in at once keeps four cores of an etcd at work for 18 s.
pub(super) const LOGIN_DEADLINE: Duration = Duration::from_secs(60);
/// Hosts whose logins ended at the same moment ask again at different ones.
const SPREAD: Duration = Duration::from_millis(500);
/// After a login that cost the server something in vain; doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why there is no token; in the server's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// No connection: it cost the server nothing, and may be asked again at once.
    NotReached(String),
    /// The same, by TLS: a person must look.
    Distrusted(String),
    /// May pass.
    Unanswered(String),
    /// A person must look.
    Refused(String),
}

/// A user of a server that gives tokens, and the last token that it gave.
#[derive(Debug)]
pub struct Login {
    user: User,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    token: Option<SecretString>,
    /// How the last login failed; nobody asks again before its pause is over.
    failed: Option<LoginError>,
    failures: u32,
}

impl Login {
    pub fn new(user: User) -> Arc<Self> {
        Arc::new(Self { user, kept: Arc::default() })
    }

    /// The user's name, for the request of `ask`.
    pub fn name(&self) -> &str {
        &self.user.name
    }

    /// A token; another one than `spent`, which the server takes no more. `ask` logs in once, with the password that it is
    /// handed. Waits for `patience` at the most; the login itself goes on, and its token serves the next question.
    pub async fn token<F>(
        &self,
        spent: Option<&SecretString>,
        patience: Duration,
        ask: impl Fn(SecretString) -> F + Send + Sync + 'static,
    ) -> Result<SecretString, LoginError>
    where
        F: Future<Output = Result<SecretString, LoginError>> + Send + 'static,
    {
        let asked = async {
            let kept = Arc::clone(&self.kept).lock_owned().await;
            match (&kept.token, &kept.failed) {
                (Some(token), _) if spent.is_none_or(|spent| !same(token, spent)) => return Ok(token.clone()),
                (_, Some(failed)) => return Err(failed.clone()),
                _ => {}
            }
            if spent.is_some() {
                tracing::info!(user = self.name(), "the login of user {} has expired; logging in again", self.name());
            }
            let login = log_in(kept, Arc::clone(&self.kept), self.user.password.clone(), ask);
            tokio::spawn(login).await.unwrap_or_else(|lost| Err(LoginError::Unanswered(format!("login: {lost}"))))
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(LoginError::Unanswered(format!(
                "the login of user {} has no answer after {}; the agent waits up to {}",
                self.name(),
                duration::format(patience),
                duration::format(LOGIN_DEADLINE)
            ))),
        }
    }
}

/// Holds what is kept until it has ended, so that nobody else logs in meanwhile.
async fn log_in<F>(
    mut kept: OwnedMutexGuard<Kept>,
    shared: Arc<Mutex<Kept>>,
    password: Secret,
    ask: impl Fn(SecretString) -> F + Send + Sync,
) -> Result<SecretString, LoginError>
where
    F: Future<Output = Result<SecretString, LoginError>> + Send,
{
    tokio::time::sleep(share_of(SPREAD)).await;
    let login = password.with(ask, |error| matches!(error, LoginError::Refused(_)));
    let answer = tokio::time::timeout(LOGIN_DEADLINE, login).await;
    let answer = answer.unwrap_or_else(|_| {
        Err(LoginError::Unanswered(format!("the login has no answer within {}", duration::format(LOGIN_DEADLINE))))
    });
    match &answer {
        Ok(token) => *kept = Kept { token: Some(token.clone()), ..Kept::default() },
        Err(LoginError::NotReached(_) | LoginError::Distrusted(_)) => {}
        Err(failed) => {
            let pause = LONGEST_PAUSE.min(PAUSE * 2u32.pow(kept.failures.min(9)));
            kept.failures += 1;
            kept.failed = Some(failed.clone());
            let shared = Arc::downgrade(&shared);
            tokio::spawn(async move {
                tokio::time::sleep(pause + share_of(pause)).await;
                if let Some(kept) = shared.upgrade() {
                    kept.lock().await.failed = None;
                }
            });
        }
    }
    answer
}

/// Between none and all of it, another share each time and on each host.
fn share_of(time: Duration) -> Duration {
    time.mul_f64((RandomState::new().hash_one(()) % 1_000) as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn login(file: Option<&std::path::Path>) -> Arc<Login> {
        let password = match file {
            Some(file) => Secret::in_file(file.into()).unwrap(),
            None => "hush".to_owned().into(),
        };
        Login::new(User { name: "unwait".into(), password })
    }

    fn refused() -> LoginError {
        LoginError::Refused("authentication failed".into())
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_together_log_in_once_and_who_gives_up_takes_nothing_along() {
        let login = login(None);
        let asked = Arc::new(AtomicU32::new(0));
        // As busy as an etcd that a whole fleet asks at once.
        let slow = || {
            let asked = Arc::clone(&asked);
            move |_| {
                let nth = asked.fetch_add(1, Ordering::Relaxed);
                async move {
                    tokio::time::sleep(Duration::from_secs(20)).await;
                    Ok(SecretString::from(format!("token {nth}")))
                }
            }
        };
        let patience = Duration::from_secs(5);
        for _ in 0..3 {
            let (one, other) = tokio::join!(login.token(None, patience, slow()), login.token(None, patience, slow()));
            for answer in [one, other] {
                assert!(
                    matches!(&answer, Err(LoginError::Unanswered(says)) if says.contains("waits up to")),
                    "{answer:?}"
                );
            }
        }
        let token = login.token(None, LOGIN_DEADLINE, slow()).await.unwrap();
        assert_eq!((token.expose_secret(), asked.load(Ordering::Relaxed)), ("token 0", 1));
        // Two whose token has ended: one login.
        let (one, other) = tokio::join!(
            login.token(Some(&token), LOGIN_DEADLINE, slow()),
            login.token(Some(&token), LOGIN_DEADLINE, slow())
        );
        assert_eq!((one.unwrap().expose_secret(), other.unwrap().expose_secret()), ("token 1", "token 1"));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_in_vain_is_not_repeated_at_once_and_no_connection_is() {
        for (failure, repeated) in [
            (refused(), false),
            (LoginError::Unanswered("503".into()), false),
            (LoginError::NotReached("connection refused".into()), true),
        ] {
            let login = login(None);
            let asked = Arc::new(AtomicU32::new(0));
            let fails = || {
                let (asked, failure) = (Arc::clone(&asked), failure.clone());
                move |_| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let failure = failure.clone();
                    async move { Err(failure) }
                }
            };
            for _ in 0..3 {
                assert_eq!(login.token(None, LOGIN_DEADLINE, fails()).await.unwrap_err(), failure);
            }
            assert_eq!(asked.load(Ordering::Relaxed), if repeated { 3 } else { 1 }, "{failure:?}");
            tokio::time::sleep(LONGEST_PAUSE * 2).await;
            let works = |_| async { Ok(SecretString::from("token".to_owned())) };
            assert_eq!(login.token(None, LOGIN_DEADLINE, works).await.unwrap().expose_secret(), "token");
        }
    }

    #[test]
    fn a_secret_is_as_its_file_has_it_and_the_former_where_that_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        trust::write_secret(&file, "one\n");
        let secret = Secret::in_file(file.clone()).unwrap();
        for (text, is) in [("two\n", "two"), ("", "two"), ("three", "three")] {
            trust::write_secret(&file, text);
            assert_eq!(secret.read_again().expose_secret(), is);
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(secret.read_again().expose_secret(), "three");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_word_is_read_again_from_its_file_and_another_one_tried_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        trust::write_secret(&file, "old\n");
        let login = login(Some(&file));
        let tried = Arc::new(BlockingMutex::new(Vec::new()));
        let only = |right: &'static str| {
            let tried = Arc::clone(&tried);
            move |password: SecretString| {
                tried.lock().unwrap().push(password.expose_secret().to_owned());
                async move {
                    match password.expose_secret() == right {
                        true => Ok(SecretString::from("token".to_owned())),
                        false => Err(refused()),
                    }
                }
            }
        };
        assert_eq!(login.token(None, LOGIN_DEADLINE, only("new")).await.unwrap_err(), refused());
        tokio::time::sleep(LONGEST_PAUSE * 2).await;
        for half_written in ["", "old"] {
            trust::write_secret(&file, half_written);
            assert_eq!(login.token(None, LOGIN_DEADLINE, only("new")).await.unwrap_err(), refused());
            tokio::time::sleep(LONGEST_PAUSE * 2).await;
        }
        trust::write_secret(&file, "new");
        login.token(None, LOGIN_DEADLINE, only("new")).await.unwrap();
        assert_eq!(*tried.lock().unwrap(), ["old", "old", "old", "old", "new"]);
    }
}

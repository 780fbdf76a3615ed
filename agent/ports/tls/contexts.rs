//! The TLS contexts that are in use in this process, each shared by whoever asks the same servers by the same files.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use super::{TlsContext, locked};
use crate::model::Tls;

/// A clone is the same. What nobody uses any more is no longer in it.
#[derive(Clone, Debug, Default)]
pub struct Contexts(Arc<Mutex<Known>>);

/// By whose connections they are, and by the files.
type Known = BTreeMap<(String, Tls), Weak<TlsContext>>;

impl Contexts {
    /// The context of these connections by these files; a new configuration that says the same goes on with the former.
    pub fn of(&self, of: &str, tls: &Tls) -> Result<Arc<TlsContext>, String> {
        let key = (of.to_owned(), tls.clone());
        let mut known = locked(&self.0);
        if let Some(context) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(context);
        }
        let made = TlsContext::new(of, tls.clone())?;
        known.retain(|_, context| context.strong_count() > 0);
        known.insert(key, Arc::downgrade(&made));
        Ok(made)
    }

    /// In the order of whose connections they are.
    pub fn all(&self) -> Vec<Arc<TlsContext>> {
        locked(&self.0).values().filter_map(Weak::upgrade).collect()
    }

    /// Looks at all files now; what cannot be used is told in the log.
    pub fn look(&self) {
        for context in self.all() {
            let _ = context.look();
        }
    }
}

//! User and password that may change while a connection lives.

use crate::io::generation::PerProcess;
use crate::io::lock::Mutex;
use std::fmt;
use std::sync::Arc;

type Secrets = (Option<String>, Option<String>);

/// What a link logs in with: whoever has credentials that expire sets them anew before the connection
/// is used without a link. Clones are the same. `Debug` shows nothing of it.
#[derive(Clone, Default)]
pub struct Login(Arc<PerProcess<Mutex<Option<Secrets>>>>);

impl Login {
    /// Sets user and password.
    pub fn set(&self, username: Option<String>, password: Option<String>) {
        *self.here().lock() = Some((username, password));
    }

    /// User and password, if they were ever set.
    pub fn get(&self) -> Option<Secrets> {
        self.here().lock().clone()
    }

    /// A child begins with what its parent has.
    fn here(&self) -> &Mutex<Option<Secrets>> {
        self.0.get_or(|| {
            let parent = self.0.inherited().and_then(Mutex::try_lock);
            Mutex::new(parent.and_then(|secrets| secrets.clone()))
        })
    }
}

impl PartialEq for Login {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Login {}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

//! Which objects still have the native methods: the fast paths ask.
//!
//! A class says itself which names its fast paths go around (`_gone_around`), and which class of ours
//! has the native ones (`_native_class`); a class derived from that, or an object, may have its own.

use crate::io::lock::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What an object of ours remembers of the question.
#[derive(Debug, Default)]
pub struct Plain {
    /// The object itself was given an attribute in the place of one of its class.
    replaced: AtomicBool,
    /// The version of its class that was found to have the native ones last time.
    seen: AtomicU32,
}

impl Plain {
    /// Notes that the object has an attribute of its own.
    pub fn replace(&self) {
        self.replaced.store(true, Ordering::Relaxed);
    }

    /// Whether object and class have the native ones.
    pub fn holds(&self, class: &Bound<'_, PyType>) -> bool {
        if self.replaced.load(Ordering::Relaxed) {
            return false;
        }
        let now = version(class);
        if now != 0 && now == self.seen.load(Ordering::Relaxed) {
            return true;
        }
        let plain = is_plain(class);
        self.seen.store(if plain { version(class) } else { 0 }, Ordering::Relaxed);
        plain
    }
}

/// The number that CPython gives to a class each time its attributes, or those of a class that it is
/// derived from, have changed; 0 when it has none just now.
fn version(class: &Bound<'_, PyType>) -> u32 {
    // SAFETY: the class is alive, and the field is written under the GIL, which is held here.
    unsafe { (*class.as_type_ptr()).tp_version_tag }
}

/// Most answers that are kept.
const KNOWN: usize = 1024;

static ANSWERS: Mutex<Option<HashMap<u32, bool>>> = Mutex::new(None);

/// Whether `class` has all of our own attributes that its fast paths go around. Asked anew when the
/// class has changed.
pub fn is_plain(class: &Bound<'_, PyType>) -> bool {
    let known = ANSWERS.lock().as_ref().and_then(|known| known.get(&version(class)).copied());
    if let Some(known) = known {
        return known;
    }
    let answer = look(class).unwrap_or(false);
    let version = version(class); // looking gives it one
    if version != 0 {
        let mut answers = ANSWERS.lock();
        let answers = answers.get_or_insert_default();
        if answers.len() == KNOWN {
            answers.clear();
        }
        answers.insert(version, answer);
    }
    answer
}

fn look(class: &Bound<'_, PyType>) -> PyResult<bool> {
    let own = class.getattr("_native_class")?;
    for name in own.getattr("_gone_around")?.try_iter()? {
        let name = name?.cast_into::<pyo3::types::PyString>()?;
        if !class.getattr(&name)?.is(&own.getattr(&name)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

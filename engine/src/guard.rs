//! Panics become errors: a bug costs the connection on which it shows, not the process.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps the text of a panic for `guarded`, instead of printing it.
pub fn install_hook() {
    panic::set_hook(Box::new(|info| {
        LAST.with(|last| *last.borrow_mut() = info.to_string());
    }));
}

/// Runs `work`. Returns the text of a panic as an error.
///
/// What `work` modifies may be inconsistent after a panic and must not be used again.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        let text = LAST.with(|last| last.take());
        if text.is_empty() { "panic".to_string() } else { text }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_passes_through() {
        assert_eq!(guarded(|| 7), Ok(7));
    }

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        install_hook();
        let result = guarded(|| -> u8 { panic!("broken invariant") });
        assert!(result.unwrap_err().contains("broken invariant"));
    }
}

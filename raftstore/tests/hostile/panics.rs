//! Panics, wherever they end: those of tasks are caught by their runtime, and nobody else would notice.

use std::cell::RefCell;
use std::panic::{set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Does `work`, in which nothing on this thread may panic.
pub fn none_in<T>(work: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let told = take_hook();
        set_hook(Box::new(move |panic| {
            SEEN.with_borrow_mut(|seen| seen.push(panic.to_string()));
            told(panic);
        }));
    });
    SEEN.take();
    let done = work();
    let seen = SEEN.take();
    assert!(seen.is_empty(), "{seen:?}");
    done
}

//! Notices when a task that openraft started for a group panics.
//!
//! openraft notices so where it waits for the task, or next sends it something. For the one that makes a
//! snapshot it does neither: a machine that panics while it is copied would leave a group that waits for its
//! snapshot for ever, its log growing. So every task is started under the supervisor of the task that starts
//! it.

use futures_util::FutureExt;
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use tokio::sync::watch;

tokio::task_local! {
    static SUPERVISOR: Supervisor;
}

/// Hears of panics of the tasks started within [`watch_over`](Self::watch_over), and of those that they
/// start.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor {
    panicked: Arc<watch::Sender<Option<String>>>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self { panicked: Arc::new(watch::Sender::new(None)) }
    }
}

impl Supervisor {
    /// Runs `future` so that the tasks it starts are under this supervisor.
    pub(crate) fn watch_over<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        SUPERVISOR.scope(self.clone(), future)
    }

    /// Resolves with the message of the first panic.
    pub(crate) async fn panicked(&self) -> String {
        let mut panicked = self.panicked.subscribe();
        loop {
            if let Some(message) = panicked.borrow_and_update().clone() {
                return message;
            }
            if panicked.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What to start in place of `future`: the same, under the supervisor of whoever starts it, if there is
    /// one.
    pub(super) fn supervised<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
        let supervisor = SUPERVISOR.try_with(Self::clone).ok();
        async move {
            let Some(supervisor) = supervisor else { return future.await };
            // Nothing is looked at again that the panic may have left half-way: the group stops.
            match AssertUnwindSafe(supervisor.watch_over(future)).catch_unwind().await {
                Ok(output) => output,
                Err(panic) => {
                    let message = message(&*panic);
                    supervisor
                        .panicked
                        .send_if_modified(|first| first.is_none() && first.replace(message).is_none());
                    resume_unwind(panic)
                }
            }
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;
    use openraft::async_runtime::AsyncRuntime;

    /// A panic is heard of from the task of a task, and its own waiters are told as ever.
    #[tokio::test]
    async fn panics_are_heard_of_however_deep() {
        let supervisor = Supervisor::default();
        let inner = async { Runtime::spawn(async { panic!("{} left", 3) }).await };
        let outer = supervisor.watch_over(async move { Runtime::spawn(inner).await });
        let inner: Result<(), _> = outer.await.unwrap();
        assert!(inner.unwrap_err().is_panic());
        assert_eq!(supervisor.panicked().await, "3 left");
    }

    /// Who is under another supervisor, or under none, is nobody else's concern.
    #[tokio::test]
    async fn supervisors_hear_of_their_own_alone() {
        let (one, other) = (Supervisor::default(), Supervisor::default());
        let lost: Result<(), _> =
            one.watch_over(async { Runtime::spawn(async { panic!("mine") }).await }).await;
        let stray: Result<(), _> = Runtime::spawn(async { panic!("nobody's") }).await;
        assert!(lost.is_err() && stray.is_err());
        assert_eq!(one.panicked().now_or_never(), Some("mine".to_owned()));
        assert_eq!(other.panicked().now_or_never(), None);
    }
}

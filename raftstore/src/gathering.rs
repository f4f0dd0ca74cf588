//! Waiting for company without a timer, for tasks that carry out together what others hand them.

use tokio::task::yield_now;

/// How often others go first at most: more may come with each turn for as long as a cluster is busy.
const TURNS_MAX: usize = 8;

/// Lets others go first, once and then for as long as more waits after each turn, as `waiting` tells.
///
/// The scheduler runs a task that has just been woken before others that are ready to hand something in. And callers
/// who are answered together come again one by one: the first of them would leave alone, and all others behind it.
pub(crate) async fn let_others_come(waiting: impl Fn() -> usize) {
    let mut before = waiting();
    for _ in 0..TURNS_MAX {
        yield_now().await;
        let now = waiting();
        if now <= before {
            return;
        }
        before = now;
    }
}

//! What a cluster's nodes say of their logs: how often they were synced, and how much was written to them.

use anyhow::{Context, Result};

/// What the nodes' logs took, all together, since each node was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Logs {
    pub(crate) syncs: u64,
    pub(crate) bytes: u64,
}

impl Logs {
    /// Of these nodes, each as `http://host:port`.
    ///
    /// # Errors
    /// A node that does not answer, or does not say.
    pub(crate) async fn of(http: &reqwest::Client, nodes: &[String]) -> Result<Self> {
        let mut sum = Self::default();
        for node in nodes {
            let answer = http.get(format!("{node}/metrics")).send().await;
            let page = answer.and_then(reqwest::Response::error_for_status)?.text().await?;
            sum.syncs += metric(&page, "flotilla_log_syncs_total")?;
            sum.bytes += metric(&page, "flotilla_log_bytes_total")?;
        }
        Ok(sum)
    }

    /// What they took since `before`; an error where a counter went back, as it does with a new process.
    pub(crate) fn since(self, before: Self) -> Result<Self> {
        let taken = || {
            let syncs = self.syncs.checked_sub(before.syncs)?;
            Some(Self { syncs, bytes: self.bytes.checked_sub(before.bytes)? })
        };
        taken().context("a server was restarted while it was measured: its counters went back")
    }
}

fn metric(page: &str, name: &str) -> Result<u64> {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.with_context(|| format!("metrics have no {name}"))?;
    value.parse().with_context(|| format!("metric {name} is no number: {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A metric is found under its whole name, and what is missing or damaged is named.
    #[test]
    fn pages() {
        let page = "# HELP a_total x\na_total_more 1\na_total 7\nb_total x\n";
        assert_eq!(metric(page, "a_total").expect("it is there"), 7);
        for bad in ["b_total", "c_total"] {
            let error = metric(page, bad).expect_err(bad);
            assert!(error.to_string().contains(bad), "{error}");
        }
    }

    /// Counters that went back are an error, no panic.
    #[test]
    fn restarts_are_told() {
        let before = Logs { syncs: 7, bytes: 70 };
        assert_eq!(before.since(Logs::default()).expect("counters grew"), before);
        assert!(Logs { syncs: 6, ..before }.since(before).is_err());
    }
}

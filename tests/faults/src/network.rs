//! The links between nodes, in one of two makes: network namespaces, where the kernel drops packets, or
//! proxies in this process, where the machine does not allow those. Clients reach every node at all times: a
//! cut-off node that went on answering them is what is looked for.

mod namespaces;
mod proxies;

pub(crate) use namespaces::Namespaces;
pub(crate) use proxies::Proxies;

use anyhow::Result;

/// Where nodes take other nodes' connections, and clients'.
pub(crate) const PEER_PORT: u16 = 7201;
pub(crate) const HTTP_PORT: u16 = 7101;

/// The links of all nodes.
#[derive(Debug)]
pub(crate) enum Network {
    /// Each node in a network namespace of its own, all on one bridge.
    Namespaces(Namespaces),
    /// Each node behind a proxy, all on loopback.
    Proxies(Proxies),
}

impl Network {
    /// In one line, for whoever reads what ran.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Namespaces(namespaces) => namespaces.describe(),
            Self::Proxies(_) => "a TCP proxy before each node, telling the callers apart".to_owned(),
        }
    }

    /// The words in front of a node's program.
    pub(crate) fn wrapper(&self, node: u64) -> Vec<String> {
        match self {
            Self::Namespaces(namespaces) => namespaces.wrapper(node),
            Self::Proxies(_) => Vec::new(),
        }
    }

    /// Where a node listens for other nodes.
    pub(crate) fn peer_listen(&self, node: u64) -> String {
        match self {
            Self::Namespaces(namespaces) => format!("{}:{PEER_PORT}", namespaces.address(node)),
            Self::Proxies(proxies) => proxies.behind(node).to_string(),
        }
    }

    /// Where other nodes reach it.
    pub(crate) fn peer(&self, node: u64) -> String {
        match self {
            Self::Namespaces(_) => self.peer_listen(node),
            Self::Proxies(proxies) => proxies.before(node).to_string(),
        }
    }

    /// Where clients reach it.
    pub(crate) fn http(&self, node: u64) -> String {
        match self {
            Self::Namespaces(namespaces) => format!("{}:{HTTP_PORT}", namespaces.address(node)),
            Self::Proxies(proxies) => format!("{}:{HTTP_PORT}", proxies.behind(node).ip()),
        }
    }

    /// Nothing of what `from` sends reaches `to`.
    pub(crate) fn cut(&self, from: u64, to: u64) -> Result<()> {
        match self {
            Self::Namespaces(namespaces) => namespaces.cut(from, to),
            Self::Proxies(proxies) => {
                proxies.change(|links| links.cut(from, to));
                Ok(())
            }
        }
    }

    /// So many of a hundred packets to each of `nodes` are lost.
    pub(crate) fn lose(&self, nodes: &[u64], percent: u32) -> Result<()> {
        match self {
            Self::Namespaces(namespaces) => nodes.iter().try_for_each(|node| namespaces.lose(*node, percent)),
            Self::Proxies(proxies) => {
                proxies.change(|links| links.lose(nodes, percent));
                Ok(())
            }
        }
    }

    /// What reaches or leaves `nodes` takes so much longer, where the kernel has a queue for that; else their
    /// links become narrow.
    pub(crate) fn delay(&self, nodes: &[u64], milliseconds: u32) -> Result<()> {
        match self {
            Self::Namespaces(namespaces) => {
                nodes.iter().try_for_each(|node| namespaces.delay(*node, milliseconds))
            }
            Self::Proxies(proxies) => {
                proxies.change(|links| links.delay(nodes, milliseconds));
                Ok(())
            }
        }
    }

    /// All links are as they should be.
    pub(crate) fn heal(&self) -> Result<()> {
        match self {
            Self::Namespaces(namespaces) => namespaces.heal(),
            Self::Proxies(proxies) => {
                proxies.change(proxies::Links::heal);
                Ok(())
            }
        }
    }
}

//! The paths that are served and the methods that each has. `/openapi.json` describes exactly these; a test
//! compares the two.

use crate::http::problem::Problem;
use hyper::Method;

/// Where keys stand in a path.
pub(crate) const KEY_PREFIX: &str = "/v1/kv/";

/// A kind of path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Key,
    List,
    Batch,
    Cluster,
    Map,
    Groups,
    Group,
    ShardMove,
    Moves,
    Move,
    Nodes,
    Node,
    NodeDrain,
    NodeUndrain,
    Rebalance,
    Plan,
    Status,
    Health,
    Ready,
    Metrics,
    OpenApi,
    Unknown,
}

impl Route {
    pub(crate) const ALL: [Self; 22] = [
        Self::Key,
        Self::List,
        Self::Batch,
        Self::Cluster,
        Self::Map,
        Self::Groups,
        Self::Group,
        Self::ShardMove,
        Self::Moves,
        Self::Move,
        Self::Nodes,
        Self::Node,
        Self::NodeDrain,
        Self::NodeUndrain,
        Self::Rebalance,
        Self::Plan,
        Self::Status,
        Self::Health,
        Self::Ready,
        Self::Metrics,
        Self::OpenApi,
        Self::Unknown,
    ];

    /// The path as documents and metrics write it.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Key => "/v1/kv/{key}",
            Self::List => "/v1/kv",
            Self::Batch => "/v1/batch",
            Self::Cluster => "/v1/cluster",
            Self::Map => "/v1/cluster/map",
            Self::Groups => "/v1/cluster/groups",
            Self::Group => "/v1/cluster/groups/{id}",
            Self::ShardMove => "/v1/cluster/shards/{id}/move",
            Self::Moves => "/v1/cluster/moves",
            Self::Move => "/v1/cluster/moves/{shard}",
            Self::Nodes => "/v1/cluster/nodes",
            Self::Node => "/v1/cluster/nodes/{id}",
            Self::NodeDrain => "/v1/cluster/nodes/{id}/drain",
            Self::NodeUndrain => "/v1/cluster/nodes/{id}/undrain",
            Self::Rebalance => "/v1/cluster/rebalance",
            Self::Plan => "/v1/cluster/plan",
            Self::Status => "/v1/status",
            Self::Health => "/healthz",
            Self::Ready => "/readyz",
            Self::Metrics => "/metrics",
            Self::OpenApi => "/openapi.json",
            Self::Unknown => "unknown",
        }
    }

    /// The route's methods, as `Allow` lists them.
    pub(crate) fn methods(self) -> &'static str {
        match self {
            Self::Key => "GET, HEAD, PUT, POST, DELETE",
            Self::Batch
            | Self::Groups
            | Self::ShardMove
            | Self::NodeDrain
            | Self::NodeUndrain
            | Self::Rebalance
            | Self::Plan => "POST",
            Self::Group => "PUT, DELETE",
            Self::Move | Self::Node => "DELETE",
            Self::Moves | Self::Nodes => "PUT",
            Self::Health | Self::Ready => "GET, HEAD",
            Self::List | Self::Cluster | Self::Map | Self::Status | Self::Metrics | Self::OpenApi => "GET",
            Self::Unknown => "",
        }
    }

    /// Whether requests count against the bound on requests in flight. Those that only look at the node do not: a
    /// full node must still be seen to be full.
    pub(crate) fn is_bounded(self) -> bool {
        matches!(self, Self::Key | Self::List | Self::Batch) || self.is_admin()
    }

    /// Whether it is for operators: the controller's map and what changes it.
    pub(crate) fn is_admin(self) -> bool {
        matches!(
            self,
            Self::Map
                | Self::Groups
                | Self::Group
                | Self::ShardMove
                | Self::Moves
                | Self::Move
                | Self::Nodes
                | Self::Node
                | Self::NodeDrain
                | Self::NodeUndrain
                | Self::Rebalance
                | Self::Plan
        )
    }

    /// Refuses a path that is not served and a method that the path does not have.
    pub(crate) fn admit(self, method: &Method) -> Result<(), Problem> {
        if self == Self::Unknown {
            return Err(Problem::unknown_path());
        }
        match self.methods().split(", ").any(|name| name == method.as_str()) {
            true => Ok(()),
            false => Err(Problem::method_not_allowed(self.methods())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The document names every route with every method, and nothing else.
    #[test]
    fn openapi_names_the_routes() {
        let document: serde_json::Value = serde_json::from_str(crate::http::observe::OPENAPI).unwrap();
        let mut documented = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for method in operations.as_object().unwrap().keys().filter(|name| *name != "parameters") {
                documented.insert((path.clone(), method.to_uppercase()));
            }
        }
        let served = Route::ALL.iter().filter(|route| **route != Route::Unknown).flat_map(|route| {
            route.methods().split(", ").map(|method| (route.path().to_owned(), method.to_owned()))
        });
        assert_eq!(documented, served.collect());
    }
}

//! How the cluster begins, and what any number or name from outside must keep to.

use super::state::{Node, Shard, State};
use crate::bounds::{
    ADDRESS_BYTES_MAX, DEAD_AFTER_MIN_MS, GROUPS_MAX, MOVES_MAX, NODES_MAX, REPLICAS_MAX, SHARDS_MAX,
    ZONE_BYTES_MAX,
};
use proto::{Birth, ControllerError, GroupId, NodeId, NodeSpec};

impl State {
    pub(super) fn be_born(&mut self, birth: &Birth) -> Result<(), ControllerError> {
        if let Some(born) = &self.birth {
            return if born == birth { Ok(()) } else { Err(ControllerError::Born) };
        }
        within("shards", u64::from(birth.shards), u64::from(SHARDS_MAX))?;
        within("groups", u64::from(birth.groups), GROUPS_MAX as u64)?;
        within("groups", u64::from(birth.groups), u64::from(birth.shards))?;
        within("replicas", u64::from(birth.replicas), u64::from(REPLICAS_MAX))?;
        within("nodes", birth.nodes.len() as u64, NODES_MAX as u64)?;
        for (&node, spec) in &birth.nodes {
            self.check_spec(node, spec)?;
            self.nodes.insert(node, Node::new(spec.clone(), self.epoch));
        }
        self.settings.replicas = birth.replicas;
        self.found_groups((1..=u64::from(birth.groups)).map(GroupId), 1)?;
        self.shards = (0..birth.shards).map(|shard| Shard::born(birth_group(birth, shard))).collect();
        self.birth = Some(birth.clone());
        Ok(())
    }

    /// Whether `node` could join as `spec`. A node that is known by its disk may have no address for a while: it has
    /// come back elsewhere, where the map still has another.
    pub(super) fn check_spec(&self, node: NodeId, spec: &NodeSpec) -> Result<(), ControllerError> {
        within("node id", node.0, u64::MAX)?;
        let is_nowhere = spec.peer.is_empty() && self.knows(node, spec);
        if !is_nowhere {
            within("bytes of the peer address", spec.peer.len() as u64, ADDRESS_BYTES_MAX as u64)?;
        }
        within("bytes of the http address", spec.http.len() as u64, ADDRESS_BYTES_MAX as u64)?;
        if spec.zone.len() > ZONE_BYTES_MAX {
            return Err(invalid(format!("zone has {} bytes of {ZONE_BYTES_MAX}", spec.zone.len())));
        }
        within("weight", u64::from(spec.weight), u64::from(u32::MAX))?;
        match self.living_beside(node).find(|(_, other)| other.spec.peer == spec.peer && !is_nowhere) {
            Some((other, _)) => Err(invalid(format!("peer address {} is that of {other}", spec.peer))),
            None => Ok(()),
        }
    }

    /// Whether `node`, should it be a newcomer, speaks for an HTTP address that is nobody's yet. A node that is
    /// known by its disk may be at another's for a while: all of those are that came back in each other's places.
    pub(super) fn check_http(&self, node: NodeId, spec: &NodeSpec) -> Result<(), ControllerError> {
        let is_newcomer = !self.knows(node, spec);
        match self.living_beside(node).find(|(_, other)| other.spec.http == spec.http && is_newcomer) {
            Some((other, _)) => Err(invalid(format!("http address {} is that of {other}", spec.http))),
            None => Ok(()),
        }
    }

    /// Whether `node` is on the map, on this disk.
    fn knows(&self, node: NodeId, spec: &NodeSpec) -> bool {
        self.nodes.get(&node).is_some_and(|known| known.spec.incarnation == spec.incarnation)
    }

    /// The other nodes whose addresses are in use. A dead node's may be used again, or its successor could not
    /// join before it has been replaced.
    fn living_beside(&self, node: NodeId) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.nodes.iter().filter(move |(id, other)| **id != node && !other.dead)
    }

    pub(super) fn moves_throttle(
        &mut self,
        copy_bytes_per_second: Option<u64>,
        moves_max: u32,
    ) -> Result<(), ControllerError> {
        within("moves_max", u64::from(moves_max), u64::from(MOVES_MAX))?;
        within("copy_bytes_per_second", copy_bytes_per_second.unwrap_or(1), u64::MAX)?;
        self.settings.copy_bytes_per_second = copy_bytes_per_second;
        self.settings.moves_max = moves_max;
        Ok(())
    }

    pub(super) fn dead_after(&mut self, ms: u64) -> Result<(), ControllerError> {
        if ms < DEAD_AFTER_MIN_MS {
            return Err(invalid(format!("dead_after_ms must be at least {DEAD_AFTER_MIN_MS}: {ms}")));
        }
        self.settings.dead_after_ms = ms;
        Ok(())
    }
}

/// Where a shard is at birth: contiguous ranges, as in clusters that were born before they had a controller,
/// whose keys are there already.
fn birth_group(birth: &Birth, shard: u32) -> GroupId {
    GroupId(1 + u64::from(shard) * u64::from(birth.groups) / u64::from(birth.shards))
}

/// Refuses what is not from 1 to `max`.
pub(super) fn within(what: &str, value: u64, max: u64) -> Result<(), ControllerError> {
    if value == 0 || value > max {
        return Err(invalid(format!("{what} must be from 1 to {max}: {value}")));
    }
    Ok(())
}

pub(super) fn invalid(why: String) -> ControllerError {
    ControllerError::Invalid { why }
}

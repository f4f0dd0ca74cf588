//! `/v1/cluster/…`: the controller's map, and what operators have it change.
//!
//! Each request makes one change at most, so that its outcome is one: a change whose answer was lost is never said
//! again here, because a second one would be another change. `If-Match` names the epoch that the operator decided
//! by.

use crate::http::batch::{JSON_TYPE, json_body, json_text};
use crate::http::body::RequestBody;
use crate::http::condition;
use crate::http::front::{Asked, Front, GRACE, Response};
use crate::http::json::Object;
use crate::http::observe::look;
use crate::http::problem::{Problem, etag};
use crate::http::route::Route;
use crate::http::target::Query;
use crate::service::{ChangedJson, MapJson, PlanJson, PlannedMoveJson, ShardMapJson};
use hyper::Method;
use hyper::header::ETAG;
use proto::{
    Code, ControllerChange, ControllerReply, Epoch, Error, GroupId, NewGroups, NodeId, Outcome, ShardId,
    Version,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use shardctrler::ExecuteError;
use std::collections::BTreeSet;
use std::str::FromStr;
use tokio::time::{Instant, timeout_at};

/// The longest body: a few members with numbers.
const BODY_BYTES_MAX: usize = 4 << 10;

/// Groups to add: so many, or these.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewGroupsBody {
    count: Option<u32>,
    ids: Option<BTreeSet<u64>>,
    #[serde(default = "one")]
    weight: u32,
}

/// What a group is to be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupBody {
    weight: u32,
}

/// Where a shard is to go.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardMoveBody {
    to: u64,
}

/// How moves are to go on: `paused` alone, or both limits.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MovesBody {
    paused: Option<bool>,
    /// `null` is no limit, which is not the same as nothing said.
    #[serde(default, deserialize_with = "said")]
    copy_bytes_per_second: Option<Option<u64>>,
    moves_max: Option<u32>,
}

/// How nodes are judged.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodesBody {
    dead_after_ms: u64,
}

/// What to plan: one of the two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanBody {
    add_groups: Option<u32>,
    remove_group: Option<u64>,
}

fn one() -> u32 {
    1
}

fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Answers one of these paths.
pub(crate) async fn answer(
    front: &Front,
    route: Route,
    asked: &Asked<'_>,
    body: &mut RequestBody,
) -> Result<Response, Problem> {
    if route == Route::Map {
        return map(front, asked).await;
    }
    let query = Query::parse(asked.head.uri.query(), &["timeout"])?;
    front.deadline(&query)?;
    let expect = condition::of_change(&asked.head.headers)?;
    let change = change(front, route, asked, body).await?;
    let deadline = front.deadline(&query)?;
    if route == Route::Plan {
        let plan = in_time(deadline, front.service.plan(expect, change, deadline), Outcome::None).await?;
        let moves = plan.moves.iter().map(PlannedMoveJson::from).collect();
        return Ok(at_epoch(plan.epoch, &PlanJson { epoch: plan.epoch.0, moves }));
    }
    let reply = in_time(deadline, front.service.change(expect, change, deadline), Outcome::Unknown).await?;
    let epoch = reply.epoch();
    let groups = match reply {
        ControllerReply::GroupsAdded { groups, .. } => {
            Some(groups.into_iter().map(|group| group.0).collect())
        }
        ControllerReply::Done { .. } => None,
    };
    Ok(at_epoch(epoch, &ChangedJson { epoch: epoch.0, groups }))
}

/// The map that this node knows, or the shard map of an epoch.
async fn map(front: &Front, asked: &Asked<'_>) -> Result<Response, Problem> {
    let query = Query::parse(asked.head.uri.query(), &["epoch", "timeout"])?;
    let deadline = front.deadline(&query)?;
    match query.number("epoch", 0, u64::MAX)? {
        None => {
            let map = look(front, |node| node.cluster_map()).await?;
            let epoch = map.shard_map.epoch;
            let response = front.counted_body(JSON_TYPE, json_text(&MapJson::from(&map)), Outcome::None)?;
            Ok(tagged(response, epoch))
        }
        Some(epoch) => {
            let asking = front.service.shard_map(Epoch(epoch), deadline);
            let map = in_time(deadline, asking, Outcome::None).await?;
            Ok(at_epoch(map.epoch, &ShardMapJson::from(&map)))
        }
    }
}

/// The change that is asked for.
async fn change(
    front: &Front,
    route: Route,
    asked: &Asked<'_>,
    body: &mut RequestBody,
) -> Result<ControllerChange, Problem> {
    use ControllerChange as Change;
    let path = asked.head.uri.path();
    Ok(match route {
        Route::Groups => {
            let NewGroupsBody { count, ids, weight } = read(front, body).await?;
            Change::GroupAdd { groups: new_groups(count, ids)?, weight }
        }
        Route::Group if asked.head.method == Method::PUT => {
            let group = GroupId(id(route, path)?);
            let GroupBody { weight } = read(front, body).await?;
            Change::GroupWeight { group, weight }
        }
        Route::Group => Change::GroupRemove { group: GroupId(id(route, path)?) },
        Route::ShardMove => {
            let shard = ShardId(id(route, path)?);
            let ShardMoveBody { to } = read(front, body).await?;
            Change::ShardMove { shard, to: GroupId(to) }
        }
        Route::Move => Change::MoveCancel { shard: ShardId(id(route, path)?) },
        Route::Moves => moves(&read(front, body).await?)?,
        Route::Nodes => {
            let NodesBody { dead_after_ms } = read(front, body).await?;
            Change::DeadAfter { ms: dead_after_ms }
        }
        Route::Node => Change::NodeRemove { node: NodeId(id(route, path)?) },
        Route::NodeDrain => Change::NodeDrain { node: NodeId(id(route, path)?) },
        Route::NodeUndrain => Change::NodeUndrain { node: NodeId(id(route, path)?) },
        Route::Rebalance => Change::ShardRebalance,
        Route::Plan => plan(&read(front, body).await?)?,
        _ => return Err(Problem::unknown_path()),
    })
}

fn new_groups(count: Option<u32>, ids: Option<BTreeSet<u64>>) -> Result<NewGroups, Problem> {
    match (count, ids) {
        (Some(_), Some(_)) => Err(Problem::bad_request("body must hold either count or ids")),
        (None, Some(ids)) => Ok(NewGroups::Ids(ids.into_iter().map(GroupId).collect())),
        (count, None) => Ok(NewGroups::Count(count.unwrap_or_else(one))),
    }
}

fn moves(body: &MovesBody) -> Result<ControllerChange, Problem> {
    match (body.paused, body.copy_bytes_per_second, body.moves_max) {
        (Some(true), None, None) => Ok(ControllerChange::MovesPause),
        (Some(false), None, None) => Ok(ControllerChange::MovesResume),
        (None, Some(copy_bytes_per_second), Some(moves_max)) => {
            Ok(ControllerChange::MovesThrottle { copy_bytes_per_second, moves_max })
        }
        _ => Err(Problem::bad_request(
            "body must hold either paused alone, or both copy_bytes_per_second (null: no limit) and moves_max",
        )),
    }
}

fn plan(body: &PlanBody) -> Result<ControllerChange, Problem> {
    match (body.add_groups, body.remove_group) {
        (Some(count), None) => {
            Ok(ControllerChange::GroupAdd { groups: NewGroups::Count(count), weight: one() })
        }
        (None, Some(group)) => Ok(ControllerChange::GroupRemove { group: GroupId(group) }),
        _ => Err(Problem::bad_request("body must hold either add_groups or remove_group")),
    }
}

/// The body; none at all is an object without members.
async fn read<T: DeserializeOwned>(front: &Front, body: &mut RequestBody) -> Result<T, Problem> {
    let (text, _held) = body.read(front.body_limits(BODY_BYTES_MAX, Code::BatchTooLarge)).await?;
    let text = if text.is_empty() { &b"{}"[..] } else { &text };
    let Object(body) = serde_json::from_slice(text)
        .map_err(|error| Problem::bad_request(format!("body is not as expected: {error}")))?;
    Ok(body)
}

/// The id that stands in the path where the route has its braces.
fn id<T: FromStr>(route: Route, path: &str) -> Result<T, Problem> {
    let mut parts = route.path().split('/').zip(path.split('/'));
    let given = parts.find_map(|(known, given)| known.starts_with('{').then_some(given)).unwrap_or_default();
    let digits = given.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { given.parse().ok() } else { None };
    number.ok_or_else(|| Problem::bad_request(format!("id in the path must be a whole number, not {given}")))
}

/// What the controller says within the deadline; `unanswered` is what becomes of the question where it says nothing.
async fn in_time<T>(
    deadline: Instant,
    asking: impl Future<Output = Result<T, ExecuteError>>,
    unanswered: Outcome,
) -> Result<T, Problem> {
    let timeout = |message| Error { code: Code::Timeout, outcome: unanswered, message }.into();
    match timeout_at(deadline + GRACE, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(ExecuteError::Refused(error))) => Err(error.into()),
        Ok(Err(error @ ExecuteError::Unreached(_))) => {
            Err(Error::new(Code::Unavailable, error.to_string()).into())
        }
        Ok(Err(error @ ExecuteError::Unknown(_))) => Err(timeout(error.to_string())),
        Err(_) => Err(timeout("the controller did not answer within the deadline".into())),
    }
}

fn at_epoch(epoch: Epoch, value: &impl Serialize) -> Response {
    tagged(json_body(value), epoch)
}

/// The epoch as an entity tag, as `If-Match` takes it.
fn tagged(mut response: Response, epoch: Epoch) -> Response {
    response.headers_mut().insert(ETAG, etag(Version(epoch.0)));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An id is taken from its place in the path, and what is no number is refused.
    #[test]
    fn ids() {
        assert_eq!(id(Route::ShardMove, "/v1/cluster/shards/17/move"), Ok(17));
        assert_eq!(id(Route::Group, "/v1/cluster/groups/2"), Ok(2_u64));
        for bad in ["-1", "+1", "x", "1x", "%31", "18446744073709551616"] {
            assert!(id::<u64>(Route::Node, &format!("/v1/cluster/nodes/{bad}")).is_err(), "{bad}");
        }
        assert!(id::<u32>(Route::Move, "/v1/cluster/moves/4294967296").is_err());
    }
}

//! What `flotilla shard`, `group` and `node` share: whom to ask, and what becomes of an answer that did not come.
//!
//! A change is sent to one node and never said again: only a node that could not be connected to is passed over for
//! the next, because nothing can have reached it.

use crate::arguments::{NOBODY_ADVICE, NODES_DEFAULT, NOTICE, nodes_help, parse_nodes, parse_timeout};
use crate::cause;
use crate::error::Error;
use crate::kv::Failure;
use crate::output::OutputFormat;
use crate::terminal::say;
use kvserver::service::MapJson;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// The exit codes of these commands.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  refused or failed, without effect
  2  the command line is wrong, or a value in it that no cluster would take
  5  the change may or may not have happened: look at `flotilla shard map` before trying again";

/// How much longer than the node is waited for its answer, which knows the outcome.
const GRACE: Duration = Duration::from_secs(2);

/// How long a connection may take to be made before the next node is tried: one that swallows everything is not to take
/// the time of those behind it.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

/// How often is looked while something is waited for.
const WAIT_PACE: Duration = Duration::from_millis(100);

/// The code of a question about an epoch that the map has not come to.
const EPOCH_AHEAD: &str = "epoch_ahead";

/// No answer is longer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Whom to ask, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct AdminArgs {
    #[arg(long, global = true, value_name = "URL,URL", help = nodes_help())]
    pub(crate) nodes: Option<String>,
    /// What results look like
    #[arg(long, global = true, value_enum, default_value_t)]
    output: OutputFormat,
    /// How long one request may take: 500ms, 10s (or 10), 1m; at most 1m
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = parse_timeout)]
    timeout: Duration,
    /// Refuse the change unless the map is at this epoch, as `shard map` and `shard plan` tell it
    #[arg(long, global = true, value_name = "EPOCH")]
    expect: Option<u64>,
}

/// What the commands for operators are given: whom to ask, and what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct AdminCommand<C: clap::Subcommand> {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(subcommand)]
    pub(crate) command: C,
}

impl<C: clap::Subcommand> AdminCommand<C> {
    /// Asks `nodes` where the command line names none.
    pub(crate) fn or_nodes(mut self, nodes: Option<String>) -> Self {
        self.admin.nodes = self.admin.nodes.or(nodes);
        self
    }
}

/// What is asked for.
pub(crate) struct Asking {
    method: Method,
    path: String,
    query: String,
    body: Option<Value>,
}

impl Asking {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), query: String::new(), body: None }
    }

    pub(crate) fn post(path: impl Into<String>, body: impl Into<Option<Value>>) -> Self {
        Self { method: Method::POST, path: path.into(), query: String::new(), body: body.into() }
    }

    pub(crate) fn put(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::PUT, path: path.into(), query: String::new(), body: Some(body) }
    }

    /// The same with a parameter.
    pub(crate) fn with(self, name: &str, value: u64) -> Self {
        Self { query: format!("{}&{name}={value}", self.query), ..self }
    }

    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self { method: Method::DELETE, path: path.into(), query: String::new(), body: None }
    }
}

/// Asks the first node that can be reached, and says what it answered: `text` of it, or its JSON.
pub(crate) async fn ask<T: DeserializeOwned>(
    args: &AdminArgs,
    asking: Asking,
    text: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let answer = send(args, &asking).await?;
    show(args, &answer, || Ok(text(&told(&asking, &answer)?)))
}

/// Says `json`, or what stands for it in words.
pub(crate) fn show(
    args: &AdminArgs,
    json: &str,
    text: impl FnOnce() -> Result<String, Failure>,
) -> Result<(), Failure> {
    let text = match args.output {
        OutputFormat::Json => format!("{json}\n"),
        OutputFormat::Text => text()?,
    };
    Ok(say(&text)?)
}

/// Asks the nodes until the map is as `missing` wants it, which says what is lacking while it is not, and until no later
/// map is known to the controller than to the node that told this one: a node may be behind the change that is waited
/// for. What is only asked is asked again after any failure, as long as there is time.
pub(crate) async fn wait(
    args: &AdminArgs,
    time_max: Duration,
    missing: impl Fn(&MapJson) -> Option<String>,
) -> Result<MapJson, Failure> {
    let until = Instant::now() + time_max;
    loop {
        let why = match map(args).await {
            Ok(map) => match missing(&map) {
                Some(why) => why,
                None => match later_map(args, map.shard_map.epoch).await {
                    Ok(false) => return Ok(map),
                    Ok(true) => "the node is behind the controller's map".to_owned(),
                    Err(failure) => again(failure)?,
                },
            },
            Err(failure) => again(failure)?,
        };
        if Instant::now() >= until {
            return Err(Failure::Failed(format!(
                "it has not come to that in {} s: {why}",
                time_max.as_secs()
            )));
        }
        sleep(WAIT_PACE).await;
    }
}

/// What a failure says, where asking again may help.
fn again(failure: Failure) -> Result<String, Failure> {
    match failure {
        Failure::Failed(why) => Ok(why),
        other => Err(other),
    }
}

async fn map(args: &AdminArgs) -> Result<MapJson, Failure> {
    let asking = Asking::get("/v1/cluster/map");
    told(&asking, &send(args, &asking).await?)
}

/// Whether the controller's map has come beyond `epoch`: it refuses to tell of epochs to come.
async fn later_map(args: &AdminArgs, epoch: u64) -> Result<bool, Failure> {
    let asking = Asking::get("/v1/cluster/map").with("epoch", epoch.saturating_add(1));
    match exchange(args, &asking).await? {
        Told::Answer(_) => Ok(true),
        Told::Refusal { code, .. } if code == EPOCH_AHEAD => Ok(false),
        Told::Refusal { failure, .. } => Err(failure),
    }
}

fn told<T: DeserializeOwned>(asking: &Asking, answer: &str) -> Result<T, Failure> {
    serde_json::from_str(answer).map_err(|error| unknown(asking, format!("answer makes no sense: {error}")))
}

async fn send(args: &AdminArgs, asking: &Asking) -> Result<String, Failure> {
    match exchange(args, asking).await? {
        Told::Answer(body) => Ok(body),
        Told::Refusal { failure, .. } => Err(failure),
    }
}

/// What a node said.
enum Told {
    Answer(String),
    Refusal { code: String, failure: Failure },
}

async fn exchange(args: &AdminArgs, asking: &Asking) -> Result<Told, Failure> {
    if args.expect.is_some() && asking.method == Method::GET {
        return Err(Error::Usage("--expect is for what would change the map".into()).into());
    }
    let http = reqwest::Client::builder()
        .timeout(args.timeout + GRACE)
        .connect_timeout(args.timeout.min(CONNECT_TIME_MAX))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot make HTTP requests: {error}")))?;
    let mut unreached = Vec::new();
    for node in nodes(args.nodes.as_deref().unwrap_or(NODES_DEFAULT))? {
        let url = format!("{node}{}?timeout={}{}", asking.path, args.timeout.as_millis(), asking.query);
        let mut request = http.request(asking.method.clone(), url);
        if let Some(epoch) = args.expect {
            request = request.header("if-match", format!("\"{epoch}\""));
        }
        if let Some(body) = &asking.body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        match patiently(&node, args.timeout, request.send()).await {
            Ok(response) => return answer(asking, response).await,
            Err(error) if error.is_connect() => unreached.push(format!("{node}: {}", cause::chain(error))),
            Err(error) => return Err(unknown(asking, format!("{node}: {}", cause::chain(error)))),
        }
    }
    Err(Failure::Failed(format!("no node answered: {}; {NOBODY_ADVICE}", unreached.join("; "))))
}

/// Says on stderr who is waited for, where that takes a while.
async fn patiently<T>(node: &str, time_max: Duration, asked: impl Future<Output = T>) -> T {
    let mut asked = pin!(asked);
    match timeout(NOTICE, &mut asked).await {
        Ok(answer) => answer,
        Err(_) => {
            tracing::warn!("{node} has not answered yet, is waited for up to {} s", time_max.as_secs());
            asked.await
        }
    }
}

async fn answer(asking: &Asking, response: reqwest::Response) -> Result<Told, Failure> {
    let status = response.status();
    if response.content_length().is_none_or(|length| length > ANSWER_BYTES_MAX) {
        return Err(unknown(asking, format!("answered {status} with too long a body")));
    }
    let body = response.text().await.map_err(|error| unknown(asking, cause::chain(error)))?;
    if status.is_success() {
        return Ok(Told::Answer(body));
    }
    let problem: Value = serde_json::from_str(&body).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or(&body);
    let failure = match problem["outcome"].as_str() {
        Some("none") if status == StatusCode::BAD_REQUEST => Failure::Usage(detail.to_owned()),
        Some("none") => Failure::Failed(detail.to_owned()),
        _ => unknown(asking, format!("answered {status}: {detail}")),
    };
    let code = problem["code"].as_str().unwrap_or_default().to_owned();
    Ok(Told::Refusal { code, failure })
}

/// What was only asked has no outcome to be unknown.
fn unknown(asking: &Asking, why: String) -> Failure {
    let changes = asking.method != Method::GET && !asking.path.ends_with("/plan");
    match changes {
        true => Failure::Unknown(format!("the change may or may not have happened: {why}")),
        false => Failure::Failed(why),
    }
}

/// The nodes in `list`, each as `http://host:port`.
pub(crate) fn nodes(list: &str) -> Result<Vec<String>, Error> {
    Ok(parse_nodes(list)?.into_iter().map(|node| format!("http://{node}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A node that answers once, with `status` and a refusal without effect; what becomes of a change there.
    async fn refusal(status: u16) -> Failure {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let node = listener.local_addr().expect("a bound address").to_string();
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("it is asked");
            let read = stream.read(&mut [0; 1 << 12]).await.expect("a request");
            let body = r#"{"code":"c","detail":"it will not do","outcome":"none"}"#;
            let head = format!("HTTP/1.1 {status} No\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).await.expect("it listens");
            read
        });
        let timeout = Duration::from_secs(60);
        let args = AdminArgs { nodes: Some(node), output: OutputFormat::Text, timeout, expect: None };
        let failure = send(&args, &Asking::delete("/v1/cluster/groups/1")).await.expect_err("it is refused");
        assert!(answering.await.expect("it answers") > 0);
        assert_eq!(failure.to_string(), "it will not do");
        failure
    }

    /// What a node refuses as wrong in itself is the command line's fault; what the cluster does not allow now is not.
    #[tokio::test]
    async fn wrong_requests_are_wrong_command_lines() {
        assert!(matches!(refusal(400).await, Failure::Usage(_)));
        assert!(matches!(refusal(409).await, Failure::Failed(_)));
    }

    /// Only a change can be of unknown outcome.
    #[test]
    fn outcomes() {
        let of = |asking: Asking| matches!(unknown(&asking, "lost".into()), Failure::Unknown(_));
        assert!(of(Asking::delete("/v1/cluster/groups/1")));
        assert!(!of(Asking::get("/v1/cluster/map")));
        assert!(!of(Asking::post("/v1/cluster/plan", None)));
    }
}

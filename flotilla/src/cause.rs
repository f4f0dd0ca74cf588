//! Why a request to a node failed, as people read it. Owns the words alone: what becomes of the request is for its
//! command to say.

use std::error::Error as _;

/// The causes from the outermost in, without the URL, which whoever asked names anyway.
pub(crate) fn chain(error: reqwest::Error) -> String {
    let connects = error.is_connect();
    let timed_out = error.is_timeout();
    let causes = causes(error.without_url());
    match causes.last() {
        // What lies between says in other words that there was no connection.
        Some(innermost) if connects => format!("cannot connect: {innermost}"),
        _ if timed_out => "no answer in time".into(),
        _ => causes.join(": "),
    }
}

/// The cause at the end of the chain: "connection refused" rather than "error sending request".
pub(crate) fn innermost(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    causes(error).pop().unwrap_or_default()
}

fn causes(error: reqwest::Error) -> Vec<String> {
    let mut causes = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    causes
}

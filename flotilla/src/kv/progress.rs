//! Progress on stderr, for people only: nothing is drawn where stderr is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A bar towards `total` where it is known, otherwise a counter. Bytes are told as KiB, MiB and so on.
pub(crate) fn bar(total: Option<u64>, unit: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let template = match (total, unit) {
        (Some(_), "bytes") => "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}".to_owned(),
        (None, "bytes") => "{spinner} {bytes} {bytes_per_sec} {msg}".to_owned(),
        (Some(_), _) => format!("{{bar:40}} {{pos}}/{{len}} {unit} {{per_sec}} {{eta}} {{msg}}"),
        (None, _) => format!("{{spinner}} {{pos}} {unit} {{per_sec}} {{msg}}"),
    };
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

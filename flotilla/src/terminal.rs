//! What the commands of this crate say on stdout. A reader that went away (`flotilla status | head -1`) ends the
//! saying quietly and is no error.

use crate::error::Error;
use crate::output;

/// Prints `text`, which brings its own line ends.
pub(crate) fn say(text: &str) -> Result<(), Error> {
    match output::write_bytes(text.as_bytes()) {
        Err(error) if !output::is_closed_pipe(&error) => {
            Err(Error::Failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// `bytes` as people read them: `12.4 MiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `ms` milliseconds as people read them: `3m12s`.
pub(crate) fn human_time(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// `rows` in columns as wide as their widest cell, two spaces between them.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| column + 1 < row.len());
        cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes and times keep one unit that a person can compare.
    #[test]
    fn human_units() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(13_002_342), "12.4 MiB");
        assert_eq!(human_bytes(u64::MAX), "16777216.0 TiB");
        for (ms, text) in [(999, "0s"), (61_000, "1m1s"), (7_260_000, "2h1m"), (90_000_000, "1d1h")] {
            assert_eq!(human_time(ms), text);
        }
    }

    /// A long last cell, such as an error, does not push the other rows apart.
    #[test]
    fn columns_line_up() {
        let rows =
            [vec!["NODE", "ADDRESS", "DISK"], vec!["n1", "a:1", "1 B"], vec!["n2", "unreachable: refused"]];
        let rows = rows.map(|row| row.into_iter().map(String::from).collect());
        assert_eq!(columns(&rows), "NODE  ADDRESS  DISK\nn1    a:1      1 B\nn2    unreachable: refused\n");
    }
}

//! How the transport behaves: each field with its default, its unit and the reason to change it.

use std::time::Duration;

/// The most requests of one append stream that any sender may have under way; part of the protocol.
pub(crate) const STREAM_REQUESTS_MAX: usize = 1_024;

/// No frame, on no lane, may be configured larger than this.
const FRAME_BYTES_LIMIT: usize = 64 << 20;

/// Timing and bounds of the connections between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportConfig {
    /// The longest time for a connection to be made and greeted, in milliseconds (1,000). Raise it where a
    /// round trip takes a good part of it.
    pub connect_timeout_ms: u64,
    /// The first pause after a failed attempt to connect, in milliseconds (10); it doubles, with jitter.
    pub reconnect_ms_min: u64,
    /// The longest such pause, in milliseconds (200): how long a peer that is back may go unnoticed.
    pub reconnect_ms_max: u64,
    /// A connection on which an answer is due and nothing at all arrives for this long is given up, in
    /// milliseconds (2,000). A peer that is slow but there answers pings and keeps it.
    pub silence_timeout_ms: u64,
    /// An append stream or snapshot that makes no progress for this long ends, in milliseconds (5,000), even
    /// though the peer is there. Raise it where disks stall for longer.
    pub progress_timeout_ms: u64,
    /// A connection without traffic is closed after this long, in milliseconds (60,000); it is made again on
    /// demand.
    pub idle_timeout_ms: u64,
    /// The most bytes of appends under way to one peer, all groups together (8 MiB): what a stalled peer can
    /// make this node hold. Raise it on long fat links.
    pub window_bytes: usize,
    /// The most bytes of appends under way in one group's stream (2 MiB), so that one group cannot take the
    /// whole window.
    pub stream_window_bytes: usize,
    /// The most requests under way in one group's stream (256).
    pub stream_requests_max: usize,
    /// Appends larger than this are sent in several requests (1 MiB); a single larger entry travels alone.
    pub append_bytes: usize,
    /// The largest frame on the entries and bulk lanes (8 MiB): above the largest entry and snapshot piece.
    pub frame_bytes_max: usize,
    /// The largest frame on the heartbeat lane (64 KiB).
    pub heartbeat_frame_bytes_max: usize,
    /// The largest frame on the request lane (4 MiB): above the largest batch.
    pub request_frame_bytes_max: usize,
    /// The most bytes of one snapshot sent and not yet acknowledged (4 MiB).
    pub snapshot_window_bytes: usize,
    /// The most snapshots that are sent to one peer, or taken from one, at the same time (2).
    pub snapshots_max: usize,
    /// The longest time for a received snapshot to be installed, in milliseconds (600,000).
    pub install_timeout_ms: u64,
    /// The most calls under way to one peer (4,096); more are refused unsent.
    pub calls_max: usize,
    /// The most bytes that wait to be written on one lane (16 MiB), beyond which calls are refused unsent.
    pub queue_bytes_max: usize,
    /// The most calls of one connection carried out at the same time (1,024); more are answered as overloaded.
    pub calls_in_progress_max: usize,
    /// The most connections accepted at the same time (1,024).
    pub connections_max: usize,
    /// About how many bytes of waiting frames leave in one write (256 KiB).
    pub write_bytes: usize,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 1_000,
            reconnect_ms_min: 10,
            reconnect_ms_max: 200,
            silence_timeout_ms: 2_000,
            progress_timeout_ms: 5_000,
            idle_timeout_ms: 60_000,
            window_bytes: 8 << 20,
            stream_window_bytes: 2 << 20,
            stream_requests_max: 256,
            append_bytes: 1 << 20,
            frame_bytes_max: 8 << 20,
            heartbeat_frame_bytes_max: 64 << 10,
            request_frame_bytes_max: 4 << 20,
            snapshot_window_bytes: 4 << 20,
            snapshots_max: 2,
            install_timeout_ms: 600_000,
            calls_max: 4_096,
            queue_bytes_max: 16 << 20,
            calls_in_progress_max: 1_024,
            connections_max: 1_024,
            write_bytes: 256 << 10,
        }
    }
}

impl TransportConfig {
    /// Checks the fields alone and against each other.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        self.validate_present()?;
        let at_most = |field: &str, value: usize, bound: &str, most: usize| {
            if value <= most {
                Ok(())
            } else {
                Err(format!("{field} must not exceed {bound} of {most}, not {value}"))
            }
        };
        at_most(
            "reconnect_ms_min",
            self.reconnect_ms_min as usize,
            "reconnect_ms_max",
            self.reconnect_ms_max as usize,
        )?;
        at_most(
            "stream_requests_max",
            self.stream_requests_max,
            "the protocol's bound",
            STREAM_REQUESTS_MAX,
        )?;
        at_most("stream_window_bytes", self.stream_window_bytes, "window_bytes", self.window_bytes)?;
        at_most("append_bytes", self.append_bytes, "half of frame_bytes_max", self.frame_bytes_max / 2)?;
        for (field, value) in [
            ("frame_bytes_max", self.frame_bytes_max),
            ("heartbeat_frame_bytes_max", self.heartbeat_frame_bytes_max),
            ("request_frame_bytes_max", self.request_frame_bytes_max),
            ("window_bytes", self.window_bytes),
            ("snapshot_window_bytes", self.snapshot_window_bytes),
            ("queue_bytes_max", self.queue_bytes_max),
        ] {
            at_most(field, value, "the limit", FRAME_BYTES_LIMIT)?;
        }
        at_most(
            "request_frame_bytes_max",
            self.request_frame_bytes_max,
            "queue_bytes_max",
            self.queue_bytes_max,
        )
    }

    fn validate_present(&self) -> Result<(), String> {
        let least = [
            ("connect_timeout_ms", self.connect_timeout_ms, 1),
            ("reconnect_ms_min", self.reconnect_ms_min, 1),
            ("silence_timeout_ms", self.silence_timeout_ms, 4),
            ("progress_timeout_ms", self.progress_timeout_ms, 1),
            ("idle_timeout_ms", self.idle_timeout_ms, 1),
            ("window_bytes", self.window_bytes as u64, 1),
            ("stream_window_bytes", self.stream_window_bytes as u64, 1),
            ("stream_requests_max", self.stream_requests_max as u64, 1),
            ("append_bytes", self.append_bytes as u64, 1),
            ("frame_bytes_max", self.frame_bytes_max as u64, 4 << 10),
            ("heartbeat_frame_bytes_max", self.heartbeat_frame_bytes_max as u64, 4 << 10),
            ("request_frame_bytes_max", self.request_frame_bytes_max as u64, 4 << 10),
            ("snapshot_window_bytes", self.snapshot_window_bytes as u64, 1),
            ("snapshots_max", self.snapshots_max as u64, 1),
            ("install_timeout_ms", self.install_timeout_ms, 1),
            ("calls_max", self.calls_max as u64, 1),
            ("calls_in_progress_max", self.calls_in_progress_max as u64, 1),
            ("connections_max", self.connections_max as u64, 1),
            ("write_bytes", self.write_bytes as u64, 1),
        ];
        match least.iter().find(|(_, value, least)| value < least) {
            Some((field, value, least)) => Err(format!("{field} must be at least {least}, not {value}")),
            None => Ok(()),
        }
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn silence_timeout(&self) -> Duration {
        Duration::from_millis(self.silence_timeout_ms)
    }

    pub(crate) fn progress_timeout(&self) -> Duration {
        Duration::from_millis(self.progress_timeout_ms)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(crate) fn install_timeout(&self) -> Duration {
        Duration::from_millis(self.install_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults hold together, and each contradiction is refused by the field's name.
    #[test]
    fn validation_names_the_field() {
        let good = TransportConfig::default();
        assert_eq!(good.validate(), Ok(()));
        let bad = [
            (TransportConfig { window_bytes: 0, ..good.clone() }, "window_bytes"),
            (TransportConfig { stream_window_bytes: 9 << 20, ..good.clone() }, "stream_window_bytes"),
            (TransportConfig { reconnect_ms_min: 300, ..good.clone() }, "reconnect_ms_min"),
            (TransportConfig { stream_requests_max: 2_000, ..good.clone() }, "stream_requests_max"),
            (TransportConfig { append_bytes: 5 << 20, ..good.clone() }, "append_bytes"),
            (TransportConfig { frame_bytes_max: 1 << 30, ..good }, "frame_bytes_max"),
        ];
        for (config, field) in bad {
            let error = config.validate().unwrap_err();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
